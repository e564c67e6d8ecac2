"""The radius within which a perturbation leaves enough pixels of an object as they should be."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from certseg.lipschitz.worst_case.collective import radius_to_change


def object_radii(
    costs: Tensor, right: Tensor, regions: Tensor, areas: np.ndarray, share: float, constant: float
) -> list[float]:
    """For each of M objects the radius below which at least a share q of its pixels stays right.

    An object of n pixels is lost once more than ``(1 - q) n`` of them are wrong, that is at least
    ``floor((1 - q) n) + 1``. Those that are wrong without an attacker cost nothing; for the others the cheapest costs
    have to be paid together. Claim: below the radius at which the budget pays for them, no perturbation loses the
    object; nothing that uses only costs and constant says more. The claims of all objects hold at once. Pixels that one
    perturbation takes from an object are counted together, so that the radius is never below the largest at which the
    pixels that are certified each for itself are enough for the object.

    Args:
        costs: ``H x W`` float64, what it costs to change the class of each pixel
            (:func:`certseg.lipschitz.worst_case.flip_costs`).
        right: ``H x W`` bool, the pixels predicted as labelled.
        regions: ``H x W`` int64, the object of each pixel from 0 to M - 1, negative where there is none.
        areas: ``(M,)`` int64, the number of pixels of each object.
        share: q in (0, 1], read as the decimal number it prints as.
        constant: l2 Lipschitz constant of the features.

    Returns:
        l2 radii on the [0, 1] image scale, rounded down; 0 for an object that is lost without an attacker, infinite for
        one that no perturbation can lose.
    """
    costs, right, regions = (part.flatten().cpu() for part in (costs, right, regions))
    chosen = torch.nonzero(right & (regions >= 0))[:, 0]
    order = chosen[torch.argsort(regions[chosen], stable=True)]
    hits = torch.bincount(regions[order], minlength=len(areas))
    spare = 1 - Fraction(str(float(share)))
    radii = []
    for own, area in zip(torch.split(costs[order], hits.tolist()), areas.tolist(), strict=True):
        needed = math.floor(spare * area) + 1 - (area - len(own))
        radii.append(radius_to_change(own, needed, constant))
    return radii
