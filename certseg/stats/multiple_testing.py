"""Multiple testing on a histogram of counts.

All tests share one null hypothesis family (``p_i <= tau`` with the same number of samples), so a p-value is a
decreasing function of the count and the set of rejections is "every count from a threshold upwards". Each procedure
therefore maps a histogram to that threshold in O(n) after one pass over the pixels: no sorting, no per-pixel p-value.
"""

from collections.abc import Callable

import numpy as np

from certseg.errors import ConfigError


def _holm(histogram: np.ndarray, p_values: np.ndarray, alpha: float) -> int:
    """Holm (1979) step-down. With r tests rejected so far, the group of tied p-values at the next count is compared
    with alpha / (N - r): its first member needs that, and inside the group the thresholds only grow."""
    num_tests = int(histogram.sum())
    rejected = 0
    threshold = len(histogram)
    for count in range(len(histogram) - 1, -1, -1):
        if histogram[count] == 0:
            continue
        if p_values[count] > alpha / (num_tests - rejected):
            break
        rejected += int(histogram[count])
        threshold = count
    return threshold


def _bonferroni(histogram: np.ndarray, p_values: np.ndarray, alpha: float) -> int:
    """Bonferroni: reject where p <= alpha / N."""
    num_tests = int(histogram.sum())
    passing = np.flatnonzero((p_values <= alpha / num_tests) & (histogram > 0))
    return int(passing[0]) if len(passing) else len(histogram)


CORRECTIONS: dict[str, Callable[[np.ndarray, np.ndarray, float], int]] = {"holm": _holm, "bonferroni": _bonferroni}


def rejection_threshold(histogram: np.ndarray, p_values: np.ndarray, alpha: float, correction: str = "holm") -> int:
    """Smallest count whose null hypothesis is rejected; every larger count is rejected too.

    The probability of rejecting any true null hypothesis is at most ``alpha``, whatever the dependence between pixels.

    Args:
        histogram: ``(n + 1,)`` integers, number of pixels with each count ``0 .. n``.
        p_values: ``(n + 1,)`` p-value of each count, decreasing (:func:`certseg.stats.upper_tail`).
        alpha: family-wise error rate, in (0, 1).
        correction: a key of :data:`CORRECTIONS`.

    Returns:
        A count in ``0 .. n``, or ``n + 1`` where nothing is rejected.

    Raises:
        ConfigError: unknown correction, alpha outside (0, 1), or arrays that do not fit each other.
    """
    if correction not in CORRECTIONS:
        raise ConfigError(
            "Unknown multiple testing correction", expected=", ".join(sorted(CORRECTIONS)), received=correction
        )
    if not 0.0 < alpha < 1.0:
        raise ConfigError("alpha must lie inside (0, 1)", received=alpha)
    if histogram.shape != p_values.shape or histogram.ndim != 1:
        raise ConfigError(
            "histogram and p_values must be one-dimensional and of equal length",
            received=f"shapes {histogram.shape} and {p_values.shape}",
        )
    if histogram.sum() == 0:
        return len(histogram)
    return CORRECTIONS[correction](histogram, p_values, alpha)
