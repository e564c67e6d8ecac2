"""Transfer: what an attack on one network does to another, of which it knows nothing but the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from certseg.attacks.budgeted import BudgetedAttack
from certseg.attacks.objective import AttackObjective, Smoothing
from certseg.attacks.search import GradientAttack
from certseg.compute.hardware import Hardware, Stopwatch
from certseg.compute.streams import NoiseStream
from certseg.errors import ModelError
from certseg.types import AttackResult, Segmenter, Threat


@dataclass(frozen=True)
class Transfer(BudgetedAttack):
    """Attack a surrogate network and predict at the image found with the network itself.

    A network that falls to such an attack more than to one by its own gradients hides those (Athalye et al. 2018).

    Args:
        attack: the attack on the surrogate. It should go on where all pixels of the surrogate have fallen
            (:attr:`certseg.attacks.PGD.keep_last`), or little of it arrives at a network that is harder to change.
        surrogate: a network for the same classes, on the device of the attacked one.
    """

    attack: GradientAttack
    surrogate: Segmenter
    needs_gradient = False  # of the attacked network; the surrogate's is used

    @property
    def smoothing(self) -> Smoothing | None:
        """The noise of the prediction, that of the attack on the surrogate; None attacks the network itself."""
        return self.attack.smoothing

    def together(
        self,
        segmenter: Segmenter,
        images: Sequence[Tensor],
        targets: Sequence[Tensor],
        threat: Threat,
        *,
        streams: Sequence[NoiseStream],
        hardware: Hardware,
        starts: Sequence[Tensor] | None = None,
    ) -> list[AttackResult]:
        """Attack images of one shape side by side, with the arguments of
        :meth:`certseg.attacks.search.GradientAttack.together`. Passes are those of both networks, flags those of the
        attacked one, of which no gradient is taken.

        Raises:
            ModelError: the surrogate has another number of classes.
        """
        if self.surrogate.num_classes != segmenter.num_classes:
            raise ModelError(
                "The surrogate must know the classes of the attacked network",
                expected=f"{segmenter.num_classes} classes",
                received=self.surrogate.num_classes,
            )
        found = self.attack.together(
            self.surrogate, images, targets, threat, streams=streams, hardware=hardware, starts=starts
        )
        return [self._shown(segmenter, *one, hardware) for one in zip(found, targets, streams)]

    def _shown(
        self, segmenter: Segmenter, found: AttackResult, target: Tensor, stream: NoiseStream, hardware: Hardware
    ) -> AttackResult:
        """What the attacked network makes of an image found with the surrogate."""
        device = hardware.torch_device
        objective = AttackObjective(
            segmenter, target.to(device), self.attack.loss, self.smoothing, stream.for_purpose("attack"), hardware
        )
        watch = Stopwatch(device)
        with watch("evaluation"):
            prediction, votes = objective.predict(found.adversarial.to(device))
        return replace(
            found,
            prediction=prediction.cpu(),
            votes=votes,
            passes=found.passes + objective.passes,
            flags=objective.flags,
            zero_gradients=0.0,
            seconds=found.seconds | {"evaluation": found.seconds["evaluation"] + watch.seconds["evaluation"]},
        )
