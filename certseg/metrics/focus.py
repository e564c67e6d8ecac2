"""Figures of classes that matter more than their share of the pixels, such as a lesion: recall, Dice, missed images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from certseg.metrics import known_figures as known
from certseg.metrics.certified import CertifiedCounts
from certseg.metrics.confusion import ClassCounts
from certseg.metrics.figures import Estimator, Figure
from certseg.types import Guarantee


@dataclass(frozen=True)
class ClassTally:
    """What there is of one class in each of N images: of a prediction, or the least and most that an attacker leaves.

    Args:
        hits: ``(N,)`` int64, pixels of the class that are right; of a certificate those certified and right.
        target: ``(N,)`` int64, pixels labelled as the class.
        false_positives: ``(N,)`` int64, pixels labelled otherwise that are taken for the class; of a certificate those
            that may be: certified as the class, or not certified.
        labelled: ``(N,)`` int64, all pixels with a label.
    """

    hits: np.ndarray
    target: np.ndarray
    false_positives: np.ndarray
    labelled: np.ndarray

    @classmethod
    def of_predictions(cls, images: Sequence[ClassCounts], index: int) -> ClassTally:
        """The class ``index`` in predictions, or in what an attack left of them."""
        return cls._of(
            [
                (c.true_positive[index], c.target[index], c.predicted[index] - c.true_positive[index], c.target.sum())
                for c in images
            ]
        )

    @classmethod
    def of_certificates(cls, images: Sequence[CertifiedCounts], index: int, tolerated: int = 0) -> ClassTally:
        """The class ``index`` under the attacker that harms it most: no pixel of it is right that is not certified, and
        every other pixel is taken for it that is not certified as something else.

        Args:
            images: the counts of each image.
            index: the class.
            tolerated: how many certified pixels of an image may be wrong: so many of the class are, and so many others
                are taken for it.
        """
        numbers = []
        for c in images:
            others = c.target.sum() - c.target[index]
            taken = c.wrong_as[index] + c.free.sum() - c.free[index] + tolerated
            hits = max(0, c.correct[index] - tolerated)
            numbers.append((hits, c.target[index], min(others, taken), c.target.sum()))
        return cls._of(numbers)

    @classmethod
    def _of(cls, numbers: Sequence[tuple[int, int, int, int]]) -> ClassTally:
        return cls(*np.asarray(numbers, dtype=np.int64).reshape(-1, 4).T)

    @property
    def has_class(self) -> np.ndarray:
        """``(N,)`` bool, the images with a pixel labelled as the class."""
        found: np.ndarray = self.target > 0
        return found

    def recall(self) -> np.ndarray:
        """``(N,)``, share of the class's pixels that are right; NaN in images without it. What is left to 1 are its
        false negatives."""
        return _ratio(self.hits, self.target)

    def dice(self) -> np.ndarray:
        """``(N,)``, ``2 TP / (2 TP + FP + FN)``; NaN in images without the class. It rises with the right pixels and
        falls with the false positives, so the least of one and the most of the other give its worst case."""
        return np.where(self.has_class, _ratio(2 * self.hits, self.hits + self.false_positives + self.target), np.nan)

    def pooled(self) -> ClassTally:
        """The sums over all images as one."""
        return ClassTally(*(np.sum(part, keepdims=True) for part in vars(self).values()))

    def missed(self) -> int:
        """Number of images with the class in which not one pixel of it is right."""
        return int((self.has_class & (self.hits == 0)).sum())

    def specificity(self) -> float:
        """In images without the class: share of the labelled pixels that are not taken for it; NaN without such."""
        empty = ~self.has_class
        return float(1.0 - _ratio(self.false_positives[empty].sum(), self.labelled[empty].sum()))


@dataclass(frozen=True)
class _Names:
    """The figures of a kind of result."""

    recall: Figure
    dice: Figure
    missed: Figure
    specificity: Figure


_NAMES = {
    "prediction": _Names(known.RECALL, known.DICE, known.MISSED_IMAGES, known.SPECIFICITY),
    "certifier": _Names(
        known.CERTIFIED_RECALL, known.WORST_DICE, known.UNPROTECTED_IMAGES, known.CERTIFIED_SPECIFICITY
    ),
    "attack": _Names(
        known.ATTACKED_RECALL, known.ATTACKED_DICE, known.ATTACKED_MISSED_IMAGES, known.ATTACKED_SPECIFICITY
    ),
}


def focus_figures(
    kind: str,
    rows: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    focus: Sequence[str],
    guarantee: Guarantee | None = None,
) -> dict[str, float]:
    """Figures of chosen classes over a data set, by their full names. Of certificates that promise nothing about the
    pixels of a single image they are undefined, NaN.

    Args:
        kind: ``prediction``, ``certifier`` or ``attack``: what the rows are of.
        rows: one for each image, with its ``counts``.
        class_names: the names of all classes, in the order of their ids.
        focus: the names of the chosen ones.
        guarantee: what the certificates promise; None for other rows, and for certificates of every pixel.
    """
    tolerated = 0 if guarantee is None else guarantee.tolerated
    is_promised = guarantee is None or guarantee.covers_pixels
    figures: dict[str, float] = {}
    for name in focus:
        index = list(class_names).index(name)
        if kind == "certifier":
            certified = [CertifiedCounts.from_json(row["counts"]["certified"]) for row in rows]
            found = _figures(_NAMES[kind], ClassTally.of_certificates(certified, index, tolerated), name)
            images = known.IMAGES_WITH.full_name(parameter=name)
            if guarantee is not None and guarantee.excuses_alerts:  # an alert excuses what the attack then leaves
                found |= {key: float("nan") for key in found if key.startswith("worst_case_")}
            figures |= found if is_promised else dict.fromkeys(found, float("nan")) | {images: found[images]}
            predicted = [ClassCounts.from_json(row["counts"]["prediction"]) for row in rows]
            tally = ClassTally.of_predictions(predicted, index)
            figures |= _averages(known.PREDICTION_RECALL, tally.recall(), tally.pooled().recall(), name)
            figures |= _averages(known.PREDICTION_DICE, tally.dice(), tally.pooled().dice(), name)
        else:
            counts = [ClassCounts.from_json(row["counts"]) for row in rows]
            figures |= _figures(_NAMES[kind], ClassTally.of_predictions(counts, index), name)
    return figures


def _figures(names: _Names, tally: ClassTally, name: str) -> dict[str, float]:
    whole = tally.pooled()
    return {
        **_averages(names.recall, tally.recall(), whole.recall(), name),
        **_averages(names.dice, tally.dice(), whole.dice(), name),
        names.missed.full_name(parameter=name): tally.missed(),
        known.IMAGES_WITH.full_name(parameter=name): int(tally.has_class.sum()),
        names.specificity.full_name(Estimator.POOLED, name): tally.specificity(),
    }


def _averages(figure: Figure, by_image: np.ndarray, pooled: np.ndarray, name: str) -> dict[str, float]:
    """The mean over the images with the class, and the value of all pixels together; NaN without any."""
    defined = by_image[~np.isnan(by_image)]
    return {
        figure.full_name(Estimator.IMAGE_MEAN, name): float(defined.mean()) if len(defined) else float("nan"),
        figure.full_name(Estimator.POOLED, name): float(pooled[0]),
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Elementwise quotient, NaN where ``whole`` is 0."""
    found: np.ndarray = np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
    return found
