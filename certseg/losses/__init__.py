"""Losses: what attacks maximise and training minimises."""

from certseg.losses.adversarial import (
    COMPARED_BY,
    LOSSES,
    Pixels,
    balanced_cross_entropy,
    class_balanced_masked_cross_entropy,
    cosine_cross_entropy,
    cross_entropy,
    decide,
    jensen_shannon,
    masked_cross_entropy,
    masked_spherical,
    mean_over_labelled,
    multi_margin,
    number_labelled,
)

__all__ = [
    "COMPARED_BY",
    "LOSSES",
    "Pixels",
    "balanced_cross_entropy",
    "class_balanced_masked_cross_entropy",
    "cosine_cross_entropy",
    "cross_entropy",
    "decide",
    "jensen_shannon",
    "masked_cross_entropy",
    "masked_spherical",
    "mean_over_labelled",
    "multi_margin",
    "number_labelled",
]
