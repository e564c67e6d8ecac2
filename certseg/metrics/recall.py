"""Mean recall over all classes and over big ones, and which classes are big (seed 003, section 5.2 and appendix H)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BIG_SHARE = 0.2
"""A class is big if it covers more than this share of the images in which it is present, on average."""

BIG_CLASSES: dict[str, tuple[int, ...]] = {
    "ade20k": (0, 1, 2, 7, 21, 29, 46, 48, 54, 55, 79, 88, 96, 103, 104, 107, 109, 114, 128),
    "coco_stuff10k": (
        6,
        7,
        20,
        21,
        49,
        51,
        54,
        60,
        61,
        95,
        105,
        111,
        113,
        134,
        137,
        143,
        144,
        146,
        148,
        159,
        167,
    ),
}
"""The lists of Tables 11 and 12, by data set."""


def mean_recall(hits: np.ndarray, target: np.ndarray, among: np.ndarray | None = None) -> float:
    """Mean of the recall ``hits / target`` over the classes present in the labels; NaN without any.

    Args:
        hits: ``(K,)``, the correct pixels of each class in the whole data set, or the certified and correct ones.
        target: ``(K,)``, the labelled pixels of each class in the whole data set.
        among: ``(K,)`` bool, the classes to average over; None is all.

    >>> mean_recall(np.array([8, 0, 1]), np.array([10, 0, 2]))  # of 0.8 and 0.5: nothing is labelled as class 1
    0.65
    """
    keep = target > 0 if among is None else (target > 0) & among
    return float((hits[keep] / target[keep]).mean()) if keep.any() else float("nan")


def big_classes(targets: Sequence[np.ndarray], pixels: Sequence[int]) -> np.ndarray:
    """The classes that cover more than :data:`BIG_SHARE` of the images in which they are present, on average over
    these.

    Args:
        targets: for each image the number of its pixels labelled as each class, ``(K,)``.
        pixels: for each image the number of all its pixels, labelled or not.

    Returns:
        ``(K,)`` bool.
    """
    shares = np.stack(targets) / np.asarray(pixels, dtype=np.float64)[:, None]
    present = shares > 0
    big: np.ndarray = shares.sum(axis=0) > BIG_SHARE * np.maximum(present.sum(axis=0), 1)
    return big
