"""Smoothing noise as a function of (seed, image name, purpose, sample index) alone.

The samples of one stream are distinct; different streams overlap with a negligible, stated probability
(:meth:`NoiseStream.generator`).

A sample's noise does not depend on batch size, on which rank draws it or on what was drawn before, so results survive
resuming and sharding unchanged. It does depend on the kind of device: CPU and GPU generators differ.
"""

from __future__ import annotations

import functools
import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from scipy.stats import norm
from torch import Tensor

from certseg.errors import ConfigError
from certseg.types import L2, Threat


@dataclass(frozen=True)
class Gaussian:
    """Isotropic Gaussian noise N(0, sigma^2 I) on every channel and pixel.

    torch draws float32 normals by Box-Muller from 24-bit uniforms, so no entry exceeds 5.8 sigma; the certificate
    speaks about the ideal distribution, as everywhere in the field.

    Args:
        sigma: standard deviation on the [0, 1] image scale.

    Raises:
        ConfigError: sigma is not a finite positive number.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not (isinstance(self.sigma, (int, float)) and math.isfinite(self.sigma) and self.sigma > 0):
            raise ConfigError("sigma must be a finite positive number", received=self.sigma)

    def fill(self, out: Tensor, generator: torch.Generator) -> None:
        """Fill ``out`` (any shape, float32) with noise."""
        out.normal_(0.0, self.sigma, generator=generator)

    def radius(self, tau: float) -> float:
        """Radius within which a class of probability above ``tau`` keeps a probability above 1/2:
        ``sigma * Phi^-1(tau)`` in the l2 norm (Cohen et al. 2019, Theorem 1; seed 001, Theorem 5.1). It is 0 at
        ``tau = 0.5``, which :meth:`threat` refuses: no perturbation is covered.

        Raises:
            ConfigError: ``tau`` outside [0.5, 1).
        """
        if not (isinstance(tau, (int, float)) and 0.5 <= tau < 1.0):
            raise ConfigError("tau must lie in [0.5, 1)", received=tau, remedy="A typical value is 0.75")
        return float(self.sigma * norm.ppf(tau))

    def threat(self, radius: float) -> Threat:
        """The threat a radius of this noise is about."""
        return L2(radius)

    def __str__(self) -> str:
        return f"gaussian, sigma={self.sigma:g}"


@dataclass(frozen=True)
class NoiseStream:
    """The noise of one image for one purpose.

    Args:
        seed: the run's seed.
        name: the image's name.
        purpose: what the noise is for; each purpose has a stream of its own.
    """

    seed: int
    name: str
    purpose: str = "certify"

    def for_purpose(self, purpose: str) -> NoiseStream:
        """The stream of the same image for another purpose."""
        return NoiseStream(self.seed, self.name, purpose)

    def generator(self, index: int, device: torch.device) -> torch.Generator:
        """The generator of sample ``index``: seeded with a hash of the stream plus ``index``.

        torch's CPU generator keeps the lowest 32 bits of a seed. Because the index is added to the hash, not hashed
        with it, the first 2^32 samples of a stream are distinct all the same, with certainty, and it is this that a
        certificate rests on. Two streams of m and n samples (two images, or two purposes of one image) have a
        sample in common with probability below (m + n) / 2^32 on the CPU and (m + n) / 2^63 on a GPU.
        """
        key = f"{self.seed}\0{self.name}\0{self.purpose}".encode()
        base = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
        return torch.Generator(device).manual_seed((base + index) % 2**63)

    def fill(self, out: Tensor, noise: Gaussian, first: int) -> None:
        """Fill ``out[b]`` with the noise of sample ``first + b``.

        Args:
            out: ``B x 3 x H x W`` float32, overwritten. Memory order changes nothing.
            noise: the distribution.
            first: index of the first sample.
        """

        def one(b: int) -> None:
            pixels = out[b].permute(1, 2, 0)  # always drawn channel by channel of a pixel: the order of channels-last
            target = pixels if pixels.is_contiguous() else torch.empty(pixels.shape, device=out.device)
            noise.fill(target, self.generator(first + b, out.device))
            if target is not pixels:
                pixels.copy_(target)

        if out.device.type == "cpu" and out.shape[0] > 1 and torch.get_num_threads() > 1:
            list(_threads(torch.get_num_threads()).map(one, range(out.shape[0])))  # torch draws normals on one thread
        else:
            for b in range(out.shape[0]):
                one(b)


@functools.cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="noise")
