"""Multiple testing on a histogram of counts.

All tests share one null hypothesis family (``p_i <= tau`` with the same number of samples), so a p-value is a
decreasing function of the count and the set of rejections is "every count from a threshold upwards". Each procedure
therefore maps a histogram to that threshold in O(n) after one pass over the pixels: no sorting, no per-pixel p-value.
All of them hold whatever the dependence between pixels.
"""

from collections.abc import Sequence

import numpy as np

from certseg.checks import check_choice, check_count, check_number
from certseg.errors import ConfigError

CORRECTIONS = ("holm", "bonferroni", "kfwer", "benjamini_yekutieli")
"""The procedures by name (:func:`rejection_threshold`)."""


def rejection_threshold(
    histogram: np.ndarray, p_values: np.ndarray, alpha: float, correction: str = "holm", k: int = 1
) -> int:
    """Smallest count whose null hypothesis is rejected; every larger count is rejected too.

    - ``holm`` (Holm 1979) and ``bonferroni``: the probability of rejecting any true null hypothesis is at most alpha.
    - ``kfwer`` (Lehmann and Romano 2005, Theorem 2.2): the probability of rejecting ``k`` or more true null hypotheses
      is at most alpha; up to ``k - 1`` wrong rejections are accepted.
    - ``benjamini_yekutieli`` (2001): the *expected share* of true null hypotheses among the rejected is at most alpha.
      That is the false discovery rate, no statement about any single map.

    Args:
        histogram: ``(n + 1,)`` integers, number of pixels with each count ``0 .. n``.
        p_values: ``(n + 1,)`` p-value of each count, decreasing (:func:`certseg.smoothing.statistics.upper_tail`).
        alpha: error rate that the correction keeps to, in (0, 1).
        correction: the procedure, one of :data:`CORRECTIONS`.
        k: number of wrong rejections that ``kfwer`` guards against, at least 1; other procedures ignore it.

    Returns:
        A count in ``0 .. n``, or ``n + 1`` where nothing is rejected.

    Raises:
        ConfigError: unknown correction, alpha outside (0, 1), k not a positive integer, or arrays that do not fit each
            other.

    >>> histogram = np.array([0, 0, 3, 1])  # of 4 pixels, 3 have count 2 and one has count 3
    >>> p_values = np.array([1.0, 0.5, 0.03, 0.01])
    >>> rejection_threshold(histogram, p_values, alpha=0.05)  # 0.01 <= 0.05 / 4, but 0.03 > 0.05 / 3
    3
    """
    check_correction(correction, alpha, k)
    if histogram.shape != p_values.shape or histogram.ndim != 1:
        raise ConfigError(
            "histogram and p_values must be one-dimensional and of equal length",
            received=f"shapes {histogram.shape} and {p_values.shape}",
        )
    if histogram.sum() == 0:
        return len(histogram)
    if correction == "bonferroni":
        return _single_step(histogram, p_values, alpha)
    if correction == "benjamini_yekutieli":
        return _step_up(histogram, p_values, alpha)
    return _step_down(histogram, p_values, alpha, k if correction == "kfwer" else 1)


def joint_thresholds(
    histogram: np.ndarray, p_values: Sequence[np.ndarray], alpha: float, correction: str = "holm", k: int = 1
) -> tuple[int, ...]:
    """For each of T nested null hypotheses of a pixel, ``p <= tau_1``, ..., ``p <= tau_T`` with tau_1 < ... < tau_T,
    the smallest count with which it is rejected, all of them together at the error rate of one.

    Claim. With ``holm``, ``bonferroni`` and ``kfwer`` the probability that k pixels or more have *any* of their true
    null hypotheses rejected is at most alpha (k = 1 but for ``kfwer``), whatever the dependence. Larger T costs nothing
    at tau_T, where the rejections are those of :func:`rejection_threshold` alone.

    Proof. The true null hypotheses of a pixel are those from some t* on, and of its p-values, which grow with t, that
    of t* is the smallest. So a pixel is in error only where its p-value at t* is rejected: one event a pixel. Let I be
    the pixels with a true null hypothesis; that of T is one of each. Before the k-th of them is in error at most k - 1
    of them are rejected at T, so of all N at most r = N - |I| + k - 1, and the level k alpha / (N + k - max(k, r + 1))
    that decides at every t is at most k alpha / |I|. The expected number of pixels of I with a p-value at t* of no more
    than this is at most k alpha, and by Markov's inequality the probability of k of them at most alpha. []

    ``benjamini_yekutieli`` is applied at each tau: the expected share of wrong pixels is bounded at each of them.

    Args:
        histogram: ``(n + 1,)`` integers, number of pixels with each count ``0 .. n``.
        p_values: for each tau, in rising order, the ``(n + 1,)`` p-values of the counts.
        alpha: error rate that the correction keeps to, in (0, 1).
        correction: the procedure, one of :data:`CORRECTIONS`.
        k: number of wrong rejections that ``kfwer`` guards against, at least 1; other procedures ignore it.

    Returns:
        A count in ``0 .. n`` for each tau, none below the one before, or ``n + 1`` where nothing is rejected.

    Raises:
        ConfigError: as :func:`rejection_threshold`.

    >>> histogram = np.array([0, 0, 3, 1])
    >>> lower, upper = np.array([1.0, 0.3, 0.015, 0.001]), np.array([1.0, 0.5, 0.03, 0.01])
    >>> joint_thresholds(histogram, [lower, upper], alpha=0.05)  # 0.015 <= 0.05 / 3, once one pixel is rejected
    (2, 3)
    """
    last = rejection_threshold(histogram, p_values[-1], alpha, correction, k)
    if correction == "benjamini_yekutieli":
        return (*(rejection_threshold(histogram, row, alpha, correction) for row in p_values[:-1]), last)
    num_tests, rejected = int(histogram.sum()), int(histogram[last:].sum())
    k = k if correction == "kfwer" else 1
    level = alpha / max(1, num_tests)
    if correction != "bonferroni":
        level = k * alpha / max(1, num_tests + k - max(k, min(rejected + 1, num_tests)))
    return (*(min(last, int((row > level).sum())) for row in p_values[:-1]), last)


def check_correction(correction: str, alpha: float, k: int) -> None:
    """Raise :class:`ConfigError` unless the correction is known, alpha is inside (0, 1) and k is a positive integer."""
    check_choice("The multiple testing correction", correction, CORRECTIONS)
    check_number("alpha", alpha, "(0, 1)")
    check_count("k", k)


def largest_level(num_tests: int, alpha: float, correction: str, k: int = 1) -> float:
    """The largest p-value that a correction can ever reject when all ``num_tests`` p-values are equal: with fewer
    samples than it takes to reach that p-value, everything abstains.

    >>> largest_level(100, alpha=0.05, correction="holm")
    0.0005
    """
    if correction == "benjamini_yekutieli":
        return alpha / _harmonic(num_tests)
    return min(1.0, (k if correction == "kfwer" else 1) * alpha / num_tests)


def _single_step(histogram: np.ndarray, p_values: np.ndarray, alpha: float) -> int:
    passing = np.flatnonzero((p_values <= alpha / int(histogram.sum())) & (histogram > 0))
    return int(passing[0]) if len(passing) else len(histogram)


def _step_down(histogram: np.ndarray, p_values: np.ndarray, alpha: float, k: int) -> int:
    """With r tests rejected so far, the group of tied p-values at the next count is compared with the level of the
    test number r + 1, k alpha / (N + k - max(k, r + 1)): its first member needs that, and inside the group the levels
    only grow. k = 1 is Holm's procedure."""
    num_tests = int(histogram.sum())
    rejected, threshold = 0, len(histogram)
    for count in range(len(histogram) - 1, -1, -1):
        if histogram[count] == 0:
            continue
        if p_values[count] > k * alpha / (num_tests + k - max(k, rejected + 1)):
            break
        rejected += int(histogram[count])
        threshold = count
    return threshold


def _step_up(histogram: np.ndarray, p_values: np.ndarray, alpha: float) -> int:
    """The largest r with p_(r) <= r alpha / (N (1 + 1/2 + ... + 1/N)); r is largest at the end of a tied group."""
    num_tests = int(histogram.sum())
    at_least = np.cumsum(histogram[::-1])[::-1]  # number of tests with this count or more
    passing = np.flatnonzero((p_values <= at_least * alpha / (num_tests * _harmonic(num_tests))) & (histogram > 0))
    return int(passing[0]) if len(passing) else len(histogram)


def _harmonic(number: int) -> float:
    return float((1.0 / np.arange(1, number + 1)).sum())
