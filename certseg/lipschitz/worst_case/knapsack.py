"""What an attacker gains by moving pixels: the largest sum of gains of changes whose costs fit into a budget, bounded
from above by setting a price on cost. :class:`SampledChanges` does it on a sample of an image's pixels, to find good
gains quickly; :func:`exact_gain` on all of them, for the bound itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certseg.lipschitz.worst_case.changes import FlippableImage, changes_within
from certseg.lipschitz.worst_case.costs import entry_costs

_OCTAVES = 24  # of costs below the budget; those further down are one stratum
_SEARCH = 12


@dataclass(frozen=True)
class Gains:
    """What an attacker gains for each class by changing a pixel.

    Args:
        broken: ``(K,)`` float64, not negative: the gain s of breaking a true positive of each class.
        entered: ``(K,)`` float64, not negative: the gain r of making a pixel enter each class.
    """

    broken: np.ndarray
    entered: np.ndarray

    def table(self) -> np.ndarray:
        """``2K x K``: the gain of a pixel that is predicted correctly as class c (row c) or wrongly (row K + c) and
        enters class j."""
        gains: np.ndarray = np.concatenate([self.broken, -self.entered])[:, None] + self.entered[None]
        return gains


@dataclass(frozen=True)
class SampledChanges:
    """A weighted sample of n pixels of an image and what it costs to move each into each class.

    Args:
        rows: ``(n,)`` int64, c for a pixel predicted correctly as class c and K + c for one predicted wrongly so.
        costs: ``n x K`` float64, the cost of each move; infinite into the classes that a pixel is predicted or labelled
            as, and where the move alone is above the budget.
        weights: ``(n,)`` float64, how many pixels of the image each one stands for.
        budget: squared feature distance that the attacker has.
    """

    rows: np.ndarray
    costs: np.ndarray
    weights: np.ndarray
    budget: float

    @classmethod
    def of(cls, image: FlippableImage, budget: float, size: int) -> SampledChanges:
        """At most about ``size`` affordable pixels of an image. They are taken evenly spaced, and equally many for each
        class, correct or not, and octave of the cost."""
        number = image.num_classes
        kept = torch.nonzero(image.labelled & (image.costs <= budget)).flatten()
        rows = (image.classes + number * (~image.correct))[kept]
        octave = torch.log2(budget / image.costs[kept]).clamp(0, _OCTAVES - 1).long() if budget > 0 else rows * 0
        strata = (rows * _OCTAVES + octave).cpu().numpy()
        order = np.argsort(strata.astype(np.uint16 if 2 * number * _OCTAVES < 1 << 16 else np.int64), kind="stable")
        sizes = np.bincount(strata)
        taken = np.minimum(sizes, max(1, size // max(1, int(np.count_nonzero(sizes)))))
        stratum = np.repeat(np.arange(len(sizes)), taken)
        rank = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
        place = (np.cumsum(sizes) - sizes)[stratum] + ((rank + 0.5) * sizes[stratum] / taken[stratum]).astype(np.int64)
        picked = torch.from_numpy(order[place]).to(kept.device)
        chosen = kept[picked]
        costs = entry_costs(
            image.planes,
            chosen.repeat_interleave(number),
            torch.arange(number, device=kept.device).repeat(len(chosen)),
            image.geometry,
        ).view(len(chosen), number)
        for out in (image.classes, image.target):
            costs.scatter_(1, out[chosen][:, None], torch.inf)
        costs.masked_fill_(costs > budget, torch.inf)
        weights = sizes[stratum] / taken[stratum]
        return cls(rows[picked].cpu().numpy(), costs.cpu().numpy(), weights, budget)

    def best(self, gains: Gains, price: float) -> tuple[float, float, np.ndarray, np.ndarray]:
        """The bound price * budget + sum max_j (gain - price * cost)_+ and where it is reached.

        Returns:
            The bound; its slope in the price; and for each class, ``(K,)`` each, the weight of the pixels that the
            maximum breaks, and of those that it makes enter less those that leave the union.
        """
        number = self.costs.shape[1]
        values = gains.table()[self.rows] - price * self.costs
        into = values.argmax(axis=1)
        at = np.arange(len(into))
        moved = values[at, into] > 0
        weights, rows, into = self.weights[moved], self.rows[moved], into[moved]
        value = price * self.budget + float((weights * values[at[moved], into]).sum())
        slope = self.budget - float((weights * self.costs[at[moved], into]).sum())
        left = np.bincount(rows, weights, 2 * number)
        return value, slope, left[:number], np.bincount(into, weights, number) - left[number:]

    def value_and_slope(self, gains: Gains, price: float) -> tuple[float, float]:
        """The first two of what :meth:`best` returns: the bound at this price, and its slope in the price."""
        return self.best(gains, price)[:2]


def cheapest_price(
    evaluate: Callable[[float], tuple[float, float]], start: float, least: float = 1e-300
) -> tuple[float, float]:
    """The minimum of a convex function of a price, as far as a few steps go: where two tangents meet, again and again.

    Args:
        evaluate: gives the function's value and slope at a price.
        start: the positive price to begin with.
        least: the smallest price to consider, positive.

    Returns:
        The lowest value seen and its price.
    """
    price = max(start, least)
    value, slope = evaluate(price)
    best = value, price
    low = high = None
    for _ in range(_SEARCH):
        if slope == 0:
            break
        if slope < 0:
            low = price, value, slope
        else:
            high = price, value, slope
        if low is None:
            if price <= least:
                break
            price = max(price / 4.0, least)
        elif high is None:
            price *= 4.0
        else:
            meeting = (low[1] - high[1] + high[2] * high[0] - low[2] * low[0]) / (high[2] - low[2])
            floor = low[1] + low[2] * (meeting - low[0])
            if best[0] - floor <= 1e-6 * abs(best[0]) or not low[0] < meeting < high[0]:
                break
            price = meeting
        value, slope = evaluate(price)
        best = min(best, (value, price))
    return best


def exact_gain(image: FlippableImage, gains: Gains, budget: float, price: float) -> float:
    """An upper bound on the sum of gains of any affordable set of changes of an image, over all its pixels: the least
    price * budget + sum max_j (gain - price * cost)_+ over prices from a little below the one given.

    Only changes that gain more than they cost at the lowest price considered, and that are affordable on their own, are
    looked at; no other enters the sum.

    Args:
        image: the image, with what it costs to change each of its pixels.
        gains: what the attacker gains by each change.
        budget: squared feature distance that the attacker has.
        price: a price of cost near the best one, positive.
    """
    table = torch.from_numpy(gains.table()).to(image.planes.device)
    most = budget * (1.0 + 1e-9)
    for _ in range(4):
        least = max(0.7 * price, 1e-300)
        worth = torch.where(table > 0, (table / least).clamp_max(most), -1.0)
        pixels, into = changes_within(image, worth)
        costs = entry_costs(image.planes, pixels, into, image.geometry)
        rows = image.classes[pixels] + image.num_classes * (~image.correct[pixels])
        gain = table[rows, into]
        kept = gain > least * costs
        evaluate = _Pairs(image.target.numel(), pixels[kept], costs[kept], gain[kept], budget)
        value, price = cheapest_price(evaluate, max(price, least), least)
        if price > least:
            return value
    return value


class _Pairs:
    """Value and slope of a knapsack bound over single changes: ``(P,)`` pixels, costs and gains."""

    def __init__(self, number: int, pixels: Tensor, costs: Tensor, gains: Tensor, budget: float) -> None:
        self._place = torch.zeros(number, dtype=torch.int64, device=pixels.device)
        self._place[pixels] = 1
        self._place = (self._place.cumsum(dim=0) - 1)[pixels]  # the pixels with a change, numbered
        self._number = int(self._place.max()) + 1 if len(pixels) else 0
        self._costs, self._gains, self._budget = costs, gains, budget

    def __call__(self, price: float) -> tuple[float, float]:
        net = self._gains - price * self._costs
        best = net.new_zeros(self._number).scatter_reduce_(0, self._place, net, "amax")
        chosen = (net > 0) & (net == best[self._place])
        spent = float(self._costs[chosen].sum())
        return price * self._budget + float(best.sum()), self._budget - spent
