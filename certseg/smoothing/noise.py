"""The distributions that smooth a network: Gaussian, Laplace and uniform noise, and the radius each certifies."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from dataclasses import dataclass
from decimal import Decimal, localcontext

import torch
from scipy.special import ndtri
from torch import Tensor

from certseg.checks import check_number, is_number
from certseg.compute.streams import NoiseStream
from certseg.compute.table_draws import DrawTable
from certseg.errors import ConfigError
from certseg.smoothing.lattice import (
    DIGITS,
    Lattice,
    gaussian_cells,
    in_units,
    laplace_cells,
    total_variation,
    uniform_cells,
)
from certseg.types import L1, L2, Distribution, NormBall

FLOAT_NOISE = "float_noise"
"""The flag of a certificate whose noise was drawn in floating point."""

ROUNDED_IMAGE = "rounded_image"
"""The flag of a certificate about an image that was rounded to grey levels first."""


@dataclass(frozen=True)
class Noise(Distribution):
    """Independent noise of mean 0 on every channel and pixel.

    With ``grey_levels`` the smoothed network is that of :mod:`certseg.smoothing.lattice`: it sees noisy images rounded
    to a lattice, and on images of the lattice its draws are exact. Without, noise is float32: a certificate then takes
    the numbers that a program draws for real ones, which networks that look at the spacing of floating point numbers
    can refute (Jin et al. 2022, "Getting a-round guarantees").

    Args:
        sigma: standard deviation on the [0, 1] image scale, whatever the distribution, so that equal values disturb an
            image equally.
        grey_levels: number of steps from 0 to 1 in an image, to which images are rounded first: 255 for 8 bits, 65535
            for 16. None for floating point noise.

    Raises:
        ConfigError: sigma is not a finite positive number, or noise of this sigma cannot be drawn on these grey levels.
    """

    sigma: float
    grey_levels: int | None = None
    name = ""
    reach = 0.0
    """How many standard deviations exact draws go; what is cut off beyond has a probability below 2^-100."""

    def __post_init__(self) -> None:
        check_number("sigma", self.sigma, "(0, inf)")
        self.lattice  # noqa: B018 - it checks grey_levels

    @property
    def lattice(self) -> Lattice | None:
        """What images and noisy copies are rounded to; None for floating point noise."""
        return None if self.grey_levels is None else Lattice.of(self.grey_levels, self.sigma, self.reach)

    @property
    def total_variation(self) -> float:
        """How far, at most, the law of a drawn noisy image lies from the ideal one; 0 for floating point noise, of
        which it is not known."""
        return 0.0 if self.lattice is None else total_variation(2 * self._last(self.lattice) + 1)

    def tested(self, tau: float) -> float:
        """The probability that the draws must exceed so that the ideal noise exceeds ``tau``: larger by
        :attr:`total_variation`, rounded up.

        Raises:
            ConfigError: it would be 1 or more.
        """
        if self.lattice is None:
            return tau
        tested = math.nextafter(tau + self.total_variation, math.inf)
        if tested >= 1.0:
            raise ConfigError("certifier.tau is too near to 1", received=repr(tau), remedy="Choose tau below 1 - 1e-9")
        return tested

    @property
    def assumption(self) -> str:
        """How a certificate by this noise means the image, and what it rests on besides its proof, in sentences."""
        lattice = self.lattice
        if lattice is None:
            return "Assumed: float32 noise behaves as real noise does, which a network can be built to refute."
        finer = f", noisy copies to multiples of 1/{lattice.steps}" if lattice.refinement > 1 else ""
        return (
            f"The image is rounded to multiples of 1/{lattice.grey_levels}{finer}, and R is counted from there. "
            "Assumed: the bits of Philox4x32-10 behave as independent ones, and the network answers alike for equal "
            "copies."
        )

    def flags(self, image: Tensor) -> set[str]:
        """What a reader of the certificate of an image in [0, 1] should know of its noise."""
        if self.lattice is None:
            return {FLOAT_NOISE}
        return set() if self.lattice.holds(image) else {ROUNDED_IMAGE}

    def copies(self, image: Tensor, stream: NoiseStream, first: int, out: Tensor) -> None:
        """Fill ``out`` (``B x C x H x W`` float32) with what the network sees of noisy copies of an image in [0, 1].

        Args:
            image: ``C x H x W`` on the device of ``out``; it is rounded to grey levels.
            stream: where the noise of each sample comes from.
            first: index of the sample in ``out[0]``.
            out: overwritten.
        """
        lattice = self.lattice
        if lattice is None:
            stream.fill(out, self.fill, first, onto=image)
        else:
            _table(self).add(lattice.integers(image).contiguous(), lattice.steps, stream, first, out)

    def copies_around(self, point: Tensor, stream: NoiseStream, first: int, out: Tensor) -> None:
        """The same for a point that need not lie on the lattice, such as the end of an attack, as :meth:`copies` does
        it for images: its noise is drawn in floating point and the sum, not the point, is rounded."""
        stream.fill(out, self.fill, first, onto=point)
        if self.lattice is not None:
            out.copy_(self.lattice.seen(out))

    def weights(self) -> list[int]:
        """The probabilities of exact draws, in units of 2^-96: those of the integers -M .. M, in steps of the lattice.

        Raises:
            ConfigError: the noise is drawn in floating point.
        """
        lattice = self.lattice
        if lattice is None:
            raise ConfigError("Floating point noise has no table of probabilities", remedy="Set grey_levels")
        with localcontext(DIGITS):
            sigma = Decimal(self.sigma) * lattice.steps
        return in_units(self._cells(sigma, self._last(lattice)))

    @abstractmethod
    def _cells(self, sigma: Decimal, last: int) -> list[Decimal]:
        """Probabilities of 0 .. ``last`` of rounded noise of standard deviation ``sigma``, up to a common factor."""

    def _last(self, lattice: Lattice) -> int:
        """The largest integer that is drawn."""
        return math.ceil(self.reach * self.sigma * lattice.steps)

    @abstractmethod
    def fill(self, out: Tensor, generator: torch.Generator) -> None:
        """Fill ``out`` (of any shape, contiguous float32) with noise from ``generator``."""

    @abstractmethod
    def _radius(self, tau: float) -> float:
        """:meth:`radius` of a valid tau."""

    @abstractmethod
    def threat(self, radius: float) -> NormBall:
        """The perturbations that ``radius`` is about: a ball of the norm that belongs to this noise.

        Raises:
            ConfigError: the radius is not a finite positive number.
        """

    def radius(self, tau: float) -> float:
        """Radius, in the norm of :meth:`threat`, within which a class of probability above ``tau`` keeps a probability
        above 1/2. It is 0 at ``tau = 0.5``, which :meth:`threat` refuses: no perturbation is covered.

        Raises:
            ConfigError: ``tau`` lies outside [0.5, 1).

        >>> round(Gaussian(sigma=0.25).radius(0.75), 4)
        0.1686
        """
        if not is_number(tau, "[0.5, 1)"):
            raise ConfigError("tau must lie in [0.5, 1)", received=tau, remedy="A typical value is 0.75")
        return float(self._radius(tau))

    def __str__(self) -> str:
        lattice = "" if self.lattice is None else f", {self.lattice}"
        return f"{self.name}, sigma={float(self.sigma)!r}{lattice}"


class Gaussian(Noise):
    """N(0, sigma^2): the l2 radius ``sigma * Phi^-1(tau)`` (Cohen et al. 2019, Theorem 1; seed 001, Theorem 5.1).

    In floating point torch draws normals by Box-Muller from 24-bit uniforms, so no entry exceeds 5.8 sigma.
    """

    name = "gaussian"
    reach = 11.8  # exp(-reach^2 / 2) < 2^-100

    def fill(self, out: Tensor, generator: torch.Generator) -> None:
        """Fill ``out`` with normal values."""
        out.normal_(0.0, self.sigma, generator=generator)

    def _cells(self, sigma: Decimal, last: int) -> list[Decimal]:
        return gaussian_cells(sigma, last)

    def _radius(self, tau: float) -> float:
        return self.sigma * ndtri(tau)

    def threat(self, radius: float) -> NormBall:
        """An l2 ball."""
        return L2(radius)


class Laplace(Noise):
    """Laplace noise of scale ``b = sigma / sqrt(2)``: the l1 radius ``-b ln(2 (1 - tau))`` (Teng et al. 2020,
    "l1 adversarial robustness certificates: a randomized smoothing approach", Theorem 1 with p_B = 1 - p_A)."""

    name = "laplace"
    reach = 49.1  # exp(-reach sqrt(2)) < 2^-100

    def fill(self, out: Tensor, generator: torch.Generator) -> None:
        """Fill ``out`` with the difference of two exponential values."""
        out.exponential_(generator=generator)
        out -= torch.empty_like(out).exponential_(generator=generator)
        out *= self.sigma / math.sqrt(2.0)

    def _cells(self, sigma: Decimal, last: int) -> list[Decimal]:
        with localcontext(DIGITS):
            return laplace_cells(sigma / Decimal(2).sqrt(), last)

    def _radius(self, tau: float) -> float:
        return 0.0 if tau == 0.5 else -self.sigma / math.sqrt(2.0) * math.log(2.0 * (1.0 - tau))

    def threat(self, radius: float) -> NormBall:
        """An l1 ball."""
        return L1(radius)


class Uniform(Noise):
    """Uniform noise on ``[-h, h]``, ``h = sqrt(3) sigma``: the l1 radius ``2 h (tau - 1/2)`` (Yang et al. 2020,
    "Randomized smoothing of all shapes and sizes")."""

    name = "uniform"
    reach = math.sqrt(3.0)

    def fill(self, out: Tensor, generator: torch.Generator) -> None:
        """Fill ``out`` with uniform values."""
        half = math.sqrt(3.0) * self.sigma
        out.uniform_(-half, half, generator=generator)

    def _cells(self, sigma: Decimal, last: int) -> list[Decimal]:
        with localcontext(DIGITS):
            return uniform_cells(Decimal(3).sqrt() * sigma)

    def _radius(self, tau: float) -> float:
        return 2.0 * math.sqrt(3.0) * self.sigma * (tau - 0.5)

    def threat(self, radius: float) -> NormBall:
        """An l1 ball."""
        return L1(radius)


NOISES: dict[str, type[Noise]] = {noise.name: noise for noise in (Gaussian, Laplace, Uniform)}
"""The distributions by name."""


@functools.lru_cache(maxsize=8)
def _table(noise: Noise) -> DrawTable:
    weights = noise.weights()
    return DrawTable.of(weights, first=-(len(weights) // 2))
