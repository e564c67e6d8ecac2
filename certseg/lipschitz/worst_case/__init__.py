"""What a Lipschitz constant guarantees: costs of changing pixels, and what a perturbation can do for its budget.

A network whose features (its logits, or what a last linear map makes logits of) are L-Lipschitz in the l2 norm over all
pixels and channels together turns a perturbation of norm eps into a budget (L eps)^2 of squared feature distance. Each
pixel whose class changes uses up a cost that follows from its logits alone, so that one forward pass tells how many
pixels, which IoU and which share of a class can be lost (Massena et al. 2025, arXiv 2512.06010; seed 000).

``costs`` has the cost of a pixel; ``collective`` how many pixels a budget pays for, ``false_negatives`` how many of one
class; ``objects_kept`` when an object is lost; ``changes`` what can be done to each class, from which ``class_iou`` and
``mean_iou`` bound the IoU; ``curves`` keep the costs of an image in its row, and ``pooled`` and ``by_radius`` make the
figures of a data set from rows.
"""

from certseg.lipschitz.worst_case.by_radius import ROW, SHARES, RadiusFigures, defined_mean, figures_by_radius
from certseg.lipschitz.worst_case.changes import ClassAttack, FlippableImage, class_attacks
from certseg.lipschitz.worst_case.class_iou import worst_iou, worst_pooled_iou
from certseg.lipschitz.worst_case.collective import (
    CollectiveCounts,
    affordable,
    allowed,
    budgets_of,
    grey_levels,
    prefix_sums,
    radius_to_change,
    share_radii,
)
from certseg.lipschitz.worst_case.costs import ClassGeometry, entry_costs, flip_costs
from certseg.lipschitz.worst_case.curves import ClassCurves, CostCurve
from certseg.lipschitz.worst_case.false_negatives import FalseNegativeCounts, radius_for_false_negative_rate
from certseg.lipschitz.worst_case.mean_iou import worst_mean_iou
from certseg.lipschitz.worst_case.mean_iou_dual import dual_bound
from certseg.lipschitz.worst_case.mean_iou_split import split_bound
from certseg.lipschitz.worst_case.objects_kept import object_radii
from certseg.lipschitz.worst_case.pooled import pooled_class_iou, pooled_mean_iou

__all__ = [
    "ROW",
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
    "object_radii",
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
