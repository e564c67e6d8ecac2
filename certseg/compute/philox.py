"""Philox4x32-10, a counter-based generator: random words are a function of a counter and a key, and of nothing else.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". The compiled loops of
:mod:`certseg.compute.kernels.draws` hold the same function for the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
"""Of the first and the third word of a counter, in every round."""

WEYL = 0x9E3779B9, 0xBB67AE85
"""What is added to the two words of the key after a round."""

ROUNDS = 10
LOW = 0xFFFFFFFF
"""The lower 32 bits of a word of 64."""

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Four random words for each counter.

    Args:
        counter: four int64 tensors of shapes that broadcast, with values below 2^32: the words of the counters, the
            lowest first.
        key: two integers below 2^32.

    Returns:
        Four int64 tensors of the common shape, with values below 2^32.

    >>> zero = torch.zeros(1, dtype=torch.int64)
    >>> [hex(int(word)) for word in philox((zero, zero, zero, zero), (0, 0))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    a, b, c, d = counter
    first, second = key
    for _ in range(ROUNDS):
        # a product above 2^63 wraps around, and its 64 bits are still right
        p, q = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = _high(q) ^ b ^ first, q & LOW, _high(p) ^ d ^ second, p & LOW
        first, second = (first + WEYL[0]) & LOW, (second + WEYL[1]) & LOW
    a, b, c, d = torch.broadcast_tensors(a, b, c, d)
    return a, b, c, d


def _high(product: Tensor) -> Tensor:
    return (product >> 32) & LOW
