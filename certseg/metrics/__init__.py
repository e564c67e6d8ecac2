"""Figures of predictions and certificates, from per-class counts that add up over images."""

from certseg.metrics.certified import CertifiedCounts
from certseg.metrics.confusion import ClassCounts
from certseg.metrics.groups import GroupCounts
from certseg.metrics.worst_case_miou import worst_case_miou
from certseg.metrics.worst_over_attacks import WorstCase, worst_pooled_miou

__all__ = ["CertifiedCounts", "ClassCounts", "GroupCounts", "WorstCase", "worst_case_miou", "worst_pooled_miou"]
