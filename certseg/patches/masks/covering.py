"""Masks of which one hides the whole patch, wherever it lies: strips and rectangles with a stride (seed 003, A)."""

from __future__ import annotations

import numpy as np

from certseg.checks import check_choice, check_count
from certseg.errors import ConfigError
from certseg.patches.masks.mask_set import MaskSet
from certseg.types.threats import Patch

COVERINGS = ("column", "row", "block")
"""What a mask of :func:`covering_masks` can hide, by name."""


def strips(length: int, patch: int, width: int, stride: int | None = None) -> np.ndarray:
    """First pixels of intervals of ``width`` pixels such that every interval of ``patch`` pixels in
    ``0 .. length - 1`` lies in one of them: ``stride`` apart, the last one moved back to end at the border.

    Proof, for a stride of at most ``width - patch + 1``, which is the default. Suppose a patch at y lies in no strip,
    and let s be the last strip's beginning that is not after y. The patch ends after this strip, y > s + width - patch.
    So the strip does not end at the border and there is a next one, which begins after y >= s + width - patch + 1:
    further than the stride, a contradiction. []

    >>> strips(length=10, patch=2, width=4).tolist()
    [0, 3, 6]
    """
    stride = width - patch + 1 if stride is None else stride
    return np.unique(np.append(np.arange(0, length - width, stride), length - width))


def strip_width(length: int, patch: int, number: int) -> int:
    """The smallest width of which at most ``number`` :func:`strips` suffice (Xiang et al. 2022, "PatchCleanser")."""
    return patch - 1 + -((patch - 1 - length) // number)  # ceil((length - patch + 1) / number)


def covering_masks(
    kind: str,
    size: tuple[int, int],
    threat: Patch,
    *,
    width: int | None = None,
    stride: int | None = None,
    num_masks: int | None = None,
) -> MaskSet:
    """Masks that hide one strip or rectangle each. With several patches, the masks hide as many strips together, all
    combinations; then too one of them hides all patches (a proof: :meth:`MaskSet.joined`).

    Args:
        kind: ``column`` hides full columns, ``row`` full rows, ``block`` rectangles.
        size: height and width of the image.
        threat: size and number of the attacker's patches.
        width: width of a column or height of a row in pixels, at least the patch's. Blocks have none.
        stride: pixels from one column or row of this width to the next; None is the most that still covers every patch.
        num_masks: the number of columns or rows, for blocks the number side by side in each direction; their width
            follows from it, and fewer are made where fewer of that width suffice. Where neither ``width`` nor
            ``num_masks`` is given, strips are as wide as the patch.

    Raises:
        ConfigError: an argument is outside its domain, or the image is too small for the patch or for so many masks.
    """
    check_covering(kind, width, stride, num_masks)
    patch = threat.size(*size)
    axes = {"column": (1,), "row": (0,), "block": (0, 1)}[kind]
    parts = [np.array([[0, length]]) for length in size]
    for axis in axes:
        parts[axis] = _intervals(size[axis], patch[axis], width, stride, num_masks)
    edges = [np.unique(np.append(part, [0, length])) for part, length in zip(parts, size)]
    inside = [  # strips x cells
        (cells[:-1] >= part[:, :1]) & (cells[1:] <= part[:, 1:]) for part, cells in zip(parts, edges)
    ]
    hidden = inside[0][:, None, :, None] & inside[1][None, :, None, :]
    visible = ~hidden.reshape(-1, *hidden.shape[2:])
    return MaskSet(edges[0], edges[1], visible, patch, threat.count).joined(threat.count)


def check_covering(kind: str, width: int | None, stride: int | None, num_masks: int | None) -> None:
    """Raise :class:`ConfigError` unless the arguments can be those of :func:`covering_masks`."""
    check_choice("Masks that cover a patch", kind, COVERINGS)
    for name, value in (("width", width), ("stride", stride), ("number", num_masks)):
        check_count(f"The {name} of masks", value, optional=True)
    if width is not None and (num_masks is not None or kind == "block"):
        raise ConfigError("The width of masks belongs to columns and rows whose number is not set", received=width)
    if stride is not None and width is None:
        raise ConfigError("The stride of masks belongs to a width", received=stride)


def _intervals(length: int, patch: int, width: int | None, stride: int | None, number: int | None) -> np.ndarray:
    """First pixel of each strip and the one after its last, ``N x 2``."""
    most = length - patch + 1
    if number is not None and number > most:
        raise ConfigError(
            f"{number} masks do not fit: a side of {length} pixels has {most} places for a patch of {patch} pixels",
            remedy=f"Use at most {most} masks in this direction",
        )
    if width is None:
        width = patch if number is None else strip_width(length, patch, number)
    if not patch <= width <= length:
        raise ConfigError(
            "Masks must be at least as wide as the patch and fit into the image",
            expected=f"{patch} to {length} pixels",
            received=width,
        )
    if stride is not None and stride > width - patch + 1:
        raise ConfigError(
            f"With a stride of {stride} some places of the patch lie in no mask of {width} pixels",
            expected=f"a stride of at most {width - patch + 1}",
        )
    first = strips(length, patch, width, stride)
    return np.stack([first, first + width], axis=1)
