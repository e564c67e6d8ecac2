"""Images and noise on a lattice of grey levels, on which randomized smoothing is exact.

Let N be a network as a program on integers: its first step divides them by m in float32. Its base classifier on real
images is F(y) = N(round(m y)), a measurable function like any other, so the theorems of smoothing hold for it. For an
image x whose entries are multiples of 1/m,

    round(m (x + e)) = m x + round(m e),

so that a draw of F(x + e) is N(m x + K) with independent integers K, P(K = k) = P(k - 1/2 < m e < k + 1/2). (How round
breaks ties changes nothing: they have probability 0.) These probabilities are computed here to 50 digits, rounded to
multiples of 2^-96 whose sum is 1, and drawn without any further rounding (:mod:`certseg.compute.table_draws`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext

import torch
from torch import Tensor

from certseg.checks import check_count
from certseg.compute.table_draws import MOST_BITS, MOST_VALUES, RANDOM_BITS
from certseg.errors import ConfigError

DIGITS = Context(prec=60, traps=[])
"""The arithmetic in which probabilities are computed; it is the same on every machine."""

TAIL = 2.0**-100
"""The most probability that is cut off beyond the outermost cells."""

_FINE = 3.0  # steps of the lattice to a standard deviation, at least
_EXACT = 2**24  # integers below are float32 numbers
_ROUNDING = 2.0**-22  # of an image's values, which lie in [0, 1]


@dataclass(frozen=True)
class Lattice:
    """The multiples of ``1 / steps``, among which those of ``1 / grey_levels`` are what images consist of.

    Args:
        grey_levels: number of steps from 0 to 1 in an image: 255 for 8 bits, 65535 for 16.
        refinement: how many steps of the lattice a step between grey levels has.
    """

    grey_levels: int
    refinement: int = 1

    @classmethod
    def of(cls, grey_levels: int, sigma: float, reach: float) -> Lattice:
        """The lattice of noise with a standard deviation of ``sigma``: that of the grey levels, or one 2, 4, 8, ...
        times finer on which ``sigma`` is at least 3 steps.

        Args:
            grey_levels: number of steps from 0 to 1 in an image, at least 1.
            sigma: standard deviation of the noise, on the [0, 1] image scale.
            reach: how far the noise goes, in standard deviations.

        Raises:
            ConfigError: ``grey_levels`` is no count, or sums of levels and noise go beyond the integers that float32
                holds, or noise has more values than a table.

        >>> Lattice.of(255, 0.25, 12.0), Lattice.of(255, 0.005, 12.0)
        (Lattice(grey_levels=255, refinement=1), Lattice(grey_levels=255, refinement=4))
        """
        check_count("certifier.grey_levels", grey_levels)
        refinement = 1
        while sigma * grey_levels * refinement < _FINE and grey_levels * refinement < _EXACT:
            refinement *= 2
        steps = grey_levels * refinement
        if steps * (1.0 + reach * sigma) >= _EXACT or 2.0 * reach * sigma * steps + 3.0 > 2**MOST_BITS:
            raise ConfigError(
                f"Noise of sigma={sigma:g} cannot be drawn exactly on {grey_levels} grey levels",
                expected=f"fewer than 2^{MOST_BITS} values of noise, and sums below 2^24 steps",
                received=f"{2.0 * reach * sigma * steps:.3g} values, sums up to {steps * (1.0 + reach * sigma):.3g}",
                remedy="Set certifier.grey_levels=null for floating point noise",
            )
        return cls(grey_levels, refinement)

    @property
    def steps(self) -> int:
        """Number of steps from 0 to 1."""
        return self.grey_levels * self.refinement

    def integers(self, image: Tensor) -> Tensor:
        """An image in [0, 1], rounded to grey levels, in steps of the lattice: int32 of the same shape."""
        levels = (image.to(torch.float64) * self.grey_levels).round_()
        return levels.to(torch.int32) * self.refinement

    def rounded(self, image: Tensor) -> Tensor:
        """An image in [0, 1], rounded to grey levels: float32 of the same shape."""
        return self._divided(self.integers(image))

    def holds(self, image: Tensor) -> bool:
        """Whether an image in [0, 1] consists of grey levels, but for the rounding of its own float32 numbers."""
        return bool((self.rounded(image) - image).abs().amax() <= _ROUNDING)

    def seen(self, points: Tensor) -> Tensor:
        """What the network sees of real images, such as noisy copies of an image that is not on the lattice: their
        values rounded to steps, float32 of the same shape."""
        return self._divided((points.to(torch.float32) * self.steps).round_())

    def _divided(self, integers: Tensor) -> Tensor:
        divisor = torch.tensor(self.steps, dtype=torch.float32, device=integers.device)  # as for draws from a table
        return integers.to(torch.float32) / divisor

    def __str__(self) -> str:
        finer = f", steps of 1/{self.steps}" if self.refinement > 1 else ""
        return f"grey levels of 1/{self.grey_levels}{finer}"


def in_units(cells: Sequence[Decimal]) -> list[int]:
    """Probabilities of the integers -M .. M as integers whose sum is 2^96, and of which each but the middle one is
    rounded down.

    Args:
        cells: the probabilities of 0 .. M up to a common factor; those of negative integers are the same.
    """
    with localcontext(DIGITS):
        unit = Decimal(2**RANDOM_BITS) / (cells[0] + 2 * sum(cells[1:]))
        side = [int(cell * unit) for cell in cells[1:]]
    return [*reversed(side), 2**RANDOM_BITS - 2 * sum(side), *side]


def total_variation(entries: int) -> float:
    """How far the law of a noisy image lies from the ideal one, at most, in total variation.

    For one value: rounding ``entries`` probabilities down and giving the rest to one of them moves at most
    ``entries * 2 ** -96``; cutting off the tails moves :data:`TAIL`; computing with 60 digits moves far less than one
    unit for each entry, which is allowed for. For the independent values of an image these add up; they are counted for
    the largest image that can be drawn.

    >>> total_variation(1503) < 1e-14
    True
    """
    return MOST_VALUES * (2 * entries * 2.0**-RANDOM_BITS + TAIL)


def gaussian_cells(scale: Decimal, last: int) -> list[Decimal]:
    """Probabilities of 0 .. ``last`` for rounded Gaussian noise of standard deviation ``scale``, at least 1, up to a
    common factor.

    The density phi is expanded about the middle of a cell: with z = k / scale and h = 1 / (2 scale),

        integral of phi over [z - h, z + h] = 2 h phi(z) * sum over j of He_2j(z) h^2j / (2j + 1)!,

    for the derivatives of phi are (-1)^n He_n phi with Hermite's polynomials He_n, and odd ones cancel. The sum is cut
    off where |He_n(z)| <= 1.09 sqrt(n!) exp(z^2 / 4) (Cramer) leaves less than 2^-120.
    """
    with localcontext(DIGITS):
        h_squared = 1 / (4 * scale * scale)
        terms = _terms(float(h_squared), last / float(scale))
        density, ratio = Decimal(1), (-1 / (2 * scale * scale)).exp()  # exp(-z^2 / 2), and what leads to the next
        step = ratio * ratio
        cells = []
        for k in range(last + 1):
            z = k / scale
            before, hermite = Decimal(1), z  # He_2j and He_2j+1
            total = factor = Decimal(1)
            for j in range(1, terms):
                before = z * hermite - (2 * j - 1) * before
                hermite = z * before - 2 * j * hermite
                factor *= h_squared / (2 * j * (2 * j + 1))
                total += before * factor
            cells.append(density * total)
            density *= ratio
            ratio *= step
    return cells


def _terms(h_squared: float, z: float) -> int:
    """How many terms of the sum of :func:`gaussian_cells` are needed at all values up to ``z``."""
    terms, bound = 1, math.inf
    while bound > 2.0**-122:  # the terms left out add up to less than four times the first
        logarithm = 0.5 * math.lgamma(2 * terms + 1) - math.lgamma(2 * terms + 2) + terms * math.log(h_squared)
        bound = 1.09 * math.exp(logarithm + z * z / 4.0)
        terms += 1
    return terms


def laplace_cells(scale: Decimal, last: int) -> list[Decimal]:
    """Probabilities of 0 .. ``last`` for rounded Laplace noise of the parameter ``scale``: with
    ``q = exp(-1 / scale)``, of 0 it is ``1 - sqrt(q)`` and of k ``(1 - q) / 2 * q^(k - 1/2)``."""
    with localcontext(DIGITS):
        root = (-1 / (2 * scale)).exp()
        cells, beyond = [1 - root], (1 - root * root) / 2 * root
        for _ in range(last):
            cells.append(beyond)
            beyond *= root * root
    return cells


def uniform_cells(half: Decimal) -> list[Decimal]:
    """Probabilities of all k >= 0 that rounded uniform noise on ``[-half, half]`` takes, up to a common factor: the
    length of the overlap of ``[k - 1/2, k + 1/2]`` with the interval."""
    with localcontext(DIGITS):
        last = int(half + Decimal("0.5"))
        if half <= last - Decimal("0.5"):
            last -= 1
        inner = [Decimal(1)] * last
        return [*inner, half - last + Decimal("0.5")] if last else [2 * half]
