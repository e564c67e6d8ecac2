"""An image with rectangles on it that may be painted, and where such rectangles may lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

Corners = tuple[tuple[int, int], ...]
"""Row and column of the upper left pixel of each rectangle."""


@dataclass(frozen=True)
class PatchCanvas:
    """An image and the rectangles of one size that an attacker may paint; every other pixel stays as it is.

    Args:
        image: ``3 x H x W``.
        size: height and width of a rectangle.
        corners: of the rectangles, all inside the image. They may overlap; the last one is then on top.
    """

    image: Tensor
    size: tuple[int, int]
    corners: Corners

    def paint(self, content: Tensor) -> Tensor:
        """A copy of the image with ``content`` (``N x 3 x h' x w'``) in its rectangles."""
        painted = self.image.clone()
        for window, part in zip(self._windows, content, strict=True):
            painted[window] = part
        return painted

    def read(self, values: Tensor) -> Tensor:
        """What ``values`` (``... x H x W``) holds in each rectangle: ``N x ... x h' x w'``."""
        return torch.stack([values[window] for window in self._windows])

    @cached_property
    def inside(self) -> Tensor:
        """``H x W`` bool, the pixels that may be painted."""
        inside = torch.zeros(self.image.shape[-2:], dtype=torch.bool, device=self.image.device)
        for window in self._windows:
            inside[window] = True
        return inside

    @property
    def _windows(self) -> list[tuple[object, slice, slice]]:
        height, width = self.size
        return [(..., slice(top, top + height), slice(left, left + width)) for top, left in self.corners]


def random_corners(count: int, room: tuple[int, int], size: tuple[int, int], generator: torch.Generator) -> Corners:
    """``count`` places of rectangles of ``size`` in an image of height and width ``room``, each equally likely."""
    ends = [side - part + 1 for side, part in zip(room, size)]
    drawn = [torch.randint(end, (count,), generator=generator).tolist() for end in ends]
    return tuple(zip(*drawn))


def grid_corners(number: int, room: tuple[int, int], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Corners of ``number`` places in each direction, evenly spaced from border to border; fewer where there is no room
    for so many different ones."""
    ends = [side - part for side, part in zip(room, size)]
    rows, columns = (np.unique(np.linspace(0, end, number).round()).astype(int) for end in ends)
    return [(int(top), int(left)) for top in rows for left in columns]


def is_inside(corners: Sequence[tuple[int, int]], room: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether all rectangles lie within the image."""
    return all(0 <= at <= side - part for corner in corners for at, side, part in zip(corner, room, size))
