"""Integers drawn exactly from a table of probabilities, the same ones on every device.

A table has ``2 ** bits`` cells of one size (Walker 1977, the alias method): one 32-bit word chooses a cell by its upper
bits, and its lower bits, the share, say which of the cell's two values is drawn. Where the share is equal to the cell's
threshold, 64 further bits decide. A draw thus follows from 96 random bits, of which mostly 32 are looked at, and its
probabilities are multiples of 2^-96 without any rounding.

Value v of an image takes word ``v % 1024 // 256`` of counter ``256 * (v // 1024) + v % 256``; the counter's other words
are the index of the sample and 0, or for further bits 1 more than the number of the word. No two values of a stream
share a bit.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certseg.compute.philox import LOW, Words, philox
from certseg.compute.streams import NoiseStream
from certseg.compute.threads import for_each
from certseg.errors import ConfigError

RANDOM_BITS = 96
"""Probabilities are multiples of 2 to the power of minus this."""

MOST_BITS = 22
"""A table has at most 2 to the power of this cells."""

MOST_VALUES = 2**34
"""The most values of an image that have random words of their own."""

_FURTHER_BITS = 64
_BLOCK, _LANE = 1024, 256
_AT_ONCE = 2**22  # values that are drawn together on a GPU


@dataclass(frozen=True, eq=False)
class DrawTable:
    """A distribution on integers whose probabilities are multiples of 2^-96.

    Args:
        bits: binary logarithm of the number of cells, at most :data:`MOST_BITS`.
        thresholds: ``(2 ** bits,)`` uint32, the share from which on a cell's first value is drawn, at most
            ``2 ** (32 - bits)``.
        remainders: ``(2 ** bits,)`` uint64, the further 64 bits of the threshold.
        values: ``(2 ** bits, 2)`` int32, the value of each cell from its threshold on, and the one below.
    """

    bits: int
    thresholds: np.ndarray
    remainders: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, weights: Sequence[int], first: int) -> DrawTable:
        """The table in which integer ``first + i`` has the probability ``weights[i] * 2 ** -96``, exactly.

        Args:
            weights: integers from 0 on whose sum is 2^96.
            first: the smallest integer.

        Raises:
            ConfigError: the sum is another one, a weight is negative, or there are more than ``2 ** MOST_BITS``.

        >>> DrawTable.of([2**94, 3 * 2**94], first=7).values.tolist()
        [[8, 7], [8, 8]]
        """
        bits = max(1, (len(weights) - 1).bit_length())
        if bits > MOST_BITS or min(weights) < 0 or sum(weights) != 2**RANDOM_BITS:
            raise ConfigError(
                "The probabilities of a table of draws do not fit",
                expected=f"at most 2^{MOST_BITS} integers from 0 on with the sum 2^{RANDOM_BITS}",
                received=f"{len(weights)} integers with the sum {sum(weights)}",
            )
        size = 2 ** (RANDOM_BITS - bits)
        left = [*weights, *[0] * (2**bits - len(weights))]
        other = list(range(len(left)))
        small = [i for i, weight in enumerate(left) if weight < size]
        large = [i for i, weight in enumerate(left) if weight > size]
        while small:  # the sum of all is that of full cells: what one lacks, others have
            poor, rich = small.pop(), large[-1]
            other[poor] = rich
            left[rich] -= size - left[poor]
            if left[rich] <= size:
                large.pop()
            if left[rich] < size:
                small.append(rich)
        own = np.arange(len(left), dtype=np.int64) + first
        return cls(
            bits,
            np.array([weight >> _FURTHER_BITS for weight in left], dtype=np.uint32),
            np.array([weight & (2**_FURTHER_BITS - 1) for weight in left], dtype=np.uint64),
            np.stack([own[other], own], axis=1).astype(np.int32),
        )

    def add(self, levels: Tensor, divisor: int, stream: NoiseStream, first: int, out: Tensor) -> None:
        """Fill ``out[b]`` with ``(levels + draws) / divisor``, where the draws are those of sample ``first + b``.

        The sum is an integer; it is rounded to float32 once, by the division, if it lies below 2^24.

        Args:
            levels: ``C x H x W`` int32, contiguous, on the device of ``out``.
            divisor: a positive integer below 2^24.
            stream: where the random words come from.
            first: index of the sample in ``out[0]``.
            out: ``B x C x H x W`` float32, overwritten. Memory order and device change nothing.

        Raises:
            ConfigError: an image has more than :data:`MOST_VALUES` values.
        """
        if levels.numel() > MOST_VALUES:
            raise ConfigError(
                "The image is too large to draw noise for", expected=f"{MOST_VALUES} values", received=levels.numel()
            )
        if out.device.type == "cpu":
            for_each(len(out), lambda b: self._add_one(levels, divisor, stream.key, first + b, out[b]))
            return
        at_once = max(1, _AT_ONCE // levels.numel())
        for start in range(0, len(out), at_once):
            part = out[start : start + at_once]
            part.copy_(self.by_torch(levels, divisor, stream, first + start, len(part)))

    def _add_one(self, levels: Tensor, divisor: int, key: int, sample: int, out: Tensor) -> None:
        from certseg.compute.kernels.draws import drawn_onto  # the compiler takes half a second to import

        target = out if out.is_contiguous() else torch.empty(out.shape)
        drawn_onto(
            levels.flatten().numpy(),
            self.thresholds,
            self.remainders,
            self.values.reshape(-1),
            self.bits,
            np.uint64(sample),
            np.uint64(key),
            np.float32(divisor),
            target.view(-1).numpy(),
        )
        if target is not out:
            out.copy_(target)

    def by_torch(self, levels: Tensor, divisor: int, stream: NoiseStream, first: int, number: int) -> Tensor:
        """What :meth:`add` fills ``number`` images with, by operations of torch, on the device of ``levels``."""
        device, size = levels.device, levels.numel()
        thresholds, remainders, values = _on(self, device)
        samples = torch.arange(first, first + number, device=device)[:, None]
        counters = torch.arange(-(-size // _BLOCK) * _LANE, device=device)[None]
        words = self._words(counters, samples, 0, stream.key)
        lanes = torch.stack([word.view(number, -1, _LANE) for word in words], dim=2).view(number, -1)[:, :size]
        cell, share = lanes >> (32 - self.bits), lanes & ((1 << (32 - self.bits)) - 1)
        threshold = thresholds[cell]
        below = share < threshold
        undecided = (share == threshold).nonzero()
        if len(undecided):
            b, v = undecided.T
            word = v % _BLOCK // _LANE
            counter = v // _BLOCK * _LANE + v % _LANE
            high, low, _, _ = self._words(counter, samples[b, 0], 1 + word, stream.key)
            limit_high, limit_low = remainders[cell[b, v]].T
            below[b, v] = (high < limit_high) | ((high == limit_high) & (low < limit_low))
        drawn = values[cell, below.long()].view(number, *levels.shape)
        # by a tensor: torch multiplies by the reciprocal of a number on a GPU, which rounds otherwise
        return (levels + drawn).to(torch.float32) / torch.tensor(divisor, dtype=torch.float32, device=device)

    @staticmethod
    def _words(counter: Tensor, sample: Tensor, purpose: int | Tensor, key: int) -> Words:
        last = purpose if isinstance(purpose, Tensor) else torch.full_like(counter, purpose)
        return philox((counter, sample & LOW, sample >> 32, last), (key & LOW, key >> 32))


@functools.lru_cache(maxsize=8)
def _on(table: DrawTable, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Thresholds, the remainders' upper and lower 32 bits (``N x 2``), and values, as integers of torch."""
    halves = np.stack([table.remainders >> np.uint64(32), table.remainders & np.uint64(LOW)], axis=1)
    arrays = table.thresholds.astype(np.int64), halves.astype(np.int64), table.values
    thresholds, remainders, values = (torch.from_numpy(array).to(device) for array in arrays)
    return thresholds, remainders, values
