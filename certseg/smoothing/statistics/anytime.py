"""Tests that may be looked at after every sample: e-processes and their closed test.

For one pixel let X_1, X_2, ... be 1 where a fresh noisy copy shows the guessed class, independent with probability p.
H0: p <= tau. For every q in (tau, 1] the likelihood ratio

    E_t(q) = (q / tau)^S_t * ((1 - q) / (1 - tau))^(t - S_t),   S_t = X_1 + ... + X_t,

is a nonnegative supermartingale under H0: one factor has the mean ``p q / tau + (1 - p)(1 - q)/(1 - tau)``, which grows
with p and is 1 at p = tau. (It is the wealth of a gambler who bets the share ``(q - tau) / (1 - tau)`` at fair odds.)
So is any mixture over q fixed in advance, and a mixture depends on (t, S_t) alone: the wealth of millions of pixels
is a table of t + 1 numbers.

Claim (:func:`e_holm_threshold`). Reject pixel i as soon as at some time every set of pixels that contains i has a mean
wealth of at least 1 / alpha, and never take a rejection back. Then the probability that any true null hypothesis is
ever rejected is at most alpha, whatever the dependence between pixels and however the time to stop is chosen.

Proof. All pixels see the same noisy copies; given the past, a true null's next factor has a mean of at most 1 because
the next copy is fresh. Hence the mean wealth M_t of the set of *all true nulls* is a nonnegative supermartingale that
starts at 1, in the filtration of all pixels together. A true null i is rejected at time t only if every set that
contains i has a mean of at least 1 / alpha at t, this one among them. By Ville's inequality
P[exists t: M_t >= 1 / alpha] <= alpha. []

Several tau at once. Let tau_1 < ... < tau_T, and let every pixel have an e-process of its own for each. A pixel's null
hypotheses ``p <= tau_t`` are true from some t* on. Let W_j be the smallest of the T wealths of pixel j. Reject a pixel
at tau_t as soon as, for every tau_s <= tau_t, its wealth for tau_s and the W_j of any set of further pixels have a mean
of at least 1 / alpha. Then all rejections together, of all pixels and all tau, hold with probability at least
1 - alpha. For M_t, the mean over the pixels with a true null hypothesis of the wealth for their t*, is a
supermartingale as before; a wrong rejection of pixel i at any tau comes with one at its tau of t*, and there the W_j of
the other pixels of that set are no more than their wealths for t*, so that M_t >= 1 / alpha.

(Vovk and Wang 2021, "E-values: calibration, combination and applications", closed testing with the arithmetic mean;
Waudby-Smith and Ramdas 2024 for betting. It rejects at least as much as Holm's procedure applied to 1 / wealth.)
"""

from __future__ import annotations

import bisect
import functools
from dataclasses import dataclass

import numpy as np

from certseg.checks import check_number
from certseg.errors import ConfigError

_LARGEST_LOG = 600.0  # wealth is cut off here, far above any number of pixels / alpha; that is conservative


@dataclass(frozen=True)
class Bets:
    """A mixture of likelihood ratios, fixed before the first sample.

    Args:
        tau: probability under the null hypothesis, in (0, 1).
        points: the q of each likelihood ratio, in (tau, 1].
        weights: the positive weight of each likelihood ratio; they are divided by their sum.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    tau: float
    points: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        check_number("The tau of a test", self.tau, "(0, 1)", what="a probability")
        if not self.points or len(self.points) != len(self.weights):
            raise ConfigError("Bets need one weight for each point", received=f"{self.points}, {self.weights}")
        if not all(self.tau < q <= 1.0 for q in self.points) or not all(weight > 0 for weight in self.weights):
            raise ConfigError(f"Bets need points in ({self.tau:g}, 1] and positive weights", received=self.points)

    @classmethod
    @functools.cache
    def planned(cls, tau: float, samples: int, num_tests: int, alpha: float) -> Bets:
        """Bets on the shares of agreement that decide after n, n/2, n/4, ... samples, n = ``samples``.

        A share q lets the wealth of its own bet grow to ``num_tests / alpha`` in t samples if
        ``t * KL(q || tau) = log(num_tests / alpha)``. The q of t = n is the smallest share worth betting on and has
        three times the weight of the others: pixels near it have no later chance. Where t is too small for any share,
        q = 1 ends the list. Every choice is valid; this one loses little against the test of exactly n samples (for 500
        samples of 360 x 480 pixels at tau = .75, alpha = .001 a pixel needs 432 agreements where that test needs 428).
        """
        goal = np.log(num_tests / alpha)
        points: list[float] = []
        left = float(samples)
        while not points or points[-1] < 1.0:
            points.append(_share_of(tau, goal / left))
            left /= 2.0
        return cls(tau, tuple(points), (3.0, *[1.0] * (len(points) - 1)))

    def log_wealth(self, samples: int | np.ndarray, successes: np.ndarray) -> np.ndarray:
        """Logarithm of the wealth after ``samples`` samples of which ``successes`` showed the guessed class.

        Args:
            samples: number of samples, an integer or an array that broadcasts with ``successes``.
            successes: integers in ``0 .. samples``.

        Returns:
            float64 array of the shape of ``successes``, growing with it, at most 600.
        """
        points, weights = np.array(self.points), np.array(self.weights)
        won = np.asarray(successes, dtype=np.float64)[..., None]
        lost = np.asarray(samples, dtype=np.float64)[..., None] - won
        with np.errstate(divide="ignore", invalid="ignore"):
            loss = np.where(lost > 0, lost * np.log((1 - points) / (1 - self.tau)), 0.0)
            terms = np.log(weights / weights.sum()) + won * np.log(points / self.tau) + loss
            top = terms.max(axis=-1, keepdims=True)
            summed = (top + np.log(np.exp(terms - top).sum(axis=-1, keepdims=True)))[..., 0]
        return np.where(np.isneginf(top[..., 0]), -np.inf, np.minimum(summed, _LARGEST_LOG))


def _share_of(tau: float, divergence: float) -> float:
    """The q in (tau, 1] with ``KL(q || tau) = divergence`` (Bernoulli), 1 where there is none."""
    if divergence >= -np.log(tau):
        return 1.0
    from scipy.optimize import brentq  # takes a while to import

    def excess(q: float) -> float:
        return float(q * np.log(q / tau) + (1 - q) * np.log((1 - q) / (1 - tau)) - divergence)

    return float(brentq(excess, tau, 1.0 - 1e-15))


def e_holm_threshold(
    histogram: np.ndarray, log_values: np.ndarray, alpha: float, least: np.ndarray | None = None
) -> int:
    """Smallest count whose pixels are rejected now; every larger count is rejected too.

    For a pixel of value e the set with the smallest mean that contains it consists of it and of all pixels up to some
    count, so only such sets are looked at. (The pixel itself may be among these and count twice: that lowers a mean
    only where another value than its own stands for it, and is conservative then.) A larger count is rejected with a
    smaller one, for its own value is larger and its sets are the same. So the threshold is found by bisection, in
    O(n log n) after the histogram.

    Args:
        histogram: ``(t + 1,)`` integers, number of pixels with each count.
        log_values: ``(t + 1,)`` logarithm of the wealth at each count, growing (:meth:`Bets.log_wealth`).
        alpha: family-wise error rate over all times, in (0, 1).
        least: ``(t + 1,)`` logarithm of the wealth with which a pixel counts in the sets of others, growing, where
            several tau are tested together: the smallest of all of them; None for ``log_values``.

    Returns:
        A count in ``0 .. t``, or ``t + 1`` where nothing is rejected.

    Raises:
        ConfigError: alpha outside (0, 1) or arrays that do not fit each other.
    """
    check_number("alpha", alpha, "(0, 1)")
    if histogram.shape != log_values.shape or histogram.ndim != 1:
        raise ConfigError(
            "histogram and log_values must be one-dimensional and of equal length",
            received=f"shapes {histogram.shape} and {log_values.shape}",
        )
    values = np.exp(log_values)
    others = values if least is None else np.exp(least)
    number = np.concatenate([[0], np.cumsum(histogram)]).astype(np.float64)  # pixels of smaller counts
    total = np.concatenate([[0.0], np.cumsum(histogram * others)])

    def is_rejected(count: int) -> bool:
        means = (values[count] + total) / (1.0 + number)
        return bool(means.min() >= 1.0 / alpha)

    counts = np.flatnonzero(histogram)
    first = bisect.bisect_left(counts, True, key=is_rejected)
    return int(counts[first]) if first < len(counts) else len(histogram)


def e_bonferroni_threshold(histogram: np.ndarray, log_values: np.ndarray, alpha: float) -> int:
    """Smallest count whose pixels are rejected now by the plain union bound: where the wealth reaches N / alpha.

    Args:
        histogram: ``(t + 1,)`` integers, number of pixels with each count; N is their sum.
        log_values: ``(t + 1,)`` logarithm of the wealth at each count, growing (:meth:`Bets.log_wealth`).
        alpha: family-wise error rate over all times, in (0, 1).

    Returns:
        A count in ``0 .. t``, or ``t + 1`` where nothing is rejected.

    Raises:
        ConfigError: alpha outside (0, 1).
    """
    check_number("alpha", alpha, "(0, 1)")
    passing = np.flatnonzero((log_values >= np.log(histogram.sum() / alpha)) & (histogram > 0))
    return int(passing[0]) if len(passing) else len(histogram)
