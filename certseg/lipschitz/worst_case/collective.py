"""How many pixels one perturbation can change: sorted prefix sums of costs against a budget.

An attacker whose budget is exactly the sum succeeds. At radius 0 there is no attacker, so nothing changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from certseg.lipschitz.worst_case.costs import ascending
from certseg.types import LipschitzBound

_STRIDE = 61  # of a sample of the costs


def allowed(budgets: Tensor, terms: int) -> Tensor:
    """``budgets`` raised by more than the rounding error of a float64 sum of ``terms`` costs, each off by a few units
    in the last place: what is not affordable with a raised budget is not affordable in exact arithmetic. A float32 sum
    of two million costs would be off by parts in a hundred."""
    return budgets * (1.0 + (terms + 1024) * 2.0**-52)


def prefix_sums(costs: Tensor, limit: float = math.inf) -> Tensor:
    """Sums of the k smallest costs, k = 0, 1, ..., as far as they matter for budgets up to ``limit``.

    Args:
        costs: float64, of any shape; infinite where a pixel cannot be changed.
        limit: the largest budget of interest; infinite asks for all sums.

    Returns:
        Rising float64 with a leading 0, on the costs' device; all affordable sums are among them.

    >>> prefix_sums(torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)).tolist()
    [0.0, 1.0, 3.0, 6.0]
    """
    flat = costs.flatten()
    most = float(allowed(torch.tensor(limit, dtype=torch.float64), flat.numel()))
    kept = flat[flat <= min(_threshold(flat, most), most)]
    if not float(kept.sum()) > most:  # nor NaN
        kept = flat[(flat <= most) & torch.isfinite(flat)]
    sums = torch.nn.functional.pad(ascending(kept).cumsum(dim=0), (1, 0))
    if sums.device.type != "cpu":
        sums = sums.cummax(dim=0).values  # sums made in parallel need not rise
    return sums[: int(torch.searchsorted(sums, most, right=True))] if math.isfinite(limit) else sums


def _threshold(costs: Tensor, most: float) -> float:
    """About twice the largest cost among the cheapest that together cost ``most``, read off a sample."""
    sample = ascending(costs[::_STRIDE])
    crossing = int(torch.searchsorted(sample.cumsum(dim=0) * _STRIDE, most, right=True)) + 2
    return 2.0 * float(sample[crossing]) if crossing < len(sample) else math.inf


def affordable(prefix: Tensor, budgets: Tensor) -> Tensor:
    """The largest k whose k cheapest changes fit into each budget, int64 of the shape of ``budgets``.

    Claim: no set of more than k changes has a sum of costs within the budget, for the cheapest set of each size is not
    affordable. Nothing that uses only costs and budget is better: the k cheapest do fit.

    Args:
        prefix: what :func:`prefix_sums` returns for the costs.
        budgets: squared feature distances, float64 of any shape; 0 affords nothing, not even what costs nothing.

    >>> costs = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    >>> affordable(prefix_sums(costs), torch.tensor([0.0, 1.5, 3.0], dtype=torch.float64)).tolist()
    [0, 1, 2]
    """
    count = torch.searchsorted(prefix, allowed(budgets, len(prefix)), right=True) - 1
    return count.masked_fill_(budgets <= 0, 0)


def budgets_of(bound: LipschitzBound, radii: Sequence[float], device: torch.device | str = "cpu") -> Tensor:
    """The squared feature distance that each of E radii pays for (:meth:`certseg.types.LipschitzBound.budget`), as
    ``(E,)`` float64 on ``device``."""
    return torch.tensor([bound.budget(radius) for radius in radii], dtype=torch.float64, device=device)


@dataclass(frozen=True)
class CollectiveCounts:
    """Pixels that stay correct under every perturbation of each radius, all together; adds up over images, each of
    which then has a perturbation of its own.

    Args:
        robust: for each radius the smallest number of correct labelled pixels that a perturbation can leave.
        correct: number of labelled pixels predicted correctly without an attacker.
        labelled: number of labelled pixels.
    """

    robust: tuple[int, ...]
    correct: int
    labelled: int

    @classmethod
    def of(cls, costs: Tensor, correct: Tensor, labelled: Tensor, budgets: Tensor) -> CollectiveCounts:
        """Count one image: the correct labelled pixels less the most that can be flipped (:func:`affordable`).

        Args:
            costs: ``H x W`` float64, what it costs to change each pixel
                (:func:`certseg.lipschitz.worst_case.flip_costs`).
            correct: ``H x W`` bool, the pixels predicted as labelled.
            labelled: ``H x W`` bool, the pixels that carry a label.
            budgets: ``(E,)`` float64, what :func:`budgets_of` returns, on the costs' device.
        """
        mine = correct & labelled
        number = int(mine.sum())
        limit = float(budgets.max()) if len(budgets) else 0.0
        flipped = affordable(prefix_sums(costs[mine], limit), budgets)
        return cls(tuple((number - flipped).tolist()), number, int(labelled.sum()))

    def __add__(self, other: CollectiveCounts) -> CollectiveCounts:
        robust = tuple(a + b for a, b in zip(self.robust, other.robust, strict=True))
        return CollectiveCounts(robust, self.correct + other.correct, self.labelled + other.labelled)

    def accuracy(self) -> tuple[float, ...]:
        """Certified pixel accuracy at each radius; NaN without labels, so that such an image enters no mean."""
        return tuple(number / self.labelled if self.labelled else math.nan for number in self.robust)


def share_radii(costs: Tensor, shares: Sequence[float], constant: float) -> tuple[float, ...]:
    """robustness@share: for each share the radius below which less than that share of the pixels that count change.

    Claim: under every perturbation of smaller l2 norm fewer than ceil(share * pixels) of the pixels change, for the
    cheapest set of that size costs (constant * radius)^2. A data set's figure is the mean of these radii over images.

    Args:
        costs: float64 of any shape, what it costs to change each pixel that counts
            (:func:`certseg.lipschitz.worst_case.flip_costs`).
        shares: numbers in (0, 1], each read as the decimal number it prints as.
        constant: l2 Lipschitz constant of the features.

    Returns:
        Radii on the [0, 1] image scale, rounded down; infinite where that many pixels cannot be changed at all, NaN
        without pixels.
    """
    number = costs.numel()
    if number == 0:
        return tuple(math.nan for _ in shares)
    sums = prefix_sums(costs)
    return tuple(_radius(sums, math.ceil(Fraction(str(float(share))) * number), constant) for share in shares)


def _radius(sums: Tensor, number: int, constant: float) -> float:
    """The radius at which ``number`` pixels can be changed, rounded down."""
    if number >= len(sums):
        return math.inf
    exact = float(sums[number]) / float(allowed(torch.ones((), dtype=torch.float64), len(sums)))
    return math.sqrt(exact) / constant * (1.0 - 2.0**-50)


def radius_to_change(costs: Tensor, number: int, constant: float) -> float:
    """The radius below which fewer than ``number`` pixels can change class, rounded down.

    Args:
        costs: float64 of any shape, what it costs to change each pixel.
        number: how many pixels are to change; 0 needs no perturbation.
        constant: l2 Lipschitz constant of the features.

    Returns:
        An l2 radius on the [0, 1] image scale; infinite where that many pixels cannot be changed.

    >>> costs = torch.tensor([9.0, 1.0, 3.0], dtype=torch.float64)
    >>> round(radius_to_change(costs, number=2, constant=1.0), 6)  # 1 + 3 = 2 ** 2
    2.0
    """
    return 0.0 if number <= 0 else _radius(prefix_sums(costs), number, constant)


def grey_levels(radius: float, height: int, width: int) -> float:
    """The root mean square change of a value of an 8-bit RGB image that ``radius`` stands for,
    255 * radius / sqrt(3 * height * width).

    Losses of accuracy follow it rather than the radius, so it makes resolutions comparable.

    >>> round(grey_levels(0.17, 1024, 1024), 3)
    0.024
    """
    return 255.0 * radius / math.sqrt(3 * height * width)
