"""Certificates as rows: certified accuracy, abstention, mean IoU of the certified map and its worst case."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from certseg.certifiers.checked import certify_checked, check_certificate
from certseg.certifiers.premise import check_premise
from certseg.checks import is_number
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.evaluation.loop import by_class
from certseg.evaluation.network import NetworkStage
from certseg.metrics import CertifiedCounts, ClassCounts, GroupCounts, worst_case_miou
from certseg.metrics.over_images import image_mean
from certseg.types import (
    Certificate,
    Certifier,
    Guarantee,
    Maps,
    NormBall,
    Passes,
    Patch,
    Row,
    Sample,
    Samples,
    Sampling,
    Segmenter,
    Store,
    Threat,
)
from certseg.types.hierarchy import Hierarchy


class CertificationStage(NetworkStage):
    """Certify every image.

    Args:
        certifier: what proves which pixels cannot be changed.
        segmenter: the network it certifies with; None for a stage that only summarises.
        class_names: the names of the data set's classes, in the order of their ids.
        seed: the seed of the run, which with an image's name decides all random numbers.
        hardware: device, precision, and the number of copies of an image per forward pass.
        samples: where the samples of each image are kept and found again, so that another tau, alpha or correction
            needs no forward pass; None keeps none.
        pictured: the images whose further maps are kept, to be looked at, where a certificate has some
            (:attr:`certseg.certifiers.lipschitz.LipschitzCertificate.pictured_maps`) or the certifier shows masked
            copies (``views``, whose passes and seconds are not counted); None for all.
    """

    kind = "certifier"

    def __init__(
        self,
        certifier: Certifier,
        segmenter: Segmenter | None,
        class_names: Sequence[str],
        *,
        seed: int,
        hardware: Hardware,
        samples: Store | None = None,
        pictured: Collection[str] | None = None,
    ) -> None:
        super().__init__(segmenter)
        self._pictured = pictured
        self.name = certifier.name
        self._certifier, self._class_names = certifier, class_names
        self._seed, self._hardware = seed, hardware
        names = certifier.guarantee.hierarchy
        self._hierarchy = Hierarchy(names) if names else None
        self._samples = samples
        self._known = samples.read() if samples is not None else {}

    @property
    def guarantee(self) -> Guarantee:
        """What the certifier promises."""
        return self._certifier.guarantee

    def _certificate(self, sample: Sample) -> Certificate:
        stream = NoiseStream(self._seed, sample.name)
        sampling = None if self._samples is None else self._certifier.sampling()
        if self._samples is None or sampling is None:
            return certify_checked(
                self._certifier, self._segmenter, sample.image, stream=stream, hardware=self._hardware
            )
        row = self._known.get(sample.name)
        if row is not None:
            kept = Samples.of_maps(
                self._samples.load_map(sample.name), Passes(**row["passes"]), row["seconds"], tuple(row["flags"])
            )
            return self._decided(sampling, kept, sample)
        flags = check_premise(self._certifier, self._segmenter, sample.image, self._hardware)
        drawn = sampling.sample(self._segmenter, sample.image.clone(), stream=stream, hardware=self._hardware)
        drawn = replace(drawn, flags=(*drawn.flags, *flags))
        self._samples.save_map(sample.name, **drawn.maps())
        self._samples.append(
            {
                "image": sample.name,
                "figures": {},
                "counts": {},
                "seconds": drawn.seconds,
                "passes": asdict(drawn.passes),
                "flags": list(drawn.flags),
            }
        )
        return self._decided(sampling, drawn, sample)

    def _decided(self, sampling: Sampling, samples: Samples, sample: Sample) -> Certificate:
        certificate = sampling.from_samples(samples)
        check_certificate(certificate, self._certifier, sample.image, len(self._class_names), sample.name)
        return certificate

    def run(self, sample: Sample) -> tuple[Row, Maps]:
        """The certificate of one image, counted against its labels. What is certified on a coarser level than that of
        the classes counts as an abstention, but in the figures about groups."""
        certificate = self._certificate(sample)
        num_classes, levels = len(self._class_names), certificate.levels
        alone = certificate.certified if levels is None else certificate.certified & (levels == 0)
        certified = CertifiedCounts.from_maps(certificate.classes, alone, sample.target, num_classes)
        prediction = ClassCounts.from_maps(certificate.classes, sample.target, num_classes)
        row: Row = {
            "figures": {
                "certified_accuracy": certified.accuracy(),
                "abstention": certified.abstention(),
                "prediction_accuracy": prediction.accuracy(),
                **_sizes(certificate.threat),
                "confidence": certificate.confidence,
                "samples": certificate.samples,
            },
            "counts": {"certified": certified.to_json(), "prediction": prediction.to_json()},
            "seconds": certificate.seconds,
            "passes": asdict(certificate.passes),
            "flags": list(certificate.flags),
        }
        maps: Maps = {
            "classes": certificate.classes.numpy().astype(np.uint8),
            "certified": certificate.certified.numpy(),
        }
        if self._hierarchy is not None and levels is not None:
            groups = GroupCounts.from_maps(
                certificate.classes, levels, certificate.certified, sample.target, self._hierarchy
            )
            row["figures"] |= _group_figures(groups)
            row["counts"]["groups"] = groups.to_json()
            maps["levels"] = levels.numpy()
        if self._pictured is None or sample.name in self._pictured:
            maps |= certificate.pictured_maps()
            maps |= self._certifier.views(self._segmenter, sample.image, hardware=self._hardware, name=sample.name)
        score = self._certifier.score(certificate, sample.target)
        row["figures"] |= score.figures
        row["counts"] |= score.counts
        row["seconds"] = row["seconds"] | score.seconds
        return row, maps

    def summarise(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Certified figures over the data set; the mean IoUs are pooled over it. The worst case of the mean IoU takes
        the certified pixels that may be wrong at their worst place, and is undefined where nothing is promised about an
        image."""
        certified = reduce(add, (CertifiedCounts.from_json(row["counts"]["certified"]) for row in rows))
        prediction = reduce(add, (ClassCounts.from_json(row["counts"]["prediction"]) for row in rows))
        as_map = certified.as_class_counts()
        tolerated = self.guarantee.tolerated * len(rows)
        worst = worst_case_miou(certified, tolerated) if self.guarantee.covers_images else math.nan
        summary: dict[str, Any] = {
            "predictor": self.guarantee.predictor,
            "threat": self.guarantee.threat.to_json(),
            "confidence": min(row["figures"]["confidence"] for row in rows),
            "guarantee": self.guarantee.to_json(),
            "figures": {
                "certified_accuracy/image_mean": image_mean(rows, "certified_accuracy"),
                "certified_accuracy/pooled": certified.accuracy(),
                "abstention/image_mean": image_mean(rows, "abstention"),
                "prediction_accuracy/image_mean": image_mean(rows, "prediction_accuracy"),
                "prediction_miou/pooled": prediction.miou(),
                "certified_miou/pooled": as_map.miou(),
                "worst_case_miou/pooled": worst,
                "samples/image_mean": image_mean(rows, "samples"),
            },
            "class_iou": {
                "certified": by_class(self._class_names, as_map.iou()),
                "prediction": by_class(self._class_names, prediction.iou()),
            },
            "settings": dict(self._certifier.settings),
        }
        if self._hierarchy is not None:
            groups = reduce(add, (GroupCounts.from_json(row["counts"]["groups"]) for row in rows))
            summary["figures"] |= {f"{name}/image_mean": image_mean(rows, name) for name in _group_figures(groups)}
            summary["figures"]["certified_group_accuracy/pooled"] = groups.accuracy()
            summary["figures"]["certified_information_gain/pooled"] = groups.information_gain()
            summary["hierarchy"] = self._hierarchy.names
        more = self._certifier.summarise(rows, self._class_names)
        joined = {name: summary[name] | more.get(name, {}) for name in ("figures", "class_iou")}
        return {**summary, **more, **joined}


def _sizes(threat: Threat) -> dict[str, Any]:
    """The size of a threat as figures of a row. Of a kind that certseg does not know they are the numbers alone, under
    names that no other figure has."""
    told = {name: value for name, value in threat.to_json().items() if name != "norm"}
    if isinstance(threat, NormBall | Patch):
        return told
    return {f"threat_{name}": value for name, value in told.items() if is_number(value)}


def _group_figures(groups: GroupCounts) -> dict[str, float]:
    """Figures about certified groups; level 0 are single classes."""
    return {
        "group_abstention": groups.abstention(),
        "certified_group_accuracy": groups.accuracy(),
        "certified_information_gain": groups.information_gain(),
        **{f"level_{level}_share": share for level, share in enumerate(groups.by_level())},
    }
