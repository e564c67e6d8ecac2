"""What rows of single images add up to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from certseg.types import Row

Number = TypeVar("Number", int, float)


def image_mean(rows: Sequence[Row], figure: str) -> float:
    """Mean of a figure over the images that have it (an image without a labelled pixel has none); NaN without any."""
    values = [row["figures"][figure] for row in rows]
    kept = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(kept)) if kept else float("nan")


def sums(parts: Iterable[Mapping[str, Number]]) -> dict[str, Number]:
    """Sums by key, in the order in which keys are met.

    >>> sums([{"sampling": 1.5}, {"sampling": 0.5, "statistics": 0.25}])
    {'sampling': 2.0, 'statistics': 0.25}
    """
    total: dict[str, Number] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0) + value
    return total
