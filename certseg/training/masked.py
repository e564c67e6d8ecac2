"""Training the network that certificates against patches ask: :class:`MaskedObjective`, on masked, inpainted images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from certseg.checks import check_number, require
from certseg.patches.inpainting import Telea
from certseg.patches.masks import erase
from certseg.training.hidden import KINDS, checked_draws, draw_hidden
from certseg.training.objectives import Objective, check_own_loss
from certseg.types import Inpainter
from certseg.types.trainable import TrainableSegmenter


@dataclass(frozen=True)
class MaskedObjective(Objective[TrainableSegmenter]):
    """The segmenter's own loss on images of which a random part is hidden and inpainted.

    The labels of hidden pixels count as well. This trains the base classifier of demasked smoothing and of double
    masking, as training with noise does for randomized smoothing. Yatsura et al. (2023) certify networks that never saw
    an inpainted image; a network that did agrees with itself on more pixels of its masked copies.

    Args:
        inpainter: fills the masked pixels, best the one the certifier will use; it need not be differentiable.
        masks: the kinds of masks to draw from (:func:`certseg.training.hidden.draw_hidden`), each equally often; one
            named twice is drawn twice as often.
        shares: smallest and largest share of the (cropped) image that the masks' patch covers.
        clean_share: probability with which an image of the batch is left as it is.

    Raises:
        ConfigError: a value is outside its domain.
    """

    inpainter: Inpainter = field(default_factory=Telea)
    masks: Sequence[str] = KINDS
    shares: tuple[float, float] = (0.002, 0.03)
    clean_share: float = 0.5

    def __post_init__(self) -> None:
        expected = "an inpainter, such as certseg.patches.inpainting.Telea"
        require("training.objective.inpainter", self.inpainter, expected, isinstance(self.inpainter, Inpainter))
        masks, shares = checked_draws(self.masks, self.shares)
        check_number("training.objective.clean_share", self.clean_share, "[0, 1)", what="a share")
        object.__setattr__(self, "masks", masks)
        object.__setattr__(self, "shares", shares)

    def prepare(self, network: nn.Module) -> None:
        """Refuse a segmenter without a loss.

        Raises:
            ModelError: the network has no method ``loss``.
        """
        check_own_loss(network)

    def __call__(self, network: TrainableSegmenter, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of masked and inpainted images."""
        hides = (torch.rand(len(images)) >= self.clean_share).nonzero().flatten().to(images.device)
        masked = images.clone()
        if len(hides):
            masked[hides] = self._filled(images[hides], None)
        return network.loss(masked, labels)

    def views(self, images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Clean images, and each under one random mask."""
        return {"clean": images, "masked": self._filled(images, generator)}

    def _filled(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        size = images.shape[-2], images.shape[-1]
        kinds = [self.masks[int(torch.randint(len(self.masks), (), generator=generator))] for _ in images]
        hidden = torch.stack([draw_hidden(kind, size, self.shares, generator) for kind in kinds]).to(images.device)
        with torch.no_grad():
            return self.inpainter(erase(images, hidden), hidden)
