"""The class a network predicts at each pixel (:func:`certseg.compute.decisions.decide`)."""

import numpy as np

from certseg.compute.kernels.compiler import compiled


@compiled
def first_largest(planes: np.ndarray, first: int, last: int, classes: np.ndarray, check: np.ndarray) -> None:
    """The first of the largest classes of the pixels from ``first`` to before ``last``.

    Args:
        planes: ``K x N`` float32 or float64 logits, K below 2^15.
        first: position of the first pixel to look at.
        last: the position after that of the last one.
        classes: ``N`` int16, overwritten from ``first`` to before ``last``.
        check: one float64, overwritten by the sum of the maxima, NaN if any logit is NaN.
    """
    block = 512
    best, index = np.empty(block, planes.dtype), np.empty(block, planes.dtype)
    undefined = np.empty(block, planes.dtype)
    total = 0.0
    for start in range(first, last, block):
        size = min(block, last - start)
        best[:], index[:], undefined[:] = -np.inf, 0, 0
        for k in range(len(planes)):
            row = planes[k, start : start + size]
            number = index.dtype.type(k)
            for i in range(size):
                larger = row[i] > best[i]
                best[i] = row[i] if larger else best[i]
                index[i] = number if larger else index[i]
                undefined[i] += row[i] != row[i]
        for i in range(size):
            total += np.nan if undefined[i] else best[i]
            classes[start + i] = np.int16(index[i])
    check[0] = total
