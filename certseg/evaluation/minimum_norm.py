"""Minimum-norm attacks as rows: the smallest perturbation found on each image, and what it says of a certificate.

A row is one of an attack (:mod:`certseg.evaluation.attack`) with the figures ``norm`` (none where the goal was not
reached) and ``reached``, and beside them ``smallest``: the norm of the stored point whether or not the goal was
reached, and how many labelled pixels have another class there than at the image.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from certseg.attacks import MinimumNormResult
from certseg.errors import BracketError
from certseg.evaluation.bracket import broken_pixels
from certseg.evaluation.loop import Maps, Row, Store, by_class, image_mean
from certseg.hardware import Hardware
from certseg.metrics import ClassCounts
from certseg.noise import NoiseStream
from certseg.types import Sample, Segmenter

_ROBUSTNESS = "robustness@"  # of a certifier's figures: the radius below which less than that share of pixels changes
_PERCENTILES = (25, 75)
_STEPS = (1.0, 2.0, 5.0)  # of the curve's radii, times powers of 10


@dataclass(frozen=True)
class NormBracket:
    """What was compared: images, perturbations that reach a share of changed pixels (one for each image and share), and
    certified pixels of images whose perturbation lies within the certificate's radius."""

    images: int
    norms: int
    certified_pixels: int


class MinimumNormAttack(Protocol):
    """From a model, an image and its labels to the smallest perturbation it found."""

    predictor: str
    norms: tuple[str, ...]

    def __call__(
        self, segmenter: Segmenter, image: Tensor, target: Tensor, *, stream: NoiseStream, hardware: Hardware
    ) -> MinimumNormResult:
        """Attack one image."""


class MinimumNormStage:
    """Look for the smallest perturbation of every image.

    Args:
        name: the attack's name in tables.
        attack: the attack.
        segmenter: the network.
        class_names: of the data set.
        settings: what a reader of the summary should know of the attack.
        seed: of the run.
        hardware: of the run.
        pictured: the images whose adversarial image is kept, in 8 bits, to be looked at; None for all.
    """

    kind = "attack"

    def __init__(
        self,
        name: str,
        attack: MinimumNormAttack,
        segmenter: Segmenter,
        class_names: Sequence[str],
        *,
        settings: Mapping[str, object],
        seed: int,
        hardware: Hardware,
        pictured: Collection[str] | None = None,
    ) -> None:
        self.name = name
        self._attack, self._segmenter, self._class_names = attack, segmenter, class_names
        self._settings, self._seed, self._hardware = dict(settings), seed, hardware
        self._pictured = pictured

    def run(self, sample: Sample) -> tuple[Row, Maps]:
        """The attack on one image, and what is left of the prediction there."""
        result = self._attack(
            self._segmenter,
            sample.image,
            sample.target,
            stream=NoiseStream(self._seed, sample.name),
            hardware=self._hardware,
        )
        counts = ClassCounts.from_maps(result.prediction, sample.target, len(self._class_names))
        row = {
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
        small = np.uint8 if len(self._class_names) <= 256 else np.int16
        maps = {"prediction": result.prediction.numpy().astype(small)}
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
            "predictor": self._attack.predictor,
            "threat": {"norm": "l2"},
            "has_budget": False,
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


def check_norms(
    certifier: Mapping, certificates: Store, attack: Mapping, attacked: Store, names: Sequence[str]
) -> NormBracket | None:
    """Compare the perturbations a minimum-norm attack found with certificates, image by image.

    Whatever the attack's own goal was: where a share of the labelled pixels changed class, the perturbation's norm is
    not below the certified ``robustness@share``; where the norm is within the certificate's radius, no certified pixel
    changed.

    Args:
        certifier: the certifier's summary.
        certificates: its rows and maps.
        attack: the attack's summary.
        attacked: its rows and maps.
        names: the images both have finished.

    Returns:
        None where there is nothing to compare: another predictor or norm, nothing claimed about single images, or no
        perturbation that reaches a share or stays within the radius.

    Raises:
        BracketError: a certificate is broken; names the image. One of the two computations has a defect.
    """
    if certifier["predictor"] != attack["predictor"] or certifier["threat"]["norm"] != attack["threat"]["norm"]:
        return None
    if certifier.get("tolerated", 0) is None or "hierarchy" in certifier:
        return None
    certified, found = certificates.read(), attacked.read()
    compared = pixels = norms = 0
    for name in names:
        smallest = found[name]["smallest"]
        shares = _check_shares(certified[name]["figures"], smallest, name, certifier, attack)
        within = smallest["distance"] <= certifier["threat"]["radius"]
        if within:
            pixels += _check_pixels(certificates.load_map(name), attacked.load_map(name), name, certifier, attack)
        compared += within or shares > 0
        norms += shares
    return NormBracket(compared, norms, pixels) if compared else None


def _check_shares(figures: Mapping, smallest: Mapping, name: str, certifier: Mapping, attack: Mapping) -> int:
    """How many shares of an image the perturbation reaches, all of them at no less than their certified radius."""
    reached = 0
    for figure, radius in figures.items():
        if not figure.startswith(_ROBUSTNESS) or not smallest["labelled"]:
            continue
        needed = math.ceil(float(figure.removeprefix(_ROBUSTNESS)) / 100 * smallest["labelled"])
        if smallest["changed"] < needed:
            continue
        radius = math.inf if radius is None else radius  # rows have none for infinite
        if smallest["distance"] < radius:
            raise _broken(
                attack,
                certifier,
                f"changed {smallest['changed']} of {smallest['labelled']} pixels of image {name!r} "
                f"with a perturbation of norm {smallest['distance']:.6g}",
                f"at least {figure} = {radius:.6g}",
            )
        reached += 1
    return reached


def _check_pixels(certificate: Maps, attacked: Maps, name: str, certifier: Mapping, attack: Mapping) -> int:
    broken, _ = broken_pixels(certificate, attacked, certifier.get("tolerated", 0))
    if broken:
        raise _broken(
            attack, certifier, f"changed {broken} certified pixels of image {name!r}", "no certified pixel changes"
        )
    return int(certificate["certified"].sum())


def _broken(attack: Mapping, certifier: Mapping, what: str, expected: str) -> BracketError:
    return BracketError(
        f"The attack {attack['name']} contradicts {certifier['name']}: it {what}",
        expected=expected,
        remedy="Please report this with the run's folder: the certificate or the attack has a defect",
    )
