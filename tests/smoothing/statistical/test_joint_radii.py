"""Several tau tested together: errors at any of them are as rare as claimed for one, and broken rules exceed that."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from support.simulations import limit, mean

from certseg.smoothing import stopping
from certseg.smoothing.statistics import joint_thresholds, rejection_threshold, upper_tail
from certseg.smoothing.stopping import AnytimeTest, FixedTest

TAUS = (0.55, 0.65, 0.75)
N = 40
TRIALS = 400


@dataclass(frozen=True)
class Agreements:
    """Takes the place of a sampler: which of the samples agree, ``number x 1 x W`` bool."""

    drawn: torch.Tensor

    def agreement(self, choice, first, number, groups=None):
        return self.drawn[first : first + number].sum(0, dtype=torch.int16)


@dataclass(frozen=True)
class Pixels:
    """Pixels whose agreement has the probability of one of the tau, the worst case for that and all larger ones.

    Args:
        nulls: the number of pixels at each of :data:`TAUS`.
        sure: pixels that always agree.
        block: so many pixels side by side are drawn by the same uniform numbers.
        k: so many wrong pixels are an error.
    """

    nulls: tuple[int, int, int]
    sure: int = 0
    block: int = 1
    k: int = 1

    @property
    def probabilities(self):
        return torch.tensor([*np.repeat(TAUS, self.nulls), *[1.0] * self.sure])

    def errors(self, test, trials=TRIALS):
        """Share of images in which ``k`` pixels or more are certified at a tau that their probability does not exceed,
        whichever it is."""
        wrong_from = torch.tensor([*np.repeat([0, 1, 2], self.nulls), *[len(TAUS)] * self.sure])

        def error(rng):
            width = len(self.probabilities)
            uniform = torch.from_numpy(rng.random((test.n, -(-width // self.block))))
            uniform = uniform.repeat_interleave(self.block, 1)[:, :width]
            sampler = Agreements((uniform < self.probabilities)[:, None])
            steps, _ = test.certify(sampler, torch.zeros(1, width, dtype=torch.int64), 0)
            return float(int((steps[0] > wrong_from).sum()) >= self.k)

        return mean(error, trials)


MIXED = Pixels((4, 3, 2))
ALPHA = 9 * upper_tail(N, TAUS[0])[30]  # .066: a level of the discrete test at the smallest tau
FIXED = {
    "bonferroni": MIXED,
    "holm": replace(MIXED, sure=12),
    "holm, lowest": Pixels((9, 0, 0), sure=12),
    "holm, blocks": replace(Pixels((3, 3, 3)), sure=12, block=3),
    "kfwer, k=3": Pixels((3, 3, 3), block=3, k=3),
}


@pytest.mark.parametrize("look_every", [None, 10], ids=["fixed", "curtailed"])
@pytest.mark.parametrize("case", FIXED)
def test_errors_at_any_radius_are_as_rare_as_claimed(case, look_every, monkeypatch):
    pixels, correction = FIXED[case], case.split(",")[0]
    test = FixedTest(TAUS, ALPHA, N, correction, pixels.k, look_every)
    most = limit(ALPHA, TRIALS)
    assert pixels.errors(test) <= most
    assert pixels.errors(replace(test, alpha=9 * ALPHA)) > most

    def each_pixel_alone(histogram, tails, alpha, *_):
        return tuple(int((tail > alpha).sum()) for tail in tails)

    monkeypatch.setattr(stopping, "joint_thresholds", each_pixel_alone)
    assert pixels.errors(test) > most


def test_the_smaller_radii_may_not_lend_from_each_other(monkeypatch):
    """The mutant counts what is rejected at the *smallest* tau, as a test of that alone would. Of many pixels between
    the two all are rejected there, and those whose null hypothesis is at the largest are tested as if they were few."""
    pixels = Pixels((0, 0, 9), sure=0)
    test = FixedTest(TAUS, ALPHA, N, "holm")

    def lent(histogram, tails, alpha, correction, k):
        first = rejection_threshold(histogram, tails[0], alpha, correction, k)
        level = alpha / max(1, int(histogram[:first].sum()))
        return tuple(max(first, int((tail > level).sum())) for tail in tails)

    most = limit(ALPHA, TRIALS)
    assert pixels.errors(test) <= most
    monkeypatch.setattr(stopping, "joint_thresholds", lent)
    assert pixels.errors(test) > most


@pytest.mark.parametrize("correction", ["holm", "bonferroni", "kfwer", "benjamini_yekutieli"])
def test_the_largest_radius_pays_nothing_for_the_others(correction):
    rng = np.random.default_rng(1)
    k = 5 if correction == "kfwer" else 1
    for size in (1, 30, 2000):
        counts = torch.from_numpy(rng.binomial(100, rng.beta(6, 1, (1, size))))
        alone = [FixedTest(tau, 0.01, 100, correction, k).decide(counts) for tau in TAUS]
        joint = FixedTest(TAUS, 0.01, 100, correction, k).steps(counts)
        assert torch.equal(joint == 3, alone[2])
        for place, separate in enumerate(alone):
            assert not ((joint > place) & ~separate).any(), "a test of one tau alone certifies no less"
        assert (joint > 0).sum() >= (joint > 1).sum() >= (joint > 2).sum()


def test_thresholds_against_the_procedure_written_out_pixel_by_pixel():
    """Step down over pixels, one p-value at a time, until nothing changes."""
    rng = np.random.default_rng(5)
    tails = [upper_tail(30, tau) for tau in TAUS]
    for k in (1, 3):
        correction = "holm" if k == 1 else "kfwer"
        for _ in range(40):
            counts = rng.binomial(30, rng.choice([0.6, 0.8, 0.95, 1.0], rng.integers(1, 60)))
            number, rejected, before = len(counts), 0, -1
            while rejected != before:
                before, level = rejected, k * 0.05 / max(1, number + k - max(k, min(rejected + 1, number)))
                rejected = int((tails[-1][counts] <= level).sum())
            expected = [(tail[counts] <= level).sum() for tail in tails]
            if rejected == number:
                expected = [number] * 3
            thresholds = joint_thresholds(np.bincount(counts, minlength=31), tails, 0.05, correction, k)
            assert [(counts >= threshold).sum() for threshold in thresholds] == expected


TIGHT = 5  # samples; all agreeing makes the wealth of a pixel at tau tau^-5
FEW = 20 * 0.55**TIGHT * (1 + 1e-9)  # at which Ville's inequality is an equality for 20 pixels at the smallest tau


@pytest.mark.parametrize("correction", ["holm", "bonferroni"])
@pytest.mark.parametrize("nulls", [(20, 0, 0), (8, 6, 6), (0, 0, 20)])
def test_anytime_errors_at_any_radius_are_as_rare_as_claimed(correction, nulls):
    pixels, alpha = Pixels(nulls, sure=6), min(0.3, FEW)
    test = AnytimeTest(TAUS, alpha, 40, correction, look_every=5, gain=0.0)
    assert pixels.errors(test, 300) <= limit(alpha, 300)


def closed(wealth, counts, alpha):
    """How many tau each pixel is rejected at by the closed test written out: every set of pixels with every choice of a
    tau for each of them must have a mean wealth of at least 1 / alpha."""
    number, steps = len(counts), []
    for pixel in range(number):
        others, reached = [j for j in range(number) if j != pixel], 0
        for own in wealth[:, counts[pixel]]:
            sets = (
                [own, *(wealth[t, counts[j]] for j, t in zip(chosen, taus))]
                for size in range(number)
                for chosen in itertools.combinations(others, size)
                for taus in itertools.product(range(len(wealth)), repeat=size)
            )
            if min(map(np.mean, sets)) < 1 / alpha:
                break
            reached += 1
        steps.append(reached)
    return steps


def test_the_anytime_test_is_the_closed_test_over_pixels_and_tau(monkeypatch):
    """Never above it, and seldom below. A mutant that lets other pixels count with their wealth at the tau that is
    tested, not the smallest, is above it."""
    rng, alpha, n = np.random.default_rng(3), 0.2, 30
    test = AnytimeTest(TAUS[::2], alpha, n, "holm")
    wealth = np.exp([test._bets(tau, 4).log_wealth(n, np.arange(n + 1)) for tau in test.taus])
    images = rng.integers(18, n + 1, (60, 4))
    expected = np.array([closed(wealth, image, alpha) for image in images])

    def found():
        return np.array([test.steps(torch.from_numpy(image)[None], n)[0].tolist() for image in images])

    right = found()
    assert (right <= expected).all()
    assert (right == expected).mean() > 0.98
    assert 0.2 < (right == 1).mean() < 0.8
    rule = stopping.e_holm_threshold
    monkeypatch.setattr(stopping, "e_holm_threshold", lambda h, w, a, _: rule(h, w, a))
    assert (found() > expected).any()


@pytest.mark.parametrize("correction", ["holm", "bonferroni"])
def test_one_tau_in_a_list_is_that_tau(correction):
    counts = torch.from_numpy(np.random.default_rng(2).binomial(60, 0.9, (1, 500)))
    alone = AnytimeTest(0.75, 0.01, 60, correction).decide(counts, 60)
    assert torch.equal(alone, AnytimeTest((0.75,), 0.01, 60, correction).decide(counts, 60))
    assert torch.equal(alone, AnytimeTest((0.75,), 0.01, 60, correction).steps(counts, 60) == 1)
