"""The mean IoU that one perturbation must leave in one image, by sharing the budget out among the classes.

A correct pixel (label g) moved into class j costs c_ij, which is at least what breaking it costs, a_i, and is what
entering j costs, b_ij. Charge ``share * a_i`` to class g and ``(1 - share) * b_ij`` to class j: together no more than
c_ij. A wrong pixel that enters j is charged in full. Then each class has a budget of its own, and the budgets add up to
at most the whole.

Claim. With phi_k(beta) the lowest (t_k - m) / (U_k + n) that class k can be brought to with charges up to beta, every
attack has sum_k f_k >= min {sum phi_k(beta_k) : sum beta_k <= B^2}; pixels that leave a union, which help the defender,
are not counted. The minimum over a grid of budgets is found by dynamic programming over classes; budgets between two
levels are charged as the lower and attack as the upper one, so the grid only helps the attacker. Unlike the dual bound
this one treats classes that are destroyed altogether exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from certseg.lipschitz.worst_case.changes import ClassAttack
from certseg.lipschitz.worst_case.collective import allowed
from certseg.lipschitz.worst_case.regions import steps

SHARES = (0.6, 0.8, 0.9)
"""The shares of a cost that :func:`split_bound` tries."""
_RATIO, _LEVELS = 1.07, 171  # budgets of a class: from 1e-5 of the whole upwards
_STEPS = 256  # of broken pixels
_CELLS = 4000  # of the budget spent so far


@dataclass(frozen=True)
class _Supply:
    """Changes of one kind, cheapest first, all charged the same share of their cost.

    Args:
        charges: ``(M,)`` float64, rising, what the M cheapest changes are charged.
        number: how many changes of the kind there are, the M listed ones included.
        beyond: the least that each change which is not listed is charged.
    """

    charges: np.ndarray
    number: int
    beyond: float

    @classmethod
    def of(cls, costs: torch.Tensor, number: int, limit: float, share: float) -> _Supply:
        """From the costs listed in a :class:`ClassAttack`: one more than listed would not fit into its limit."""
        listed = costs.cpu().numpy()
        last = max(float(listed[-1]) if len(listed) else 0.0, limit - float(listed.sum()))
        return cls(share * listed, number, share * last if number > len(listed) else np.inf)


def split_bound(attacks: Sequence[ClassAttack], budget: float, shares: Sequence[float] = SHARES) -> float:
    """A lower bound on the sum of the IoUs of the labelled classes of one image attacked within ``budget``.

    Args:
        attacks: what an attack on each class costs.
        budget: squared feature distance that the attacker has, up to the limit of the attacks.
        shares: the shares of a cost to try charging to the class that is broken, each in (0, 1); the best bound counts.
    """
    active = [attack for attack in attacks if attack.hit > 0]
    clean = sum(attack.hit / attack.union for attack in active)
    if budget <= 0 or not active:
        return float(clean)
    numbers = {
        "correct": sum(attack.hit for attack in attacks),
        "wrong": sum(attack.target - attack.hit for attack in attacks),
    }
    whole = float(allowed(torch.tensor(budget, dtype=torch.float64), sum(numbers.values())))
    levels = whole * _RATIO ** np.arange(1.0 - _LEVELS, 1.0)
    return max(_shared_out([_lowest(attack, numbers, levels, share) for attack in active], levels) for share in shares)


def _lowest(attack: ClassAttack, numbers: dict[str, int], levels: np.ndarray, share: float) -> np.ndarray:
    """phi of one class at each level, or less. The number m of broken pixels is taken in steps: the end of a step for
    the IoU and its start for the cost."""
    broken = _Supply.of(attack.broken, attack.hit, attack.limit, share)
    correct = _Supply.of(attack.entered_correct, numbers["correct"] - attack.hit, attack.limit, 1.0 - share)
    others = numbers["wrong"] - (attack.target - attack.hit) - attack.wrong_as
    wrong = _Supply.of(attack.entered_wrong, others, attack.limit, 1.0)
    sums = np.concatenate([[0.0], np.cumsum(broken.charges)])
    rest = (levels[-1] - sums[-1]) / broken.beyond if np.isfinite(broken.beyond) and broken.beyond > 0 else 0.0
    most = int(min(np.searchsorted(sums, levels[-1], side="right") - 1 + max(rest, 0.0), broken.number))
    first, last = steps(most, _STEPS)
    listed = np.minimum(first, len(broken.charges)).astype(np.int64)
    with np.errstate(invalid="ignore"):
        cost = sums[listed] + np.where(first > listed, (first - listed) * broken.beyond, 0.0)
    left = levels[:, None] - cost
    union = attack.union + _entering(correct, wrong, np.maximum(left, 0.0))
    values = np.where(left >= 0, (attack.hit - last) / union, np.inf)
    lowest: np.ndarray = values.min(axis=1)
    return lowest


def _entering(correct: _Supply, wrong: _Supply, left: np.ndarray) -> np.ndarray:
    """The most pixels that can enter for the charges ``left``, any shape: the listed ones as far as they are cheaper
    than unlisted ones may be, then unlisted ones at their least charge."""
    beyond = min(correct.beyond, wrong.beyond)
    merged = np.sort(np.concatenate([correct.charges, wrong.charges]))
    sums = np.concatenate([[0.0], np.cumsum(merged[merged <= beyond])])
    number = (np.searchsorted(sums, left, side="right") - 1).astype(np.float64)
    if np.isfinite(beyond):
        more = (left - sums[-1]) / beyond if beyond > 0 else np.full_like(left, np.inf)
        number = np.where(left > sums[-1], len(sums) - 1 + np.floor(more + 1e-9), number)
    return np.minimum(number, correct.number + wrong.number)


def _shared_out(lowest: Sequence[np.ndarray], levels: np.ndarray) -> float:
    """The least sum of one value per class, ``(L,)`` each, whose charges fit into the largest level."""
    charges = np.concatenate([[0.0], levels[:-1]]) / levels[-1] * _CELLS
    cells = np.floor(charges * (1.0 - 1e-9)).astype(np.int64)
    least = np.zeros(_CELLS + 1)
    for values in lowest:
        following = np.full(_CELLS + 1, np.inf)
        for cell in np.unique(cells):
            value = values[cells == cell].min()
            following[cell:] = np.minimum(following[cell:], least[: _CELLS + 1 - cell] + value)
        least = following
    return float(least[_CELLS])
