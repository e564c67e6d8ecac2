"""Which pairs (m, n) of broken and entered pixels of a class an attack can reach, in a few steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from certseg.lipschitz.worst_case.changes import ClassAttack

SLOPES = np.geomspace(1.0 / 16.0, 16.0, 9)
"""The weights v of n against m whose largest m + v n bounds a region."""


@dataclass(frozen=True)
class Region:
    """A superset of the pairs (m, n) of a class with t true positives and a union of U. It consists of S steps: where m
    lies between the ``first`` and the ``last`` of a step, n lies between minus ``undone`` and the step's ``most``.

    Args:
        hit: number t of true positives of the class.
        union: number U of pixels labelled or predicted as the class.
        undone: number of pixels predicted as the class but labelled otherwise; an attacker may predict these as a third
            class, which takes them out of the union.
        first: ``(S,)`` float64, the smallest m of each step.
        last: ``(S,)`` float64, the largest m of each step.
        most: ``(S,)`` float64, the largest n of each step.
    """

    hit: int
    union: int
    undone: int
    first: np.ndarray
    last: np.ndarray
    most: np.ndarray

    @classmethod
    def of(cls, attacks: Sequence[ClassAttack], budget: float) -> Region:
        """What attacks on one class reach together in several images, ``attacks`` having one for each image, with the
        same ``budget`` (squared feature distance) in every image."""
        hit, union, undone = (sum(getattr(a, name) for a in attacks) for name in ("hit", "union", "wrong_as"))
        frontiers = [tuple(part.cpu().numpy() for part in attack.frontier(budget)) for attack in attacks]
        if len(frontiers) == 1:
            broken, entered = frontiers[0]
            first, last = steps(len(broken) - 1)
            return cls(hit, union, undone, first, last, entered[first.astype(np.int64)].astype(np.float64))
        reach = [sum(float((broken + v * entered).max()) for broken, entered in frontiers) for v in SLOPES]
        most_broken, most_entered = (float(sum(int(part.max()) for part in parts)) for parts in zip(*frontiers))
        return cls.below(hit, union, undone, (most_broken, most_entered), reach)

    @classmethod
    def below(cls, hit: int, union: int, undone: int, most: tuple[float, float], reach: Sequence[float]) -> Region:
        """All (m, n) for which m + v n is at most the ``reach`` of each v in :data:`SLOPES`, and for which m and n are
        at most the two numbers ``most``."""
        first, last = steps(int(most[0] + 1e-6))
        lines = (np.asarray(reach)[:, None] - first) / SLOPES[:, None]
        return cls(hit, union, undone, first, last, np.clip(lines.min(axis=0) + 1e-6, 0.0, most[1] + 1e-6))

    def minimum(self, broken_price: float, entered_price: float) -> tuple[float, float, float]:
        """The least (t - m) / (U + n) + s m + r n over the region, and the m and n where it is reached.

        At a fixed n it is linear in m, so the ends of a step are enough; at a fixed m it is convex in n with its
        minimum at U + n = sqrt((t - m) / r).

        Args:
            broken_price: the price s of a broken pixel, not negative.
            entered_price: the price r of an entered pixel, not negative.
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
    """Ranges that make up 0 .. ``last``, about ``number`` of them, each longer than the one before by about the same
    factor.

    Returns:
        The first and the last integer of each range, as float64.

    >>> first, last = steps(10, number=3)
    >>> first.tolist(), last.tolist()
    ([0.0, 1.0, 3.0, 10.0], [0.0, 2.0, 9.0, 10.0])
    """
    first = np.unique(np.concatenate([[0.0], np.floor(np.geomspace(1.0, max(last, 1), number))]))
    first = first[first <= last]
    return first, np.append(first[1:] - 1.0, float(last))
