"""Random numbers as a function of (seed, image name, purpose, part, sample index) alone.

The samples of one stream are distinct; different streams overlap with a negligible, stated probability
(:meth:`NoiseStream.generator`).

A sample's noise does not depend on batch size, on which rank draws it or on what was drawn before, so results survive
resuming and sharding unchanged. torch's generators, which draw floating point noise and whatever is not noise, differ
between CPU and GPU; draws from a table (:mod:`certseg.compute.table_draws`) are the same on both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from certseg.compute.threads import for_each


@dataclass(frozen=True)
class NoiseStream:
    """The noise of one image for one purpose.

    Args:
        seed: the run's seed, a non-negative integer.
        name: the image's name in its data set.
        purpose: what the noise is for, ``certify`` by default; each purpose has a stream of its own.
        part: the part of the work that it is for, where several follow each other and each needs noise that the ones
            before have not seen; empty, the default, for work without parts.

    >>> stream = NoiseStream(seed=0, name="street.png")
    >>> first, again = (torch.rand(3, generator=stream.generator(7, torch.device("cpu"))) for _ in range(2))
    >>> torch.equal(first, again)
    True
    """

    seed: int
    name: str
    purpose: str = "certify"
    part: str = ""

    def for_purpose(self, purpose: str) -> NoiseStream:
        """The stream of the same image for another purpose."""
        return replace(self, purpose=purpose)

    def for_part(self, part: str) -> NoiseStream:
        """The stream of the same image and purpose for another part of the work."""
        return replace(self, part=part)

    @property
    def key(self) -> int:
        """A hash of the stream, below 2^64: the key of a counter-based generator, whose counters tell samples apart.
        Two streams have one key with a probability of 2^-64."""
        name = "\0".join([str(self.seed), self.name, self.purpose, *([self.part] if self.part else [])])
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")

    def generator(self, index: int, device: torch.device) -> torch.Generator:
        """torch's generator of sample ``index``: seeded with :attr:`key` plus ``index``.

        torch's CPU generator keeps the lowest 32 bits of a seed. Because the index is added to the hash, not hashed
        with it, the first 2^32 samples of a stream are distinct all the same, with certainty, and it is this that a
        certificate rests on. Two streams of m and n samples (two images, or two purposes of one image) have a
        sample in common with probability below (m + n) / 2^32 on the CPU and (m + n) / 2^63 on a GPU.
        """
        return torch.Generator(device).manual_seed((self.key + index) % 2**63)

    def fill(
        self, out: Tensor, draw: Callable[[Tensor, torch.Generator], None], first: int, onto: Tensor | None = None
    ) -> None:
        """Fill ``out[b]`` with the noise of sample ``first + b``.

        Args:
            out: ``B x 3 x H x W`` float32, overwritten. Memory order changes nothing.
            draw: fills a contiguous tensor of any shape from a generator, as
                :meth:`certseg.smoothing.noise.Noise.fill` does.
            first: index of the sample in ``out[0]``.
            onto: ``3 x H x W`` image to which the noise is added, or None for the noise alone.
        """

        def one(b: int) -> None:
            pixels = out[b].permute(1, 2, 0)  # always drawn channel by channel of a pixel: the order of channels-last
            target = pixels if pixels.is_contiguous() else torch.empty(pixels.shape, device=out.device)
            draw(target, self.generator(first + b, out.device))
            if target is not pixels:
                pixels.copy_(target)
            if onto is not None:
                out[b] += onto

        if out.device.type == "cpu":
            for_each(out.shape[0], one)  # torch draws normals on one thread
        else:
            for b in range(out.shape[0]):
                one(b)
