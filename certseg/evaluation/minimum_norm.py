"""Minimum-norm attacks as rows: the smallest perturbation found on each image, and what it says of a certificate.

A row is one of an attack (:mod:`certseg.evaluation.attack`) with the figures ``norm`` (none where the goal was not
reached) and ``reached``, and beside them ``smallest``: the norm of the stored point whether or not the goal was
reached, and how many labelled pixels have another class there than at the image.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.evaluation.budget import check_prediction, check_smallest
from certseg.evaluation.loop import by_class
from certseg.evaluation.network import NetworkStage
from certseg.metrics import OBJECTS, ClassCounts, ObjectCounts
from certseg.metrics.over_images import image_mean
from certseg.types import Attempt, Maps, Row, Sample, Segmenter, SmallestAttack, class_ids

_PERCENTILES = (25, 75)
_STEPS = (1.0, 2.0, 5.0)  # of the curve's radii, times powers of 10


class MinimumNormStage(NetworkStage):
    """Look for the smallest perturbation of every image.

    Args:
        name: the attack's name in tables.
        attack: looks for the perturbation.
        segmenter: the network that is attacked; None for a stage that only summarises.
        class_names: the names of the data set's classes, in the order of their ids.
        settings: what a reader of the summary should know of the attack, in plain values.
        seed: the seed of the run, which with an image's name decides all random numbers.
        hardware: the device that is attacked on.
        pictured: the images whose adversarial image is kept, in 8 bits, to be looked at; None for all.
        with_objects: whether rows are to tell what is left of each labelled object.
    """

    kind = "attack"

    def __init__(
        self,
        name: str,
        attack: SmallestAttack,
        segmenter: Segmenter | None,
        class_names: Sequence[str],
        *,
        settings: Mapping[str, object],
        seed: int,
        hardware: Hardware,
        pictured: Collection[str] | None = None,
        with_objects: bool = False,
    ) -> None:
        super().__init__(segmenter)
        self.name, self._with_objects = name, with_objects
        self._attack, self._class_names = attack, class_names
        self._settings, self._seed, self._hardware = dict(settings), seed, hardware
        self._pictured = pictured

    @property
    def attempt(self) -> Attempt:
        """Any perturbation, by the norm in which the attack measures them, on the attacked model."""
        return Attempt.unbounded(self._attack.predictor, self._attack.norms)

    def run(self, sample: Sample) -> tuple[Row, Maps]:
        """The attack on one image, and what is left of the prediction there."""
        result = self._attack(
            self._segmenter,
            sample.image.clone(),
            sample.target.clone(),
            stream=NoiseStream(self._seed, sample.name),
            hardware=self._hardware,
        )
        check_smallest(result, sample.image, self.attempt.predictor, sample.name)
        check_prediction(result, self._segmenter, sample.name, self._hardware)
        counts = ClassCounts.from_maps(result.prediction, sample.target, len(self._class_names))
        row: Row = {
            "figures": {
                "attacked_accuracy": counts.accuracy(),
                "attacked_imagewise_miou": counts.miou(),
                "norm": result.norm,
                "reached": math.nan if math.isnan(result.norm) else float(result.reached),
            },
            "smallest": {"distance": result.distance, "changed": result.changed, "labelled": result.labelled},
            "counts": counts.to_json(),
            "seconds": result.seconds,
            "passes": asdict(result.passes),
            "flags": list(result.flags),
        }
        if self._with_objects:
            row[OBJECTS] = ObjectCounts.of_prediction(sample, result.prediction, len(self._class_names)).to_json()
        maps = {"prediction": class_ids(result.prediction).numpy()}
        if self._pictured is None or sample.name in self._pictured:
            maps["adversarial"] = (result.adversarial * 255).round().byte().numpy()  # for pictures only: it is rounded
        return row, maps

    def summarise(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Norms over the images that have pixels to change; where the goal was not reached the norm is infinite, and so
        is then the mean. ``by_radius`` is the share of these images whose goal was reached within each radius;
        ``has_budget`` tells such an attack from others.

        The accuracies are those at the points found, each at a norm of its own.
        """
        counts = reduce(add, (ClassCounts.from_json(row["counts"]) for row in rows))
        norms = np.sort(_norms(rows))
        return {
            "predictor": self.attempt.predictor,
            "threat": self.attempt.threat.to_json(),
            "has_budget": self.attempt.has_budget,
            "confidence": None,
            "figures": {
                "norm/median": _percentile(norms, 50),
                "norm/image_mean": float(norms.mean()) if len(norms) else math.nan,
                **{f"norm@{percent}": _percentile(norms, percent) for percent in _PERCENTILES},
                "reached_share/image_mean": image_mean(rows, "reached"),
                "reached_images": int(np.isfinite(norms).sum()),
                "attacked_accuracy/image_mean": image_mean(rows, "attacked_accuracy"),
                "attacked_accuracy/pooled": counts.accuracy(),
                "attacked_imagewise_miou/image_mean": image_mean(rows, "attacked_imagewise_miou"),
                "attacked_miou/pooled": counts.miou(),
            },
            "class_iou": {"attacked": by_class(self._class_names, counts.iou())},
            "settings": self._settings,
            "by_radius": [
                {"radius": radius, "reached_share/image_mean": float((norms <= radius).mean())}
                for radius in _radii(norms[np.isfinite(norms)])
            ],
        }


def _norms(rows: Sequence[Row]) -> np.ndarray:
    """Of the images with pixels to change, infinite where the goal was not reached; rows have none for that."""
    reached = [(row["figures"]["reached"], row["figures"]["norm"]) for row in rows]
    defined = [(met, norm) for met, norm in reached if met is not None and not math.isnan(met)]
    return np.asarray([norm if met else math.inf for met, norm in defined], dtype=np.float64)


def _percentile(norms: np.ndarray, percent: float) -> float:
    """The smallest of the sorted norms that at least ``percent`` of the images do not exceed; NaN without images."""
    return float(norms[max(0, math.ceil(percent / 100 * len(norms)) - 1)]) if len(norms) else math.nan


def _radii(norms: np.ndarray) -> list[float]:
    """1, 2 and 5 times powers of 10, from the first below which no positive norm lies to the first above them all."""
    positive = norms[norms > 0]
    if not len(positive):
        return []
    powers = range(math.floor(math.log10(positive.min())) - 1, math.ceil(math.log10(positive.max())) + 2)
    grid = [float(f"{step:g}e{power}") for power in powers for step in _STEPS]
    first = max(index for index, radius in enumerate(grid) if radius <= positive.min())
    last = min(index for index, radius in enumerate(grid) if radius >= positive.max())
    return grid[first : last + 1]
