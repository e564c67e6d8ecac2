"""Everything a Lipschitz constant says about an image and its labels, at several radii, as counts for a row; and what
follows for a data set from the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch

from certseg.lipschitz.worst_case.changes import FlippableImage, class_attacks
from certseg.lipschitz.worst_case.collective import CollectiveCounts, allowed, budgets_of, grey_levels, share_radii
from certseg.lipschitz.worst_case.curves import ClassCurves
from certseg.lipschitz.worst_case.false_negatives import FalseNegativeCounts, radius_for_false_negative_rate
from certseg.lipschitz.worst_case.mean_iou import worst_mean_iou
from certseg.lipschitz.worst_case.pooled import pooled_class_iou, pooled_mean_iou
from certseg.types import LipschitzBound

ROW = "lipschitz"
"""Where a row's counts keep the figures of all radii."""

SHARES = (0.25, 0.5, 0.75)
"""Shares of the labelled pixels whose radii are asked for: robustness@25, @50 and @75."""


@dataclass(frozen=True)
class RadiusFigures:
    """One image at each of E radii. All lists are plain, for rows.

    Args:
        budgets: for each radius the squared feature distance that it pays for.
        grey_levels: for each radius the root mean square perturbation on the 8-bit scale, 0 to 255.
        individual: for each radius the number of correct labelled pixels that no perturbation can change, each attacked
            on its own.
        collective: for each radius the number of correct labelled pixels left by every perturbation of the image.
        correct: number of correct labelled pixels.
        labelled: number of labelled pixels.
        share_radii: for each of :data:`SHARES` the radius below which less than that share of the labelled pixels can
            change; None in a row that was read stands for an infinite radius, or for an image without labels.
        false_negatives: the counts of a :class:`FalseNegativeCounts`, by name.
        false_negative_radii: for each class the radius at which the false negative rate may exceed the threshold; None
            for classes without a label.
        worst_miou: for each radius the mean IoU left by every perturbation; None where it was not asked for.
        curves: for each class its :class:`ClassCurves` in plain values; None where they were not asked for.
    """

    budgets: list[float]
    grey_levels: list[float]
    individual: list[int]
    collective: list[int]
    correct: int
    labelled: int
    share_radii: list[float | None]
    false_negatives: dict[str, list[int] | list[list[int]]]
    false_negative_radii: list[float | None]
    worst_miou: Sequence[float | None] | None
    curves: list[dict[str, Any]] | None

    @classmethod
    def of(
        cls,
        image: FlippableImage,
        bound: LipschitzBound,
        size: tuple[int, int],
        radii: Sequence[float],
        *,
        false_negative_rate: float,
        worst_case_iou: bool,
    ) -> RadiusFigures:
        """Count one image.

        Args:
            image: the image, with what it costs to change each of its pixels.
            bound: what is proven about the network.
            size: height and width of the image.
            radii: l2 radii on the [0, 1] image scale, not negative and rising.
            false_negative_rate: the threshold in [0, 1] whose radius is asked for.
            worst_case_iou: whether to bound IoUs, which is the slow part.
        """
        budgets = budgets_of(bound, radii, image.costs.device)
        labelled, correct = image.labelled, image.correct
        costs, hits = image.costs[labelled], correct[labelled]
        counts = CollectiveCounts.of(image.costs, correct, labelled, budgets)
        safe = [int((costs[hits] > float(allowed(b, 1))).sum()) if b > 0 else counts.correct for b in budgets.cpu()]
        misses = FalseNegativeCounts.of(costs, hits, image.target[labelled], budgets, image.num_classes)
        miou = curves = None
        if worst_case_iou:
            attacks = class_attacks(image, float(budgets.max()))
            miou = falling([worst_mean_iou(image, attacks, float(budget)) for budget in budgets])
            curves = [part.to_json() for part in ClassCurves.of_image(attacks, budgets.tolist())]
        return cls(
            budgets.tolist(),
            [grey_levels(radius, *size) for radius in radii],
            safe,
            list(counts.robust),
            counts.correct,
            counts.labelled,
            list(share_radii(costs, SHARES, bound.constant)),
            misses.to_json(),
            _false_negative_radii(image, misses, false_negative_rate, bound.constant),
            miou,
            curves,
        )

    def at(self, index: int) -> dict[str, float | None]:
        """The image's figures at one radius; NaN without labelled pixels, so that the image enters no mean."""
        total = self.labelled
        figures: dict[str, float | None] = {
            "grey_levels": self.grey_levels[index],
            "certified_accuracy": self.individual[index] / total if total else math.nan,
            "certified_collective_accuracy": self.collective[index] / total if total else math.nan,
        }
        if self.worst_miou is not None:
            figures["worst_case_miou"] = self.worst_miou[index]
        return figures

    def to_json(self) -> dict[str, Any]:
        """All fields in plain values, for a row."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RadiusFigures:
        """Inverse of :meth:`to_json`."""
        return cls(**data)


def _false_negative_radii(
    image: FlippableImage, counts: FalseNegativeCounts, rate: float, constant: float
) -> list[float | None]:
    hits = torch.where(image.correct, image.target, -1)
    return [
        radius_for_false_negative_rate(image.costs[hits == k], int(counts.missed[k]), rate, constant)
        if counts.positive[k]
        else None
        for k in range(image.num_classes)
    ]


def figures_by_radius(
    images: Sequence[RadiusFigures], radii: Sequence[float], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """The figures of a data set at each of the rising radii: means over the images that have them, and pooled ones.

    ``certified_accuracy`` counts pixels that cannot be changed one by one, ``certified_collective_accuracy`` those left
    by one perturbation of the whole image; the latter is never lower. ``class_iou`` and ``false_negative_rate`` are by
    class, None for classes without a label, each class attacked on its own.

    Args:
        images: the figures of each image, all at the same radii.
        radii: l2 radii on the [0, 1] image scale, rising.
        class_names: the names of the classes.

    Returns:
        For each radius its figures by name, with ``radius`` among them.
    """
    labelled = sum(image.labelled for image in images)
    curves = [[ClassCurves.from_json(part) for part in image.curves] for image in images if image.curves is not None]
    misses = reduce(add, (FalseNegativeCounts.from_json(image.false_negatives) for image in images))
    rates = misses.rates()
    budgets = list(zip(*(image.budgets for image in images), strict=True))
    has_iou = len(curves) == len(images)
    mious = falling([pooled_mean_iou(curves, part) for part in budgets]) if has_iou else []
    found = []
    for index, radius in enumerate(radii):
        per_image = [image.at(index) for image in images]
        entry: dict[str, Any] = {"radius": radius}
        for name in per_image[0]:
            title = name if name == "grey_levels" else f"{name}/image_mean"
            entry[title] = defined_mean([figures[name] for figures in per_image])
        for name, part in (("certified_accuracy", "individual"), ("certified_collective_accuracy", "collective")):
            total = sum(getattr(image, part)[index] for image in images)
            entry[f"{name}/pooled"] = total / labelled if labelled else math.nan
        if has_iou:
            entry["worst_case_miou/pooled"] = mious[index]
            ious = [pooled_class_iou(curves, k, budgets[index]) for k in range(len(class_names))]
            entry["class_iou"] = {
                name: value if misses.positive[k] else None
                for k, (name, value) in enumerate(zip(class_names, ious, strict=True))
            }
        entry["false_negative_rate"] = {
            name: float(rate) if math.isfinite(rate) else None
            for name, rate in zip(class_names, rates[index], strict=True)
        }
        found.append(entry)
    return found


def falling(bounds: Sequence[float]) -> list[float]:
    """Lower bounds at rising radii, each raised to the best bound at a larger radius, which holds for smaller ones too.

    >>> falling([0.8, 0.5, 0.6])
    [0.8, 0.6, 0.6]
    """
    raised: list[float] = np.maximum.accumulate(np.asarray(bounds, dtype=np.float64)[::-1])[::-1].tolist()
    return raised


def defined_mean(values: Sequence[float | None]) -> float:
    """Mean of the values that are neither None nor NaN, infinite ones included; NaN without any.

    >>> defined_mean([0.5, None, math.nan, 1.0])
    0.75
    """
    kept = [value for value in values if value is not None and not math.isnan(value)]
    return float(np.mean(kept)) if kept else math.nan
