"""Training an inpainter: :class:`InpainterObjective` hides parts of images by the certifiers' masks to be guessed."""

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
from certseg.training.objectives import Objective

_NEAR = 3  # pixels: how far from a visible one a hidden pixel belongs to the border


class TrainableInpainter(nn.Module):
    """An inpainter in the form in which :func:`certseg.training.train` trains it.

    Its checkpoint holds the class names of the data set, and the weights under ``inpainter.*``, where
    :class:`certseg.patches.inpainting.Learned` finds them.

    Args:
        inpainter: the network to train.
        num_classes: number of classes of the data set, whose labels are not used.
    """

    def __init__(self, inpainter: MaskedUNet, num_classes: int):
        super().__init__()
        self.inpainter = inpainter
        self.num_classes = num_classes

    def forward(self, erased: Tensor, hidden: Tensor) -> Tensor:
        """Filled images ``B x 3 x H x W``, of erased ones and their hidden pixels ``B x H x W`` bool."""
        return self.inpainter(erased, hidden)


@dataclass(frozen=True)
class HiddenError:
    """Absolute error of hidden values; adds up over images.

    Args:
        total: sum of the errors, on the [0, 1] image scale.
        count: number of values, three for each hidden pixel.
    """

    total: float
    count: int

    def __add__(self, other: HiddenError) -> HiddenError:
        return HiddenError(self.total + other.total, self.count + other.count)

    def figures(self) -> dict[str, float]:
        """``absolute_error/pooled``, the mean over all values; NaN without any."""
        return {"absolute_error/pooled": self.total / self.count if self.count else float("nan")}


@dataclass(frozen=True)
class InpainterObjective(Objective[TrainableInpainter]):
    """The mean absolute error of hidden pixels, each image under a random mask of its own.

    The masks are drawn by :func:`certseg.training.hidden.draw_hidden`. ``loss_hidden`` is the error of an image's
    hidden pixels, averaged over the images; ``loss_border`` is ``border`` times the same of those hidden pixels that
    lie at most 3 pixels from a visible one.

    Args:
        masks: the kinds of masks to draw from, each equally often; one named twice is drawn twice as often.
        shares: smallest and largest share of the (cropped) image that the masks' patch covers.
        border: weight of ``loss_border``, at least 0; 0 leaves it out.

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
        size = images.shape[-2], images.shape[-1]
        hidden = torch.stack([draw_hidden(kind, size, self.shares) for kind in kinds]).to(images.device)
        error = (network(erase(images, hidden), hidden).float() - images).abs().mean(1)  # B x H x W
        losses = {"loss_hidden": _mean(error, hidden)}
        if self.border > 0:
            visible = (~hidden)[:, None].float()
            near = F.max_pool2d(visible, 2 * _NEAR + 1, stride=1, padding=_NEAR)[:, 0] > 0
            losses["loss_border"] = self.border * _mean(error, hidden & near)
        return losses

    def validate(
        self, network: TrainableInpainter, image: Tensor, target: Tensor, generator: torch.Generator
    ) -> dict[str, HiddenError]:
        """The error of one image ``1 x 3 x H x W`` under one random mask of each kind, all together as ``hidden``;
        its labels ``target`` are not used."""
        size = image.shape[-2], image.shape[-1]
        drawn = [draw_hidden(kind, size, self.shares, generator) for kind in dict.fromkeys(self.masks)]
        hidden = torch.stack(drawn).to(image.device)
        images = image.expand(len(hidden), -1, -1, -1)
        filled = network(erase(images, hidden), hidden).float().clamp(0, 1)
        error = ((filled - images).abs() * hidden[:, None]).sum(dtype=torch.float64)
        return {"hidden": HiddenError(float(error), 3 * int(hidden.sum()))}


def _mean(error: Tensor, where: Tensor) -> Tensor:
    """Mean over the images of each one's mean error in ``where`` (both ``B x H x W``)."""
    return ((error * where).sum((1, 2)) / where.sum((1, 2)).clamp(min=1)).mean()
