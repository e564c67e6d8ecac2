"""Steps of gradient attacks on one image: a few passes over the data in the place of a dozen.

All arrays are flat float32 of one length. Sums are float64, in as many strands as a block is long: loops over strands
and over single entries compile to vector instructions.
"""

import numpy as np

from certseg.compute.kernels.compiler import compiled

_BLOCK = 512


@compiled
def _cut(value: float, low: float, high: float) -> float:
    value = value if value > low else low
    return value if value < high else high


@compiled
def squared_norm(values: np.ndarray) -> float:
    """Sum of squares."""
    strands = np.zeros(_BLOCK)
    for start in range(0, values.size, _BLOCK):
        part = values[start : start + _BLOCK]
        for i in range(part.size):
            strands[i] += np.float64(part[i]) * np.float64(part[i])
    return strands.sum()


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
        point: where the step begins.
        gradient: there.
        previous: the point before.
        low: of the box.
        high: of the box.
        length: of the step, in every entry.
        inertia: 0 is a plain step.
        out: written.
    """
    length, inertia = np.float32(length), np.float32(inertia)
    for i in range(out.size):
        here = point[i]
        sign = np.float32(gradient[i] > 0) - np.float32(gradient[i] < 0)
        moved = _cut(here + length * sign, low[i], high[i])
        moved = moved + inertia * (here - moved) + inertia * (here - previous[i])
        out[i] = _cut(moved, low[i], high[i])


@compiled
def stepped(point: np.ndarray, gradient: np.ndarray, image: np.ndarray, factor: float, out: np.ndarray) -> float:
    """``factor`` times the gradient is added to a point, which is then cut to [0, 1].

    Args:
        point: where the step begins.
        gradient: there.
        image: from which perturbations are measured.
        factor: of the gradient.
        out: written: the perturbation.

    Returns:
        The squared norm of the perturbation.
    """
    factor, zero, one = np.float32(factor), np.float32(0), np.float32(1)
    strands = np.zeros(_BLOCK)
    for start in range(0, out.size, _BLOCK):
        stop = start + _BLOCK
        here, slope, centre, delta = point[start:stop], gradient[start:stop], image[start:stop], out[start:stop]
        for i in range(delta.size):
            delta[i] = _cut(here[i] + factor * slope[i], zero, one) - centre[i]
        for i in range(delta.size):
            strands[i] += np.float64(delta[i]) * np.float64(delta[i])
    return strands.sum()


@compiled
def carried_on(
    perturbation: np.ndarray, scale: float, point: np.ndarray, previous: np.ndarray, image: np.ndarray, inertia: float
) -> float:
    """A perturbation is scaled, the share ``inertia`` of the step that led to it is exchanged for as much of the last
    move, and the result is cut to [0, 1].

    Args:
        perturbation: overwritten by the result.
        scale: at most 1.
        point: where the step began.
        previous: the point before.
        image: from which perturbations are measured.
        inertia: 0 is a plain step.

    Returns:
        The squared norm of the result.
    """
    scale, inertia, zero, one = np.float32(scale), np.float32(inertia), np.float32(0), np.float32(1)
    strands = np.zeros(_BLOCK)
    for start in range(0, perturbation.size, _BLOCK):
        stop = start + _BLOCK
        delta, here, last, centre = perturbation[start:stop], point[start:stop], previous[start:stop], image[start:stop]
        for i in range(delta.size):
            moved = _cut(delta[i] * scale + centre[i], zero, one)
            moved = moved + inertia * (here[i] - moved) + inertia * (here[i] - last[i])
            delta[i] = _cut(moved, zero, one) - centre[i]
        for i in range(delta.size):
            strands[i] += np.float64(delta[i]) * np.float64(delta[i])
    return strands.sum()


@compiled
def applied(perturbation: np.ndarray, scale: float, image: np.ndarray) -> float:
    """The image with a scaled perturbation, cut to [0, 1].

    Args:
        perturbation: overwritten by the result.
        scale: at most 1.
        image: in [0, 1].

    Returns:
        The squared distance of the result from the image.
    """
    scale, zero, one = np.float32(scale), np.float32(0), np.float32(1)
    strands = np.zeros(_BLOCK)
    for start in range(0, perturbation.size, _BLOCK):
        moved, centre = perturbation[start : start + _BLOCK], image[start : start + _BLOCK]
        for i in range(moved.size):
            moved[i] = _cut(moved[i] * scale + centre[i], zero, one)
        for i in range(moved.size):
            delta = np.float64(moved[i]) - np.float64(centre[i])
            strands[i] += delta * delta
    return strands.sum()
