"""Counts of a certified map: which labelled pixels are fixed, rightly or wrongly, and which the attacker owns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from certseg.metrics.confusion import ClassCounts, class_histogram, labelled


@dataclass(frozen=True)
class CertifiedCounts:
    """Pixels per class over labelled pixels; adds up over images.

    Args:
        correct: ``(K,)`` int64, for each class the pixels labelled and certified as the class.
        wrong_as: ``(K,)`` int64, for each class the pixels certified as the class but labelled otherwise.
        free: ``(K,)`` int64, for each class the pixels labelled as the class and not certified.
        target: ``(K,)`` int64, for each class the pixels labelled as the class.
    """

    correct: np.ndarray
    wrong_as: np.ndarray
    free: np.ndarray
    target: np.ndarray

    @classmethod
    def from_maps(cls, classes: Tensor, certified: Tensor, target: Tensor, num_classes: int) -> CertifiedCounts:
        """Count one image.

        Args:
            classes: ``H x W`` int64 predicted classes.
            certified: ``H x W`` bool, False where the certifier abstains.
            target: ``H x W`` int64 labels, 255 ignored.
            num_classes: the number of classes, K.
        """
        counts = ClassCounts.from_maps(classes, target, num_classes, keep=certified)
        mask = labelled(target, num_classes)
        free = class_histogram(target[mask & ~certified], num_classes)
        return cls(counts.true_positive, counts.predicted - counts.true_positive, free, counts.target)

    @classmethod
    def zero(cls, num_classes: int) -> CertifiedCounts:
        """Counts of no image."""
        return cls(*(np.zeros(num_classes, dtype=np.int64) for _ in range(4)))

    def __add__(self, other: CertifiedCounts) -> CertifiedCounts:
        return CertifiedCounts(
            self.correct + other.correct,
            self.wrong_as + other.wrong_as,
            self.free + other.free,
            self.target + other.target,
        )

    def accuracy(self, tolerated: int = 0) -> float:
        """Certified pixel accuracy: share of labelled pixels certified and correct; NaN without labels.

        Args:
            tolerated: how many certified pixels may be wrong; with these taken off it is a lower bound.
        """
        return self._share(np.maximum(self.correct.sum() - tolerated, 0))

    def abstention(self) -> float:
        """Share of labelled pixels that are not certified; NaN without labels."""
        return self._share(self.free)

    def as_class_counts(self) -> ClassCounts:
        """The certified map as a prediction in which an abstained pixel is a miss of its class and nothing else."""
        return ClassCounts(self.correct, self.correct + self.wrong_as, self.target)

    def _share(self, part: np.ndarray) -> float:
        total = int(self.target.sum())
        return float(part.sum() / total) if total else float("nan")

    def to_json(self) -> dict[str, list[int]]:
        """Plain lists for a row."""
        return {name: getattr(self, name).tolist() for name in ("correct", "wrong_as", "free", "target")}

    @classmethod
    def from_json(cls, data: dict[str, list[int]]) -> CertifiedCounts:
        """Inverse of :meth:`to_json`."""
        return cls(*(np.asarray(data[name], dtype=np.int64) for name in ("correct", "wrong_as", "free", "target")))
