"""The costs of an image's classes in a few numbers, for rows: enough to bound a data set's figures at any radius."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from certseg.lipschitz.worst_case.changes import ClassAttack
from certseg.lipschitz.worst_case.collective import affordable, prefix_sums
from certseg.lipschitz.worst_case.regions import steps

_GROUPS, _GROUPS_ABSENT = 32, 8
_DIGITS = 4


@dataclass(frozen=True)
class CostCurve:
    """Changes of one kind in groups of equal cost, cheapest first.

    Claim: for every q, the q cheapest changes of the image cost at least the q cheapest of the curve, groups being
    divisible.

    Args:
        counts: ``(M,)`` float64, positive, the number of changes in each group.
        costs: ``(M,)`` float64, rising, the cost of each change of a group.
    """

    counts: np.ndarray
    costs: np.ndarray

    @classmethod
    def of(cls, costs: np.ndarray, number: int, limit: float, marks: Sequence[int], groups: int) -> CostCurve:
        """From the affordable costs of a :class:`ClassAttack`.

        In a block of c consecutive costs from ``low`` to ``high`` that sum up to S, the prefix sums are convex and thus
        above both end tangents: q changes at ``low``, then c - q at ``high``, with the same sum S. So the curve is
        exact at the ends of blocks. What is not listed costs no less than the last one listed, and than what the listed
        ones leave of the limit.

        Args:
            costs: ``(M,)`` float64, rising, the costs of the cheapest changes.
            number: how many changes of the kind there are, listed or not.
            limit: budget into which the listed changes and one more would not fit.
            marks: numbers of changes at which the curve shall be exact.
            groups: about how many blocks to make.
        """
        beyond = max(float(costs[-1]) if len(costs) else 0.0, limit - float(costs.sum()))
        counts, values = np.zeros(0), np.zeros(0)
        if len(costs):
            sums = np.concatenate([[0.0], np.cumsum(costs)])
            edges = np.unique([*steps(len(costs) - 1, groups)[0].astype(np.int64), *marks, len(costs)])
            first, last = edges[:-1], edges[1:] - 1
            low, high, size = costs[first], costs[last], (edges[1:] - edges[:-1]).astype(np.float64)
            with np.errstate(invalid="ignore", divide="ignore"):
                cheap = (size * high - (sums[edges[1:]] - sums[first])) / (high - low)
            cheap = np.where(high > low, np.ceil(cheap * 10.0 + 1e-6) / 10.0, size).clip(0.0, size)
            counts, values = np.stack([cheap, size - cheap], 1).ravel(), np.stack([low, high], 1).ravel()
        counts, values = np.append(counts, float(number - len(costs))), np.append(values, beyond)
        kept = counts > 0
        return cls(counts[kept], np.asarray([_rounded_down(value) for value in values[kept]]))

    def to_json(self) -> list[list[float]]:
        """Counts and costs as lists."""
        return [[round(count, 1) for count in self.counts.tolist()], self.costs.tolist()]

    @classmethod
    def from_json(cls, data: Sequence[Sequence[float]]) -> CostCurve:
        """Inverse of :meth:`to_json`."""
        counts, costs = (np.asarray(part, dtype=np.float64) for part in data)
        return cls(counts, costs)


def _rounded_down(value: float) -> float:
    """``value`` to a few digits, not above it."""
    rounded = float(f"{value:.{_DIGITS - 1}e}")
    if rounded <= value:
        return rounded
    return float(f"{value - 10.0 ** (np.floor(np.log10(value)) - _DIGITS + 1) / 2:.{_DIGITS - 1}e}")


@dataclass(frozen=True)
class ClassCurves:
    """A :class:`ClassAttack` in a few numbers.

    Args:
        hit: number of true positives.
        target: number of pixels labelled as the class.
        wrong_as: number of pixels predicted as the class but labelled otherwise.
        broken: the costs of breaking true positives.
        entered_correct: the costs at which pixels that are predicted correctly, as another class, enter.
        entered_wrong: the costs at which pixels that are predicted wrongly, as a third class, enter.
    """

    hit: int
    target: int
    wrong_as: int
    broken: CostCurve
    entered_correct: CostCurve
    entered_wrong: CostCurve

    @classmethod
    def of_image(cls, attacks: Sequence[ClassAttack], budgets: Sequence[float]) -> list[ClassCurves]:
        """The curves of every class of an image, each exact at the number of changes that a budget affords if it is
        spent on that kind alone.

        Args:
            attacks: what an attack on each class costs.
            budgets: squared feature distances.
        """
        correct = sum(attack.hit for attack in attacks)
        wrong = sum(attack.target - attack.hit for attack in attacks)
        tensor = torch.tensor(list(budgets), dtype=torch.float64)
        curves = []
        for attack in attacks:
            numbers = {
                "broken": attack.hit,
                "entered_correct": correct - attack.hit,
                "entered_wrong": wrong - (attack.target - attack.hit) - attack.wrong_as,
            }
            groups = _GROUPS if attack.target else _GROUPS_ABSENT
            parts = {}
            for name, number in numbers.items():
                costs = getattr(attack, name).cpu()
                marks = affordable(prefix_sums(costs), tensor).tolist()
                parts[name] = CostCurve.of(costs.numpy(), number, attack.limit, marks, groups)
            curves.append(cls(attack.hit, attack.target, attack.wrong_as, **parts))
        return curves

    def to_json(self) -> dict[str, Any]:
        """Plain lists for a row."""
        kinds = {name: getattr(self, name).to_json() for name in KINDS}
        return {"hit": self.hit, "target": self.target, "wrong_as": self.wrong_as, **kinds}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ClassCurves:
        """Inverse of :meth:`to_json`."""
        kinds = {name: CostCurve.from_json(data[name]) for name in KINDS}
        return cls(data["hit"], data["target"], data["wrong_as"], **kinds)


KINDS = ("broken", "entered_correct", "entered_wrong")
"""The kinds of changes, as :class:`ClassCurves` names them."""
