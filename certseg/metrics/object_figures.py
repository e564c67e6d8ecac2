"""Figures of labelled objects over a data set: how many are kept, by class and by size (METHODS, section 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from certseg.metrics import known_figures as known
from certseg.metrics.object_counts import OBJECTS, ObjectCounts
from certseg.metrics.object_settings import SIZES, ObjectSettings
from certseg.types import Guarantee, NormBall

_RECALLS = {
    "prediction": known.OBJECT_RECALL,
    "certifier": known.CERTIFIED_OBJECT_RECALL,
    "attack": known.ATTACKED_OBJECT_RECALL,
}


@dataclass(frozen=True)
class ObjectTally:
    """The N objects of one class in some images, under one prediction, certificate or attack; adds up over images.

    Args:
        areas: ``(N,)`` int64, the number of pixels of each object.
        sizes: ``(N,)`` int64, its place in :data:`certseg.metrics.object_settings.SIZES`.
        kept: ``(N,)`` bool, the objects kept in the prediction, or under attack.
        certain: ``(N,)`` bool, the objects that the certificate keeps within its threat; None where nothing is promised
            about the objects of an image.
        covered: ``(N,)`` bool, the objects of which anything is certified; None as ``certain``.
        radii: ``(N,)`` float64, the radius below which each object is kept; None where none is proven.
        present: ``(N,)`` bool, the objects that their own test certifies; None where there was no test.
        silent: ``(N,)`` bool, the objects lost although pixels with an alert count as right; None without alerts.
        tiny: how many objects are too small to be among these.
    """

    areas: np.ndarray
    sizes: np.ndarray
    kept: np.ndarray
    certain: np.ndarray | None
    covered: np.ndarray | None
    radii: np.ndarray | None
    present: np.ndarray | None
    silent: np.ndarray | None
    tiny: int

    @classmethod
    def of_image(
        cls, counts: ObjectCounts, index: int, settings: ObjectSettings, guarantee: Guarantee | None
    ) -> ObjectTally:
        """The objects of the class ``index`` in one image.

        Args:
            counts: those of the image.
            index: the class.
            settings: when objects are kept, and how small they may be.
            guarantee: what a certificate promises; None for what certifies nothing.
        """
        is_class = counts.classes == index
        mine = is_class & (counts.areas >= settings.minimum)
        certain, covered = (None, None) if guarantee is None else promised(counts, settings.share, guarantee)
        silent = None if counts.alerted is None else ~counts.kept_or_alerted(settings.share)
        present = None if counts.present is None else counts.present > 0
        optional = {
            "certain": certain,
            "covered": covered,
            "radii": counts.radii,
            "present": present,
            "silent": silent,
        }
        return cls(
            areas=counts.areas[mine],
            sizes=settings.size_of(counts.areas[mine], counts.pixels),
            kept=counts.kept(settings.share)[mine],
            tiny=int((is_class & ~mine).sum()),
            **{name: None if part is None else part[mine] for name, part in optional.items()},
        )

    def __add__(self, other: ObjectTally) -> ObjectTally:
        optional = ("certain", "covered", "radii", "present", "silent")
        return ObjectTally(
            areas=np.concatenate((self.areas, other.areas)),
            sizes=np.concatenate((self.sizes, other.sizes)),
            kept=np.concatenate((self.kept, other.kept)),
            tiny=self.tiny + other.tiny,
            **{name: _joined(getattr(self, name), getattr(other, name)) for name in optional},
        )

    def recall(self, of: np.ndarray | None, size: int | None = None) -> float:
        """Share of the objects of one size, or of all, that are among ``of`` (``(N,)`` bool); NaN without such objects,
        and where ``of`` is None."""
        chosen = np.ones(len(self.areas), dtype=bool) if size is None else self.sizes == size
        return float("nan") if of is None or not chosen.any() else float(of[chosen].mean())


def promised(counts: ObjectCounts, share: float, guarantee: Guarantee) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The objects of an image that a certificate keeps within its threat, and those of which it certifies anything,
    each ``(M,)`` bool; None where it promises nothing about the objects of an image.

    Two proofs are joined. Certified pixels that are enough for the object keep it, whatever becomes of the others. And
    where the certificate has a radius for each object, it is kept at every smaller radius.

    Args:
        counts: those of the image's certificate.
        share: the share of its pixels with which an object is kept.
        guarantee: what the certificate promises.

    Raises:
        ResultError: the radii of the counts are about another share.
    """
    certain = covered = None
    if guarantee.covers_pixels and counts.certified is not None:
        certain = counts.certainly_kept(share, guarantee.tolerated)
        covered = certain | (counts.certified > guarantee.tolerated)
    if (radii := counts.radii_at(share)) is not None and isinstance(guarantee.threat, NormBall):
        within = radii > guarantee.threat.radius
        certain, covered = (within if found is None else found | within for found in (certain, covered))
    return certain, covered


def object_figures(
    kind: str,
    rows: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    settings: ObjectSettings,
    guarantee: Guarantee | None = None,
) -> dict[str, float]:
    """Figures of the objects of chosen classes over a data set, by their full names.

    What a certificate promises nothing about is undefined, NaN, and so is a recall without objects.

    Args:
        kind: ``prediction``, ``certifier`` or ``attack``: what the rows are of.
        rows: one for each image, with its :data:`certseg.metrics.object_counts.OBJECTS`.
        class_names: the names of all classes, in the order of their ids.
        settings: the chosen classes, and when their objects count and are kept.
        guarantee: what the certificates promise; None for other rows.
    """
    figures: dict[str, float] = {}
    for name, tally in _tallies(rows, class_names, settings, guarantee).items():
        figures[_RECALLS[kind].full_name(parameter=name)] = tally.recall(_subject(kind, tally))
        figures[known.OBJECT_NUMBER.full_name(parameter=name)] = len(tally.areas)
        figures[known.TINY_OBJECTS.full_name(parameter=name)] = tally.tiny
        if kind == "certifier":
            figures |= _certified_figures(tally, name)
        if tally.silent is not None:
            figures[known.SILENTLY_LOST_OBJECTS.full_name(parameter=name)] = int(tally.silent.sum())
    return figures


def objects_by_size(
    kind: str,
    rows: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    settings: ObjectSettings,
    guarantee: Guarantee | None = None,
) -> list[dict[str, Any]]:
    """For each chosen class and each size the number of ``objects`` and the share of them ``kept``: certified to be
    kept, of a certifier. Where the objects have a test of their own, ``present`` is the share that it certifies.
    Arguments are those of :func:`object_figures`."""
    return [
        {
            "class": name,
            "size": size,
            "objects": int((tally.sizes == place).sum()),
            "kept": tally.recall(_subject(kind, tally), place),
            **({} if tally.present is None else {"present": tally.recall(tally.present, place)}),
        }
        for name, tally in _tallies(rows, class_names, settings, guarantee).items()
        for place, size in enumerate(SIZES)
    ]


def _tallies(
    rows: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    settings: ObjectSettings,
    guarantee: Guarantee | None,
) -> dict[str, ObjectTally]:
    """The objects of each chosen class in all images."""
    images = [ObjectCounts.from_json(row[OBJECTS]) for row in rows]
    found = {}
    for name in settings.classes:
        index = list(class_names).index(name)
        found[name] = reduce(add, (ObjectTally.of_image(counts, index, settings, guarantee) for counts in images))
    return found


def _subject(kind: str, tally: ObjectTally) -> np.ndarray | None:
    return tally.certain if kind == "certifier" else tally.kept


def _certified_figures(tally: ObjectTally, name: str) -> dict[str, float]:
    figures = {known.PREDICTION_OBJECT_RECALL.full_name(parameter=name): tally.recall(tally.kept)}
    nothing = float("nan")
    safe = tally.areas[:0] if tally.certain is None else tally.areas[tally.certain]
    figures[known.SMALLEST_OBJECT.full_name(parameter=name)] = int(safe.min()) if len(safe) else nothing
    uncovered = nothing if tally.covered is None else int((~tally.covered).sum())
    figures[known.UNCOVERED_OBJECTS.full_name(parameter=name)] = uncovered
    if tally.present is not None:
        figures[known.PRESENT_OBJECTS.full_name(parameter=name)] = tally.recall(tally.present)
    if tally.radii is not None:
        figures[known.OBJECT_RADIUS.full_name(parameter=name)] = _lower_median(tally.radii)
    return figures


def _lower_median(radii: np.ndarray) -> float:
    """The largest radius that at least half of the objects reach; NaN without objects."""
    return float(np.sort(radii)[::-1][(len(radii) + 1) // 2 - 1]) if len(radii) else float("nan")


def _joined(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    return None if one is None or other is None else np.concatenate((one, other))
