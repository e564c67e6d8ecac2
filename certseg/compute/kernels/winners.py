"""The class that wins at each pixel, from logits at the image's size or at a smaller one
(:mod:`certseg.compute.decisions`)."""

import numpy as np

from certseg.compute.kernels.compiler import compiled

_TIED = -1


@compiled
def winner_of_planes(planes: np.ndarray, classes: np.ndarray, check: np.ndarray) -> None:
    """The unique maximum over the classes of one image.

    Args:
        planes: ``K x N`` float32 logits.
        classes: ``N`` int16, overwritten by the class of each pixel, -1 where the maximum is tied.
        check: one float64, overwritten by the sum of the maxima, NaN if any logit is NaN.
    """
    block = 512
    best, index = np.empty(block, np.float32), np.empty(block, np.float32)
    hits, undefined = np.empty(block, np.float32), np.empty(block, np.float32)
    total = 0.0
    for start in range(0, classes.size, block):
        size = min(block, classes.size - start)
        best[:], index[:], hits[:], undefined[:] = -np.inf, 0, 0, 0
        for k in range(len(planes)):
            row = planes[k, start : start + size]
            for i in range(size):
                best[i] = best[i] if best[i] > row[i] else row[i]
                undefined[i] += np.float32(row[i] != row[i])
        for k in range(len(planes)):
            row = planes[k, start : start + size]
            for i in range(size):
                equal = np.float32(row[i] == best[i])
                hits[i] += equal
                index[i] += equal * np.float32(k)
        for i in range(size):
            total += np.nan if undefined[i] else best[i]
            classes[start + i] = np.int16(index[i]) if hits[i] == 1 else _TIED
    check[0] = total


@compiled
def winner_of_cells(
    pixels: np.ndarray,
    row_starts: np.ndarray,
    down: np.ndarray,
    column_starts: np.ndarray,
    right: np.ndarray,
    out: np.ndarray,
) -> None:
    """The unique maximum over the classes of the bilinear enlargement of one image.

    Args:
        pixels: ``h x w x K`` float32 logits.
        row_starts: ``h + 1`` integers, the first new row inside each old one, and H.
        down: ``H`` float32 in [0, 1), how far each new row lies on the way from its old one to the next.
        column_starts: ``w + 1`` integers, the first new column inside each old one, and W.
        right: ``W`` float32 in [0, 1), how far each new column lies on the way from its old one to the next.
        out: ``H x W`` int16, overwritten by the class of each pixel, -1 where the maximum is tied.
    """
    height, width, classes = pixels.shape
    low, high = np.empty(classes, np.float32), np.empty(classes, np.float32)
    left = np.empty((classes, 2), np.float32)  # of the candidates: interpolated down the two sides of the cell
    candidates = np.empty(classes, np.int64)
    for y in range(height):
        top, bottom = row_starts[y], row_starts[y + 1]
        if top == bottom:
            continue
        below = min(y + 1, height - 1)
        for x in range(width):
            first, last = column_starts[x], column_starts[x + 1]
            if first == last:
                continue
            beside = min(x + 1, width - 1)
            a, b, c, d = pixels[y, x], pixels[y, beside], pixels[below, x], pixels[below, beside]
            bar = np.float32(-np.inf)
            for k in range(classes):
                above_low, above_high = (a[k], b[k]) if a[k] < b[k] else (b[k], a[k])
                below_low, below_high = (c[k], d[k]) if c[k] < d[k] else (d[k], c[k])
                low[k] = above_low if above_low < below_low else below_low
                high[k] = above_high if above_high > below_high else below_high
            for k in range(classes):
                bar = low[k] if low[k] > bar else bar
            number = 0
            for k in range(classes):
                candidates[number] = k
                number += high[k] >= bar
            if number == 1:
                out[top:bottom, first:last] = candidates[0]
                continue
            for i in range(top, bottom):
                for j in range(number):
                    k = candidates[j]
                    left[j, 0] = a[k] + down[i] * (c[k] - a[k])
                    left[j, 1] = b[k] + down[i] * (d[k] - b[k])
                for p in range(first, last):
                    best, winning, tied = np.float32(-np.inf), _TIED, False
                    for j in range(number):
                        value = left[j, 0] + right[p] * (left[j, 1] - left[j, 0])
                        if value > best:
                            best, winning, tied = value, candidates[j], False
                        elif value == best:
                            tied = True
                    out[i, p] = _TIED if tied else winning
