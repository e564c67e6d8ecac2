"""Figures of predictions and certificates, from per-class counts that add up over images, and what figures mean."""

from certseg.metrics import known_figures
from certseg.metrics.certified import CertifiedCounts
from certseg.metrics.confusion import ClassCounts
from certseg.metrics.figures import (
    FIGURES,
    NUMBER,
    SHARE,
    Estimator,
    Figure,
    FigureKey,
    FigureRegistry,
    Side,
    Unit,
    register,
)
from certseg.metrics.focus import ClassTally, focus_figures
from certseg.metrics.groups import GroupCounts
from certseg.metrics.labels import LabelCounts
from certseg.metrics.object_counts import OBJECTS, ObjectCounts, pixels_needed
from certseg.metrics.object_figures import ObjectTally, object_figures, objects_by_size
from certseg.metrics.object_regions import ObjectRegions
from certseg.metrics.object_settings import SIZES, ObjectSettings
from certseg.metrics.worst_case_miou import worst_case_miou
from certseg.metrics.worst_over_attacks import WorstCase, worst_pooled_miou

__all__ = [
    "FIGURES",
    "NUMBER",
    "OBJECTS",
    "SHARE",
    "SIZES",
    "CertifiedCounts",
    "ClassCounts",
    "ClassTally",
    "Estimator",
    "Figure",
    "FigureKey",
    "FigureRegistry",
    "GroupCounts",
    "LabelCounts",
    "ObjectCounts",
    "ObjectRegions",
    "ObjectSettings",
    "ObjectTally",
    "Side",
    "Unit",
    "WorstCase",
    "focus_figures",
    "known_figures",
    "object_figures",
    "objects_by_size",
    "pixels_needed",
    "register",
    "worst_case_miou",
    "worst_pooled_miou",
]
