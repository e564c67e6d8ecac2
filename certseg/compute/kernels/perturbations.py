"""Steps of gradient attacks on one image: a few passes over the data in the place of a dozen.

All arrays are flat float32 of one length. Sums are float64, in as many strands as a block is long: loops over strands
and over single entries compile to vector instructions.
"""

import numpy as np

from certseg.compute.kernels.compiler import compiled

_BLOCK = 512


@compiled
def _cut(value: np.float32, low: np.float32, high: np.float32) -> np.float32:
    value = value if value > low else low
    return value if value < high else high


@compiled
def squared_norm(values: np.ndarray) -> float:
    """The sum of the squares of all entries."""
    strands = np.zeros(_BLOCK)
    for start in range(0, values.size, _BLOCK):
        part = values[start : start + _BLOCK]
        for i in range(part.size):
            strands[i] += np.float64(part[i]) * np.float64(part[i])
    return float(strands.sum())


@compiled
def step_in_box(
    point: np.ndarray,
    gradient: np.ndarray,
    previous: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    length: float,
    inertia: float,
    out: np.ndarray,
) -> None:
    """A step along the signs of the gradient, cut to a box; then the share ``inertia`` of it is exchanged for as much
    of the last move, and the result is cut to the box.

    Args:
        point: the point where the step begins.
        gradient: the gradient at ``point``.
        previous: the point where the last move began.
        low: the smallest value that the box allows in each entry.
        high: the largest value that the box allows in each entry.
        length: how far the step goes in every entry.
        inertia: share of the last move, from 0 (a plain step) to 1.
        out: overwritten by the point where the step ends.
    """
    reach, pull = np.float32(length), np.float32(inertia)
    for i in range(out.size):
        here = point[i]
        sign = np.float32(gradient[i] > 0) - np.float32(gradient[i] < 0)
        moved = _cut(here + reach * sign, low[i], high[i])
        moved = moved + pull * (here - moved) + pull * (here - previous[i])
        out[i] = _cut(moved, low[i], high[i])


@compiled
def stepped(point: np.ndarray, gradient: np.ndarray, image: np.ndarray, factor: float, out: np.ndarray) -> float:
    """``factor`` times the gradient is added to a point, which is then cut to [0, 1].

    Args:
        point: the point where the step begins.
        gradient: the gradient at ``point``.
        image: the clean image, from which perturbations are measured.
        factor: what the gradient is multiplied by.
        out: overwritten by the perturbation, the new point less the image.

    Returns:
        The squared l2 norm of the perturbation.
    """
    scale, zero, one = np.float32(factor), np.float32(0), np.float32(1)
    strands = np.zeros(_BLOCK)
    for start in range(0, out.size, _BLOCK):
        stop = start + _BLOCK
        here, slope, centre, delta = point[start:stop], gradient[start:stop], image[start:stop], out[start:stop]
        for i in range(delta.size):
            delta[i] = _cut(here[i] + scale * slope[i], zero, one) - centre[i]
        for i in range(delta.size):
            strands[i] += np.float64(delta[i]) * np.float64(delta[i])
    return float(strands.sum())


@compiled
def carried_on(
    perturbation: np.ndarray, scale: float, point: np.ndarray, previous: np.ndarray, image: np.ndarray, inertia: float
) -> float:
    """A perturbation is scaled, the share ``inertia`` of the step that led to it is exchanged for as much of the last
    move, and the result is cut to [0, 1].

    Args:
        perturbation: the perturbation that a step led to; overwritten by the result.
        scale: factor of at most 1 that brings the perturbation into its ball.
        point: the point where the step began.
        previous: the point where the last move began.
        image: the clean image, from which perturbations are measured.
        inertia: share of the last move, from 0 (a plain step) to 1.

    Returns:
        The squared l2 norm of the result.
    """
    factor, pull, zero, one = np.float32(scale), np.float32(inertia), np.float32(0), np.float32(1)
    strands = np.zeros(_BLOCK)
    for start in range(0, perturbation.size, _BLOCK):
        stop = start + _BLOCK
        delta, here, last, centre = perturbation[start:stop], point[start:stop], previous[start:stop], image[start:stop]
        for i in range(delta.size):
            moved = _cut(delta[i] * factor + centre[i], zero, one)
            moved = moved + pull * (here[i] - moved) + pull * (here[i] - last[i])
            delta[i] = _cut(moved, zero, one) - centre[i]
        for i in range(delta.size):
            strands[i] += np.float64(delta[i]) * np.float64(delta[i])
    return float(strands.sum())


@compiled
def applied(perturbation: np.ndarray, scale: float, image: np.ndarray) -> float:
    """The image with a scaled perturbation, cut to [0, 1].

    Args:
        perturbation: the perturbation to apply; overwritten by the perturbed image.
        scale: factor of at most 1 that brings the perturbation into its ball.
        image: the clean image, in [0, 1].

    Returns:
        The squared l2 distance of the result from the image.
    """
    factor, zero, one = np.float32(scale), np.float32(0), np.float32(1)
    strands = np.zeros(_BLOCK)
    for start in range(0, perturbation.size, _BLOCK):
        moved, centre = perturbation[start : start + _BLOCK], image[start : start + _BLOCK]
        for i in range(moved.size):
            moved[i] = _cut(moved[i] * factor + centre[i], zero, one)
        for i in range(moved.size):
            delta = np.float64(moved[i]) - np.float64(centre[i])
            strands[i] += delta * delta
    return float(strands.sum())
