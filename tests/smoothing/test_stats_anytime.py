from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from certseg.errors import ConfigError
from certseg.smoothing.statistics.anytime import Bets, e_bonferroni_threshold, e_holm_threshold


def log_wealth(tau, n, counts):
    return Bets.planned(tau, 60, 1000, 0.01).log_wealth(n, counts)


@pytest.mark.parametrize("tau", [0.5, 0.6, 0.75, 0.95, 0.99])
@pytest.mark.parametrize("n", [1, 7, 60])
def test_wealth_is_fair_at_tau_and_loses_below(tau, n):
    """The exact mean over all counts: 1 at p = tau, less below, more above."""
    counts = np.arange(n + 1)
    values = np.exp(log_wealth(tau, n, counts))
    assert (binom.pmf(counts, n, tau) * values).sum() == pytest.approx(1.0, rel=1e-9)
    assert (binom.pmf(counts, n, tau - 0.1) * values).sum() < 1
    assert (binom.pmf(counts, n, min(1.0, tau + 0.02)) * values).sum() > 1
    assert (np.diff(values) >= 0).all()
    assert values[-1] > values[0]


def test_one_more_sample_is_fair_from_every_state():
    """The supermartingale property itself, at p = tau with equality."""
    for tau, n in ((0.6, 5), (0.75, 40)):
        now = np.exp(log_wealth(tau, n, np.arange(n + 1)))
        then = np.exp(log_wealth(tau, n + 1, np.arange(n + 2)))
        assert np.allclose(tau * then[1:] + (1 - tau) * then[:-1], now, rtol=1e-9)


@settings(max_examples=150, deadline=None)
@given(counts=st.lists(st.integers(0, 30), min_size=1, max_size=9), alpha=st.sampled_from([0.01, 0.05, 0.3]))
def test_e_holm_is_the_closed_test_of_the_mean(counts, alpha):
    values = np.exp(log_wealth(0.6, 30, np.arange(31)))
    threshold = e_holm_threshold(np.bincount(counts, minlength=31), np.log(values), alpha)
    own = values[counts]
    for i in range(len(counts)):
        others = [j for j in range(len(counts)) if j != i]
        sets = ([i, *chosen] for size in range(len(counts)) for chosen in combinations(others, size))
        assert (counts[i] >= threshold) == all(own[chosen].mean() >= 1 / alpha for chosen in sets)


@settings(max_examples=100, deadline=None)
@given(counts=st.lists(st.integers(0, 60), min_size=1, max_size=50), alpha=st.sampled_from([0.001, 0.05]))
def test_e_holm_rejects_what_bonferroni_rejects_and_more(counts, alpha):
    histogram, logs = np.bincount(counts, minlength=61), log_wealth(0.75, 60, np.arange(61))
    assert e_holm_threshold(histogram, logs, alpha) <= e_bonferroni_threshold(histogram, logs, alpha)


def test_large_numbers_of_samples_do_not_overflow():
    logs = log_wealth(0.5, 100_000, np.array([0, 50_000, 100_000]))
    assert np.isfinite(logs).all()
    assert logs[2] == 600.0
    assert e_holm_threshold(np.array([3, 3, 10**7]), logs, 1e-3) == 2


def test_bad_arguments():
    with pytest.raises(ConfigError):
        log_wealth(1.0, 3, np.arange(4))
    for rule in (e_holm_threshold, e_bonferroni_threshold):
        with pytest.raises(ConfigError):
            rule(np.ones(3), np.zeros(3), 0.0)
    with pytest.raises(ConfigError):
        e_holm_threshold(np.ones(3), np.zeros(4), 0.1)
