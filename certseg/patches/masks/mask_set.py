"""Masks as pure geometry: what is hidden in which mask, and which masks a patch can touch."""

from __future__ import annotations

from functools import cached_property
from itertools import combinations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from certseg.errors import ConfigError

_CHUNK = 2048  # sets compared at once


class MaskSet:
    """K masks of one image size, constant on the cells of a grid, and what patches of one size can do to them.

    A patch touches a mask if it covers a pixel that is visible in it: only then can what is computed from the visible
    pixels change.

    Args:
        row_edges: ``(R + 1,)`` ascending integers from 0 to H; cell row r holds the pixel rows ``row_edges[r]`` to
            ``row_edges[r + 1] - 1``.
        column_edges: ``(C + 1,)`` ascending integers from 0 to W; cell column c holds the pixel columns
            ``column_edges[c]`` to ``column_edges[c + 1] - 1``.
        visible: ``K x R x C`` bool, the cells that each mask leaves visible.
        patch: height and width in pixels of an attacker's rectangle.
        count: number of rectangles an attacker may place, at least 1.

    Raises:
        ConfigError: no mask is given, the masks do not fit the cells, the edges do not ascend from 0, or the patch does
            not fit into the image.

    >>> halves = MaskSet([0, 4], [0, 3, 6], np.array([[[True, False]], [[False, True]]]), patch=(2, 2))
    >>> halves.size, halves.num_masks, halves.most_touched
    ((4, 6), 2, 2)
    """

    def __init__(
        self,
        row_edges: ArrayLike,
        column_edges: ArrayLike,
        visible: np.ndarray,
        patch: tuple[int, int],
        count: int = 1,
    ) -> None:
        self._edges = np.asarray(row_edges, dtype=np.int64), np.asarray(column_edges, dtype=np.int64)
        self._visible = np.asarray(visible, dtype=bool)
        self.patch, self.count = (int(patch[0]), int(patch[1])), count
        cells = tuple(len(edges) - 1 for edges in self._edges)
        if self._visible.shape[1:] != cells or not len(self._visible):
            raise ConfigError(
                "Masks do not fit their grid", expected=f"K x {cells[0]} x {cells[1]}", received=self._visible.shape
            )
        if any(edges[0] != 0 or (np.diff(edges) < 1).any() for edges in self._edges):
            raise ConfigError("The edges of a grid of masks must ascend from 0", received=self._edges)
        if not all(1 <= side <= length for side, length in zip(self.patch, self.size)):
            raise ConfigError(f"A patch of {self.patch} does not fit into an image of {self.size}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return int(self._edges[0][-1]), int(self._edges[1][-1])

    @property
    def num_masks(self) -> int:
        """The number of masks, K."""
        return len(self._visible)

    @cached_property
    def touched(self) -> np.ndarray:
        """``F x K`` bool: the sets of masks that one placement of all rectangles can touch together. Sets that are part
        of another one are left out: an attacker who may touch more can also touch less."""
        single = maximal(self._touched_by_one())
        family = single
        for _ in range(self.count - 1):
            family = maximal((family[:, None] | single[None]).reshape(-1, self.num_masks))
        return family

    @property
    def most_touched(self) -> int:
        """T, the largest number of masks that one placement of all rectangles can touch."""
        return int(self.touched.sum(axis=1).max())

    @property
    def covers(self) -> bool:
        """Whether every placement of all rectangles is hidden entirely by some mask, which it then does not touch."""
        return not self.touched.all(axis=1).any()

    def shows(self, number: int) -> bool:
        """Whether every choice of ``number`` masks (1, or 2 that may be the same) has a pixel that all of them show."""
        cells = self._visible.reshape(self.num_masks, -1)
        return bool(cells.any(axis=1).all() if number == 1 else (cells.astype(np.float32) @ cells.T > 0).all())

    def hidden(self, device: torch.device | str = "cpu") -> Tensor:
        """``K x H x W`` bool, True where a mask hides the image."""
        cells = torch.from_numpy(~self._visible).to(device)
        rows, columns = (torch.from_numpy(np.diff(edges)).to(device) for edges in self._edges)
        return cells.repeat_interleave(columns, dim=2).repeat_interleave(rows, dim=1)

    def joined(self, number: int) -> MaskSet:
        """The masks that hide together what ``number`` different ones of these hide. If these masks cover one rectangle
        wherever it lies, the joined ones cover ``number`` rectangles: join the masks that hide each of them."""
        if number == 1:
            return self
        groups = list(combinations(range(self.num_masks), min(number, self.num_masks)))
        visible = np.stack([self._visible[list(group)].all(axis=0) for group in groups])
        rows, columns = self._edges
        return MaskSet(rows, columns, visible, self.patch, self.count)

    def _touched_by_one(self) -> np.ndarray:
        """``P x K`` bool: the masks that one rectangle touches, over all windows of cells it can meet.

        A rectangle at pixel row y meets the cell rows from that of y to that of y + h' - 1. Both change only where y or
        y + h' - 1 enters a cell, so one position after each change stands for all. The same holds for columns.
        """
        windows = [_windows(edges, side) for edges, side in zip(self._edges, self.patch)]
        total = np.pad(self._visible, ((0, 0), (1, 0), (1, 0))).cumsum(axis=1).cumsum(axis=2)
        (top, bottom), (left, right) = windows
        rows = total[:, bottom] - total[:, top]  # K x P_rows x (C + 1)
        visible = rows[:, :, right] - rows[:, :, left]
        touched: np.ndarray = visible.reshape(self.num_masks, -1).T > 0
        return touched


def erase(images: Tensor, hidden: Tensor) -> Tensor:
    """Images ``B x 3 x H x W`` with 0 wherever ``hidden`` (``B x H x W`` bool): nothing computed from the result can
    depend on a hidden pixel, whatever it held, NaN included. Differentiable."""
    if images.requires_grad or images.dtype != torch.float32:
        return images.masked_fill(hidden[:, None], 0.0)
    bits = hidden[:, None].to(torch.int32) - 1  # all set where visible, none where hidden: 4 times faster on the CPU
    return (images.view(torch.int32) & bits).view(torch.float32)


def maximal(sets: np.ndarray) -> np.ndarray:
    """The different rows of ``sets`` (``N x K`` bool) that are no subset of another row, in lexicographic order."""
    sets = np.unique(sets, axis=0)
    members = sets.astype(np.float32)  # numbers below 2^24 are exact
    sizes = members.sum(axis=1)
    keep = np.empty(len(sets), dtype=bool)
    for start in range(0, len(sets), _CHUNK):
        part = slice(start, start + _CHUNK)
        within = members[part] @ members.T == sizes[part, None]  # row i is a subset of row j; of itself always
        keep[part] = within.sum(axis=1) == 1
    return sets[keep]


def _windows(edges: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """First cell met and the one after the last, for every window of cells that ``side`` neighbouring pixels meet."""
    starts = edges[:-1]
    at = np.unique(np.clip(np.concatenate([starts, starts - side + 1]), 0, edges[-1] - side))
    first = np.searchsorted(edges, at, side="right") - 1
    stop = np.searchsorted(edges, at + side - 1, side="right")
    return tuple(np.unique(np.stack([first, stop]), axis=1))
