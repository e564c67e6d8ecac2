"""Which pairs (m, n) of broken and entered pixels of a class an attack can reach, in a few steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from certseg.lipschitz.worst_case.changes import ClassAttack

SLOPES = np.geomspace(1.0 / 16.0, 16.0, 9)


@dataclass(frozen=True)
class Region:
    """A superset of the (m, n) of a class with t true positives and a union of U: for first <= m <= last at most
    ``most`` entered, for each of several steps; and no fewer than minus ``undone``.

    Args:
        hit: t.
        union: U.
        undone: pixels predicted as the class but labelled otherwise, which an attacker may predict as a third one.
        first, last, most: ``(S,)`` float64.
    """

    hit: int
    union: int
    undone: int
    first: np.ndarray
    last: np.ndarray
    most: np.ndarray

    @classmethod
    def of(cls, attacks: Sequence[ClassAttack], budget: float) -> Region:
        """What the attacks on one class in each of several images reach together, each with the budget."""
        hit, union, undone = (sum(getattr(a, name) for a in attacks) for name in ("hit", "union", "wrong_as"))
        frontiers = [tuple(part.cpu().numpy() for part in attack.frontier(budget)) for attack in attacks]
        if len(frontiers) == 1:
            broken, entered = frontiers[0]
            first, last = steps(len(broken) - 1)
            return cls(hit, union, undone, first, last, entered[first.astype(np.int64)].astype(np.float64))
        reach = [sum(float((broken + v * entered).max()) for broken, entered in frontiers) for v in SLOPES]
        most = tuple(float(sum(int(part.max()) for part in parts)) for parts in zip(*frontiers))
        return cls.below(hit, union, undone, most, reach)

    @classmethod
    def below(cls, hit: int, union: int, undone: int, most: tuple[float, float], reach: Sequence[float]) -> Region:
        """All (m, n) with m + v n at most ``reach``, for each v of :data:`SLOPES`, and neither above its ``most``."""
        first, last = steps(int(most[0] + 1e-6))
        lines = (np.asarray(reach)[:, None] - first) / SLOPES[:, None]
        return cls(hit, union, undone, first, last, np.clip(lines.min(axis=0) + 1e-6, 0.0, most[1] + 1e-6))

    def minimum(self, broken_price: float, entered_price: float) -> tuple[float, float, float]:
        """The least (t - m) / (U + n) + s m + r n over the region, and the m and n where it is.

        At a fixed n it is linear in m, so the ends of a step are enough; at a fixed m it is convex in n with its
        minimum at U + n = sqrt((t - m) / r).
        """
        broken = np.concatenate([self.first, self.last])
        most, left = np.tile(self.most, 2), self.hit - broken
        with np.errstate(divide="ignore", invalid="ignore"):
            entered = np.where(left > 0, np.sqrt(left / entered_price) - self.union, -np.inf)
        entered = np.clip(entered, -float(self.undone), most)
        union = self.union + entered
        ratio = np.where(left > 0, left / np.maximum(union, 1.0), 0.0)
        values = ratio + broken_price * broken + entered_price * entered
        best = int(values.argmin())
        return float(values[best]), float(broken[best]), float(entered[best])


def steps(last: int, number: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """First and last, as float64, of about ``number`` ranges that make up 0 .. ``last``, geometrically longer."""
    first = np.unique(np.concatenate([[0.0], np.floor(np.geomspace(1.0, max(last, 1), number))]))
    first = first[first <= last]
    return first, np.append(first[1:] - 1.0, float(last))
