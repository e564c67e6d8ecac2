"""The sign test and Holm's correction pixel by pixel, against other routes to the same numbers."""

import numpy as np
import pytest
from scipy.stats import binomtest

from certseg.smoothing.statistics import holm, rejection_threshold, sign_test, upper_tail


def test_the_sign_test_is_the_binomial_test_of_the_votes_for_the_two():
    first, second = np.array([[0, 3, 50], [100, 0, 7]]), np.array([[0, 9, 50], [0, 100, 2]])
    found = sign_test(first, second)
    for place in np.ndindex(first.shape):
        number = int(first[place] + second[place])
        expected = binomtest(int(first[place]), number, 0.5, "greater").pvalue if number else 1.0
        assert found[place] == pytest.approx(expected, rel=1e-12)


def test_holm_pixel_by_pixel_is_holm_on_a_histogram():
    generator, levels = np.random.default_rng(0), upper_tail(40, 0.5)
    for _ in range(50):
        counts = generator.binomial(40, generator.choice([0.5, 0.7, 0.95], size=200))
        threshold = rejection_threshold(np.bincount(counts, minlength=41), levels, 0.05)
        assert (holm(levels[counts], 0.05) == (counts >= threshold)).all()


def test_nothing_to_test():
    assert holm(np.empty(0), 0.05).shape == sign_test(np.empty(0, int), np.empty(0, int)).shape == (0,)
