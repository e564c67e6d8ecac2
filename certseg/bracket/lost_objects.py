"""The bracket of objects: no attack on the same predictor may lose an object that is certified to be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from certseg.bracket.comparison import Comparison
from certseg.errors import BracketError
from certseg.metrics import OBJECTS, ObjectCounts, known_figures
from certseg.metrics.object_figures import promised
from certseg.types import NormBall, Row, Store


@dataclass(frozen=True)
class ObjectFindings:
    """What was compared.

    Args:
        objects: objects certified to be kept at a budget of the attack, each at every such budget.
        undecided_objects: those that a majority vote under attack lost, which its chance may have done; None where the
            attacked predictor answers without chance.
    """

    objects: int
    undecided_objects: int | None = None


def check_objects(
    comparison: Comparison, certificates: Store, attacked: Store, names: Sequence[str]
) -> ObjectFindings | None:
    """Compare what is certified of each labelled object with what an attack left of it.

    An object is certified by its certified pixels at the budgets of the attack that the certified threat contains, and
    by a radius of its own wherever the perturbation is shorter, whatever the certified threat is. Where alerts excuse a
    change, pixels that raise one count as right. Votes of a smoothed model are left to the comparison of single pixels,
    which knows their chance: an object cannot be lost against its certificate unless certified pixels change.

    Args:
        comparison: the certifier's guarantee beside the attack's attempt.
        certificates: the certifier's rows, and for patches that only an image makes comparable its maps.
        attacked: the attack's rows, and its maps.
        names: the images both have finished.

    Returns:
        None where the two may not be compared, or rows tell nothing of objects.

    Raises:
        BracketError: an object that is certified to be kept is lost; names the image. One of the two computations has a
            defect.
    """
    below, above = certificates.read(), attacked.read()
    if not comparison.is_about_images or not all(OBJECTS in rows[name] for rows in (below, above) for name in names):
        return None
    has_votes = any("votes" in attacked.load_map(name) for name in names[:1])
    compared = undecided = 0
    is_possible = False
    for name in names:
        kept = ObjectCounts.from_json(below[name][OBJECTS])
        for part, is_inside in _parts(comparison, certificates, name, above[name]):
            certain = _certain(comparison, kept, part, is_inside)
            if certain is None:
                continue
            is_possible = True
            left = _kept_under_attack(comparison, kept, part)
            compared += int(certain.sum())
            lost = certain & ~left
            if has_votes:
                undecided += int(lost.sum())
            elif lost.any():
                raise _violation(comparison, name, kept, lost)
    return ObjectFindings(compared, undecided if has_votes else None) if is_possible else None


def _parts(comparison: Comparison, certificates: Store, name: str, row: Row) -> list[tuple[Mapping[str, Any], bool]]:
    """What a row of an attack says of each of its budgets, and whether the certified threat contains that."""
    if not comparison.attempt.has_budget:
        return [(row, comparison.is_of_norms and comparison.covers(row["smallest"]["distance"]))]
    image = None
    if comparison.by_image:
        height, width = certificates.load_map(name)["classes"].shape
        image = height, width
    inside = {level.place for level in comparison.levels(image)}
    return [
        (row if level.place is None else row["radii"][level.place], level.place in inside)
        for level in comparison.attempt.levels
    ]


def _certain(comparison: Comparison, kept: ObjectCounts, part: Mapping[str, Any], is_inside: bool) -> np.ndarray | None:
    """``(M,)`` bool, the objects that are certified to be kept at this perturbation; None where nothing is said."""
    guarantee, share = comparison.guarantee, kept.share
    assert share is not None  # rows of certificates have one
    found = promised(replace(kept, radii=None), share, guarantee)[0] if is_inside else None
    norm = _norm(comparison, part)
    if kept.radii is not None and norm is not None:
        own: np.ndarray = kept.radii > norm
        found = own if found is None else found | own
    return found


def _norm(comparison: Comparison, part: Mapping[str, Any]) -> float | None:
    """The norm of the perturbation that was found, in the norm of the certified ball; None in another."""
    threat = comparison.guarantee.threat
    if not isinstance(threat, NormBall) or comparison.attempt.threat.norm != threat.norm:
        return None
    if comparison.attempt.has_budget:
        return float(part["figures"][known_figures.NORM.name])
    return float(part["smallest"]["distance"])


def _kept_under_attack(comparison: Comparison, kept: ObjectCounts, part: Mapping[str, Any]) -> np.ndarray:
    counts = ObjectCounts.from_json(part[OBJECTS])
    assert kept.share is not None  # as above
    return counts.kept_or_alerted(kept.share) if comparison.guarantee.excuses_alerts else counts.kept(kept.share)


def _violation(comparison: Comparison, name: str, kept: ObjectCounts, lost: np.ndarray) -> BracketError:
    classes = ", ".join(map(str, np.unique(kept.classes[lost])))
    return BracketError(
        f"The attack {comparison.attack} contradicts {comparison.certifier}: of image {name!r} it lost "
        f"{int(lost.sum())} of the objects (classes {classes}) that are certified to keep a share of {kept.share} of "
        "their pixels",
        expected="no object that is certified to be kept is lost",
        remedy="Please report this with the run's folder: unless the certificate itself failed, which its confidence "
        "allows for, it or the attack has a defect",
    )
