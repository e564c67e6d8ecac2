"""How many positives of a class one perturbation can hide, and how large it must be to hide a given share of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from certseg.checks import check_number
from certseg.lipschitz.worst_case.collective import affordable, prefix_sums, radius_to_change
from certseg.metrics.confusion import class_histogram


@dataclass(frozen=True)
class FalseNegativeCounts:
    """Bounds on false negatives by class; adds up over images.

    Args:
        hidden: ``(E, K)`` int64, for each radius and class the most true positives that a perturbation can turn into
            another class, each class attacked on its own.
        missed: ``(K,)`` int64, for each class the pixels labelled as the class but predicted otherwise without an
            attacker.
        positive: ``(K,)`` int64, for each class the pixels labelled as the class.
    """

    hidden: np.ndarray
    missed: np.ndarray
    positive: np.ndarray

    @classmethod
    def of(
        cls, costs: Tensor, correct: Tensor, target: Tensor, budgets: Tensor, num_classes: int
    ) -> FalseNegativeCounts:
        """Count one image.

        Args:
            costs: ``(N,)`` float64, what it costs to change each of the N labelled pixels
                (:func:`certseg.lipschitz.worst_case.flip_costs`).
            correct: ``(N,)`` bool, whether each of them is predicted as labelled.
            target: ``(N,)`` int64, the label of each of them, below ``num_classes``.
            budgets: ``(E,)`` float64, the squared feature distance that each radius pays for.
            num_classes: the number of classes, K.
        """
        positive = class_histogram(target, num_classes)
        limit = float(budgets.max()) if len(budgets) else 0.0
        hidden = np.zeros((len(budgets), num_classes), dtype=np.int64)
        hits = torch.where(correct, target, -1)
        for k in np.flatnonzero(positive):
            hidden[:, k] = affordable(prefix_sums(costs[hits == int(k)], limit), budgets).cpu().numpy()
        return cls(hidden, class_histogram(target[~correct], num_classes), positive)

    def __add__(self, other: FalseNegativeCounts) -> FalseNegativeCounts:
        return FalseNegativeCounts(
            self.hidden + other.hidden, self.missed + other.missed, self.positive + other.positive
        )

    def rates(self) -> np.ndarray:
        """``(E, K)`` upper bounds on the false negative rate, (missed + hidden) / positive; NaN for classes without
        a positive."""
        has = self.positive > 0
        return np.where(has, (self.missed + self.hidden) / np.maximum(self.positive, 1), np.nan)

    def to_json(self) -> dict[str, list[int] | list[list[int]]]:
        """Plain lists for a row."""
        return {name: getattr(self, name).tolist() for name in ("hidden", "missed", "positive")}

    @classmethod
    def from_json(cls, data: dict[str, list[int] | list[list[int]]]) -> FalseNegativeCounts:
        """Inverse of :meth:`to_json`."""
        return cls(*(np.asarray(data[name], dtype=np.int64) for name in ("hidden", "missed", "positive")))


def radius_for_false_negative_rate(
    costs: Tensor, missed: int, threshold: float, constant: float, *, strictly: bool = True
) -> float:
    """The smallest radius at which a false negative rate above ``threshold`` cannot be excluded, for one image.

    Let P be the number of positives and n the number of true positives that must be hidden for (missed + n) / P to
    exceed the threshold: n = max(0, floor(threshold * P) + 1 - missed). The n cheapest cost (constant * radius)^2.

    Args:
        costs: ``(TP,)`` float64, what it costs to change each true positive of one class.
        missed: number of positives that are missed without an attacker.
        threshold: a rate in [0, 1], read as the decimal number it prints as.
        constant: l2 Lipschitz constant of the features.
        strictly: whether the rate must exceed the threshold. If False it need only reach it:
            n = max(0, ceil(threshold * P) - missed).

    Returns:
        An l2 radius on the [0, 1] image scale, rounded down; 0 if the rate is there already without an attacker,
        infinite if no perturbation can bring it there, or if there is no positive.

    Raises:
        ConfigError: the threshold is outside [0, 1].
    """
    check_number("A threshold on a false negative rate", threshold, "[0, 1]")
    positive = costs.numel() + missed
    if positive == 0:
        return math.inf
    share = Fraction(str(float(threshold))) * positive
    needed = (math.floor(share) + 1 if strictly else math.ceil(share)) - missed
    return radius_to_change(costs, needed, constant) if needed <= costs.numel() else math.inf
