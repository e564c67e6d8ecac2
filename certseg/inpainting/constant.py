"""Hidden pixels of one colour."""

from __future__ import annotations

from torch import Tensor

from certseg.inpainting.base import Inpainting


class Black(Inpainting):
    """Hidden pixels stay black."""

    name = "black"

    def _fill(self, erased: Tensor, hidden: Tensor) -> Tensor:
        return erased


class MeanColour(Inpainting):
    """Hidden pixels get the mean colour of the visible ones, black where nothing is visible."""

    name = "mean_colour"

    def _fill(self, erased: Tensor, hidden: Tensor) -> Tensor:
        number = (~hidden).sum(dim=(1, 2)).clamp_min(1)
        colour = erased.sum(dim=(2, 3)) / number[:, None]  # B x 3
        return colour[..., None, None].expand_as(erased)
