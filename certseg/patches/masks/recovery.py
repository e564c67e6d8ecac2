"""Masks for certified recovery: blocks of the patch's size, each visible in exactly one of K masks (seed 003, B)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from certseg.checks import check_choice, check_count
from certseg.errors import ConfigError
from certseg.patches.masks.mask_set import MaskSet
from certseg.types.threats import Patch


def column_blocks(rows: int, columns: int, num_masks: int) -> np.ndarray:
    """Column r of blocks is visible in mask ``r mod K``. A patch, as wide as a block, meets two columns at most, so
    that it touches at most T = 2 masks.

    Args:
        rows: number of blocks from top to bottom.
        columns: number of blocks from left to right.
        num_masks: the number of masks, K.

    Returns:
        ``rows x columns`` integers, the mask in which each block is visible.

    >>> column_blocks(2, 4, num_masks=3).tolist()
    [[0, 1, 2, 0], [0, 1, 2, 0]]
    """
    return np.broadcast_to(np.arange(columns) % num_masks, (rows, columns))


def row_blocks(rows: int, columns: int, num_masks: int) -> np.ndarray:
    """Row q of blocks is visible in mask ``q mod K``, so that a patch touches at most T = 2 masks.

    It takes and returns what :func:`column_blocks` does.
    """
    return column_blocks(columns, rows, num_masks).T


def three_blocks(rows: int, columns: int, num_masks: int) -> np.ndarray:
    """Neighbours share a mask in pairs: the first, third, ... row reads 1 | 2 3 | 4 5 | ..., the others 1 2 | 3 4 | ..;
    the groups are numbered through all rows, mod K.

    The pairs begin anew with every row. So two columns next to one another are a pair either in all odd rows or in all
    even ones, and of the 2 x 2 blocks a patch can meet two lie in one mask: a patch touches at most T = 3 masks. The
    function takes and returns what :func:`column_blocks` does.
    """
    groups, before = np.empty((rows, columns), dtype=np.int64), 0
    for row in range(rows):
        groups[row] = before + (np.arange(columns) + (row + 1) % 2) // 2
        before = groups[row, -1] + 1
    return groups % num_masks


def four_blocks(rows: int, columns: int, num_masks: int) -> np.ndarray:
    """Tiles of a x b blocks with ab = K, one block of a tile for each mask. A patch meets four blocks at most, so that
    it touches at most T = 4 masks.

    It takes and returns what :func:`column_blocks` does.
    """
    high, wide = _tile(num_masks)
    return wide * (np.arange(rows)[:, None] % high) + np.arange(columns)[None] % wide


ASSIGNMENTS: dict[str, tuple[Callable[[int, int, int], np.ndarray], int]] = {
    "column": (column_blocks, 2),
    "row": (row_blocks, 2),
    "three": (three_blocks, 3),
    "four": (four_blocks, 4),
}
"""For each kind of masks, by name, the rule that says which mask shows which block, and the number T of masks that one
patch can touch."""


def recovery_masks(kind: str, size: tuple[int, int], threat: Patch, num_masks: int | None = None) -> MaskSet:
    """Masks of which every block of the patch's size is visible in exactly one; the last blocks of a row and of a
    column are cut by the border.

    Args:
        kind: ``column``, ``row``, ``three`` or ``four``.
        size: height and width of the image.
        threat: size and number of the attacker's patches.
        num_masks: the number of masks, K; None is the smallest K that unanimous votes need (:func:`least_masks`).

    Raises:
        ConfigError: the kind is unknown, or the image is too small for the patch or for K masks.
    """
    num_masks = check_recovery(kind, num_masks, threat)
    patch = threat.size(*size)
    edges = [np.append(np.arange(0, length, side), length) for length, side in zip(size, patch)]
    rows, columns = (len(part) - 1 for part in edges)
    assign, _ = ASSIGNMENTS[kind]
    shown_in = assign(rows, columns, num_masks)
    visible = shown_in[None] == np.arange(num_masks)[:, None, None]
    if not visible.any(axis=(1, 2)).all():
        raise ConfigError(
            f"{num_masks} masks of kind {kind} do not fit into an image of {size[0]} x {size[1]} pixels: a patch of "
            f"{patch[0]} x {patch[1]} leaves {rows} x {columns} blocks",
            expected="a visible block in every mask",
            remedy="Choose a smaller patch, fewer masks or another kind of masks",
        )
    return MaskSet(edges[0], edges[1], visible, patch, threat.count)


def check_recovery(kind: str, num_masks: int | None, threat: Patch) -> int:
    """The number of masks of a kind to use.

    Args:
        kind: ``column``, ``row``, ``three`` or ``four``.
        num_masks: the number that is wanted, at least 2; None is the smallest that unanimous votes need.
        threat: size and number of the attacker's patches.

    Raises:
        ConfigError: the kind is unknown, or there are no masks of this kind in this number.
    """
    check_choice("Masks for certified recovery", kind, ASSIGNMENTS)
    if num_masks is None:
        return least_masks(kind, threat.count)
    check_count("The number of masks", num_masks, 2)
    if kind == "four" and _tile(num_masks)[0] < 2:
        raise ConfigError(
            "Masks of kind four come in numbers that are a product of two integers of at least 2",
            received=num_masks,
            remedy=f"Use {max(4, num_masks + 1)}",
        )
    return num_masks


def least_masks(kind: str, count: int) -> int:
    """The smallest number K >= 2 T + 1 of masks of a kind, where T is the number of masks that ``count`` patches can
    touch: that of one patch times ``count``. Of kind ``four`` it is the smallest such K whose tiles have at least
    3 x 3 blocks.

    >>> least_masks("column", count=1), least_masks("four", count=1)
    (5, 9)
    """
    least = 2 * ASSIGNMENTS[kind][1] * count + 1
    while kind == "four" and _tile(least)[0] < 3:
        least += 1
    return least


def _tile(num_masks: int) -> tuple[int, int]:
    """The factors of K nearest to its root, the smaller one first."""
    high = next(value for value in range(math.isqrt(num_masks), 0, -1) if num_masks % value == 0)
    return high, num_masks // high
