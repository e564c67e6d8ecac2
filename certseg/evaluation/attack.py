"""Attacks as rows: accuracy and mean IoU of what is left of a prediction.

A row of an ensemble also has ``members``, by name what each member left, and the ``winner``. A row of an attack at
several radii has ``radii``: what was left at each of the smaller ones, like a row of its own. A row of an attack with
patches has their ``corners``; one on a detection also counts alerts and errors without one.

The answer of a smoothed model is told by votes. Its ``counts`` are then those of an upper bound: a pixel is lost only
where the votes at the adversarial image show it (:func:`certseg.attacks.votes.shown_lost`), and no other class is known
in its place. What the majority of votes says is an estimate and stands beside it as ``voted``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certseg.attacks.goals import is_targeted, wanted_map
from certseg.attacks.votes import duels, shown_lost, shown_won
from certseg.compute.forward import check_logits
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.evaluation.budget import check_budget, check_prediction
from certseg.evaluation.loop import by_class
from certseg.evaluation.network import NetworkStage
from certseg.metrics import OBJECTS, ClassCounts, ObjectCounts, worst_pooled_miou
from certseg.metrics.over_images import image_mean, sums
from certseg.types import (
    IGNORE_INDEX,
    Attack,
    AttackResult,
    Attempt,
    Goal,
    Maps,
    MemberResult,
    Passes,
    Row,
    Sample,
    Segmenter,
    Threat,
    class_ids,
)
from certseg.types.attempts import level_suffix

_ALERT_FIGURES = ("alert_share", "silent_error_share")
"""Of the labelled pixels those that raise an alert, and those that are wrong and raise none."""

ERROR = 0.001
"""Probability, per image, that of an attack on a smoothed model any pixel at any radius counts as lost that is not."""

SMALLER_RADIUS = "smaller_radius"
"""The winner on an image where no member is lower than the result at a smaller radius."""


class AttackStage(NetworkStage):
    """Attack every image.

    Args:
        name: the attack's name in tables.
        attack: looks for the image on which the model does worst.
        threat: the budget of the attack, a norm ball or patches; the largest one if there are several.
        segmenter: the network that is attacked; None for a stage that only summarises.
        class_names: the names of the data set's classes, in the order of their ids.
        settings: what a reader of the summary should know of the attack, in plain values.
        seed: the seed of the run, which with an image's name decides all random numbers.
        hardware: the device, and how many images are attacked side by side (``attack_batch``).
        radii: smaller radii to attack at as well, ascending. Each attack begins where the one before ended, and keeps
            that if it finds nothing lower: the accuracy of an image never rises with the radius. At 0 the network's own
            prediction is counted.
        pictured: the images whose adversarial image is kept, in 8 bits, to be looked at; None for all.
        with_objects: whether rows are to tell what an attack left of each labelled object.
    """

    kind = "attack"

    def __init__(
        self,
        name: str,
        attack: Attack,
        threat: Threat,
        segmenter: Segmenter | None,
        class_names: Sequence[str],
        *,
        settings: Mapping[str, object],
        seed: int,
        hardware: Hardware,
        radii: Sequence[float] = (),
        pictured: Collection[str] | None = None,
        with_objects: bool = False,
    ) -> None:
        super().__init__(segmenter)
        self.name, self._with_objects = name, with_objects
        self._attack, self._threat, self._predictor = attack, threat, attack.predictor
        self._class_names, self._settings = class_names, dict(settings)
        self._seed, self._hardware, self._radii = seed, hardware, tuple(radii)
        self._pictured = pictured
        self._begins_at_0 = bool(self._radii) and self._radii[0] == 0

    @property
    def at_once(self) -> int:
        """How many images of one shape are attacked side by side."""
        return self._hardware.attack_batch if self._attack.side_by_side else 1

    @property
    def attempt(self) -> Attempt:
        """All budgets, on the attacked model."""
        return Attempt(self._predictor, self._threat, self._radii)

    def run(self, sample: Sample) -> tuple[Row, Maps]:
        """The attack on one image, counted against its labels."""
        return self.run_together([sample])[0]

    def run_together(self, samples: Sequence[Sample]) -> list[tuple[Row, Maps]]:
        """The attack on images of one shape side by side, each as the attacked model takes it."""
        samples = [replace(sample, image=self._attack.clean(sample.image)) for sample in samples]
        levels: list[list[AttackResult]] = []
        for threat in (level.threat for level in self.attempt.levels):
            levels.append(self._at(samples, threat, levels[-1] if levels else None))
        return [self._row(sample, results) for sample, results in zip(samples, zip(*levels))]

    def _row(self, sample: Sample, results: Sequence[AttackResult]) -> tuple[Row, Maps]:
        """Row and maps of an image from its results, one for each radius above 0."""
        result = results[-1]
        passes = sum((part.passes for part in results), Passes(int(self._begins_at_0)))
        row = self._part(result, sample) | {
            "seconds": sums([part.seconds for part in results]),
            "passes": asdict(passes),
            "flags": sorted({flag for part in results for flag in part.flags}),
        }
        if self._radii:
            row["radii"] = [self._unattacked(sample)] if self._begins_at_0 else []
            row["radii"] += [self._part(part, sample) for part in results[:-1]]
        maps: Maps = {}
        for number, part in enumerate(results, 1):
            suffix = "" if number == len(results) else level_suffix(number - 1 + self._begins_at_0)
            # the votes kept are those with the fewest correct pixels, of every radius until here and member
            candidates = sum(max(1, len(other.members)) for other in results[:number])
            maps |= {name + suffix: value for name, value in self._maps(part, candidates).items()}
        if self._pictured is None or sample.name in self._pictured:
            maps["adversarial"] = (result.adversarial * 255).round().byte().numpy()  # for pictures only: it is rounded
        return row, maps

    def _maps(self, result: AttackResult, candidates: int) -> Maps:
        maps = {"prediction": class_ids(result.prediction).numpy()}
        if result.votes is not None:
            maps |= {
                "votes": result.votes.numpy(),
                "num_votes": np.asarray(result.num_votes),
                "candidates": np.asarray(candidates),
            }
        return maps | result.own_maps()

    def _stream(self, sample: Sample, threat: Threat) -> NoiseStream:
        """The random numbers of an image at one radius. Where an answer is told by votes these are fresh at each: what
        is kept of a smaller radius was chosen by its own."""
        stream = NoiseStream(self._seed, sample.name)
        is_again = self._attack.num_votes and threat != self.attempt.levels[0].threat
        return stream.for_part(f"at {threat}") if is_again else stream

    def _at(
        self, samples: Sequence[Sample], threat: Threat, smaller: Sequence[AttackResult] | None
    ) -> list[AttackResult]:
        """The attack on each image at one radius, not above the result at a smaller one."""
        results: Sequence[AttackResult]
        streams = [self._stream(sample, threat) for sample in samples]
        if len(samples) == 1:
            results = [
                self._attack(
                    self._segmenter,
                    samples[0].image.clone(),
                    samples[0].target.clone(),
                    threat,
                    stream=streams[0],
                    hardware=self._hardware,
                    start=None if smaller is None else smaller[0].adversarial.clone(),
                )
            ]
        else:
            results = self._attack.together(
                self._segmenter,
                [sample.image.clone() for sample in samples],
                [sample.target.clone() for sample in samples],
                threat,
                streams=streams,
                hardware=self._hardware,
                starts=None if smaller is None else [result.adversarial.clone() for result in smaller],
            )
        for sample, result in zip(samples, results, strict=True):
            check_budget(result, sample.image, self._predictor, threat, sample.name)
            check_prediction(result, self._segmenter, sample.name, self._hardware)
        before: Sequence[AttackResult | None] = smaller or [None] * len(samples)
        return [self._lower(*one) for one in zip(samples, results, before, strict=True)]

    def _lower(self, sample: Sample, result: AttackResult, smaller: AttackResult | None) -> AttackResult:
        """The result, or in its place what a smaller radius left if that is lower."""
        if smaller is None or self._left(result, sample) <= self._left(smaller, sample):
            return result
        kept = {name: getattr(smaller, name) for name in ("adversarial", "prediction", "norm", "votes")}
        return replace(result, **kept, winner=SMALLER_RADIUS if result.members else None)

    def _left(self, result: Any, sample: Sample) -> int:
        """How little an attack reached: correct pixels left, or less pixels as they were to be."""
        goal = self._attack.goal
        if goal is None:
            return int(self._counts(result, sample, len(result.members)).true_positive.sum())
        return -int(self._at_goal(goal, sample, result.prediction, result.votes)[0].sum())

    def _at_goal(
        self, goal: Goal, sample: Sample, prediction: Tensor, votes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The pixels that meet the attack's goal, where there are votes those that are shown to, and the pixels that
        have one: each ``H x W`` bool."""
        number = len(self._class_names)
        wanted = wanted_map(goal, sample.target, number)
        has_goal = wanted != IGNORE_INDEX
        if votes is None:
            met = (prediction == wanted) == is_targeted(goal)
        elif is_targeted(goal):
            met = shown_won(duels(votes, wanted), wanted, self._error(0))
        else:
            met = shown_lost(duels(votes, wanted), wanted, number, self._error(0))
        return met & has_goal, has_goal

    def _goal_share(self, sample: Sample, prediction: Tensor, votes: Tensor | None = None) -> dict[str, float]:
        """Share of the pixels that meet the goal among those with one, as a figure; nothing for an attack without."""
        if self._attack.goal is None:
            return {}
        met, has_goal = self._at_goal(self._attack.goal, sample, prediction, votes)
        return {"goal_share": int(met.sum()) / max(1, int(has_goal.sum()))}

    def _error(self, members: int) -> float:
        """The part of :data:`ERROR` of one adversarial image: every radius and member has its own."""
        return ERROR / (len(self.attempt.levels) * max(1, members))

    def _counts(self, result: AttackResult | MemberResult, sample: Sample, members: int) -> ClassCounts:
        """What an attack left of an image, or where its answer is told by votes an upper bound of that.

        Args:
            result: what the attack reached, or one member of an ensemble.
            sample: the image and its labels.
            members: number of members of the ensemble, 0 where it is none.
        """
        target, number = sample.target, len(self._class_names)
        duel = _duel(result, target)
        if duel is None:
            return self._predicted(result.prediction, sample)
        lost = shown_lost(duel, target, number, self._error(members))
        return ClassCounts.from_maps(target, target, number, keep=~lost)

    def _predicted(self, prediction: Tensor, sample: Sample) -> ClassCounts:
        return ClassCounts.from_maps(prediction.long(), sample.target, len(self._class_names))

    def _unattacked(self, sample: Sample) -> Row:
        """What there is to lose: the prediction of the network itself."""
        images = sample.image[None].to(self._hardware.torch_device)
        with torch.inference_mode():
            logits = self._segmenter(images)
            check_logits(logits, images, self._segmenter.num_classes)
        prediction = logits.argmax(dim=1)[0].cpu()
        counts = self._predicted(prediction, sample)
        figures = {"attacked_accuracy": counts.accuracy(), "attacked_imagewise_miou": counts.miou(), "norm": 0.0}
        part: Row = {"figures": figures | self._goal_share(sample, prediction), "counts": counts.to_json()}
        return part | self._objects(sample, prediction, {})

    def _part(self, result: AttackResult, sample: Sample) -> Row:
        """What is left of one image at one radius."""
        members = len(result.members)
        counts = self._counts(result, sample, members)
        part: Row = {
            "figures": {
                "attacked_accuracy": counts.accuracy(),
                "attacked_imagewise_miou": counts.miou(),
                "norm": result.norm,
                "zero_gradients": result.zero_gradients,
            }
            | self._goal_share(sample, result.prediction, result.votes),
            "counts": counts.to_json(),
        }
        if result.votes is not None:
            voted = self._predicted(result.prediction, sample)
            part["figures"]["voted_accuracy"] = voted.accuracy()
            part["voted"] = voted.to_json()
        part["figures"] |= result.own_figures(sample.target)
        part |= result.own_facts()
        part |= self._objects(sample, self._left_as(result, sample), result.own_maps())
        if result.members:
            part["winner"] = result.winner
            part["members"] = {
                member.name: {
                    "counts": self._counts(member, sample, members).to_json(),
                    "norm": member.norm,
                    "passes": asdict(member.passes),
                    "seconds": sum(member.seconds.values()),
                    "flags": list(member.flags),
                }
                for member in result.members
            }
        return part

    def _left_as(self, result: AttackResult, sample: Sample) -> Tensor:
        """What each pixel is after the attack; where votes tell, its label unless they show another class, so that no
        object counts as lost by the chance of a vote."""
        duel = _duel(result, sample.target)
        if duel is None:
            return result.prediction
        lost = shown_lost(duel, sample.target, len(self._class_names), self._error(len(result.members)))
        return torch.where(lost, result.prediction.long(), sample.target)

    def _objects(self, sample: Sample, prediction: Tensor, maps: Maps) -> Row:
        """What is left of each labelled object, as an entry of a row; nothing where that is not asked for."""
        if not self._with_objects:
            return {}
        alerts = torch.from_numpy(maps["alerts"].astype(bool)) if "alerts" in maps else None
        counts = ObjectCounts.of_prediction(sample, prediction.long(), len(self._class_names), alerts)
        return {OBJECTS: counts.to_json()}

    def summarise(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Attacked figures over the data set.

        The accuracies are those of the worst member on each image. The pooled mean IoU is the lowest found by
        choosing for each image a member, or the result at a smaller radius
        (:func:`certseg.metrics.worst_pooled_miou`), and ``worst_imagewise_miou`` that of each image's lowest. Of an
        attack on a smoothed model these are upper bounds, at the ``confidence`` of each image, and figures called
        ``voted`` are the estimates of the same at the images that were kept.
        """
        threat = self._threat.to_json()
        radii = (*self._radii, threat.get("radius"))  # patches have none
        levels = [[row["radii"][index] for row in rows] for index in range(len(self._radii))] + [rows]
        candidates: list[list[ClassCounts]] = []  # all there is within a radius
        by_radius = []
        for radius, parts in zip(radii, levels):
            candidates += _candidates(parts)
            figures, worst = _figures(parts, candidates)
            if not self._attack.needs_gradient:
                figures.pop("zero_gradients/image_mean", None)
            by_radius.append({"radius": radius} | figures)
        summary: dict[str, Any] = {
            "predictor": self._predictor,
            "threat": threat,
            "needs_gradient": self._attack.needs_gradient,
            "confidence": 1.0 - ERROR if "voted" in rows[0] else None,
            "figures": figures,
            "class_iou": {"attacked": by_class(self._class_names, worst.iou())},
            "settings": self._settings,
        }
        if self._radii:
            summary["by_radius"] = by_radius
        if "members" in rows[0]:
            summary["members"] = {name: _member(name, rows) for name in rows[0]["members"]}
        return summary


def _duel(result: AttackResult | MemberResult, target: Tensor) -> Tensor | None:
    """Votes for each label and the most against it (:func:`certseg.attacks.votes.duels`); None of an exact answer."""
    if isinstance(result, MemberResult):
        return result.duel
    return None if result.votes is None else duels(result.votes, target)


def _candidates(parts: Sequence[Row]) -> list[list[ClassCounts]]:
    """Per attack the counts of each image: the attack itself, or the members of an ensemble."""
    names = parts[0].get("members")
    if names is None:
        return [[ClassCounts.from_json(part["counts"]) for part in parts]]
    return [[ClassCounts.from_json(part["members"][name]["counts"]) for part in parts] for name in names]


def _figures(parts: Sequence[Row], candidates: Sequence[Sequence[ClassCounts]]) -> tuple[dict[str, float], ClassCounts]:
    """Figures at one radius, and the counts of the lowest pooled mean IoU."""
    counts = reduce(add, (ClassCounts.from_json(part["counts"]) for part in parts))
    worst = worst_pooled_miou(candidates).counts
    image_wise = [min(image.miou() for image in images) for images in zip(*candidates)]
    figures = {
        "attacked_accuracy/image_mean": image_mean(parts, "attacked_accuracy"),
        "attacked_accuracy/pooled": counts.accuracy(),
        "worst_imagewise_miou/image_mean": image_mean([{"figures": {"miou": value}} for value in image_wise], "miou"),
        "attacked_miou/pooled": worst.miou(),
    }
    if "zero_gradients" in parts[0]["figures"]:
        figures["zero_gradients/image_mean"] = image_mean(parts, "zero_gradients")
    if "voted" in parts[0]:
        voted = reduce(add, (ClassCounts.from_json(part["voted"]) for part in parts))
        figures["voted_accuracy/image_mean"] = image_mean(parts, "voted_accuracy")
        figures["voted_accuracy/pooled"] = voted.accuracy()
        figures["voted_miou/pooled"] = voted.miou()
    for name in ("goal_share", *_ALERT_FIGURES):
        if name in parts[0]["figures"]:
            figures[f"{name}/image_mean"] = image_mean(parts, name)
    return figures, worst


def _member(name: str, rows: Sequence[Row]) -> dict[str, float]:
    """Figures of one member alone, on how many images it won, and what it cost."""
    own = [row["members"][name] for row in rows]
    images = [ClassCounts.from_json(part["counts"]) for part in own]
    counts = reduce(add, images)
    accuracies = [{"figures": {"accuracy": image.accuracy()}} for image in images]
    return {
        "attacked_accuracy/image_mean": image_mean(accuracies, "accuracy"),
        "attacked_accuracy/pooled": counts.accuracy(),
        "attacked_miou/pooled": counts.miou(),
        "images_won": sum(row["winner"] == name for row in rows),
        "forward_passes": sum(part["passes"]["forward"] for part in own),
        "backward_passes": sum(part["passes"]["backward"] for part in own),
        "seconds": sum(part["seconds"] for part in own),
    }
