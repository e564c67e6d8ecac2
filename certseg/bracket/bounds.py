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

from certseg.bracket.pixels import comparable, threat_words
from certseg.errors import BracketError
from certseg.lipschitz.worst_case import ClassCurves, FalseNegativeCounts, RadiusFigures, pooled_class_iou
from certseg.lipschitz.worst_case.by_radius import ROW
from certseg.metrics import CertifiedCounts, ClassCounts, worst_case_miou
from certseg.types.threats import Patch, is_within

_ROUNDING = 1e-9

Bound = tuple[str, float, float]
"""What is bounded, the bound, and what an attack left of it."""


@dataclass(frozen=True)
class _Level:
    """One radius of an attack: its place among the smaller ones (None for the largest), its size, the place of the one
    that includes it among the certificate's radii, and the attack's own figures."""

    place: int | None
    radius: float
    index: int
    figures: Mapping[str, Any]

    def part(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a row says of this radius."""
        return row if self.place is None else row["radii"][self.place]


def check_bounds(
    certifier: Mapping[str, Any],
    certified: Mapping[str, Mapping],
    attack: Mapping[str, Any],
    attacked: Mapping[str, Mapping],
    names: Sequence[str],
) -> int | None:
    """Compare a certificate's bounds on whole images and on the data set with what an attack left there.

    Compared are, at every radius of the attack with the smallest radius of the certificate that includes it: correct
    pixels of all and of each class, IoU of each class and mean IoU, for every image; IoU of each class and mean IoU
    pooled over all images. Of an ensemble every member is compared. Of a certificate against patches, on images on
    which the attack's patches are no larger: certified and attacked correct pixels of all and of each class, worst-case
    and attacked mean IoU, and accuracy and mean IoU pooled over these images.

    Args:
        certifier: the certifier's summary, over the images ``names``.
        certified: its rows by image.
        attack: the attack's summary.
        attacked: its rows by image.
        names: the images both have finished.

    Returns:
        The number of positive bounds that were compared; None where there are none of the kind, or the two may not be
        compared (another predictor or norm, no threat that is large enough, or alerts that excuse a change).

    Raises:
        BracketError: a bound is undercut; names the image. One of the two computations has a defect.
    """
    if certifier["threat"].get("norm") == Patch.norm:
        return _check_patches(certifier, certified, attack, attacked, names)
    levels = _levels(certifier, attack)
    if not levels or any(ROW not in certified[name]["counts"] for name in names):
        return None
    compared = 0
    bounds = {name: RadiusFigures.from_json(certified[name]["counts"][ROW]) for name in names}
    for level in levels:
        within = f"{attack['threat']['norm']} radius {level.radius:.6g}"
        results = {name: _results(level.part(attacked[name])) for name in names}
        for name in names:
            for left in results[name]:
                found = _image_bounds(bounds[name], level.index, left)
                compared += _check(found, f"image {name!r}", certifier, attack, within)
        for pooled in zip(*(results[name] for name in names), strict=True):
            found = _pooled_bounds(certifier["by_radius"][level.index], reduce(add, pooled), level.figures)
            compared += _check(found, f"the {len(names)} images together", certifier, attack, within)
    return compared


def _check_patches(
    certifier: Mapping[str, Any],
    certified: Mapping[str, Mapping],
    attack: Mapping[str, Any],
    attacked: Mapping[str, Mapping],
    names: Sequence[str],
) -> int | None:
    """As :func:`check_bounds`, where certified pixels keep their class whatever patches do."""
    if certifier.get("claim") is not None or certifier.get("tolerated", 0) != 0 or certifier["confidence"] != 1:
        return None
    if attack["threat"].get("norm") != Patch.norm or certifier["predictor"] != attack["predictor"]:
        return None
    sides = {name: tuple(_sides(rows[name]) for rows in (attacked, certified)) for name in names}
    inside = [name for name in names if comparable(certifier, attack, sides[name])]
    if not inside:
        return None
    kept = {name: CertifiedCounts.from_json(certified[name]["counts"]["certified"]) for name in inside}
    left = {name: ClassCounts.from_json(attacked[name]["counts"]) for name in inside}
    parts = [(f"image {name!r}", _patch_bounds(kept[name], left[name])) for name in inside]
    together = f"the {len(inside)} images together"
    parts.append((together, _patch_bounds(reduce(add, kept.values()), reduce(add, left.values()))))
    if len(inside) == len(names):
        parts.append((together, _patch_figures(certifier["figures"], attack["figures"])))
    within = threat_words(certifier["threat"])
    return sum(_check(found, where, certifier, attack, within) for where, found in parts)


def _sides(row: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width in pixels of a patch of a row."""
    return row["figures"]["patch_height"], row["figures"]["patch_width"]


def _patch_bounds(kept: CertifiedCounts, left: ClassCounts) -> Iterator[Bound]:
    yield "correct pixels", int(kept.correct.sum()), int(left.true_positive.sum())
    for k, (bound, hits) in enumerate(zip(kept.correct, left.true_positive, strict=True)):
        yield f"correct pixels of class {k}", int(bound), int(hits)
    yield "mean IoU", worst_case_miou(kept), left.miou()


def _patch_figures(bounds: Mapping[str, Any], figures: Mapping[str, Any]) -> Iterator[Bound]:
    """What the summaries say."""
    for average in ("image_mean", "pooled"):
        bound = bounds[f"certified_accuracy/{average}"]
        yield f"accuracy ({average})", bound, figures[f"attacked_accuracy/{average}"]
    yield "mean IoU", bounds["worst_case_miou/pooled"], figures["attacked_miou/pooled"]


def _levels(certifier: Mapping[str, Any], attack: Mapping[str, Any]) -> list[_Level]:
    if certifier["predictor"] != attack["predictor"] or certifier["confidence"] != 1:
        return []
    known = [entry["radius"] for entry in certifier.get("by_radius", ())]
    smaller = attack.get("by_radius", ())[:-1]
    parts = [(place, entry["radius"], entry) for place, entry in enumerate(smaller)]
    levels = []
    for place, radius, figures in (*parts, (None, attack["threat"].get("radius"), attack["figures"])):
        if not radius:  # rounding alone may move a pixel between two classes with equal logits
            continue
        inner = attack["threat"] | {"radius": radius}
        fitting = [i for i, outer in enumerate(known) if is_within(inner, certifier["threat"] | {"radius": outer})]
        if fitting:
            levels.append(_Level(place, radius, min(fitting, key=known.__getitem__), figures))
    return levels


def _results(part: Mapping[str, Any]) -> list[ClassCounts]:
    """What is left after the attack, and after each member of an ensemble."""
    found = [part, *part.get("members", {}).values()]
    return [ClassCounts.from_json(one["counts"]) for one in found]


def _image_bounds(bounds: RadiusFigures, index: int, left: ClassCounts) -> Iterator[Bound]:
    yield "correct pixels", bounds.collective[index], int(left.true_positive.sum())
    misses = FalseNegativeCounts.from_json(bounds.false_negatives)
    for k, hits in enumerate(misses.positive - misses.missed - misses.hidden[index]):
        yield f"correct pixels of class {k}", int(hits), int(left.true_positive[k])
    if bounds.curves is not None:
        curves, iou = [ClassCurves.from_json(part) for part in bounds.curves], left.iou()
        for k in (misses.positive > 0).nonzero()[0]:
            yield f"IoU of class {k}", pooled_class_iou([curves], int(k), [bounds.budgets[index]]), float(iou[k])
        yield "mean IoU", bounds.worst_miou[index], left.miou()


def _pooled_bounds(bounds: Mapping[str, Any], left: ClassCounts, figures: Mapping[str, Any]) -> Iterator[Bound]:
    yield "accuracy", bounds["certified_collective_accuracy/pooled"], left.accuracy()
    for k, (name, bound) in enumerate(bounds.get("class_iou", {}).items()):
        yield f"IoU of {name}", bound, float(left.iou()[k])
    mean = bounds.get("worst_case_miou/pooled")
    yield "mean IoU", mean, left.miou()
    yield "mean IoU", mean, figures.get("attacked_miou/pooled")  # of a mixture of members


def _check(
    bounds: Iterator[Bound], where: str, certifier: Mapping[str, Any], attack: Mapping[str, Any], within: str
) -> int:
    """The number of positive bounds, none of them undercut."""
    compared = 0
    for what, bound, left in bounds:
        if bound is None or left is None or not bound > 0 or math.isnan(left):
            continue
        compared += 1
        if left < bound - _ROUNDING:
            raise BracketError(
                f"The attack {attack['name']} left {what} {left:.9g} of {where}, less than {certifier['name']} bounds "
                f"it by within {within}",
                expected=f"at least {bound:.9g}",
                remedy="Please report this with the run's folder: the certificate or the attack has a defect",
            )
    return compared
