"""What every attack within a threat offers: one image, or several of one shape side by side."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from certseg.attacks.objective import Smoothing, gradient_free
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.types import Attack, AttackResult, Segmenter, Threat


class BudgetedAttack(Attack):
    """An attack within a threat, on a network or on its smoothed version. A subclass has :attr:`smoothing`, as a field
    with a default or as a property, and :meth:`together`."""

    side_by_side = True
    needs_gradient = True

    @property
    @abstractmethod
    def smoothing(self) -> Smoothing | None:
        """The noise of the smoothed model that is attacked; None attacks the network itself."""

    @property
    def predictor(self) -> str:
        """The attacked model, in the words of the certificates it may be compared with."""
        return self.smoothing.predictor if self.smoothing else "base"

    def clean(self, image: Tensor) -> Tensor:
        """The image, rounded to grey levels where the attacked model is smoothed on them."""
        return self.smoothing.clean(image) if self.smoothing else image

    @property
    def num_votes(self) -> int:
        """The votes of the smoothed model at the adversarial image; 0 for the network itself."""
        return self.smoothing.votes if self.smoothing else 0

    @property
    def instead(self) -> str:
        """The choice that attacks the same model without gradient."""
        return gradient_free(self.smoothing)

    def __call__(
        self,
        segmenter: Segmenter,
        image: Tensor,
        target: Tensor,
        threat: Threat,
        *,
        stream: NoiseStream,
        hardware: Hardware,
        start: Tensor | None = None,
    ) -> AttackResult:
        """Attack one image.

        Args:
            segmenter: the network, differentiable with respect to its input, on the hardware's device.
            image: ``3 x H x W`` in [0, 1].
            target: ``H x W`` int64 labels, 255 ignored.
            threat: what the attack may do, of a kind among :attr:`norms`.
            stream: the image's own random numbers.
            hardware: device, and how many noisy copies of the image go through the network at once.
            start: the point within the threat where the first run begins; None for the image.

        Raises:
            DataError: the image is not in [0, 1], the target does not fit it or the model, or the start is outside the
                threat.
            ModelError: NaN or infinite logits.
        """
        starts = None if start is None else [start]
        (result,) = self.together(
            segmenter, [image], [target], threat, streams=[stream], hardware=hardware, starts=starts
        )
        return result

    @abstractmethod
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
    ) -> Sequence[AttackResult]:
        """Attack images of one shape side by side. Each gets what it would get alone, up to the rounding of a batch.

        Args:
            segmenter: the network, differentiable with respect to its input, on the hardware's device.
            images: ``3 x H x W`` each, in [0, 1], all of one shape.
            targets: for each image its labels ``H x W`` int64, 255 ignored.
            threat: what every one of the attacks may do.
            streams: for each image its own random numbers.
            hardware: device, and how many images or noisy copies go through the network at once.
            starts: for each image a point within the threat to begin at; None begins at the images.

        Raises:
            DataError: an image is not in [0, 1], labels do not fit it or the model, or a start is outside the threat.
            ModelError: NaN or infinite logits.
        """
