"""Integers drawn from a table by Philox4x32-10 and added to an image: one pass over the values.

Random words are computed for a block of counters at a time, and no value branches: that compiles to vector
instructions. How words and counters belong to values is said in :mod:`certseg.compute.table_draws`.
"""

import numpy as np

from certseg.compute.kernels.compiler import compiled

_COUNTERS = 256  # of a block; each gives four words
_LOW = np.uint64(0xFFFFFFFF)


@compiled
def random_words(first: np.uint64, sample: np.uint64, purpose: np.uint64, key: np.uint64, out: np.ndarray) -> None:
    """The four words of each of several counters.

    Args:
        first: lowest word of the first counter, uint64 below 2^32; the others follow.
        sample: the two middle words of every counter, uint64.
        purpose: highest word of every counter, uint64 below 2^32.
        key: the key, uint64, its lower word first.
        out: ``4 x n`` uint32, overwritten.
    """
    for i in range(out.shape[1]):
        a, b = (first + np.uint64(i)) & _LOW, sample & _LOW
        c, d = sample >> np.uint64(32), purpose
        x, y = key & _LOW, key >> np.uint64(32)
        for _ in range(10):
            p, q = np.uint64(0xD2511F53) * a, np.uint64(0xCD9E8D57) * c
            a, b, c, d = (q >> np.uint64(32)) ^ b ^ x, q & _LOW, (p >> np.uint64(32)) ^ d ^ y, p & _LOW
            x, y = (x + np.uint64(0x9E3779B9)) & _LOW, (y + np.uint64(0xBB67AE85)) & _LOW
        out[0, i], out[1, i], out[2, i], out[3, i] = a, b, c, d


@compiled
def _by_first_words(
    words: np.ndarray,
    levels: np.ndarray,
    thresholds: np.ndarray,
    values: np.ndarray,
    bits: int,
    divisor: np.float32,
    out: np.ndarray,
) -> bool:
    """The draws that one word decides; whether there are others."""
    shift, mask = np.uint32(32 - bits), np.uint32((1 << (32 - bits)) - 1)
    open_ones = np.uint32(0)
    for i in range(out.size):
        cell, share = words[i] >> shift, words[i] & mask
        threshold = thresholds[cell]
        open_ones |= np.uint32(share == threshold)
        out[i] = np.float32(levels[i] + values[np.uint64(2) * cell + np.uint64(share < threshold)]) / divisor
    return bool(open_ones > 0)


@compiled
def drawn_onto(
    levels: np.ndarray,
    thresholds: np.ndarray,
    remainders: np.ndarray,
    values: np.ndarray,
    bits: int,
    sample: np.uint64,
    key: np.uint64,
    divisor: np.float32,
    out: np.ndarray,
) -> None:
    """Add a draw to each level and divide the sum by ``divisor``.

    Args:
        levels: flat int32.
        thresholds: uint32, one for each of ``2 ** bits`` cells (:class:`certseg.compute.table_draws.DrawTable`).
        remainders: uint64, what decides where the share of a word is equal to its threshold.
        values: int32, two for each cell: the one from the threshold on, and the one below it.
        bits: how many bits of a word choose a cell.
        sample: index of the sample, uint64.
        key: key of the stream, uint64.
        divisor: what sums are divided by.
        out: flat float32 of the length of ``levels``, overwritten.
    """
    block = np.empty((4, _COUNTERS), np.uint32)
    words = block.reshape(4 * _COUNTERS)
    further = np.empty((4, 1), np.uint32)
    shift, mask = np.uint32(32 - bits), np.uint32((1 << (32 - bits)) - 1)
    for start in range(0, out.size, words.size):
        counter = np.uint64(start // 4)
        random_words(counter, sample, np.uint64(0), key, block)
        here, result = levels[start : start + words.size], out[start : start + words.size]
        if _by_first_words(words[: result.size], here, thresholds, values, bits, divisor, result):
            for i in range(result.size):
                cell = words[i] >> shift
                if words[i] & mask == thresholds[cell]:
                    lane = np.uint64(1 + i // _COUNTERS)
                    random_words(counter + np.uint64(i % _COUNTERS), sample, lane, key, further)
                    rest = (np.uint64(further[0, 0]) << np.uint64(32)) | np.uint64(further[1, 0])
                    value = values[np.uint64(2) * cell + np.uint64(rest < remainders[cell])]
                    result[i] = np.float32(here[i] + value) / divisor
