from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from certseg.errors import ConfigError
from certseg.smoothing.statistics import largest_level, minimum_samples, rejection_threshold, upper_tail


@pytest.mark.parametrize(("n", "tau"), [(1, 0.5), (100, 0.75), (600, 0.95), (37, 0.1)])
def test_upper_tail_is_the_exact_binomial_test(n, tau):
    tail = upper_tail(n, tau)
    for count in {0, 1, n // 2, n - 1, n}:
        assert tail[count] == pytest.approx(binomtest(count, n, tau, alternative="greater").pvalue, rel=1e-9)
    assert (np.diff(tail) <= 0).all()


@pytest.mark.parametrize(("n", "tau"), [(0, 0.5), (-3, 0.5), (5, 0.0), (5, 1.0), (5, float("nan"))])
def test_upper_tail_refuses_bad_arguments(n, tau):
    with pytest.raises(ConfigError):
        upper_tail(n, tau)


@settings(max_examples=200, deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=60),
    tau=st.sampled_from([0.5, 0.6, 0.75, 0.9]),
    alpha=st.sampled_from([0.001, 0.05, 0.3]),
    method=st.sampled_from(["holm", "bonferroni", "benjamini_yekutieli"]),
)
def test_histogram_procedures_reject_what_statsmodels_rejects(counts, tau, alpha, method):
    p_values = upper_tail(40, tau)
    histogram = np.bincount(counts, minlength=41)
    threshold = rejection_threshold(histogram, p_values, alpha, method)
    name = {"benjamini_yekutieli": "fdr_by"}.get(method, method)
    with patch("gc.collect"):  # statsmodels collects all garbage for every Holm procedure: .2 s each in a large process
        reference = multipletests(p_values[counts], alpha=alpha, method=name)[0]
    assert (np.asarray(counts) >= threshold).tolist() == reference.tolist()


@settings(max_examples=200, deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=60),
    alpha=st.sampled_from([0.001, 0.05, 0.3]),
    k=st.integers(1, 8),
)
def test_kfwer_is_the_step_down_procedure_of_lehmann_and_romano(counts, alpha, k):
    """Sorted p-values against their levels one by one, as the theorem states it."""
    p_values = upper_tail(40, 0.75)
    threshold = rejection_threshold(np.bincount(counts, minlength=41), p_values, alpha, "kfwer", k)
    number = len(counts)
    order = np.argsort(-np.asarray(counts), kind="stable")
    expected = np.zeros(number, dtype=bool)
    for i, pixel in enumerate(order, start=1):
        level = k * alpha / number if i <= k else k * alpha / (number + k - i)
        if p_values[counts[pixel]] > level:
            break
        expected[pixel] = True
    assert (np.asarray(counts) >= threshold).tolist() == expected.tolist()
    if k == 1:
        assert threshold == rejection_threshold(np.bincount(counts, minlength=41), p_values, alpha, "holm")


@pytest.mark.parametrize("correction", ["holm", "bonferroni", "kfwer", "benjamini_yekutieli"])
@pytest.mark.parametrize("n", [3, 20, 40])
def test_the_largest_level_decides_whether_anything_can_be_rejected(correction, n):
    p_values = upper_tail(n, 0.75)
    best = np.zeros(n + 1, dtype=int)
    best[n] = 200
    possible = rejection_threshold(best, p_values, 0.01, correction, 3) <= n
    assert possible == (p_values[n] <= largest_level(200, 0.01, correction, 3))


def test_no_test_rejects_nothing_and_all_certain_rejects_all():
    p_values = upper_tail(100, 0.75)
    assert rejection_threshold(np.zeros(101, dtype=int), p_values, 0.01) == 101
    certain = np.zeros(101, dtype=int)
    certain[100] = 5
    assert rejection_threshold(certain, p_values, 0.01) == 100
    hopeless = np.zeros(101, dtype=int)
    hopeless[0] = 5
    assert rejection_threshold(hopeless, p_values, 0.01) == 101


@pytest.mark.parametrize(
    ("alpha", "correction", "length"), [(0.0, "holm", 5), (1.0, "holm", 5), (0.1, "sidak", 5), (0.1, "holm", 4)]
)
def test_rejection_threshold_refuses_bad_arguments(alpha, correction, length):
    with pytest.raises(ConfigError):
        rejection_threshold(np.ones(length, dtype=int), upper_tail(4, 0.5), alpha, correction)


@pytest.mark.parametrize(("tau", "expected"), [(0.75, 75), (0.95, 419)])
def test_minimum_samples_of_the_documentation(tau, expected):
    assert minimum_samples(tau, 0.001 / (1024 * 2048)) == expected


@given(tau=st.floats(0.5, 0.99), level=st.floats(1e-12, 0.5))
@settings(max_examples=100, deadline=None)
def test_minimum_samples_is_the_smallest_that_can_reject(tau, level):
    n = minimum_samples(tau, level)
    assert upper_tail(n, tau)[-1] <= level
    assert n == 1 or upper_tail(n - 1, tau)[-1] > level


@pytest.mark.parametrize("n", [1, 3, 40])
def test_minimum_samples_of_a_level_that_is_met_exactly(n):
    """No margin is left to the logarithms: the table decides."""
    assert minimum_samples(0.7, float(upper_tail(n, 0.7)[-1])) == n
    assert minimum_samples(0.7, float(np.nextafter(upper_tail(n, 0.7)[-1], 0.0))) == n + 1
