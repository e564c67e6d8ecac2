"""Training an inpainter: the certifiers' masks over images, and what they hide to be guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certseg.checks import check_number
from certseg.errors import ConfigError
from certseg.patches.inpainting import MaskedUNet
from certseg.patches.masks import erase
from certseg.training.hidden import KINDS, checked_draws, draw_hidden

_NEAR = 3  # pixels: how far from a visible one a hidden pixel belongs to the border


class TrainableInpainter(nn.Module):
    """An inpainter as :func:`certseg.training.train` trains it, which stores the class names of the data with the
    weights; ``inpainter.*`` are those :class:`certseg.patches.inpainting.Learned` loads.

    Args:
        inpainter: the network.
        num_classes: of the data set, whose labels are not used.
    """

    def __init__(self, inpainter: MaskedUNet, num_classes: int):
        super().__init__()
        self.inpainter, self.num_classes = inpainter, num_classes

    def forward(self, erased: Tensor, hidden: Tensor) -> Tensor:
        """Filled images ``B x 3 x H x W``, of erased ones and their hidden pixels ``B x H x W`` bool."""
        return self.inpainter(erased, hidden)


@dataclass(frozen=True)
class HiddenError:
    """Absolute error of hidden values, in sum and number; adds up over images."""

    total: float
    count: int

    def __add__(self, other: HiddenError) -> HiddenError:
        return HiddenError(self.total + other.total, self.count + other.count)

    def figures(self) -> dict[str, float]:
        """Mean over all values; NaN without any."""
        return {"absolute_error/pooled": self.total / self.count if self.count else float("nan")}


@dataclass(frozen=True)
class InpainterObjective:
    """Mean absolute error of hidden pixels, each image under a random mask of its own (:func:`draw_hidden`); its mean
    over the images, plus ``border`` times the same of the hidden pixels at most 3 pixels from a visible one.

    Args:
        masks: kinds to draw from, each equally often; one named twice is drawn twice as often.
        shares: smallest and largest share of the (cropped) image that the masks' patch covers.
        border: weight of the second term; 0 for none.

    Raises:
        ConfigError: a value is outside its domain.
    """

    masks: Sequence[str] = KINDS
    shares: tuple[float, float] = (0.002, 0.03)
    border: float = 0.1

    def __post_init__(self) -> None:
        masks, shares = checked_draws(self.masks, self.shares)
        check_number("training.objective.border", self.border, "[0, inf)")
        object.__setattr__(self, "masks", masks)
        object.__setattr__(self, "shares", shares)

    def prepare(self, network: nn.Module) -> None:
        """Raise :class:`ConfigError` unless this is an inpainter."""
        if not isinstance(network, TrainableInpainter):
            raise ConfigError(
                "This objective trains an inpainter, not a segmenter",
                received=type(network).__name__,
                remedy="Choose training=inpainter as a whole",
            )

    def __call__(self, network: TrainableInpainter, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``loss_hidden`` and, where it has a weight, ``loss_border`` of images ``B x 3 x H x W``; labels are not
        used."""
        kinds = [self.masks[int(torch.randint(len(self.masks), ()))] for _ in images]
        size = tuple(images.shape[-2:])
        hidden = torch.stack([draw_hidden(kind, size, self.shares) for kind in kinds]).to(images.device)
        error = (network(erase(images, hidden), hidden).float() - images).abs().mean(1)  # B x H x W
        losses = {"loss_hidden": _mean(error, hidden)}
        if self.border > 0:
            visible = (~hidden)[:, None].float()
            near = F.max_pool2d(visible, 2 * _NEAR + 1, stride=1, padding=_NEAR)[:, 0] > 0
            losses["loss_border"] = self.border * _mean(error, hidden & near)
        return losses

    def validate(self, network: TrainableInpainter, image: Tensor, generator: torch.Generator) -> dict:
        """The error of one image ``1 x 3 x H x W`` under one random mask of each kind, all together as ``hidden``."""
        size = tuple(image.shape[-2:])
        drawn = [draw_hidden(kind, size, self.shares, generator) for kind in dict.fromkeys(self.masks)]
        hidden = torch.stack(drawn).to(image.device)
        images = image.expand(len(hidden), -1, -1, -1)
        filled = network(erase(images, hidden), hidden).float().clamp(0, 1)
        error = ((filled - images).abs() * hidden[:, None]).sum(dtype=torch.float64)
        return {"hidden": HiddenError(float(error), 3 * int(hidden.sum()))}


def _mean(error: Tensor, where: Tensor) -> Tensor:
    """Mean over the images of each one's mean error in ``where`` (both ``B x H x W``)."""
    return ((error * where).sum((1, 2)) / where.sum((1, 2)).clamp(min=1)).mean()
