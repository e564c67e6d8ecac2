"""Classical inpainting by OpenCV, on the CPU: Telea's fast marching and Navier-Stokes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from certseg.checks import check_count
from certseg.compute.opencv import cv2
from certseg.compute.threads import for_each
from certseg.patches.inpainting.base import Inpainting


class _OpenCV(Inpainting):
    """Fills 8-bit images, one by one, on as many threads as torch uses.

    Args:
        radius: how far from a hidden pixel, in pixels, others decide its colour; an integer from 1 to 100.

    Raises:
        ConfigError: the radius is anything else.
    """

    _method: int

    def __init__(self, radius: int = 3) -> None:
        check_count("The radius of an inpainter", radius, most=100)
        self.radius = radius

    @property
    def settings(self) -> dict[str, object]:
        """The radius, which decides the result."""
        return {"radius": self.radius}

    def _fill(self, erased: Tensor, hidden: Tensor) -> Tensor:
        images = (erased.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
        masks = hidden.to(torch.uint8).contiguous().cpu().numpy()
        filled = np.empty_like(images)
        channels = images.shape[-1]
        parts = [slice(None)] if channels in (1, 3) else [slice(c, c + 1) for c in range(channels)]  # what OpenCV takes

        def fill(index: int) -> None:
            for part in parts:
                image = np.ascontiguousarray(images[index][..., part])
                found = cv2.inpaint(image, masks[index], self.radius, self._method)
                filled[index][..., part] = found.reshape(image.shape)

        for_each(len(images), fill)
        return torch.from_numpy(filled).to(erased.device).permute(0, 3, 1, 2).to(erased.dtype) / 255


class Telea(_OpenCV):
    """Fills from the border inwards with weighted means of known pixels (Telea 2004)."""

    name = "telea"
    _method = cv2.INPAINT_TELEA


class NavierStokes(_OpenCV):
    """Continues lines of equal brightness into the hidden region (Bertalmio, Bertozzi and Sapiro 2001)."""

    name = "navier_stokes"
    _method = cv2.INPAINT_NS
