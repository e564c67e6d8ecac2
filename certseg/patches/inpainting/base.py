"""What all inpainters share: they never see a hidden pixel and never change a visible one."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from certseg.errors import ModelError
from certseg.patches.masks import erase


class Inpainting(ABC):
    """A :class:`certseg.types.Inpainter`. Subclasses fill; here hidden pixels are set to 0 before and visible ones are
    pasted back after, so that the result is a function of the visible pixels alone and agrees with the image on them.
    """

    name = ""

    @property
    def settings(self) -> dict[str, object]:
        """Everything that decides the result, in plain values."""
        return {}

    def __call__(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Images ``B x 3 x H x W`` in [0, 1] with the pixels filled in that ``hidden`` (``B x H x W`` bool) marks.

        Raises:
            ModelError: the shapes do not fit, or the filling is misshapen or not finite.
        """
        if hidden.dtype != torch.bool or images.ndim != 4 or hidden.shape != (len(images), *images.shape[-2:]):
            raise ModelError(
                "Hidden pixels do not fit the images",
                expected=f"bool of shape {(len(images), *images.shape[-2:])}",
                received=f"{hidden.dtype} of shape {tuple(hidden.shape)}",
            )
        erased = erase(images, hidden)
        filled = self._fill(erased, hidden)
        if filled is erased:
            return erased
        if filled.shape != images.shape:
            raise ModelError(
                f"The inpainter {self.name} must return images of the shape it was given",
                expected=tuple(images.shape),
                received=tuple(filled.shape),
            )
        behind = erase(filled.to(images.dtype), ~hidden)
        if not torch.isfinite(torch.stack(behind.aminmax())).all():
            raise ModelError(f"The inpainter {self.name} returned NaN or infinite values")
        return erased + behind.clamp(0.0, 1.0)  # one of the two is 0 everywhere

    @abstractmethod
    def _fill(self, erased: Tensor, hidden: Tensor) -> Tensor:
        """Images of the shape of ``erased``, in which hidden pixels are 0, with these filled in; what is returned for
        visible pixels is not used."""
