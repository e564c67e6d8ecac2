"""Exact norms of the linear maps that change the size of an image: adaptive pooling and bilinear resizing.

Both act on rows and columns apart, so the norm is the product of two norms of small matrices.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from certseg.lipschitz.operator_norms import UNIT


@functools.lru_cache(maxsize=4096)
def axis_norm(kind: str, before: int, after: int) -> float:
    """Upper bound, exact but for rounding, of the norm of resizing one axis from ``before`` to ``after`` entries.

    Args:
        kind: ``pool`` for adaptive average pooling, ``bilinear`` for interpolation with ``align_corners=False``.
        before: number of entries before resizing.
        after: number of entries after resizing.

    >>> round(axis_norm("pool", 8, 2), 6)  # means of four
    0.5
    """
    identity = torch.eye(before, dtype=torch.float64)[None]
    if kind == "pool":
        matrix = F.adaptive_avg_pool1d(identity, after)[0]  # row i is the image of the i-th unit vector
    else:
        matrix = F.interpolate(identity, size=after, mode="linear", align_corners=False)[0]
    gram = matrix @ matrix.T if before <= after else matrix.T @ matrix
    square = float(torch.linalg.eigvalsh(gram)[-1])
    norm: float = (square * (1.0 + 64 * max(before, after) * UNIT)) ** 0.5
    return norm


def resize_norm(kind: str, before: Sequence[int], after: Sequence[int]) -> float:
    """Upper bound of the norm of resizing images of size ``before`` (height, width) to ``after``, with ``kind`` as in
    :func:`axis_norm`."""
    return axis_norm(kind, int(before[0]), int(after[0])) * axis_norm(kind, int(before[1]), int(after[1]))
