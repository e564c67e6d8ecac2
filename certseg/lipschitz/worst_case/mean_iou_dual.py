"""The mean IoU that one perturbation must leave, by Lagrangian duality: one pixel, one cost, both effects.

A labelled pixel i (label g, predicted p) that is moved to class j costs c_ij once. If it was correct, g loses it from
its intersection (m_g + 1) and j gains it in its union (n_j + 1); if it was wrong, p loses it from its union (n_p - 1).
Class k then has f_k(m, n) = (t_k - m_k) / (U_k + n_k).

Claim. For any s_k, r_k >= 0 and, for each image, any price lam >= 0, every attack has

    sum_k f_k >= sum_k min over R_k of [f_k(m, n) + s_k m + r_k n]
                 - sum over images {lam B^2 + sum_i max_j (s_g [i correct] + r_j - r_p [i wrong] - lam c_ij)_+}

where R_k holds every (m_k, n_k) that an attack can reach, and moves that only mend an error may be left out of c.
Proof. Undoing a move into the labelled class raises no IoU, so let the attack have none, and m, n be its counts.
sum f = sum [f + s m + r n] - (s . m + r . n). The first sum is not below its minimum over R. The second is the sum over
moved pixels of their gains and for each image at most lam B^2 + sum (gain - lam c), for its costs add up to at most
B^2. []

R_k is the region below the frontier of class k attacked on its own, with n down to minus the pixels wrongly predicted
as k. Any multipliers give a bound. Good ones come from cutting planes: every minimum and every knapsack met is a linear
piece of the concave dual, and a small linear program over the pieces gives the next multipliers. That is done on a
sample of the pixels; one pass over all pixels then makes the bound exact for the multipliers found.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from certseg.lipschitz.worst_case.changes import ClassAttack, FlippableImage
from certseg.lipschitz.worst_case.knapsack import Gains, SampledChanges, cheapest_price, exact_gain
from certseg.lipschitz.worst_case.regions import Region

_SAMPLE = 12_000  # pixels, of all images
_PROGRAMS = 40
_ENOUGH = 5e-5  # of a class's IoU, on average
_ROUNDING = 1e-9  # of sums of float64 products, far above what they are off


def dual_bound(images: Sequence[FlippableImage], attacks: Sequence[Sequence[ClassAttack]], budget: float) -> float:
    """A lower bound on the sum over labelled classes of the IoU pooled over images, each attacked within ``budget``.

    Args:
        images: the images that the IoU is pooled over; one alone gives the bound for that image.
        attacks: for each image what an attack on each class costs (:func:`certseg.lipschitz.worst_case.class_attacks`).
        budget: squared feature distance that the attacker has in each image, up to the limit of the attacks.
    """
    by_class = list(zip(*attacks, strict=True))
    hits = np.asarray([sum(attack.hit for attack in part) for part in by_class])
    active = np.flatnonzero(hits > 0)  # a class without true positives has IoU 0 whatever happens
    if len(active) == 0 or budget <= 0:
        unions = [sum(attack.union for attack in by_class[k]) for k in active]
        return float(sum(hit / union for hit, union in zip(hits[active], unions, strict=True)))
    regions = [Region.of(by_class[k], budget) for k in active]
    size = max(500, _SAMPLE // len(images))
    sample = _Sample([SampledChanges.of(image, budget, size) for image in images], len(hits), active)
    multipliers = best_multipliers(regions, sample)
    gains = sample.gains(multipliers)
    least: float = sum(region.minimum(s, r)[0] for region, s, r in zip(regions, *np.split(multipliers, 2), strict=True))
    taken = sum(exact_gain(image, gains, budget, price) for image, price in zip(images, sample.prices, strict=True))
    return least - taken - _ROUNDING * (1.0 + abs(least) + abs(taken))


class _Sample:
    """The knapsacks of all images over their sampled changes, as a function of the multipliers of the active classes.

    ``prices`` are those of the last call.
    """

    def __init__(self, parts: Sequence[SampledChanges], num_classes: int, active: np.ndarray) -> None:
        self._parts, self._number, self._active = parts, num_classes, active
        self.prices = [1.0] * len(parts)

    def gains(self, multipliers: np.ndarray) -> Gains:
        """The gains of all classes from the multipliers s and r of the A active ones, ``(2A,)``; 0 for the others."""
        spread = np.zeros((2, self._number))
        spread[:, self._active] = multipliers.reshape(2, -1)
        return Gains(*spread)

    def __call__(self, multipliers: np.ndarray) -> tuple[float, np.ndarray]:
        """The sum of knapsack bounds, and ``(2A,)`` pixels broken and entered by feasible moves: their product with
        any other multipliers is at most the sum there."""
        gains = self.gains(multipliers)
        total, moved = 0.0, np.zeros((2, self._number))
        for index, part in enumerate(self._parts):
            value, price = cheapest_price(functools.partial(part.value_and_slope, gains), self.prices[index])
            _, slope, broken, entered = part.best(gains, price)
            spent = part.budget - slope
            feasible = min(1.0, part.budget / spent) if spent > 0 else 1.0
            moved += feasible * np.stack([broken, entered])
            total += value
            self.prices[index] = price
        return total, moved[:, self._active].flatten()


def best_multipliers(
    regions: Sequence[Region], knapsacks: Callable[[np.ndarray], tuple[float, np.ndarray]]
) -> np.ndarray:
    """Multipliers that nearly maximise the sum of the regions' minima less the knapsacks: cutting planes within a box
    around the best ones so far.

    Args:
        regions: the region of each of the A active classes.
        knapsacks: a function of the multipliers s and r, ``(2A,)`` not negative. It returns an upper bound of the
            gains, and numbers of pixels broken and entered, ``(2A,)``, whose product with any other multipliers is at
            most the bound there.

    Returns:
        The best multipliers s and r, ``(2A,)``; ``knapsacks`` was called with them last.
    """
    unions = np.asarray([region.union for region in regions], dtype=np.float64)
    scale = np.concatenate([1.0 / unions, np.asarray([region.hit for region in regions]) / unions**2])
    here = best = scale
    model = _Model(len(regions), scale)
    reached = -np.inf
    for _ in range(_PROGRAMS):
        minima = [region.minimum(s, r) for region, s, r in zip(regions, *np.split(here, 2), strict=True)]
        taken, moved = knapsacks(here)
        value = sum(minimum[0] for minimum in minima) - taken
        if value > reached:
            best, reached = here, value
        model.add(here, minima, moved)
        here, promised = model.next(best)
        if promised - reached <= _ENOUGH * len(regions):
            break
    knapsacks(best)
    return best


class _Model:
    """The linear pieces of the dual seen so far. Variables, divided by ``scale``: s, r; then each class's minimum, and
    the knapsack."""

    def __init__(self, number: int, scale: np.ndarray) -> None:
        self._number, self._scale = number, scale
        self._rows: list[np.ndarray] = []
        self._limits: list[float] = []

    def add(self, at: np.ndarray, minima: Sequence[tuple[float, float, float]], moved: np.ndarray) -> None:
        """Add the pieces found at the multipliers ``at``."""
        number = self._number
        for index, (value, broken, entered) in enumerate(minima):
            row = np.zeros(3 * number + 1)
            row[[index, number + index]] = -broken * self._scale[index], -entered * self._scale[number + index]
            row[2 * number + index] = 1.0
            self._rows.append(row)
            self._limits.append(value - broken * at[index] - entered * at[number + index])
        self._rows.append(np.concatenate([moved * self._scale, np.zeros(number), [-1.0]]))
        self._limits.append(0.0)

    def next(self, best: np.ndarray) -> tuple[np.ndarray, float]:
        """The multipliers that look best in a box around ``best``, and what they promise."""
        from scipy.optimize import linprog  # takes half a second to import

        centre = best / self._scale
        reach = centre + 0.3
        box = [*zip(np.maximum(centre - reach, 0.0), centre + reach), *[(None, None)] * self._number, (0.0, None)]
        goal = np.concatenate([np.zeros(2 * self._number), -np.ones(self._number), [1.0]])
        solved = linprog(goal, np.stack(self._rows), np.asarray(self._limits), bounds=box, method="highs")
        if solved.x is None or solved.fun is None or solved.status != 0:  # stuck: nothing better is promised
            return best, -np.inf
        return np.maximum(solved.x[: 2 * self._number], 0.0) * self._scale, -float(solved.fun)
