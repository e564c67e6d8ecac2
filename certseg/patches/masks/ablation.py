"""The masks of derandomized smoothing: all but one column hidden (Levine and Feizi 2020)."""

from __future__ import annotations

import numpy as np

from certseg.checks import is_count
from certseg.errors import ConfigError
from certseg.patches.masks.mask_set import MaskSet
from certseg.types.threats import Patch


def column_ablations(size: tuple[int, int], threat: Patch, width: int, stride: int) -> MaskSet:
    """Masks that leave ``width`` columns visible, from every ``stride``-th column on, wrapped around the right border.

    A patch touches ``ceil((w' + width - 1) / stride)`` of them, one more where the last column begins less than
    ``stride`` before the border; :attr:`MaskSet.most_touched` has the exact number.

    Args:
        size: height and width of the image.
        threat: size and number of the attacker's patches.
        width: number of neighbouring pixel columns that a mask leaves visible, from 1 to the image's width.
        stride: number of pixels from the visible columns of one mask to those of the next, from 1 to the image's width.

    Raises:
        ConfigError: an argument is outside its domain, or the image is too small.
    """
    for name, value in (("width", width), ("stride", stride)):
        if not is_count(value, 1, size[1]):
            raise ConfigError(
                f"The {name} of visible columns must be an integer within the image's width of {size[1]} pixels",
                received=repr(value),
            )
    starts = np.arange(0, size[1], stride)
    edges = np.unique(np.concatenate([starts, (starts + width) % size[1], [size[1]]]))
    visible = (edges[None, :-1] - starts[:, None]) % size[1] < width  # a cell lies inside a column or outside
    return MaskSet([0, size[0]], edges, visible[:, None], threat.size(*size), threat.count)
