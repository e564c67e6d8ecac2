"""Segmentation ensemble attack (seed 002): APGD on several losses, the worst of them image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from certseg.attacks.apgd import APGD
from certseg.attacks.budgeted import BudgetedAttack
from certseg.attacks.goals import wanted_map
from certseg.attacks.losses import LOSSES
from certseg.attacks.objective import Smoothing
from certseg.attacks.pgd import PGD
from certseg.attacks.search import GradientAttack
from certseg.attacks.transfer import Transfer
from certseg.attacks.votes import duels
from certseg.checks import check_choice, check_count
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError
from certseg.metrics.over_images import sums
from certseg.types import IGNORE_INDEX, AttackResult, MemberResult, Passes, Segmenter, Threat, Vanish, class_ids

REFERENCE = "reference"
"""The member that is there to be beaten."""
TRANSFER = "transfer"
"""The member that knows another network's gradients only."""
_TRANSFER_STEPS = 50
_MISTRUST = {REFERENCE: ("weaker_beats_stronger", 0.0), TRANSFER: ("transfer_beats_white_box", 0.01)}


@dataclass(frozen=True)
class SEA(BudgetedAttack):
    """The lowest pixel accuracy over one APGD per loss.

    No single member is stronger on any image. A short plain PGD runs along as a reference: an image on which it beats
    every member is flagged ``weaker_beats_stronger``, and its result counts like any other.

    Args:
        losses: keys of :data:`certseg.attacks.losses.LOSSES`, at least one; there is a member for each.
        iterations: gradient steps of each member.
        restarts: number of runs of each member.
        compare: the loss by which the members compare points; None for what suits the loss of each.
        reduce_radius: whether the members begin in a larger ball (:class:`certseg.attacks.APGD`).
        reference_steps: gradient steps of the reference, PGD on the cross-entropy; 0 leaves it out.
        smoothing: how the smoothed model that is attacked is sampled; None attacks the network itself.
        logit_scale: multiplies the network's logits before every loss (:class:`GradientAttack`); those of a surrogate
            stay as they are.
        goal: which objects are to vanish; None for an attack on every labelled pixel.
        surrogate: another network for the same classes, of which nothing but a gradient is wanted; None for none. The
            member ``transfer`` attacks it with PGD, as many steps as a member has iterations and 50 at most, and shows
            the image it found to the network. An image on which that leaves more than 0.01 less accuracy than every
            loss is flagged ``transfer_beats_white_box``: the network's own gradients mislead.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    losses: Sequence[str] = ("masked_cross_entropy", "balanced_cross_entropy", "jensen_shannon", "masked_spherical")
    iterations: int = 300
    restarts: int = 1
    compare: str | None = None
    reduce_radius: bool = True
    reference_steps: int = 10
    smoothing: Smoothing | None = None
    surrogate: Segmenter | None = None
    logit_scale: float = 1.0
    goal: Vanish | None = None
    norms = GradientAttack.norms

    def __post_init__(self) -> None:
        if isinstance(self.losses, str) or not self.losses or len(set(self.losses)) < len(self.losses):
            raise ConfigError(
                "attack.losses must list different losses, at least one",
                received=self.losses,
                remedy="For example attack.losses=[jensen_shannon]",
            )
        for loss in self.losses:
            check_choice("An entry of attack.losses", loss, LOSSES)
        if self.goal is not None and not isinstance(self.goal, Vanish):
            raise ConfigError(
                "An ensemble of losses has no common way to a class",
                expected="attack.goal=vanish with attack.classes, or none",
                received=self.goal,
                remedy="Use attack=targeted",
            )
        check_count("attack.reference_steps", self.reference_steps, 0)
        self.members()  # they check the rest

    def with_surrogate(self, surrogate: Segmenter) -> SEA:
        """The same ensemble with the member ``transfer``."""
        return replace(self, surrogate=surrogate)

    def members(self) -> dict[str, BudgetedAttack]:
        """The attacks by name: a member for each loss, then the reference and the transfer."""
        members: dict[str, BudgetedAttack] = {
            loss: APGD(
                self.iterations,
                self.restarts,
                loss,
                self.compare,
                self.reduce_radius,
                self.smoothing,
                logit_scale=self.logit_scale,
                goal=self.goal,
            )
            for loss in self.losses
        }
        if self.reference_steps:
            members[REFERENCE] = PGD(
                self.reference_steps, smoothing=self.smoothing, logit_scale=self.logit_scale, goal=self.goal
            )
        if self.surrogate is not None:
            steps = min(_TRANSFER_STEPS, self.iterations)
            members[TRANSFER] = Transfer(
                PGD(steps, smoothing=self.smoothing, keep_last=True, goal=self.goal), self.surrogate
            )
        return members

    def _about(self, target: Tensor, num_classes: int) -> Tensor:
        """The labels that members are compared by: all, or those of the objects that are to vanish."""
        return target if self.goal is None else wanted_map(self.goal, target, num_classes)

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
        """Attack images of one shape side by side with one member after the other. Arguments and errors are those of
        :meth:`certseg.attacks.search.GradientAttack.together`."""
        worst = [_Worst(self._about(target, segmenter.num_classes)) for target in targets]
        for name, member in self.members().items():
            results = member.together(
                segmenter, images, targets, threat, streams=streams, hardware=hardware, starts=starts
            )
            for one, result in zip(worst, results, strict=True):
                one.offer(name, result)
        return [one.result(is_exact=self.smoothing is None) for one in worst]


class _Worst:
    """What the members made of one image; only the lowest one's image is kept."""

    def __init__(self, target: Tensor) -> None:
        self._target = target
        self._best: AttackResult | None = None
        self._left: dict[str, float] = {}
        self._members: list[MemberResult] = []

    def offer(self, name: str, result: AttackResult) -> None:
        """Take a member's result."""
        accuracy = _accuracy(result.prediction, self._target)
        self._members.append(_without_image(name, result, self._target))
        if self._best is None or accuracy < min(self._left.values()):
            self._best = replace(result, winner=name)
        self._left[name] = accuracy

    def result(self, is_exact: bool) -> AttackResult:
        """The lowest result with what all members cost; ``is_exact`` is False where predictions are votes."""
        members, best = self._members, self._best
        assert best is not None  # there is a member for each loss, and at least one loss
        flags = {flag for member in members for flag in member.flags}
        if is_exact:  # votes differ by chance
            flags |= self._mistrust()
        return replace(
            best,
            members=tuple(members),
            flags=tuple(sorted(flags)),
            passes=sum((member.passes for member in members), Passes()),
            seconds=sums([member.seconds for member in members]),
            zero_gradients=max(member.zero_gradients for member in members),
        )

    def _mistrust(self) -> set[str]:
        """Flags of the members that should be beaten by the losses and are not."""
        lowest = min(accuracy for name, accuracy in self._left.items() if name not in _MISTRUST)
        return {flag for name, (flag, margin) in _MISTRUST.items() if self._left.get(name, lowest) < lowest - margin}


def _accuracy(prediction: Tensor, target: Tensor) -> float:
    """Share of labelled pixels that are correct, 0 without any."""
    labelled = target.cpu() != IGNORE_INDEX
    hits = (prediction == target.cpu()) & labelled
    return int(hits.sum()) / max(1, int(labelled.sum()))


def _without_image(name: str, result: AttackResult, target: Tensor) -> MemberResult:
    return MemberResult(
        name,
        class_ids(result.prediction),
        result.norm,
        result.passes,
        result.seconds,
        result.flags,
        result.zero_gradients,
        None if result.votes is None else duels(result.votes, target.cpu()),
    )
