"""What became of each labelled object of an image: counts for a row, from which everything about objects follows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any

import numpy as np
from torch import Tensor

from certseg.errors import ResultError
from certseg.metrics.object_regions import ObjectRegions
from certseg.types import Certificate, RegionFindings, Sample

OBJECTS = "objects"
"""Where a row keeps its :class:`ObjectCounts`."""


def pixels_needed(areas: np.ndarray, share: float) -> np.ndarray:
    """How many pixels of an object must be of its class for it to be kept: ``ceil(share * area)``, exactly.

    Args:
        areas: int64, the number of pixels of each object.
        share: in (0, 1], read as the decimal number it prints as.

    >>> pixels_needed(np.array([1, 9, 10, 11]), 0.7).tolist()  # in floats 0.7 * 10 is above 7
    [1, 7, 7, 8]
    """
    exact = Fraction(str(float(share)))
    return np.asarray([math.ceil(exact * area) for area in areas.tolist()], dtype=np.int64)


@dataclass(frozen=True)
class ObjectCounts:
    """The M objects of an image, under one prediction, certificate or attack.

    An object is *kept* if at least a share q of its pixels has its class. What is certified of pixels says that of
    objects: those whose certified pixels are enough alone are kept whatever the attacker makes of the others.

    Args:
        pixels: number of all pixels of the image, labelled or not.
        classes: ``(M,)`` int64, the class of each object.
        areas: ``(M,)`` int64, the number of its pixels.
        hits: ``(M,)`` int64, those of its pixels that are predicted as its class: by the network, by the predictor that
            is certified, or under attack.
        certified: ``(M,)`` int64, those that are certified as its class; None where nothing is certified.
        alerted: ``(M,)`` int64, those of another class, under attack, at which an alert is raised; None where there are
            no alerts.
        radii: ``(M,)`` float64, the radius of the certified norm below which each object is kept, as
            :meth:`certseg.types.Certificate.region_radii` proves it; None where the certificate proves none.
        share: the share q that the radii and ``shown`` are about; None without certificate.
        shown: ``(M,)`` int64, how many noisy copies of the objects' own test keep each object, -1 for objects that were
            not tested; None where there was no test.
        present: ``(M,)`` int64, 1 for objects that the test certifies and 0 for others; None as before.
    """

    pixels: int
    classes: np.ndarray
    areas: np.ndarray
    hits: np.ndarray
    certified: np.ndarray | None = None
    alerted: np.ndarray | None = None
    radii: np.ndarray | None = None
    share: float | None = None
    shown: np.ndarray | None = None
    present: np.ndarray | None = None

    @classmethod
    def of_prediction(
        cls, sample: Sample, prediction: Tensor, num_classes: int, alerts: Tensor | None = None
    ) -> ObjectCounts:
        """Count what is right of each object in a prediction, with or without an attacker.

        Args:
            sample: the image with its labels.
            prediction: ``H x W`` int64.
            num_classes: the number of classes.
            alerts: ``H x W`` bool, the pixels that raise an alert; None where the model raises none.
        """
        regions = ObjectRegions.of(sample.target, num_classes, sample.objects)
        right = prediction == sample.target
        alerted = None if alerts is None else regions.count(alerts & ~right)
        return cls(right.numel(), regions.classes, regions.areas, regions.count(right), alerted=alerted)

    @classmethod
    def of_certificate(
        cls, regions: ObjectRegions, target: Tensor, certificate: Certificate, certified: Tensor, share: float
    ) -> ObjectCounts:
        """Count what is predicted and certified of each object.

        Args:
            regions: the objects of the image.
            target: ``H x W`` int64 labels, 255 ignored.
            certificate: that of the image.
            certified: ``H x W`` bool, the pixels whose class is certified, and not only a group of classes.
            share: the share of its pixels, in (0, 1], with which an object is kept.
        """
        right = certificate.classes == target
        radii = certificate.region_radii(right, regions.ids, regions.areas, share)
        return cls(
            right.numel(),
            regions.classes,
            regions.areas,
            regions.count(right),
            certified=regions.count(right & certified),
            radii=None if radii is None else np.asarray(radii, dtype=np.float64),
            share=share,
        )

    def tested(self, chosen: np.ndarray, findings: RegionFindings) -> ObjectCounts:
        """These counts with what a test found of the objects ``chosen`` (``(M,)`` bool)."""
        shown, present = np.full(len(chosen), -1, dtype=np.int64), np.zeros(len(chosen), dtype=np.int64)
        shown[chosen], present[chosen] = findings.hits, findings.certified
        return replace(self, shown=shown, present=present)

    def kept(self, share: float) -> np.ndarray:
        """``(M,)`` bool, the objects that are kept."""
        found: np.ndarray = self.hits >= pixels_needed(self.areas, share)
        return found

    def kept_or_alerted(self, share: float) -> np.ndarray:
        """``(M,)`` bool, the objects that would be kept if pixels with an alert were right."""
        excused = self.hits if self.alerted is None else self.hits + self.alerted
        found: np.ndarray = excused >= pixels_needed(self.areas, share)
        return found

    def certainly_kept(self, share: float, tolerated: int = 0) -> np.ndarray:
        """``(M,)`` bool, the objects that certified pixels alone keep, whatever becomes of the others; none where
        nothing is certified.

        Args:
            share: the share of its pixels with which an object is kept.
            tolerated: how many certified pixels of the image may be wrong: all of them may lie in one object, so that
                each is counted without so many.
        """
        if self.certified is None:
            return np.zeros(len(self.areas), dtype=bool)
        found: np.ndarray = self.certified - tolerated >= pixels_needed(self.areas, share)
        return found

    def radii_at(self, share: float) -> np.ndarray | None:
        """:attr:`radii`, None where there are none.

        Raises:
            ResultError: they are about another share than this one.
        """
        if self.radii is not None and self.share != share:
            raise ResultError(
                "The radii of objects in a row are about another share of their pixels",
                expected=share,
                received=self.share,
                remedy="Run the command again with metrics.objects_share at this value",
            )
        return self.radii

    def to_json(self) -> dict[str, Any]:
        """Plain values for a row, without what is None."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in found.items()
            if value is not None
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ObjectCounts:
        """Inverse of :meth:`to_json`; a radius that a row has as None is infinite."""
        arrays = {
            name: np.asarray(data[name], dtype=np.int64)
            for name in ("classes", "areas", "hits", "certified", "alerted", "shown", "present")
            if name in data
        }
        radii = data.get("radii")
        if radii is not None:
            arrays["radii"] = np.asarray([np.inf if radius is None else radius for radius in radii], dtype=np.float64)
        return cls(pixels=data["pixels"], share=data.get("share"), **arrays)
