"""Exact confidence bounds on a probability from a count of successes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from certseg.checks import check_number
from certseg.errors import ConfigError


def clopper_pearson_lower(counts: ArrayLike, num_samples: int, level: float) -> np.ndarray:
    """Lower bound that is at most the true probability p in at least a share ``1 - level`` of all experiments.

    Clopper and Pearson (1934), one-sided: the p at which ``P[Bin(num_samples, p) >= count] = level``, which is the
    ``level`` quantile of Beta(count, num_samples - count + 1); 0 for no success. The bound exceeds tau exactly where
    the binomial test of :func:`certseg.smoothing.statistics.upper_tail` rejects ``p <= tau`` at ``level`` (up to
    equality).

    Args:
        counts: numbers of successes in ``0 .. num_samples``, of any shape.
        num_samples: number of trials behind every count, at least 1.
        level: probability that a bound is above the true probability, in (0, 1).

    Returns:
        float64 of the shape of ``counts``.

    Raises:
        ConfigError: an argument is outside its domain.

    >>> clopper_pearson_lower([0, 10], num_samples=10, level=0.05).round(4).tolist()  # 0.05 ** (1 / 10)
    [0.0, 0.7411]
    """
    if num_samples < 1:
        raise ConfigError("A confidence bound needs at least one sample", received=num_samples)
    check_number("The level of a confidence bound", level, "(0, 1)")
    counts = np.asarray(counts)
    if counts.size and not (counts.min() >= 0 and counts.max() <= num_samples):
        raise ConfigError(
            "A count of successes is impossible",
            expected=f"0 .. {num_samples}",
            received=f"{counts.min()} .. {counts.max()}",
        )
    from scipy.stats import beta  # takes most of a second to import

    return np.where(counts == 0, 0.0, beta.ppf(level, np.maximum(counts, 1), num_samples - counts + 1))
