"""Certificates as rows: certified accuracy, abstention, mean IoU of the certified map and its worst case."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certseg.certifiers.checked import certify_checked, check_certificate
from certseg.certifiers.premise import check_premise
from certseg.checks import is_number
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError
from certseg.evaluation.loop import by_class
from certseg.evaluation.network import NetworkStage
from certseg.metrics import (
    OBJECTS,
    CertifiedCounts,
    ClassCounts,
    GroupCounts,
    ObjectCounts,
    ObjectRegions,
    ObjectSettings,
    pixels_needed,
    worst_case_miou,
)
from certseg.metrics.over_images import image_mean
from certseg.types import (
    IGNORE_INDEX,
    Certificate,
    Certifier,
    Guarantee,
    Maps,
    NormBall,
    Passes,
    Patch,
    RegionTest,
    Row,
    Sample,
    Samples,
    Sampling,
    Segmenter,
    Store,
    Threat,
    class_ids,
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
        objects: when labelled objects are kept and which of them have a test of their own, where rows are to tell what
            is certified of each; None, the default, where they are not.

    Raises:
        ConfigError: the objects are to be tested, and the certifier has no such test.
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
        objects: ObjectSettings | None = None,
    ) -> None:
        super().__init__(segmenter)
        self._pictured, self._objects = pictured, objects
        self._region_test = region_test_of(certifier, objects)
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
        prediction = ClassCounts.from_maps(certificate.classes, sample.target, len(self._class_names))
        counted = self._counted(certificate, sample)
        row: Row = {
            "figures": {
                **counted["figures"],
                "prediction_accuracy": prediction.accuracy(),
                "confidence": certificate.confidence,
                "samples": certificate.samples,
            },
            "counts": {**counted["counts"], "prediction": prediction.to_json()},
            "seconds": certificate.seconds,
            "passes": asdict(certificate.passes),
            "flags": list(certificate.flags),
            "assumption": certificate.guarantee.assumption,
        }
        smaller = certificate.at_smaller_radii()
        if smaller:
            row["radii"] = [self._counted(one, sample) for one in smaller]
            row["figures"]["certified_radius"] = _mean_radius([*smaller, certificate], sample)
        if self._objects is not None:
            row = self._with_objects(row, sample, certificate, _classes_alone(certificate), self._objects)
        maps: Maps = {
            "classes": class_ids(certificate.classes).numpy(),
            "certified": certificate.certified.numpy(),
        }
        if certificate.levels is not None:
            maps["levels"] = certificate.levels.numpy()
        maps |= certificate.further_maps()
        if self._pictured is None or sample.name in self._pictured:
            maps |= certificate.pictured_maps()
            maps |= self._certifier.views(self._segmenter, sample.image, hardware=self._hardware, name=sample.name)
        score = self._certifier.score(certificate, sample.target)
        row["figures"] |= score.figures
        row["counts"] |= score.counts
        row["seconds"] = row["seconds"] | score.seconds
        return row, maps

    def _counted(self, certificate: Certificate, sample: Sample) -> dict[str, Any]:
        """Figures and counts of what is certified in one ball, and its size."""
        num_classes, levels = len(self._class_names), certificate.levels
        alone = _classes_alone(certificate)
        certified = CertifiedCounts.from_maps(certificate.classes, alone, sample.target, num_classes)
        figures: dict[str, Any] = {
            "certified_accuracy": certified.accuracy(),
            "abstention": certified.abstention(),
            **_sizes(certificate.threat),
        }
        counts: dict[str, Any] = {"certified": certified.to_json()}
        if self._hierarchy is not None and levels is not None:
            groups = GroupCounts.from_maps(
                certificate.classes, levels, certificate.certified, sample.target, self._hierarchy
            )
            figures |= _group_figures(groups)
            counts["groups"] = groups.to_json()
        return {"figures": figures, "counts": counts}

    def _with_objects(
        self, row: Row, sample: Sample, certificate: Certificate, alone: Tensor, settings: ObjectSettings
    ) -> Row:
        """The row with what is certified of each labelled object, ``alone`` being the pixels (``H x W`` bool) whose
        class itself is."""
        regions = ObjectRegions.of(sample.target, len(self._class_names), sample.objects)
        counts = ObjectCounts.of_certificate(regions, sample.target, certificate, alone, settings.share)
        if self._region_test is None:
            return row | {OBJECTS: counts.to_json()}
        named = [list(self._class_names).index(name) for name in settings.classes]
        chosen = np.isin(counts.classes, named) & (counts.areas >= settings.minimum)
        found = self._region_test.certify(
            self._segmenter,
            sample.image,
            regions.tested(chosen, pixels_needed(counts.areas, settings.share)),
            stream=NoiseStream(self._seed, sample.name),
            hardware=self._hardware,
        )
        return row | {
            OBJECTS: counts.tested(chosen, found).to_json(),
            "seconds": row["seconds"] | found.seconds,
            "passes": asdict(certificate.passes + found.passes),
            "flags": [*row["flags"], *(flag for flag in found.flags if flag not in row["flags"])],
        }

    def summarise(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Certified figures over the data set; the mean IoUs are pooled over it. The worst case of the mean IoU takes
        the certified pixels that may be wrong at their worst place, and is undefined where nothing is promised about an
        image. Where smaller balls are certified together with that of the guarantee, ``by_radius`` has the figures of
        all of them."""
        prediction = reduce(add, (ClassCounts.from_json(row["counts"]["prediction"]) for row in rows))
        own, as_map = self._certified_figures(rows)
        assumed = dict.fromkeys(row.get("assumption") or self.guarantee.assumption for row in rows)
        guarantee = self.guarantee.provided("; ".join(text for text in assumed if text))
        summary: dict[str, Any] = {
            "predictor": self.guarantee.predictor,
            "threat": self.guarantee.threat.to_json(),
            "confidence": min(row["figures"]["confidence"] for row in rows),
            "guarantee": guarantee.to_json(),
            "figures": {
                **own,
                "prediction_accuracy/image_mean": image_mean(rows, "prediction_accuracy"),
                "prediction_miou/pooled": prediction.miou(),
                "samples/image_mean": image_mean(rows, "samples"),
            },
            "class_iou": {
                "certified": by_class(self._class_names, as_map.iou()),
                "prediction": by_class(self._class_names, prediction.iou()),
            },
            "settings": dict(self._certifier.settings),
        }
        if self._region_test is not None and self._objects is not None:
            summary["region_guarantee"] = self._region_test.guarantee(self._objects.share).to_json()
        if self._hierarchy is not None:
            summary["hierarchy"] = self._hierarchy.names
        smaller = list(zip(*(row.get("radii", ()) for row in rows), strict=True))
        if smaller:
            summary["figures"]["certified_radius/image_mean"] = image_mean(rows, "certified_radius")
            summary["by_radius"] = [
                {"radius": parts[0]["figures"]["radius"], **self._certified_figures(parts)[0]}
                for parts in (*smaller, tuple(rows))
            ]
        more = self._certifier.summarise(rows, self._class_names)
        joined = {name: summary[name] | more.get(name, {}) for name in ("figures", "class_iou")}
        return {**summary, **more, **joined}

    def _certified_figures(self, parts: Sequence[Row]) -> tuple[dict[str, float], ClassCounts]:
        """Figures over the data set of what is certified in one ball, and the certified map as a prediction.

        Args:
            parts: ``figures`` and ``counts`` of each image.
        """
        certified = reduce(add, (CertifiedCounts.from_json(part["counts"]["certified"]) for part in parts))
        as_map = certified.as_class_counts()
        tolerated = self.guarantee.tolerated * len(parts)
        figures = {
            "certified_accuracy/image_mean": image_mean(parts, "certified_accuracy"),
            "certified_accuracy/pooled": certified.accuracy(),
            "abstention/image_mean": image_mean(parts, "abstention"),
            "certified_miou/pooled": as_map.miou(),
            "worst_case_miou/pooled": (
                worst_case_miou(certified, tolerated) if self.guarantee.covers_images else math.nan
            ),
        }
        if self._hierarchy is not None:
            groups = reduce(add, (GroupCounts.from_json(part["counts"]["groups"]) for part in parts))
            figures |= {f"{name}/image_mean": image_mean(parts, name) for name in _group_figures(groups)}
            figures["certified_group_accuracy/pooled"] = groups.accuracy()
            figures["certified_information_gain/pooled"] = groups.information_gain()
        return figures | self._less_tolerated(parts), as_map

    def _less_tolerated(self, parts: Sequence[Row]) -> dict[str, float]:
        """Lower bounds in the place of counts of certified pixels, where some of these may be wrong: so many are taken
        off in each image. NaN where nothing is promised about an image, and nothing where counts are bounds."""
        if self.guarantee.keeps_every_pixel:
            return {}
        tolerated = self.guarantee.tolerated
        found = [
            {"worst_case_accuracy": CertifiedCounts.from_json(part["counts"]["certified"]).accuracy(tolerated)}
            for part in parts
        ]
        if self._hierarchy is not None:
            for figures, part in zip(found, parts, strict=True):
                groups = GroupCounts.from_json(part["counts"]["groups"])
                figures["worst_case_group_accuracy"] = groups.accuracy(tolerated)
                figures["worst_case_information_gain"] = groups.information_gain(tolerated)
        means = {f"{name}/image_mean": image_mean([{"figures": one} for one in found], name) for name in found[0]}
        return means if self.guarantee.covers_images else dict.fromkeys(means, math.nan)


def _classes_alone(certificate: Certificate) -> Tensor:
    """The pixels whose class itself is certified, not a group of classes: ``H x W`` bool."""
    if certificate.levels is None:
        return certificate.certified
    return certificate.certified & (certificate.levels == 0)


def _mean_radius(certificates: Sequence[Certificate], sample: Sample) -> float:
    """Mean over the labelled pixels of the largest radius at which each is certified as its class, 0 where at none; NaN
    without labels.

    Args:
        certificates: of one image in balls of rising radius.
        sample: the image, with its labels.
    """
    labelled = sample.target != IGNORE_INDEX
    if not labelled.any():
        return math.nan
    radii = torch.zeros(sample.target.shape, dtype=torch.float64)
    for one in certificates:
        radii[_classes_alone(one) & (one.classes == sample.target)] = _sizes(one.threat)["radius"]
    return float(radii[labelled].mean())


def region_test_of(certifier: Certifier, objects: ObjectSettings | None) -> RegionTest | None:
    """The objects' own test, where one is asked for.

    Raises:
        ConfigError: the certifier has none.
    """
    if objects is None or not objects.samples:
        return None
    test = certifier.region_test(objects.samples)
    if test is None:
        raise ConfigError(
            "metrics.objects_samples asks for a test that this certifier does not have",
            expected="certifier=segcertify, which samples noisy copies, or metrics.objects_samples=0",
            received=f"{objects.samples} with {certifier.name}",
        )
    return test


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
