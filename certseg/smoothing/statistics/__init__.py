"""Exact statistics of counts: binomial tails, confidence bounds, multiple testing on histograms, and e-processes."""

from certseg.smoothing.statistics.anytime import Bets, e_bonferroni_threshold, e_holm_threshold
from certseg.smoothing.statistics.binomial import minimum_samples, upper_tail
from certseg.smoothing.statistics.confidence import clopper_pearson_lower
from certseg.smoothing.statistics.multiple_testing import (
    CORRECTIONS,
    check_correction,
    joint_thresholds,
    largest_level,
    rejection_threshold,
)
from certseg.smoothing.statistics.sign_test import holm, sign_test

__all__ = [
    "CORRECTIONS",
    "Bets",
    "check_correction",
    "clopper_pearson_lower",
    "e_bonferroni_threshold",
    "e_holm_threshold",
    "holm",
    "joint_thresholds",
    "largest_level",
    "minimum_samples",
    "rejection_threshold",
    "sign_test",
    "upper_tail",
]
