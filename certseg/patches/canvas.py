"""An image with rectangles on it that may be painted, and where such rectangles may lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import EllipsisType

import numpy as np
import torch
from torch import Tensor

Corners = tuple[tuple[int, int], ...]
"""Row and column of the upper left pixel of each rectangle."""


@dataclass(frozen=True)
class PatchCanvas:
    """An image and the rectangles of one size that an attacker may paint; every other pixel stays as it is.

    Args:
        image: ``3 x H x W`` in [0, 1].
        size: height and width in pixels of each rectangle.
        corners: row and column of the upper left pixel of each rectangle, all of which lie inside the image. They may
            overlap; the last one is then on top.

    >>> canvas = PatchCanvas(torch.zeros(3, 4, 4), size=(2, 2), corners=((1, 2),))
    >>> canvas.paint(torch.ones(1, 3, 2, 2))[0].int().tolist()
    [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]
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
    def _windows(self) -> list[tuple[EllipsisType, slice, slice]]:
        height, width = self.size
        return [(..., slice(top, top + height), slice(left, left + width)) for top, left in self.corners]


def random_corners(count: int, room: tuple[int, int], size: tuple[int, int], generator: torch.Generator) -> Corners:
    """Corners of ``count`` rectangles at random, every place in the image equally likely.

    Args:
        count: number of rectangles.
        room: height and width of the image in pixels.
        size: height and width of a rectangle in pixels.
        generator: where the random numbers come from.
    """
    ends = [side - part + 1 for side, part in zip(room, size)]
    drawn = [torch.randint(end, (count,), generator=generator).tolist() for end in ends]
    return tuple(zip(*drawn))


def grid_corners(number: int, room: tuple[int, int], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Corners of ``number`` places in each direction, evenly spaced from border to border; fewer where there is no room
    for so many different ones.

    Args:
        number: places in each direction, at least 1.
        room: height and width of the image in pixels.
        size: height and width of a rectangle in pixels.

    >>> grid_corners(2, room=(6, 8), size=(2, 2))
    [(0, 0), (0, 6), (4, 0), (4, 6)]
    """
    ends = [side - part for side, part in zip(room, size)]
    rows, columns = (np.unique(np.linspace(0, end, number).round()).astype(int) for end in ends)
    return [(int(top), int(left)) for top in rows for left in columns]


def is_inside(corners: Sequence[tuple[int, int]], room: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether rectangles of ``size`` at all ``corners`` lie within an image of height and width ``room``."""
    return all(0 <= at <= side - part for corner in corners for at, side, part in zip(corner, room, size))
