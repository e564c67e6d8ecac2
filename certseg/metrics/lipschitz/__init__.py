"""What a Lipschitz constant guarantees: costs of changing pixels, and what a perturbation can do for its budget.

A network whose features (its logits, or what a last linear map makes logits of) are L-Lipschitz in the l2 norm over all
pixels and channels together turns a perturbation of norm eps into a budget (L eps)^2 of squared feature distance. Each
pixel whose class changes uses up a cost that follows from its logits alone, so that one forward pass tells how many
pixels, which IoU and which share of a class can be lost (Massena et al. 2025, arXiv 2512.06010; seed 000).
"""

from certseg.metrics.lipschitz.changes import ClassAttack, FlippableImage, class_attacks
from certseg.metrics.lipschitz.class_iou import worst_iou, worst_pooled_iou
from certseg.metrics.lipschitz.collective import (
    CollectiveCounts,
    affordable,
    allowed,
    budgets_of,
    grey_levels,
    prefix_sums,
    radius_to_change,
    share_radii,
)
from certseg.metrics.lipschitz.costs import ClassGeometry, entry_costs, flip_costs
from certseg.metrics.lipschitz.curves import ClassCurves, CostCurve
from certseg.metrics.lipschitz.false_negatives import FalseNegativeCounts, radius_for_false_negative_rate
from certseg.metrics.lipschitz.figures import SHARES, RadiusFigures, defined_mean, figures_by_radius
from certseg.metrics.lipschitz.mean_iou import worst_mean_iou
from certseg.metrics.lipschitz.mean_iou_dual import dual_bound
from certseg.metrics.lipschitz.mean_iou_split import split_bound
from certseg.metrics.lipschitz.pooled import pooled_class_iou, pooled_mean_iou

__all__ = [
    "SHARES",
    "ClassAttack",
    "ClassCurves",
    "ClassGeometry",
    "CollectiveCounts",
    "CostCurve",
    "FalseNegativeCounts",
    "FlippableImage",
    "RadiusFigures",
    "affordable",
    "allowed",
    "budgets_of",
    "class_attacks",
    "defined_mean",
    "dual_bound",
    "entry_costs",
    "figures_by_radius",
    "flip_costs",
    "grey_levels",
    "pooled_class_iou",
    "pooled_mean_iou",
    "prefix_sums",
    "radius_for_false_negative_rate",
    "radius_to_change",
    "share_radii",
    "split_bound",
    "worst_iou",
    "worst_mean_iou",
    "worst_pooled_iou",
]
