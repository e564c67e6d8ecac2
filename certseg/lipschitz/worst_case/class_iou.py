"""The lowest intersection over union of one class that one perturbation can reach, exactly for the costs given.

With t true positives and a union of U, m broken and n entered pixels the class has IoU (t - m) / (U + n); the feasible
pairs are those on or below a frontier (:meth:`certseg.lipschitz.worst_case.ClassAttack.frontier`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from certseg.lipschitz.worst_case.changes import ClassAttack


def worst_iou(attack: ClassAttack, budget: float) -> float:
    """The lowest IoU of a class in one image under one perturbation, exact given the costs: for each m the largest
    feasible n is the worst.

    Args:
        attack: what an attack on the class costs in this image.
        budget: squared feature distance that the attacker has, up to the limit of the attack.

    Returns:
        A value in [0, 1]; NaN if no pixel is labelled or predicted as the class, or can be made to be predicted so.
    """
    broken, entered = attack.frontier(budget)
    union = attack.union + entered
    if int(union.max()) == 0:
        return math.nan
    return float(((attack.hit - broken).double() / union.clamp_min(1)).min())


def worst_pooled_iou(attacks: Sequence[ClassAttack], budget: float) -> float:
    """The lowest IoU of one class pooled over images, with one perturbation for each image, exact given the costs.

    The ratio sum (t - m) / sum (U + n) reaches v or less for some attack exactly if the sum over images of the least
    (t - m) - v (U + n) on the frontier is at most 0. Dinkelbach's iteration: minimise at v, set v to the ratio reached,
    until it no longer falls. Images without the class count, there t is 0. (Minimising each image's own ratio and
    adding up gives no bound.)

    Args:
        attacks: for each image what an attack on the class costs there.
        budget: squared feature distance that the attacker has in each image, up to the limit of the attacks.

    Returns:
        A value in [0, 1]; NaN if in no image a pixel is labelled or predicted as the class, or can be made to be
        predicted so.
    """
    frontiers = [attack.frontier(budget) for attack in attacks]
    value = math.inf
    while True:
        hit = union = 0
        for attack, (broken, entered) in zip(attacks, frontiers, strict=True):
            best = int((broken + min(value, 1.0) * entered).argmax())
            hit += attack.hit - int(broken[best])
            union += attack.union + int(entered[best])
        if union == 0:
            return math.nan
        if hit / union >= value:
            return value
        value = hit / union
