"""Bounds on whole images and data sets against attacks: what no perturbation can undercut, none of those found may.

Certificates of single pixels say little where few pixels are certified on their own. A Lipschitz certificate also
bounds what one perturbation does to all pixels together; a wrong constant shows there first. A certificate against
patches bounds it by its certified pixels; there counts and averages are checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from certseg.bracket.comparison import Comparison
from certseg.errors import BracketError
from certseg.lipschitz.worst_case import ClassCurves, FalseNegativeCounts, RadiusFigures, pooled_class_iou
from certseg.lipschitz.worst_case.by_radius import ROW
from certseg.metrics import CertifiedCounts, ClassCounts, known_figures, worst_case_miou
from certseg.types import Level, Promise, Row, Store

_ROUNDING = 1e-9

Bound = tuple[str, float | None, float | None]
"""What is bounded, the bound, and what an attack left of it; None where there is none."""


@dataclass(frozen=True)
class _Side:
    """A finished certifier or attack: its summary and its rows by image."""

    summary: Mapping[str, Any]
    rows: Mapping[str, Row]


@dataclass(frozen=True)
class _Budget:
    """One budget of an attack: the place of the smallest certified radius that includes it, and the attack's own
    figures there."""

    level: Level
    index: int
    figures: Mapping[str, Any]


def check_bounds(
    comparison: Comparison,
    certifier: Mapping[str, Any],
    certificates: Store,
    attack: Mapping[str, Any],
    attacked: Store,
    names: Sequence[str],
) -> int | None:
    """Compare a certificate's bounds on whole images and on the data set with what an attack left there.

    A Lipschitz certificate is compared at every radius of the attack, with the smallest radius of the certificate that
    includes it: correct pixels of all and of each class, IoU of each class and mean IoU, for every image; IoU of each
    class and mean IoU pooled over all images. Of an ensemble every member is compared. Of any other certificate that
    bounds counts (:attr:`certseg.types.Guarantee.bounds_counts`), on images on which the attack's budget lies within
    the certified threat: certified and attacked correct pixels of all and of each class, worst-case and attacked mean
    IoU, and accuracy and mean IoU pooled over these images.

    Args:
        comparison: the certifier's guarantee beside the attack's attempt.
        certifier: the certifier's summary, over the images ``names``.
        certificates: the certifier's rows, and for patches that only an image makes comparable its maps.
        attack: the attack's summary.
        attacked: the attack's rows.
        names: the images both have finished.

    Returns:
        The number of positive bounds that were compared; None where there are none of the kind, or the two may not be
        compared (another predictor or norm, no threat that is large enough, or alerts that excuse a change).

    Raises:
        BracketError: a bound is undercut; names the image. One of the two computations has a defect.
    """
    if not comparison.is_about_images or not comparison.guarantee.is_deterministic:
        return None
    below, above = _Side(certifier, certificates.read()), _Side(attack, attacked.read())
    if names and all(ROW in below.rows[name]["counts"] for name in names):
        return _check_radii(comparison, below, above, names)
    if comparison.guarantee.promise is Promise.COLLECTIVE:
        return _check_collective(comparison, below, above, certificates, names)
    return _check_counts(comparison, below, above, certificates, attacked, names)


def _check_radii(comparison: Comparison, below: _Side, above: _Side, names: Sequence[str]) -> int | None:
    """As :func:`check_bounds`, of a Lipschitz certificate at each of its radii."""
    budgets = _budgets(comparison, below, above)
    if not budgets:
        return None
    compared = 0
    bounds = {name: RadiusFigures.from_json(below.rows[name]["counts"][ROW]) for name in names}
    for budget in budgets:
        within = str(budget.level.threat)
        results = {name: _results(_part(budget.level, above.rows[name])) for name in names}
        for name in names:
            for left in results[name]:
                found = _image_bounds(bounds[name], budget.index, left)
                compared += _check(found, f"image {name!r}", comparison, within)
        for pooled in zip(*(results[name] for name in names), strict=True):
            found = _pooled_bounds(below.summary["by_radius"][budget.index], reduce(add, pooled), budget.figures)
            compared += _check(found, f"the {len(names)} images together", comparison, within)
    return compared


def _check_collective(
    comparison: Comparison, below: _Side, above: _Side, certificates: Store, names: Sequence[str]
) -> int | None:
    """As :func:`check_bounds`, where only what is left of all pixels together is promised: accuracies of images."""
    if not comparison.attempt.has_budget or not comparison.is_possible:
        return None
    figure, attacked = (known_figures.COLLECTIVE_ACCURACY.full_name(), known_figures.ATTACKED_ACCURACY.full_name())
    inside = [name for name in names if _is_inside(comparison, certificates, name)]
    bounds = [(name, below.rows[name]["figures"].get(figure)) for name in inside]
    within = str(comparison.guarantee.threat)
    compared = 0
    for name, bound in bounds:
        found = iter([("accuracy", bound, above.rows[name]["figures"][attacked])])
        compared += _check(found, f"image {name!r}", comparison, within)
    return compared if any(bound is not None for _, bound in bounds) else None


def _check_counts(
    comparison: Comparison, below: _Side, above: _Side, certificates: Store, attacked: Store, names: Sequence[str]
) -> int | None:
    """As :func:`check_bounds`, where certified pixels keep their class whatever the attack does. Predictions that are
    votes are left to the comparison of pixels, which knows their chance."""
    if not comparison.guarantee.bounds_counts or not comparison.attempt.has_budget or not comparison.is_possible:
        return None
    if any("votes" in attacked.load_map(name) for name in names[:1]):
        return None
    inside = [name for name in names if _is_inside(comparison, certificates, name)]
    if not inside:
        return None
    kept = {name: CertifiedCounts.from_json(below.rows[name]["counts"]["certified"]) for name in inside}
    left = {name: ClassCounts.from_json(above.rows[name]["counts"]) for name in inside}
    parts = [(f"image {name!r}", _count_bounds(kept[name], left[name])) for name in inside]
    together = f"the {len(inside)} images together"
    parts.append((together, _count_bounds(reduce(add, kept.values()), reduce(add, left.values()))))
    if len(inside) == len(names):
        parts.append((together, _count_figures(below.summary["figures"], above.summary["figures"])))
    within = str(comparison.guarantee.threat)
    return sum(_check(found, where, comparison, within) for where, found in parts)


def _is_inside(comparison: Comparison, certificates: Store, name: str) -> bool:
    """Whether the attack's largest budget lies within the certified threat, on this image."""
    image = None
    if comparison.by_image:
        height, width = certificates.load_map(name)["classes"].shape
        image = height, width
    return any(level.place is None for level in comparison.levels(image))


def _count_bounds(kept: CertifiedCounts, left: ClassCounts) -> Iterator[Bound]:
    yield "correct pixels", int(kept.correct.sum()), int(left.true_positive.sum())
    for k, (bound, hits) in enumerate(zip(kept.correct, left.true_positive, strict=True)):
        yield f"correct pixels of class {k}", int(bound), int(hits)
    yield "mean IoU", worst_case_miou(kept), left.miou()


def _count_figures(bounds: Mapping[str, Any], figures: Mapping[str, Any]) -> Iterator[Bound]:
    """What the summaries say."""
    for average in ("image_mean", "pooled"):
        bound = bounds[f"certified_accuracy/{average}"]
        yield f"accuracy ({average})", bound, figures[f"attacked_accuracy/{average}"]
    yield "mean IoU", bounds["worst_case_miou/pooled"], figures["attacked_miou/pooled"]


def _budgets(comparison: Comparison, below: _Side, above: _Side) -> list[_Budget]:
    """The budgets of the attack that some radius of the certificate includes, with the attack's figures at each."""
    radii = tuple(entry["radius"] for entry in below.summary.get("by_radius", ()))
    by_radius = above.summary.get("by_radius", ())
    found = []
    for level in comparison.attempt.levels if comparison.attempt.has_budget else ():
        index = comparison.smallest_cover(level, radii)
        if index is not None:
            figures = above.summary["figures"] if level.place is None else by_radius[level.place]
            found.append(_Budget(level, index, figures))
    return found


def _part(level: Level, row: Row) -> Mapping[str, Any]:
    """What a row of an attack says of one of its budgets."""
    return row if level.place is None else row["radii"][level.place]


def _results(part: Mapping[str, Any]) -> list[ClassCounts]:
    """What is left after the attack, and after each member of an ensemble."""
    found = [part, *part.get("members", {}).values()]
    return [ClassCounts.from_json(one["counts"]) for one in found]


def _image_bounds(bounds: RadiusFigures, index: int, left: ClassCounts) -> Iterator[Bound]:
    yield "correct pixels", bounds.collective[index], int(left.true_positive.sum())
    misses = FalseNegativeCounts.from_json(bounds.false_negatives)
    for k, kept in enumerate(misses.positive - misses.missed - misses.hidden[index]):
        yield f"correct pixels of class {k}", int(kept), int(left.true_positive[k])
    if bounds.curves is not None and bounds.worst_miou is not None:
        curves, iou = [ClassCurves.from_json(part) for part in bounds.curves], left.iou()
        for k in (misses.positive > 0).nonzero()[0].tolist():
            yield f"IoU of class {k}", pooled_class_iou([curves], k, [bounds.budgets[index]]), float(iou[k])
        yield "mean IoU", bounds.worst_miou[index], left.miou()


def _pooled_bounds(bounds: Mapping[str, Any], left: ClassCounts, figures: Mapping[str, Any]) -> Iterator[Bound]:
    yield "accuracy", bounds["certified_collective_accuracy/pooled"], left.accuracy()
    for k, (name, bound) in enumerate(bounds.get("class_iou", {}).items()):
        yield f"IoU of {name}", bound, float(left.iou()[k])
    mean = bounds.get("worst_case_miou/pooled")
    yield "mean IoU", mean, left.miou()
    yield "mean IoU", mean, figures.get("attacked_miou/pooled")  # of a mixture of members


def _check(bounds: Iterator[Bound], where: str, comparison: Comparison, within: str) -> int:
    """The number of positive bounds, none of them undercut."""
    compared = 0
    for what, bound, left in bounds:
        if bound is None or left is None or not bound > 0 or math.isnan(left):
            continue
        compared += 1
        if left < bound - _ROUNDING:
            raise BracketError(
                f"The attack {comparison.attack} left {what} {left:.9g} of {where}, less than {comparison.certifier} "
                f"bounds it by within {within}",
                expected=f"at least {bound:.9g}",
                remedy="Please report this with the run's folder: the certificate or the attack has a defect",
            )
    return compared
