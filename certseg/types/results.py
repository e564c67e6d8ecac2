"""What attacks, certifiers and trainings give back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certseg.types.guarantees import Guarantee
from certseg.types.threats import Threat

Row = dict[str, Any]
"""Of one image: figures, counts, seconds, passes and flags (:mod:`certseg.evaluation.loop`)."""

Maps = dict[str, np.ndarray]
"""Of one image, by name."""


@dataclass(frozen=True)
class Passes:
    """Network evaluations, counted in images: forward passes, and backward passes to the input."""

    forward: int = 0
    backward: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forward + other.forward, self.backward + other.backward)


@dataclass(frozen=True)
class Certificate:
    """What a certifier proved about one image.

    Args:
        classes: ``H x W`` int64, the class predicted at each pixel, also where it is not certified.
        certified: ``H x W`` bool, the pixels whose class is guaranteed; the rest abstain.
        guarantee: what holds for the certified pixels, of which model, within which threat, how surely.
        passes: network evaluations spent.
        seconds: wall-clock parts by name (``sampling``, ``statistics``), synchronised with the device.
        flags: anything a reader of the row should know.
        samples: noisy copies drawn, 0 for a deterministic certificate.
        levels: ``H x W`` uint8, the level of the group of classes that is guaranteed in the place of the class, 0 for
            the class itself; None where only classes are certified. The guarantee's hierarchy names the groups.
    """

    classes: Tensor
    certified: Tensor
    guarantee: Guarantee
    passes: Passes
    seconds: dict[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    samples: int = 0
    levels: Tensor | None = None

    @property
    def threat(self) -> Threat:
        """The attacks that the guarantee holds for."""
        return self.guarantee.threat

    @property
    def predictor(self) -> str:
        """The model that the guarantee is about: only an attack on the same predictor may be compared with it."""
        return self.guarantee.predictor

    @property
    def confidence(self) -> float:
        """Probability with which the guarantee holds for this image; 1 for a deterministic certificate."""
        return self.guarantee.confidence

    @property
    def hierarchy(self) -> tuple[tuple[str, ...], ...] | None:
        """The groups that ``levels`` refers to, ``hierarchy[l][c]`` being the name of the group of class c on level l;
        None where classes are certified."""
        return self.guarantee.hierarchy or None

    def at_smaller_radii(self) -> tuple[Certificate, ...]:
        """The same image certified in smaller balls, by rising radius, where all of that holds together with this
        certificate at its one confidence; none by default."""
        return ()

    def further_maps(self) -> Maps:
        """Further maps by name, kept of every image; none by default."""
        return {}

    def pictured_maps(self) -> Maps:
        """Further maps by name, kept of those images alone that are to be looked at; none by default."""
        return {}

    def region_radii(self, right: Tensor, regions: Tensor, areas: np.ndarray, share: float) -> list[float] | None:
        """For each region of an image the radius, in the norm of the threat, below which every perturbation leaves at
        least a share of its pixels right, where the certificate proves that of pixels together; None, the default,
        where it speaks of single pixels alone.

        Args:
            right: ``H x W`` bool, the pixels that are predicted as they are labelled.
            regions: ``H x W`` int64, the region of each pixel from 0 on, negative where there is none.
            areas: ``(M,)`` int64, the number of pixels of each region.
            share: the share, in (0, 1].
        """
        return None


@dataclass(frozen=True)
class Samples:
    """What the noisy copies of one image said; every tau, alpha and correction can be evaluated from it. Its tensors
    lie on the device that drew them.

    Args:
        classes: ``H x W`` int64, the guess from the first samples.
        counts: ``H x W`` int16 or int32 (or a single number), how often the guess was drawn in fresh samples.
        passes: network evaluations spent.
        seconds: wall-clock parts by name.
        flags: anything a reader of the row should know about the sampling.
        levels: ``H x W`` uint8, the level of each pixel's group in a hierarchy; None where classes were counted.
    """

    classes: Tensor
    counts: Tensor
    passes: Passes
    seconds: dict[str, float]
    flags: tuple[str, ...] = ()
    levels: Tensor | None = None

    def maps(self) -> dict[str, np.ndarray]:
        """The tensors as arrays, to be kept on disk."""
        tensors = {"classes": self.classes, "counts": self.counts, "levels": self.levels}
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items() if tensor is not None}

    @classmethod
    def of_maps(
        cls, maps: Mapping[str, np.ndarray], passes: Passes, seconds: dict[str, float], flags: tuple[str, ...]
    ) -> Samples:
        """Inverse of :meth:`maps`."""
        levels = torch.from_numpy(maps["levels"]) if "levels" in maps else None
        classes = torch.from_numpy(maps["classes"].astype(np.int64))
        return cls(classes, torch.from_numpy(maps["counts"].astype(np.int32)), passes, seconds, flags, levels)


@dataclass(frozen=True)
class Score:
    """What the labels of an image add to the row of its certificate.

    Args:
        figures: the certifier's own figures of this image, by name.
        counts: what adds up over images, by name, in plain values.
        seconds: wall-clock seconds that the scoring took, by part.
    """

    figures: dict[str, float | None] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MemberResult:
    """What one member of an ensemble of attacks reached on an image; its adversarial image is not kept.

    Args:
        name: the member's name, different for each.
        prediction: ``H x W`` uint8 (:func:`certseg.types.class_ids`), what the attacked predictor answers.
        norm: the norm of its perturbation in the threat's own norm, computed in float64.
        passes: network evaluations spent.
        seconds: wall-clock parts by name.
        flags: self-checks that fired.
        zero_gradients: share of its gradients' entries that were exactly 0.
        duel: ``2 x H x W`` int32, of a sampled predictor the votes for the label of each pixel and the most for any
            other class (:func:`certseg.attacks.votes.duels`); None otherwise.
    """

    name: str
    prediction: Tensor
    norm: float
    passes: Passes
    seconds: dict[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    zero_gradients: float = 0.0
    duel: Tensor | None = None


@dataclass(frozen=True)
class AttackResult:
    """What an attack reached on one image.

    Args:
        adversarial: ``3 x H x W`` float32 in [0, 1], inside the threat.
        prediction: ``H x W`` int64, what the attacked predictor answers there.
        threat: what the attack was allowed to do.
        predictor: the model attacked, in the words of :attr:`Certificate.predictor`; ``base`` for the network itself.
        norm: the norm of the perturbation in the threat's own norm, computed in float64.
        votes: ``K x H x W`` int32, for a sampled predictor the number of votes for each class; None otherwise.
        num_votes: number of samples voted on; 0 otherwise.
        passes: network evaluations spent.
        seconds: wall-clock parts by name.
        flags: self-checks that fired, for example ``zero_gradient``.
        zero_gradients: share of the gradients' entries that were exactly 0, averaged over the attack's points.
        members: what each member of an ensemble reached, empty for any other attack; the other fields are then those of
            the member that left least, with the passes and seconds of all.
        winner: name of that member; None for an attack that is no ensemble.
    """

    adversarial: Tensor
    prediction: Tensor
    threat: Threat
    predictor: str
    norm: float
    passes: Passes
    votes: Tensor | None = None
    num_votes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    zero_gradients: float = 0.0
    members: tuple[MemberResult, ...] = ()
    winner: str | None = None

    def own_figures(self, target: Tensor) -> dict[str, float]:
        """Figures of a row beyond those of every attack, from the labels ``H x W``; none by default."""
        return {}

    def own_facts(self) -> dict[str, Any]:
        """Further entries of a row in plain values, such as where a patch lies; none by default."""
        return {}

    def own_maps(self) -> Maps:
        """Further maps to keep, by name: ``alerts`` (``H x W`` bool) where the attacked model raised an alert; none by
        default."""
        return {}


@dataclass(frozen=True)
class MinimumNormResult:
    """The smallest perturbation an attack found on one image.

    Args:
        adversarial: ``3 x H x W`` float32 in [0, 1], on the CPU; where the goal was not reached, the point at which
            most pixels met it.
        prediction: ``H x W`` int64, what the network answers at this very image.
        norm: l2 norm of the perturbation in float64, infinite where the goal was not reached, NaN where no pixel
            counts.
        reached: whether the goal is met at ``adversarial``.
        accuracy: share of the labelled pixels that are still correct there, NaN without any.
        distance: l2 norm of ``adversarial - image`` in float64, whether or not the goal was reached.
        changed: number of labelled pixels whose class there is not the one predicted at the image itself.
        labelled: number of labelled pixels.
        passes: network evaluations spent.
        seconds: wall-clock parts by name.
        flags: self-checks that fired.
        predictor: the model attacked, in the words of its certificates.
    """

    adversarial: Tensor
    prediction: Tensor
    norm: float
    reached: bool
    accuracy: float
    distance: float
    changed: int
    labelled: int
    passes: Passes
    seconds: dict[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    predictor: str = "base"


@dataclass(frozen=True)
class TrainingOutput:
    """Losses, and the logits of the same forward pass at the resolution at which the losses are computed.

    Args:
        losses: named losses, to be added up.
        logits: ``B x num_classes x h x w``, of the head that predicts.
        labels: ``B x h x w`` int64, the labels at that resolution, 255 where there is none.
    """

    losses: dict[str, Tensor]
    logits: Tensor
    labels: Tensor
