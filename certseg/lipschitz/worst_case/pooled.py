"""The IoU of each class and the mean IoU of a data set, from the cost curves in its rows: one perturbation of a given
size for each image.

Costs are those of curves, and groups of pixels may be changed in part. Both only help the attacker, so what is returned
holds for every attack on the images, and is lower than the optimum by what the curves leave out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from certseg.lipschitz.worst_case.curves import KINDS, ClassCurves
from certseg.lipschitz.worst_case.mean_iou_dual import best_multipliers
from certseg.lipschitz.worst_case.regions import SLOPES, Region

_MORE = 1.0 + 1e-9  # of a budget, for the rounding of sums
_SHARE = 0.8  # of the cost of breaking a pixel that its class is charged; the rest is charged to the class entered


@dataclass(frozen=True)
class _Groups:
    """M groups of changes of several images.

    Args:
        image: ``(M,)`` int64, the image of each group.
        kind: ``(M,)`` int64, the kind of its changes, a position in :data:`KINDS`.
        owner: ``(M,)`` int64, the class that is attacked.
        counts: ``(M,)`` float64, the number of its changes.
        costs: ``(M,)`` float64, the cost of each of them.
    """

    image: np.ndarray
    kind: np.ndarray
    owner: np.ndarray
    counts: np.ndarray
    costs: np.ndarray

    @classmethod
    def of(cls, images: Sequence[Sequence[ClassCurves]], classes: Sequence[int]) -> _Groups:
        """The groups of the given classes; ``owner`` is a position among these."""
        found = [
            (index, kind, owner, getattr(curves[k], name))
            for index, curves in enumerate(images)
            for owner, k in enumerate(classes)
            for kind, name in enumerate(KINDS)
        ]
        sizes = [len(curve.counts) for *_, curve in found]
        image, kind, owner = (np.repeat(np.asarray([part[i] for part in found]), sizes) for i in range(3))
        empty = np.zeros(0)
        counts = np.concatenate([empty, *(curve.counts for *_, curve in found)])
        return cls(image, kind, owner, counts, np.concatenate([empty, *(curve.costs for *_, curve in found)]))

    def most(self, values: np.ndarray, charges: np.ndarray, budgets: np.ndarray) -> np.ndarray:
        """How many of each group, ``(M,)``, to take for the largest sum of values: in each image the best value for its
        charge first, the last group in part.

        Args:
            values: ``(M,)``, the value of one change of each group, not negative.
            charges: ``(M,)``, what one change of each group uses up of its image's budget, not negative.
            budgets: what each image may spend; 0 takes nothing.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(values > 0, charges / values, np.inf)
        order = np.argsort(ratio)
        image = self.image.astype(np.int16 if len(budgets) < 1 << 15 else np.int64)  # few bits sort in linear time
        order = order[np.argsort(image[order], kind="stable")]
        part, charge = self.counts[order], charges[order]
        left = budgets[self.image[order]] * _MORE - self._spent_before(part * charge)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(charge > 0, left / charge, np.where(left >= 0, np.inf, 0.0))
        taken = np.empty_like(part)
        taken[order] = np.where((budgets[self.image[order]] > 0) & (values[order] > 0), np.clip(share, 0.0, part), 0.0)
        return taken

    @functools.cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """The image of each group when they are sorted by image, and its place there."""
        sizes = np.bincount(self.image)
        row = np.repeat(np.arange(len(sizes)), sizes)
        return row, np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)

    def _spent_before(self, amounts: np.ndarray) -> np.ndarray:
        """For each of the ``amounts`` ``(M,)``, which are sorted by image, the sum of those before it in its image.

        Every image is summed up on its own, from its first amount on: what is spent where a small budget ends must not
        be the difference of large sums.
        """
        row, place = self._places
        table = np.zeros((int(row.max(initial=0)) + 1, int(place.max(initial=0)) + 2))
        table[row, place + 1] = amounts
        before: np.ndarray = table.cumsum(axis=1)[row, place]
        return before


def pooled_class_iou(images: Sequence[Sequence[ClassCurves]], k: int, budgets: Sequence[float]) -> float:
    """The lowest IoU of class ``k`` pooled over images, each attacked within its budget.

    Dinkelbach's iteration (:func:`certseg.lipschitz.worst_case.worst_pooled_iou`). At the last value v the least
    (t - m) - v (U + n) is F; then no ratio is below v + F / U.

    Args:
        images: for each image the cost curves of all classes.
        k: the class to attack.
        budgets: for each image the squared feature distance that the attacker has.

    Returns:
        A value in [0, 1]; NaN if in no image a pixel is labelled or predicted as the class, or can be made to be
        predicted so.
    """
    groups, allowance = _Groups.of(images, [k]), np.asarray(budgets, dtype=np.float64)
    hit, union = _totals(images, k)
    if hit == 0:
        can_enter = union > 0 or bool(groups.most(np.ones_like(groups.costs), groups.costs, allowance).sum() > 0)
        return 0.0 if can_enter else math.nan
    value = hit / union
    while True:
        worth = np.where(groups.kind == 0, 1.0, value)
        taken = groups.most(worth, groups.costs, allowance)
        broken, entered = float(taken[groups.kind == 0].sum()), float(taken[groups.kind > 0].sum())
        margin = (hit - broken) - value * (union + entered)
        if margin > -1e-6:
            return max(value + min(margin, 0.0) / union - 1e-12, 0.0)
        value = (hit - broken) / (union + entered)
        if value <= 0.0:
            return 0.0


def pooled_mean_iou(images: Sequence[Sequence[ClassCurves]], budgets: Sequence[float]) -> float:
    """A lower bound on the mean IoU pooled over images, over the classes labelled in any, each image attacked within
    its budget.

    The better of the mean of each class's own worst case, and the dual of
    :mod:`certseg.lipschitz.worst_case.mean_iou_dual` with the budget of each image shared out among classes as in
    :mod:`certseg.lipschitz.worst_case.mean_iou_split`: breaking a pixel is charged a share of its cost, entering by a
    correct pixel the rest, and then all changes are independent.

    Args:
        images: for each image the cost curves of all classes.
        budgets: for each image the squared feature distance that the attacker has.

    Returns:
        A value in [0, 1]; NaN where no pixel is labelled.
    """
    present = [k for k in range(len(images[0])) if sum(curves[k].target for curves in images)] if images else []
    if not present:
        return math.nan
    alone = sum(pooled_class_iou(images, k, budgets) for k in present)
    active = [k for k in present if _totals(images, k)[0] > 0]
    if not active or not np.any(np.asarray(budgets) > 0):
        return alone / len(present)
    together = _shared_dual(images, active, np.asarray(budgets, dtype=np.float64))
    return max(alone, together) / len(present)


def _shared_dual(images: Sequence[Sequence[ClassCurves]], active: Sequence[int], budgets: np.ndarray) -> float:
    groups, number = _Groups.of(images, active), len(active)
    charges = groups.costs * np.asarray([_SHARE, 1.0 - _SHARE, 1.0])[groups.kind]
    place = np.where(groups.kind == 0, groups.owner, number + groups.owner)

    def knapsacks(multipliers: np.ndarray) -> tuple[float, np.ndarray]:
        taken = groups.most(multipliers[place], charges, budgets)
        moved = np.bincount(place, taken, 2 * number)
        return float(moved @ multipliers), moved

    regions = [_region(images, k, budgets) for k in active]
    best = best_multipliers(regions, knapsacks)
    least: float = sum(region.minimum(s, r)[0] for region, s, r in zip(regions, *np.split(best, 2), strict=True))
    taken = knapsacks(best)[0]
    return least - taken - 1e-9 * (1.0 + abs(least) + taken)


def _region(images: Sequence[Sequence[ClassCurves]], k: int, budgets: np.ndarray) -> Region:
    groups = _Groups.of(images, [k])
    hit, union = _totals(images, k)
    breaks = groups.kind == 0
    worths = [np.where(breaks, 1.0, 0.0), np.where(breaks, 0.0, 1.0), *(np.where(breaks, 1.0, v) for v in SLOPES)]
    reach = [float((groups.most(worth, groups.costs, budgets) * worth).sum()) * _MORE for worth in worths]
    return Region.below(hit, union, sum(curves[k].wrong_as for curves in images), (reach[0], reach[1]), reach[2:])


def _totals(images: Sequence[Sequence[ClassCurves]], k: int) -> tuple[int, int]:
    """True positives and union of class ``k`` over all images."""
    return sum(curves[k].hit for curves in images), sum(curves[k].target + curves[k].wrong_as for curves in images)
