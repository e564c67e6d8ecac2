"""The distributions that smooth a network: Gaussian, Laplace and uniform noise, and the radius each certifies."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from scipy.special import ndtri
from torch import Tensor

from certseg.checks import check_number, is_number
from certseg.errors import ConfigError
from certseg.types import L1, L2, Distribution, NormBall


@dataclass(frozen=True)
class Noise(Distribution):
    """Independent noise of mean 0 on every channel and pixel.

    The certificate speaks about the ideal distribution, as everywhere in the field; the draws are float32.

    Args:
        sigma: standard deviation on the [0, 1] image scale, whatever the distribution, so that equal values disturb an
            image equally.

    Raises:
        ConfigError: sigma is not a finite positive number.
    """

    sigma: float
    name = ""

    def __post_init__(self) -> None:
        check_number("sigma", self.sigma, "(0, inf)")

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
        return f"{self.name}, sigma={float(self.sigma)!r}"


class Gaussian(Noise):
    """N(0, sigma^2): the l2 radius ``sigma * Phi^-1(tau)`` (Cohen et al. 2019, Theorem 1; seed 001, Theorem 5.1).

    torch draws float32 normals by Box-Muller from 24-bit uniforms, so no entry exceeds 5.8 sigma.
    """

    name = "gaussian"

    def fill(self, out: Tensor, generator: torch.Generator) -> None:
        """Fill ``out`` with normal values."""
        out.normal_(0.0, self.sigma, generator=generator)

    def _radius(self, tau: float) -> float:
        return self.sigma * ndtri(tau)

    def threat(self, radius: float) -> NormBall:
        """An l2 ball."""
        return L2(radius)


class Laplace(Noise):
    """Laplace noise of scale ``b = sigma / sqrt(2)``: the l1 radius ``-b ln(2 (1 - tau))`` (Teng et al. 2020,
    "l1 adversarial robustness certificates: a randomized smoothing approach", Theorem 1 with p_B = 1 - p_A)."""

    name = "laplace"

    def fill(self, out: Tensor, generator: torch.Generator) -> None:
        """Fill ``out`` with the difference of two exponential values."""
        out.exponential_(generator=generator)
        out -= torch.empty_like(out).exponential_(generator=generator)
        out *= self.sigma / math.sqrt(2.0)

    def _radius(self, tau: float) -> float:
        return 0.0 if tau == 0.5 else -self.sigma / math.sqrt(2.0) * math.log(2.0 * (1.0 - tau))

    def threat(self, radius: float) -> NormBall:
        """An l1 ball."""
        return L1(radius)


class Uniform(Noise):
    """Uniform noise on ``[-h, h]``, ``h = sqrt(3) sigma``: the l1 radius ``2 h (tau - 1/2)`` (Yang et al. 2020,
    "Randomized smoothing of all shapes and sizes")."""

    name = "uniform"

    def fill(self, out: Tensor, generator: torch.Generator) -> None:
        """Fill ``out`` with uniform values."""
        half = math.sqrt(3.0) * self.sigma
        out.uniform_(-half, half, generator=generator)

    def _radius(self, tau: float) -> float:
        return 2.0 * math.sqrt(3.0) * self.sigma * (tau - 0.5)

    def threat(self, radius: float) -> NormBall:
        """An l1 ball."""
        return L1(radius)


NOISES: dict[str, type[Noise]] = {noise.name: noise for noise in (Gaussian, Laplace, Uniform)}
"""The distributions by name."""
