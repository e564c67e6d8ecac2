"""The bracket of single pixels: no attack on the same predictor within the certified threat may change one.

A certificate of detection allows a certified pixel to change where the attacked image raises an alert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from certseg.bracket.comparison import Comparison
from certseg.errors import BracketError
from certseg.types import IGNORE_INDEX
from certseg.types.hierarchy import Hierarchy

LEVEL = 1e-6
"""Probability with which a correct certificate is accused, per image, through the votes' own chance alone."""


class MapSource(Protocol):
    """Where the maps of an image are read from."""

    def load_map(self, name: str) -> dict[str, np.ndarray]:
        """The stored maps of image ``name``."""


@dataclass(frozen=True)
class PixelFindings:
    """What was compared pixel by pixel.

    Args:
        images: number of images.
        certified_pixels: number of certified pixels on them.
        undecided_pixels: certified pixels that a majority vote put into another class without that being significant
            (near probability 1/2 votes fall either way).
        alerted_pixels: certified pixels that changed with an alert, where alerts excuse a change; else None.
        skipped_images: images on which the attack's patches were larger than the certificate's; None where there are
            none.
    """

    images: int
    certified_pixels: int
    undecided_pixels: int
    alerted_pixels: int | None = None
    skipped_images: int | None = None


def broken_pixels(
    certificate: Mapping[str, np.ndarray],
    attacked: Mapping[str, np.ndarray],
    tolerated: int = 0,
    hierarchy: Hierarchy | None = None,
) -> tuple[int, int]:
    """The number of certified pixels whose votes together contradict the certificate, and the number of those that are
    merely outvoted.

    A network's prediction is exact: any other class at a certified pixel breaks it, unless ``alerts`` are given and one
    is raised there. A smoothed model's prediction is a vote. If the certificate holds, the certified class (or group of
    classes) of every pixel has a probability above 1/2 at the adversarial image, so each p-value P[Bin(n, 1/2) <= votes
    for it] is valid. The map is broken when the k smallest p-values of its N lie at or below
    LEVEL * k / (N * (1 + 1/2 + ... + 1/N)) for some k, a global test valid under any dependence between pixels (Hommel
    1983); the largest such k is returned. Where the votes are the lowest of several candidates, LEVEL is divided by
    their number. For a vote that is a statement about the map, not about each of the k pixels. Many pixels that are
    each just outvoted break a map as one pixel does that has hardly a vote left.

    Args:
        certificate: maps ``classes`` and ``certified`` (``H x W``), with a hierarchy also ``levels``.
        attacked: map ``prediction`` (``H x W``), also ``alerts`` where these excuse a change, for a sampled predictor
            also ``votes`` (``K x H x W``) and ``num_votes``, and ``candidates`` where they were chosen from several.
        tolerated: number of certified pixels that may be wrong within the claim (k - 1 of a k-family-wise error). The
            smallest p-values are left out: the others are then not smaller than those of the remaining pixels sorted.
        hierarchy: the hierarchy whose groups are certified; None where classes are.
    """
    certified = certificate["certified"].astype(bool)
    classes = certificate["classes"][certified].astype(np.int64)
    levels = np.zeros_like(classes) if hierarchy is None else certificate["levels"][certified].astype(np.int64)
    if "votes" not in attacked:
        table = _table(hierarchy, IGNORE_INDEX)
        prediction = attacked["prediction"][certified].astype(np.int64)
        changed = table[levels, prediction] != table[levels, classes]
        if "alerts" in attacked:
            changed &= ~attacked["alerts"].astype(bool)[certified]
        return max(0, int(changed.sum()) - tolerated), 0
    votes = attacked["votes"][:, certified]
    kept, most = _votes_for(classes, levels, votes, _table(hierarchy, len(votes)))
    changed = int((most > kept).sum())
    num_votes, num_pixels = int(attacked["num_votes"]), len(classes) - tolerated
    if num_pixels < 1:
        return 0, changed
    at_most = np.cumsum(np.bincount(kept, minlength=num_votes + 1)) - tolerated  # pixels with at most v votes
    at_most = np.maximum(at_most, 0)
    from scipy.stats import binom  # takes most of a second to import

    p_values = binom.cdf(np.arange(num_votes + 1), num_votes, 0.5)
    harmonic = np.log(num_pixels) + np.euler_gamma + 1 / (2 * num_pixels)  # not below the sum it stands for
    level = LEVEL / int(attacked.get("candidates", 1))
    significant = at_most[(p_values <= level * at_most / (num_pixels * harmonic)) & (at_most > 0)]
    broken = int(significant.max(initial=0))
    return broken, 0 if broken else changed


def _table(hierarchy: Hierarchy | None, num_classes: int) -> np.ndarray:
    """``L x K`` the group of each class on each level; without a hierarchy a class is a group."""
    return np.arange(num_classes)[None] if hierarchy is None else hierarchy.table.numpy()


def _votes_for(
    classes: np.ndarray, levels: np.ndarray, votes: np.ndarray, table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Votes for the group of each pixel, and for the group of its level that has most of them.

    Args:
        classes: ``(P,)`` int64, the certified class of each pixel.
        levels: ``(P,)`` int64, the level of its group.
        votes: ``K x P``, how many votes each class has at each pixel.
        table: ``L x K``, the group of each class on each level.
    """
    kept, most = np.zeros_like(classes), np.zeros_like(classes)
    for level in np.unique(levels):
        here = levels == level
        own, part, groups = table[level][classes[here]], votes[:, here], table[level]
        for group in np.unique(groups):
            number = part[groups == group].sum(axis=0, dtype=np.int64)
            kept[here] = np.where(own == group, number, kept[here])
            most[here] = np.maximum(most[here], number)
    return kept, most


def _alerted(certificate: Mapping[str, np.ndarray], attacked: Mapping[str, np.ndarray]) -> int:
    """Number of certified pixels that changed where there is an alert."""
    changed = certificate["classes"].astype(np.int64) != attacked["prediction"].astype(np.int64)
    return int((changed & certificate["certified"].astype(bool) & attacked["alerts"].astype(bool)).sum())


def _at_level(maps: Mapping[str, np.ndarray], suffix: str, levels: int) -> dict[str, np.ndarray]:
    """The maps of one of the radii that are compared; the more there are, the more candidates a vote has."""
    names = ("prediction", "alerts", "votes", "num_votes", "candidates")
    part = {name: maps[name + suffix] for name in names if name + suffix in maps}
    return part | {"candidates": levels * part["candidates"]} if "candidates" in part else part


def _within(certificate: Mapping[str, np.ndarray], place: int | None) -> Mapping[str, np.ndarray]:
    """The maps of a certificate at the radius of this place, in rising order, where it has several."""
    if place is None or "steps" not in certificate:
        return certificate
    return {**certificate, "certified": certificate["steps"] > place}


def check_pixels(
    comparison: Comparison,
    certificates: MapSource,
    attacked: MapSource,
    names: Sequence[str],
    radii: Sequence[float] = (),
) -> PixelFindings | None:
    """Compare certified and attacked maps, image by image and pixel by pixel, at every budget of the attack that the
    guarantee covers. Where only an image tells which of two patches is larger, the images are compared on which those
    of the attack are no larger.

    Args:
        comparison: the certifier's guarantee beside the attack's attempt.
        certificates: maps ``classes`` and ``certified``, with a hierarchy also ``levels``; ``steps`` where pixels are
            certified at several radii together, and then an attack within a smaller one is held against all pixels that
            are certified there.
        attacked: the attack's maps (:func:`broken_pixels` names them); those of smaller radii have a suffix
            (:attr:`certseg.types.Level.suffix`).
        names: the images both have finished.
        radii: the radii that ``steps`` counts, in rising order.

    Returns:
        None where the two may not be compared.

    Raises:
        BracketError: a certified pixel is broken; names the image. One of the two computations has a defect.
    """
    if not comparison.is_possible or not comparison.guarantee.covers_pixels:
        return None
    guarantee = comparison.guarantee
    hierarchy = Hierarchy(guarantee.hierarchy) if guarantee.hierarchy else None
    certified_pixels = undecided = alerted = skipped = 0
    has_alerts = False
    for name in names:
        certificate = certificates.load_map(name)
        height, width = certificate["classes"].shape
        budgets = comparison.levels((height, width))
        if not budgets:
            skipped += 1
            continue
        maps = attacked.load_map(name)
        levels = [_at_level(maps, budget.suffix, len(budgets)) for budget in budgets]
        within = [_within(certificate, comparison.smallest_cover(budget, tuple(radii))) for budget in budgets]
        for level in levels:
            if guarantee.excuses_alerts and "alerts" in level:
                has_alerts, alerted = True, alerted + _alerted(certificate, level)
            else:
                level.pop("alerts", None)
        found = [
            broken_pixels(known, level, guarantee.tolerated, hierarchy)
            for known, level in zip(within, levels, strict=True)
        ]
        broken, outvoted = (max(numbers) for numbers in zip(*found, strict=True))
        if broken:
            raise BracketError(
                f"The attack {comparison.attack} contradicts {comparison.certifier} at {broken} pixels of image "
                f"{name!r} that are certified within {guarantee.threat}",
                expected=f"no certified pixel changes within the threat{' without an alert' if has_alerts else ''}",
                remedy="Please report this with the run's folder: unless the certificate itself failed, which its "
                "confidence allows for, it or the attack has a defect",
            )
        certified_pixels += max(int(known["certified"].sum()) for known in within)
        undecided += outvoted
    if skipped and skipped == len(names):
        return None
    alerts = alerted if has_alerts else None
    return PixelFindings(len(names) - skipped, certified_pixels, undecided, alerts, skipped or None)
