"""Squared distances of logits to the regions of classes, and the gap between the two largest logits
(:mod:`certseg.lipschitz.worst_case`)."""

import numpy as np

from certseg.compute.kernels.compiler import compiled


@compiled
def cone_distances(planes: np.ndarray, pixels: np.ndarray, into: np.ndarray, slack: float, out: np.ndarray) -> None:
    """Squared distance of logits to the region of a class, min ||D||^2 with z_k + D_k >= z_l + D_l for all l.

    Raising z_k by t and cutting what is above to the same level costs t^2 + sum max(u_l - t, 0)^2 with the gaps
    u_l = z_l - z_k - slack. From a level at or below the best one, the mean of the gaps above it and of 0 is a level
    between the two, and the best one once it stops rising.

    Args:
        planes: ``K x N`` float32 or float64 logits.
        pixels: ``M`` int64, positions among the N.
        into: ``M`` int64, the class k that each of these pixels shall get.
        slack: number that is taken off every gap, for the rounding of logits.
        out: ``M`` float64, overwritten by the squared distances.
    """
    classes = planes.shape[0]
    gaps = np.empty(classes, np.float64)
    for i in range(pixels.size):
        base = np.float64(planes[into[i], pixels[i]])
        top = 0.0
        for k in range(classes):
            gaps[k] = np.float64(planes[k, pixels[i]]) - base - slack
            top = gaps[k] if gaps[k] > top else top
        level = 0.5 * top
        while True:
            total, number = 0.0, 1
            for k in range(classes):
                if gaps[k] > level:
                    total += gaps[k]
                    number += 1
            if total / number <= level:
                break
            level = total / number
        cost = level * level
        for k in range(classes):
            if gaps[k] > level:
                cost += (gaps[k] - level) ** 2
        out[i] = cost


@compiled
def half_space_distances(
    planes: np.ndarray, pixels: np.ndarray, into: np.ndarray, slack: float, squared: np.ndarray, out: np.ndarray
) -> None:
    """The largest squared distance to a half-space that bounds the region of a class, max u_l^2 / squared[k, l] over
    the positive gaps u_l = z_l - z_k - slack; infinite where such a gap cannot close.

    Args:
        planes: ``K x N`` float32 or float64 logits.
        pixels: ``M`` int64, positions among the N.
        into: ``M`` int64, the class k that each of these pixels shall get.
        slack: number that is taken off every gap, for the rounding of logits.
        squared: ``K x K`` float64, the squared distance between the rows of the head for each pair of classes.
        out: ``M`` float64, overwritten by the squared distances.
    """
    for i in range(pixels.size):
        base = np.float64(planes[into[i], pixels[i]])
        cost = 0.0
        for k in range(planes.shape[0]):
            gap = np.float64(planes[k, pixels[i]]) - base - slack
            if gap > 0.0:
                pair = squared[into[i], k]
                ratio = gap * gap / pair if pair > 0.0 else np.inf
                cost = ratio if ratio > cost else cost
        out[i] = cost


@compiled
def flip_distances(planes: np.ndarray, classes: np.ndarray, slack: float, squared: np.ndarray, out: np.ndarray) -> None:
    """The smallest squared distance to a boundary of the own class, min over l of u_l^2 / squared[c, l] with the gaps
    u_l = max(z_c - z_l - slack, 0); infinite where none can close.

    Args:
        planes: ``K x N`` float32 or float64 logits.
        classes: ``N`` int64, the own class c of each pixel.
        slack: number that is taken off every gap, for the rounding of logits.
        squared: ``K x K`` float64, the squared distance between the rows of the head for each pair of classes.
        out: ``N`` float64, overwritten by the squared distances.
    """
    block = 512
    inverse = np.empty_like(squared)
    for k in range(squared.shape[0]):
        for j in range(squared.shape[0]):
            inverse[k, j] = 1.0 / squared[k, j] if squared[k, j] > 0.0 else np.inf
    own = np.empty(block, np.float64)
    for start in range(0, classes.size, block):
        size = min(block, classes.size - start)
        for i in range(size):
            own[i] = np.float64(planes[classes[start + i], start + i]) - slack
            out[start + i] = np.inf
        for k in range(planes.shape[0]):
            for i in range(size):
                gap = own[i] - np.float64(planes[k, start + i])
                cost = gap * gap * inverse[classes[start + i], k] if gap > 0.0 else 0.0
                other = classes[start + i] != k
                out[start + i] = cost if other and cost < out[start + i] else out[start + i]


@compiled
def largest_and_gap(planes: np.ndarray, classes: np.ndarray, gaps: np.ndarray, check: np.ndarray) -> None:
    """The largest of the classes of each pixel, and how far the next one is below it.

    Args:
        planes: ``K x N`` float32 or float64 logits.
        classes: ``N`` int64, overwritten by the class of the largest logit, the first where it is tied.
        gaps: ``N`` float64, overwritten by the gap to the second largest logit: 0 where the largest is tied, infinite
            for a single class.
        check: one float64, overwritten by NaN if any logit is NaN or infinite, else by 0.
    """
    block = 512
    best, second = np.empty(block, planes.dtype), np.empty(block, planes.dtype)
    index, total = np.empty(block, np.float32), np.empty(block, planes.dtype)
    check[0] = 0.0
    for start in range(0, classes.size, block):
        size = min(block, classes.size - start)
        best[:], second[:], index[:], total[:] = -np.inf, -np.inf, 0, 0
        for k in range(len(planes)):
            row = planes[k, start : start + size]
            number = np.float32(k)
            for i in range(size):
                value = row[i]
                is_larger = value > best[i]
                lower = best[i] if is_larger else value
                second[i] = lower if lower > second[i] else second[i]
                index[i] = number if is_larger else index[i]
                best[i] = value if is_larger else best[i]
                total[i] += value - value
        for i in range(size):
            classes[start + i] = np.int64(index[i])
            gaps[start + i] = np.float64(best[i]) - np.float64(second[i])
            check[0] += total[i]
