"""The mean IoU that one perturbation must leave: the best of three bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from certseg.lipschitz.worst_case.changes import ClassAttack, FlippableImage
from certseg.lipschitz.worst_case.class_iou import worst_iou
from certseg.lipschitz.worst_case.mean_iou_dual import dual_bound
from certseg.lipschitz.worst_case.mean_iou_split import split_bound


def worst_mean_iou(image: FlippableImage, attacks: Sequence[ClassAttack], budget: float) -> float:
    """A lower bound on the mean IoU, over the classes labelled in an image, under one perturbation.

    The best of the mean of each class's own worst case (as if each had the whole budget), the dual bound
    (:mod:`certseg.lipschitz.worst_case.mean_iou_dual`) and the shared-out budget
    (:mod:`certseg.lipschitz.worst_case.mean_iou_split`).

    Args:
        image: the image, with what it costs to change each of its pixels.
        attacks: what an attack on each of its classes costs (:func:`certseg.lipschitz.worst_case.class_attacks`).
        budget: squared feature distance that the attacker has, up to the limit of the attacks.

    Returns:
        A value in [0, 1]; NaN where no pixel is labelled.
    """
    present = [attack for attack in attacks if attack.target > 0]
    if not present:
        return math.nan
    alone = sum(worst_iou(attack, budget) for attack in present)
    if alone == sum(attack.hit / attack.union for attack in present):
        return alone / len(present)  # nothing can be changed
    return max(alone, dual_bound([image], [attacks], budget), split_bound(attacks, budget)) / len(present)
