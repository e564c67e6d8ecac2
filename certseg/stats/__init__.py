"""Exact statistics of counts: binomial tails and multiple testing on histograms."""

from certseg.stats.binomial import minimum_samples, upper_tail
from certseg.stats.multiple_testing import CORRECTIONS, rejection_threshold

__all__ = ["CORRECTIONS", "minimum_samples", "rejection_threshold", "upper_tail"]
