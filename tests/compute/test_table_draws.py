"""Exact draws from a table: Philox by its published answers, the table by integers, CPU and torch by one another."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from certseg.compute.kernels.draws import random_words
from certseg.compute.philox import philox
from certseg.compute.streams import NoiseStream
from certseg.compute.table_draws import MOST_VALUES, RANDOM_BITS, DrawTable
from certseg.errors import ConfigError

STREAM = NoiseStream(0, "a")
# Salmon et al. 2011, the known answers published with Random123: counter, key, words.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_published_answers(counter, key, words):
    assert [int(word) for word in philox(tuple(torch.tensor([word]) for word in counter), tuple(key))] == words
    out = np.zeros((4, 1), dtype=np.uint32)
    sample, both = counter[1] | counter[2] << 32, key[0] | key[1] << 32
    random_words(np.uint64(counter[0]), np.uint64(sample), np.uint64(counter[3]), np.uint64(both), out)
    assert out[:, 0].tolist() == words


def weights_of(shares):
    """Integers with the sum 2^96, in about these proportions."""
    weights = [int(share * 2**60) << (RANDOM_BITS - 64) for share in np.asarray(shares) / np.sum(shares)]
    weights[0] += 2**RANDOM_BITS - sum(weights)
    return weights


def probabilities(table):
    """The exact probability of every value, in units of 2^-96, from the cells themselves."""
    size, found = 2 ** (RANDOM_BITS - table.bits), {}
    for high, low, values in zip(table.thresholds.tolist(), table.remainders.tolist(), table.values.tolist()):
        threshold = (high << 64) | low
        assert 0 <= threshold <= size
        for value, weight in zip(values, (size - threshold, threshold)):
            found[value] = found.get(value, 0) + weight
    return {value: weight for value, weight in found.items() if weight}


@pytest.mark.parametrize("number", [1, 2, 3, 5, 64, 65, 1000])
def test_a_table_has_exactly_the_probabilities_asked_for(number):
    weights = weights_of(np.random.default_rng(number).exponential(size=number) ** 3)
    table = DrawTable.of(weights, first=-7)
    assert probabilities(table) == {i - 7: weight for i, weight in enumerate(weights) if weight}


@pytest.mark.parametrize("weights", [[1, 2], [2**96 + 1, -1], [2**96 - 1]], ids=str)
def test_probabilities_that_are_none_are_refused(weights):
    with pytest.raises(ConfigError, match="probabilities"):
        DrawTable.of(weights, first=0)


def drawn(table, shape=(3, 37, 53), first=0, number=4, stream=STREAM, order=torch.contiguous_format):
    levels = torch.arange(np.prod(shape), dtype=torch.int32).reshape(shape) % 256
    out = torch.empty(number, *shape).contiguous(memory_format=order)
    table.add(levels, 255, stream, first, out)
    return levels, out


def unequal(bits):
    """A table in which the first word often leaves a draw open: all but its last ``bits`` bits choose a cell."""
    return DrawTable.of(weights_of(np.random.default_rng(0).exponential(size=2 ** (32 - bits))), first=-1000)


@pytest.mark.parametrize(
    "table", [DrawTable.of(weights_of(np.arange(1, 1500)), -700), unequal(12)], ids=["few", "many"]
)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 37, 53), (2, 32, 48)])
def test_torch_draws_the_integers_of_the_compiled_loop(table, shape):
    """What a GPU computes, here on the CPU. One cell in 2^12 of the large table is open after the first word."""
    levels, out = drawn(table, shape, first=2**32 - 2)  # the sample's index goes on into another word
    assert torch.equal(table.by_torch(levels, 255, STREAM, 2**32 - 2, 4), out)


def test_further_bits_decide_open_draws():
    """With 2^22 cells a share of 2^-10 of all draws is open; without their further bits a hundred of them would be
    other ones."""
    table = unequal(10)
    levels, out = drawn(table, (3, 128, 128), number=8)
    for constant in (0, 2**64 - 1):
        wrong = DrawTable(table.bits, table.thresholds, np.full_like(table.remainders, constant), table.values)
        number = int((drawn(wrong, (3, 128, 128), number=8)[1] != out).sum())
        assert number == pytest.approx(out.numel() * 2**-11, rel=0.4)
    assert torch.equal(table.by_torch(levels, 255, STREAM, 0, 8), out)


def test_the_last_of_all_bits_decides():
    """An open draw is below its threshold from exactly its own further bits on: word, counter and lane are what the
    module says they are, and so are the halves of the comparison."""
    table, shape = unequal(10), (3, 64, 64)
    ends = [
        DrawTable(table.bits, table.thresholds, np.full_like(table.remainders, end), table.values)
        for end in (0, 2**64 - 1)
    ]
    levels, low = drawn(ends[0], shape, number=1)
    _, high = drawn(ends[1], shape, number=1)
    place = int((low != high).flatten().nonzero()[0])
    lane, counter = place % 1024 // 256, 256 * (place // 1024) + place % 256
    key = STREAM.key % 2**32, STREAM.key >> 32

    def words(purpose):
        return [int(word) for word in philox(tuple(torch.tensor([word]) for word in (counter, 0, 0, purpose)), key)]

    cell = words(0)[lane] >> (32 - table.bits)
    first, second = words(1 + lane)[:2]
    rest = first << 32 | second
    for remainder, expected in ((rest, low), (rest + 1, high)):
        remainders = table.remainders.copy()
        remainders[cell] = remainder
        other = DrawTable(table.bits, table.thresholds, remainders, table.values)
        _, out = drawn(other, shape, number=1)
        assert out.flatten()[place] == expected.flatten()[place]
        assert torch.equal(other.by_torch(levels, 255, STREAM, 0, 1), out)


def test_draws_depend_on_seed_name_purpose_and_index_only():
    table = DrawTable.of(weights_of(np.arange(1, 200)), first=0)
    _, reference = drawn(table, number=6)
    assert torch.equal(reference[3:], drawn(table, first=3, number=3)[1])
    assert torch.equal(reference, drawn(table, number=6, order=torch.channels_last)[1])
    for stream in (NoiseStream(1, "a"), NoiseStream(0, "b"), NoiseStream(0, "a", "x")):
        assert not torch.equal(reference, drawn(table, number=6, stream=stream)[1])
    for one, other in itertools.combinations(reference, 2):
        assert not torch.equal(one, other)


@pytest.mark.parametrize("threads", [1, 2])
def test_draws_do_not_depend_on_threads(threads):
    table, before = DrawTable.of(weights_of(np.arange(1, 200)), first=0), torch.get_num_threads()
    expected = drawn(table, number=7)[1]
    try:
        torch.set_num_threads(threads)
        assert torch.equal(drawn(table, number=7)[1], expected)
    finally:
        torch.set_num_threads(before)


def test_draws_have_their_probabilities_and_are_independent():
    """Chi-square at 1e-4 a test, of single values and of pairs: neighbours in an image, one place in two samples, and
    one place in two lanes of a block."""
    weights = weights_of([1, 2, 3, 4, 6])
    table = DrawTable.of(weights, first=0)
    levels = torch.zeros(3, 128, 128, dtype=torch.int32)
    out = torch.empty(8, *levels.shape)
    table.add(levels, 1, STREAM, 0, out)
    shares = np.array([float(weight) for weight in weights]) / 2.0**RANDOM_BITS
    values = out.flatten(1).long()
    assert stats.chisquare(values.flatten().bincount(minlength=5), shares * values.numel()).pvalue > 1e-4
    for one, other in ((values[:, :-1], values[:, 1:]), (values[:-1], values[1:]), (values[:, :-256], values[:, 256:])):
        pairs = (one * 5 + other).flatten()[::2].bincount(minlength=25)
        expected = np.outer(shares, shares).ravel() * int(pairs.sum())
        assert stats.chisquare(pairs, expected).pvalue > 1e-4


def test_images_with_more_values_than_random_words_are_refused():
    table = DrawTable.of(weights_of([1, 1]), first=0)
    with pytest.raises(ConfigError, match="too large"):
        table.add(torch.zeros(1, dtype=torch.int32).expand(MOST_VALUES + 1), 255, STREAM, 0, torch.empty(0))
