"""Per-class counts of a prediction: the only accumulator of accuracy and intersection over union."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certseg.types import IGNORE_INDEX, check_target


def labelled(target: Tensor, num_classes: int) -> Tensor:
    """The pixels of ``target`` (``H x W`` int64) that carry a label, as ``H x W`` bool.

    Raises:
        DataError: a label is neither below ``num_classes`` nor :data:`IGNORE_INDEX`.
    """
    check_target(target, target.shape, num_classes)
    return target != IGNORE_INDEX


def class_histogram(values: Tensor, num_classes: int) -> np.ndarray:
    """Number of entries of each class in ``values`` (any shape, int64): ``(num_classes,)`` int64."""
    return torch.bincount(values.flatten(), minlength=num_classes).cpu().numpy().astype(np.int64)


@dataclass(frozen=True)
class ClassCounts:
    """Pixels per class over labelled pixels; adds up over images.

    Args:
        true_positive: ``(K,)`` int64, for each class the pixels predicted and labelled as the class.
        predicted: ``(K,)`` int64, for each class the pixels predicted as the class; where the prediction abstains,
            nothing is predicted.
        target: ``(K,)`` int64, for each class the pixels labelled as the class.
    """

    true_positive: np.ndarray
    predicted: np.ndarray
    target: np.ndarray

    @classmethod
    def from_maps(cls, prediction: Tensor, target: Tensor, num_classes: int, keep: Tensor | None = None) -> ClassCounts:
        """Count one image.

        Args:
            prediction: ``H x W`` int64 classes.
            target: ``H x W`` int64 labels, 255 ignored.
            num_classes: the number of classes, K.
            keep: ``H x W`` bool, False where the prediction abstains; None keeps all.

        >>> prediction, target = torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, IGNORE_INDEX]])
        >>> counts = ClassCounts.from_maps(prediction, target, num_classes=2)
        >>> counts.accuracy(), counts.miou()  # class 1 has no labelled pixel
        (0.5, 0.5)
        """
        mask = labelled(target, num_classes)
        said = mask if keep is None else mask & keep
        hit = said & (prediction == target)
        return cls(
            class_histogram(prediction[hit], num_classes),
            class_histogram(prediction[said], num_classes),
            class_histogram(target[mask], num_classes),
        )

    @classmethod
    def zero(cls, num_classes: int) -> ClassCounts:
        """Counts of no image."""
        return cls(*(np.zeros(num_classes, dtype=np.int64) for _ in range(3)))

    def __add__(self, other: ClassCounts) -> ClassCounts:
        return ClassCounts(
            self.true_positive + other.true_positive, self.predicted + other.predicted, self.target + other.target
        )

    def accuracy(self) -> float:
        """Share of labelled pixels predicted correctly; NaN without labelled pixels."""
        total = int(self.target.sum())
        return float(self.true_positive.sum() / total) if total else float("nan")

    def iou(self) -> np.ndarray:
        """Intersection over union per class, float64 ``(K,)``; NaN for classes absent from the labels.

        An abstained pixel counts in the union of its true class and in no other.
        """
        union = self.predicted + self.target - self.true_positive
        present = self.target > 0
        return np.where(present, self.true_positive / np.maximum(union, 1), np.nan)

    def miou(self) -> float:
        """Mean of :meth:`iou` over the classes present in the labels; NaN without any."""
        values = self.iou()
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    def to_json(self) -> dict[str, list[int]]:
        """Plain lists for a row."""
        return {name: getattr(self, name).tolist() for name in ("true_positive", "predicted", "target")}

    @classmethod
    def from_json(cls, data: dict[str, list[int]]) -> ClassCounts:
        """Inverse of :meth:`to_json`."""
        return cls(*(np.asarray(data[name], dtype=np.int64) for name in ("true_positive", "predicted", "target")))
