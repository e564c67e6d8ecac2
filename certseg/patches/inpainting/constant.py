"""Hidden pixels of one colour."""

from __future__ import annotations

import torch
from torch import Tensor

from certseg.errors import ModelError
from certseg.patches.inpainting.base import Inpainting


class Black(Inpainting):
    """Hidden pixels stay black."""

    name = "black"

    def _fill(self, erased: Tensor, hidden: Tensor) -> Tensor:
        return erased


class MeanColour(Inpainting):
    """Hidden pixels get the mean colour of the visible ones, black where nothing is visible."""

    name = "mean_colour"

    def __call__(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Images ``B x 3 x H x W`` in [0, 1] with the pixels filled in that ``hidden`` (``B x H x W`` bool) marks.

        It does what :class:`Inpainting` does in fewer passes over the images: one colour is checked in the place of all
        pixels that it fills.

        Raises:
            ModelError: the shapes do not fit, or a mean is not finite.
        """
        erased = super().__call__(images, hidden)
        number = hidden[0].numel() - hidden.flatten(1).sum(dim=1, dtype=torch.int32)  # of visible pixels
        colour = erased.sum(dim=(2, 3)) / number.clamp_min(1)[:, None]  # B x 3
        if not torch.isfinite(colour).all():
            raise ModelError(f"The inpainter {self.name} returned NaN or infinite values")
        return torch.addcmul(erased, hidden[:, None].to(erased.dtype), colour.clamp(0.0, 1.0)[..., None, None])

    def _fill(self, erased: Tensor, hidden: Tensor) -> Tensor:
        return erased
