"""Random masks as the certifiers against patches use them, for training inpainters and the networks behind them.

:func:`checked_draws` looks at an objective's settings, :func:`draw_hidden` draws a mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from certseg.checks import is_number, require
from certseg.patches.masks import ASSIGNMENTS, covering_masks, least_masks, recovery_masks
from certseg.types import Patch

KINDS = (*ASSIGNMENTS, "strips", "blocks")
_MOST = {"strips": 20, "blocks": 6}  # masks side by side, as certifier=demasked_detection and patch_double_masking


def checked_draws(masks: Sequence[str], shares: Sequence[float]) -> tuple[tuple[str, ...], tuple[float, float]]:
    """An objective's settings about masks, checked and as tuples.

    Args:
        masks: names in :data:`KINDS`, at least one.
        shares: smallest and largest share of the image that a patch covers, in (0, 0.04].

    Raises:
        ConfigError: a value is outside its domain.
    """
    is_list = isinstance(masks, (list, tuple)) and len(masks) > 0
    known = is_list and all(kind in KINDS for kind in masks)
    require("training.objective.masks", masks, f"a list of {', '.join(KINDS)}", known)
    is_pair = isinstance(shares, (list, tuple)) and len(shares) == 2 and all(map(is_number, shares))
    expected = "[smallest, largest] share in (0, 0.04]"
    require("training.objective.shares", shares, expected, is_pair and 0 < shares[0] <= shares[1] <= 0.04)
    return tuple(masks), (float(shares[0]), float(shares[1]))


def draw_hidden(
    kind: str, size: tuple[int, int], shares: tuple[float, float], generator: torch.Generator | None = None
) -> Tensor:
    """One random mask ``H x W`` bool on the CPU, True where hidden.

    The patch has a random size: its share of the image is drawn log-uniformly, and its height and width differ by a
    random factor of up to 1.4. ``column``, ``row``, ``three`` and ``four`` are one of the masks of certified recovery,
    cut out at a random offset; ``strips`` are one or two of the columns or rows of a detection, ``blocks`` one or two
    of the rectangles of double masking, both in a random number.

    Args:
        kind: the kind of mask, one of :data:`KINDS`.
        size: height H and width W of the image in pixels.
        shares: smallest and largest share of the image that a patch covers.
        generator: a CPU generator; None, the default, for torch's global one.

    Raises:
        ConfigError: the image is too small for the masks.

    >>> hidden = draw_hidden("column", (32, 48), (0.01, 0.02), torch.Generator().manual_seed(0))
    >>> hidden.shape, bool(hidden.any()), bool(hidden.all())
    (torch.Size([32, 48]), True, False)
    """
    low, high = (math.log(share) for share in shares)
    side = math.exp((low + (high - low) * _uniform(generator)) / 2)
    skew = math.exp(math.log(1.4) * (_uniform(generator) - 0.5))
    height, width = (min(length, math.ceil(length * side * factor)) for length, factor in zip(size, (skew, 1 / skew)))
    if kind in ASSIGNMENTS:
        return _recovery(kind, size, (height, width), generator)
    axis = "block" if kind == "blocks" else ("column", "row")[_integer(2, generator)]
    room = min(length - part + 1 for length, part in zip(size, (height, width)))
    number = min(room, 3 + _integer(_MOST[kind] - 2, generator))  # two of two would hide everything
    masks = covering_masks(axis, size, Patch(height=height, width=width), num_masks=number)
    hidden = masks.hidden()
    first, second = (_integer(len(hidden), generator) for _ in range(2))
    return hidden[first] if _integer(2, generator) else hidden[first] | hidden[second]


def _recovery(kind: str, size: tuple[int, int], sides: tuple[int, int], generator: torch.Generator | None) -> Tensor:
    number = least_masks(kind, 1)
    while True:
        # the least offset with which each mask has a block to show, 0 unless the patch is large
        least = [max(0, (number - 1) * side + 1 - length) for side, length in zip(sides, size)]
        top, left = (low + _integer(number * side - low, generator) for low, side in zip(least, sides))
        canvas = size[0] + top, size[1] + left
        masks = recovery_masks(kind, canvas, Patch(height=sides[0], width=sides[1]), number)
        hidden = masks.hidden()[_integer(number, generator), top:, left:]
        if not hidden.all():  # the cut may leave none of the visible blocks
            return hidden


def _uniform(generator: torch.Generator | None) -> float:
    return float(torch.rand((), generator=generator))


def _integer(stop: int, generator: torch.Generator | None) -> int:
    """From 0 to ``stop - 1``."""
    return int(torch.randint(stop, (), generator=generator))
