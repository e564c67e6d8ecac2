"""The binomial test: its p-value for every possible count, and the fewest samples with which it can reject."""

import math

import numpy as np

from certseg.checks import check_number
from certseg.errors import ConfigError


def upper_tail(num_samples: int, probability: float) -> np.ndarray:
    """Return ``P[Bin(num_samples, probability) >= k]`` for ``k = 0 .. num_samples``.

    This is the p-value of the one-sided test of ``H0: p <= probability`` after ``k`` successes (seed 001, BinPValue).
    Counts take ``num_samples + 1`` values only, so a map of millions of pixels needs one short table.

    Returns:
        float64 array of shape ``(num_samples + 1,)``, decreasing from 1.

    Raises:
        ConfigError: ``num_samples`` is not positive or ``probability`` lies outside (0, 1).

    >>> upper_tail(2, 0.5).tolist()
    [1.0, 0.75, 0.25]
    """
    if num_samples < 1:
        raise ConfigError("A binomial test needs at least one sample", received=num_samples)
    check_number("The probability of a binomial test", probability, "(0, 1)")
    from scipy.stats import binom  # takes most of a second to import, and a finished run has no need of it

    tail = binom.sf(np.arange(num_samples + 1) - 1, num_samples, probability)
    tail[0] = 1.0
    return tail


def minimum_samples(tau: float, level: float) -> int:
    """Smallest n for which a test can be rejected at ``level``: ``tau ** n <= level``.

    With fewer samples even a pixel that never changed its class has too large a p-value, and everything abstains.

    Args:
        tau: probability under the null hypothesis, in (0, 1).
        level: the largest p-value that is rejected, in (0, 1), for example what
            :func:`certseg.smoothing.statistics.largest_level` says.

    >>> minimum_samples(tau=0.75, level=0.001)  # 0.75 ** 24 is just above, 0.75 ** 25 below
    25
    """
    samples = max(1, math.ceil(math.log(level) / math.log(tau)))
    if _is_clearly(samples, tau, level):
        return samples
    # the rounding of the logarithms may be off by one in either direction; the table decides
    while upper_tail(samples, tau)[-1] > level:
        samples += 1
    while samples > 1 and upper_tail(samples - 1, tau)[-1] <= level:
        samples -= 1
    return samples


def _is_clearly(samples: int, tau: float, level: float) -> bool:
    """Whether ``samples`` is the smallest number with ``tau ** samples <= level`` by a margin, in the logarithm, that
    neither the rounding here nor that of the table comes near."""
    reached, before = samples * math.log(tau) - math.log(level), (samples - 1) * math.log(tau) - math.log(level)
    return reached < -1e-6 and (samples == 1 or before > 1e-6)
