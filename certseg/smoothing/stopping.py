"""How many samples test the guessed classes, and which pixels they certify at which tau.

A rule draws from a :class:`certseg.smoothing.sampling.NoisySampler` and returns how many tau each pixel is certified at
and the number of samples it used: :class:`FixedTest` after a number of samples fixed in advance, :class:`AnytimeTest`
when it pays no longer to go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from certseg.compute.hardware import Stopwatch
from certseg.errors import ConfigError
from certseg.smoothing.sampling import NoisySampler
from certseg.smoothing.statistics import (
    Bets,
    e_bonferroni_threshold,
    e_holm_threshold,
    joint_thresholds,
    largest_level,
    minimum_samples,
    upper_tail,
)


@dataclass(frozen=True)
class FixedTest:
    """The binomial test after ``n`` samples, corrected for the number of pixels (Algorithm 2 of seed 001).

    Args:
        tau: probability that a certified class must exceed, in [0.5, 1), or several in rising order, which are tested
            together (:func:`certseg.smoothing.statistics.joint_thresholds`).
        alpha: error rate that the correction keeps to, in (0, 1).
        n: number of samples, at least 1.
        correction: how many tests at once are accounted for, one of
            :data:`certseg.smoothing.statistics.CORRECTIONS`.
        k: number of wrong rejections that the correction ``kfwer`` guards against, at least 1; others ignore it.
        look_every: None draws all samples. A number looks at the counts after every so many samples and stops as soon
            as no outcome of the rest could change any decision (curtailment: the same decisions from fewer samples).
    """

    tau: float | tuple[float, ...]
    alpha: float
    n: int
    correction: str
    k: int = 1
    look_every: int | None = None

    @property
    def taus(self) -> tuple[float, ...]:
        """All tau, in rising order."""
        return self.tau if isinstance(self.tau, tuple) else (self.tau,)

    def samples_needed(self, num_pixels: int) -> int:
        """Smallest n with which a pixel of an image of ``num_pixels`` can be certified at every tau.

        >>> FixedTest(tau=0.75, alpha=0.001, n=100, correction="holm").samples_needed(num_pixels=360 * 480)
        66
        """
        return minimum_samples(self.taus[-1], largest_level(num_pixels, self.alpha, self.correction, self.k))

    def certify(
        self,
        sampler: NoisySampler,
        choice: Tensor,
        first: int,
        groups: Tensor | None = None,
        watch: Stopwatch | None = None,
    ) -> tuple[Tensor, int]:
        """Test ``choice`` with samples from index ``first`` on.

        Args:
            sampler: draws the network's predictions on noisy copies of the image.
            choice: ``H x W`` int64, the class guessed at each pixel; with ``groups`` the group guessed there.
            first: index of the first sample.
            groups: ``G x K`` bool, the classes of each group, as in :meth:`NoisySampler.agreement`; None tests classes.
            watch: adds up the seconds of ``sampling`` and ``statistics``; None keeps no time.

        Returns:
            The number of tau, from the smallest on, at which each pixel is certified (``H x W`` uint8), and the number
            of samples drawn.
        """
        watch = watch or Stopwatch(choice.device)
        counts, drawn, settled = torch.zeros_like(choice, dtype=torch.int32), 0, False
        while drawn < self.n and not settled:
            step = min(self.look_every or self.n, self.n - drawn)
            with watch("sampling"):
                counts += sampler.agreement(choice, first + drawn, step, groups)
            drawn += step
            with watch("statistics"):
                settled = self._is_settled(histogram_of(counts, drawn), drawn)
        with watch("statistics"):
            return self.steps(counts), drawn

    def decide(self, counts: Tensor) -> Tensor:
        """The pixels (bool) whose hypothesis ``p <= tau`` is rejected by ``counts`` (``H x W``) out of ``n``, for the
        largest tau."""
        return self.steps(counts) == len(self.taus)

    def steps(self, counts: Tensor) -> Tensor:
        """For how many tau, from the smallest on, that hypothesis is rejected at each pixel: ``H x W`` uint8."""
        return _steps(counts, self._thresholds(histogram_of(counts, self.n)))

    def _thresholds(self, histogram: np.ndarray) -> tuple[int, ...]:
        tails = [upper_tail(self.n, tau) for tau in self.taus]
        return joint_thresholds(histogram, tails, self.alpha, self.correction, self.k)

    def _is_settled(self, histogram: np.ndarray, drawn: int) -> bool:
        """Whether the remaining samples change nothing. Every correction rejects more when counts grow, so the final
        rejections lie between those where no remaining sample agrees and those where all do; equal numbers of pixels
        in both mean equal pixels, for each tau."""
        left = self.n - drawn
        if left == 0:
            return True
        worst = np.concatenate([histogram, np.zeros(left, dtype=histogram.dtype)])
        best = np.concatenate([np.zeros(left, dtype=histogram.dtype), histogram])
        pairs = zip(self._thresholds(worst), self._thresholds(best))
        return all(worst[low:].sum() == best[high:].sum() for low, high in pairs)


@dataclass(frozen=True)
class AnytimeTest:
    """An e-process per pixel, looked at after every batch; valid at every moment
    (:mod:`certseg.smoothing.statistics.anytime`).

    It stops when every pixel is certified at every tau, when ``n`` samples are drawn, or when at no tau a number of
    further batches is expected to certify at least ``gain`` of the image per batch. However bad that forecast is, it
    costs certified pixels only, never validity.

    Args:
        tau: probability that a certified class must exceed, in [0.5, 1), or several in rising order, which are tested
            together (:mod:`certseg.smoothing.statistics.anytime`).
        alpha: family-wise error rate over all looks together, in (0, 1).
        n: largest number of samples, at least 1.
        correction: ``holm`` (the closed test of the mean wealth) or ``bonferroni``.
        look_every: number of samples between two looks.
        gain: share of the image's pixels that a further batch must be expected to certify.

    Raises:
        ConfigError: the correction is neither of the two.
    """

    tau: float | tuple[float, ...]
    alpha: float
    n: int
    correction: str
    look_every: int = 16
    gain: float = 0.001

    def __post_init__(self) -> None:
        if self.correction not in ("holm", "bonferroni"):
            raise ConfigError(
                "certifier.stopping=anytime has no such correction",
                expected="certifier.correction=holm or bonferroni",
                received=self.correction,
            )

    @property
    def taus(self) -> tuple[float, ...]:
        """All tau, in rising order."""
        return self.tau if isinstance(self.tau, tuple) else (self.tau,)

    def samples_needed(self, num_pixels: int) -> int:
        """Smallest n with which a pixel can be certified at every tau: if all agree, the mean wealth need only reach
        1 / alpha."""
        goal = np.log((num_pixels if self.correction == "bonferroni" else 1) / self.alpha)
        bets, needed = [self._bets(tau, num_pixels) for tau in self.taus], 1
        while min(bet.log_wealth(needed, np.array(needed)) for bet in bets) < goal:
            needed += 1
        return needed

    def certify(
        self,
        sampler: NoisySampler,
        choice: Tensor,
        first: int,
        groups: Tensor | None = None,
        watch: Stopwatch | None = None,
    ) -> tuple[Tensor, int]:
        """Test ``choice`` with samples from index ``first`` on, after every ``look_every`` of them.

        Args:
            sampler: draws the network's predictions on noisy copies of the image.
            choice: ``H x W`` int64, the class guessed at each pixel; with ``groups`` the group guessed there.
            first: index of the first sample.
            groups: ``G x K`` bool, the classes of each group, as in :meth:`NoisySampler.agreement`; None tests classes.
            watch: adds up the seconds of ``sampling`` and ``statistics``; None keeps no time.

        Returns:
            The number of tau, from the smallest on, at which each pixel is certified (``H x W`` uint8), and the number
            of samples drawn.
        """
        watch = watch or Stopwatch(choice.device)
        counts, drawn, pays = torch.zeros_like(choice, dtype=torch.int32), 0, True
        steps = torch.zeros_like(choice, dtype=torch.uint8)
        while drawn < self.n and pays:
            step = min(self.look_every, self.n - drawn)
            with watch("sampling"):
                counts += sampler.agreement(choice, first + drawn, step, groups)
            drawn += step
            with watch("statistics"):
                steps = torch.maximum(steps, self.steps(counts, drawn))
                pays = drawn < self.n and any(
                    self._pays(tau, histogram_of(counts[steps <= place], drawn), drawn, counts.numel())
                    for place, tau in enumerate(self.taus)
                )
        return steps, drawn

    def decide(self, counts: Tensor, drawn: int) -> Tensor:
        """The pixels (bool) rejected for the largest tau by ``counts`` (``H x W``) out of ``drawn``, at this look
        alone."""
        return self.steps(counts, drawn) == len(self.taus)

    def steps(self, counts: Tensor, drawn: int) -> Tensor:
        """For how many tau, from the smallest on, each pixel is rejected at this look alone: ``H x W`` uint8."""
        histogram = histogram_of(counts, drawn)
        every = np.stack([self._bets(tau, counts.numel()).log_wealth(drawn, np.arange(drawn + 1)) for tau in self.taus])
        if self.correction == "holm":
            least = every.min(axis=0)
            found = [e_holm_threshold(histogram, wealth, self.alpha, least) for wealth in every]
        else:
            found = [e_bonferroni_threshold(histogram, wealth, self.alpha) for wealth in every]
        return _steps(counts, np.maximum.accumulate(found).tolist())

    def _bets(self, tau: float, num_pixels: int) -> Bets:
        return Bets.planned(tau, self.n, num_pixels, self.alpha)

    def _pays(self, tau: float, undecided: np.ndarray, drawn: int, num_pixels: int) -> bool:
        """Whether some number of further batches is expected to certify ``gain`` of the image per batch at ``tau``. A
        pixel's number of further agreements is forecast as beta-binomial with Jeffreys' prior, here by its normal
        limit."""
        number = undecided.sum()
        if not number:
            return False
        later = np.minimum(drawn + self.look_every * np.arange(1, -(-(self.n - drawn) // self.look_every) + 1), self.n)
        needed = self._needed(tau, later, num_pixels if self.correction == "bonferroni" else number, num_pixels)
        seen = np.flatnonzero(undecided)[:, None]
        share, left = (seen + 0.5) / (drawn + 1.0), later - drawn
        spread = np.sqrt(left * share * (1.0 - share) * (1.0 + left / (drawn + 1.0)))
        reached = ndtr((seen + left * share - needed + 0.5) / spread) * (needed <= later)
        certified = (undecided[seen[:, 0]][:, None] * reached).sum(axis=0)
        return bool((certified / np.arange(1, len(later) + 1)).max() >= self.gain * num_pixels)

    def _needed(self, tau: float, samples: np.ndarray, number: int, num_pixels: int) -> np.ndarray:
        """The smallest count whose wealth reaches ``number / alpha`` after each of ``samples``, one more than
        ``samples`` where none does."""
        bets, goal = self._bets(tau, num_pixels), np.log(number / self.alpha)
        low, high = np.zeros_like(samples), samples + 1
        while (low < high).any():
            middle = (low + high) // 2
            enough = bets.log_wealth(samples, np.minimum(middle, samples)) >= goal
            low, high = np.where(enough, low, np.minimum(middle + 1, high)), np.where(enough, middle, high)
        return low


def _steps(counts: Tensor, thresholds: Sequence[int]) -> Tensor:
    """How many of the thresholds, which do not fall, each count reaches."""
    wide = counts.to(torch.int32)  # a threshold may be one more than the largest number that counts are kept in
    return torch.bucketize(wide, wide.new_tensor(thresholds), right=True).to(torch.uint8)


def check_power(n: int, needed: int, num_pixels: int, *, tau: float, alpha: float) -> None:
    """Raise :class:`ConfigError` if ``n`` samples, fewer than ``needed``, cannot certify a pixel of an image, or if the
    radius is 0."""
    if tau == 0.5:
        raise ConfigError(
            "certifier.tau=0.5 certifies the radius 0, which is no certificate",
            remedy="Choose tau above 0.5, for example 0.75",
        )
    if n < needed:
        raise ConfigError(
            f"certifier.n={n} cannot certify a single pixel of an image of {num_pixels} pixels at "
            f"tau={tau:g}, alpha={alpha:g}",
            expected=f"n >= {needed}",
            received=n,
            remedy=f"Set certifier.n={needed} or more, or lower certifier.tau",
        )


def histogram_of(counts: Tensor, n: int) -> np.ndarray:
    """How many pixels have each count ``0 .. n``: ``(n + 1,)`` int64.

    >>> histogram_of(torch.tensor([[0, 2], [2, 3]]), n=3).tolist()
    [1, 0, 2, 1]
    """
    return torch.bincount(counts.flatten(), minlength=n + 1).cpu().numpy().astype(np.int64)
