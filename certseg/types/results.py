"""What attacks, certifiers and trainings give back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

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
        threat: the perturbations the guarantee holds for.
        predictor: the model the guarantee is about, for example ``smoothed(gaussian, sigma=0.25)``: only an
            attack on the same predictor may be compared with it.
        confidence: probability with which the whole map of this image holds; 1 for a deterministic certificate.
        passes: network evaluations spent.
        seconds: wall-clock parts by name (``sampling``, ``statistics``), synchronised with the device.
        flags: anything a reader of the row should know.
        samples: noisy copies drawn, 0 for a deterministic certificate.
        levels: ``H x W`` uint8, the level of the group of classes that is guaranteed in the place of the class, 0 for
            the class itself; None where only classes are certified.
        hierarchy: what ``levels`` refers to: ``hierarchy[l][c]`` names the group of class c on level l
            (:class:`certseg.types.hierarchy.Hierarchy`).
    """

    classes: Tensor
    certified: Tensor
    threat: Threat
    predictor: str
    confidence: float
    passes: Passes
    seconds: dict[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    samples: int = 0
    levels: Tensor | None = None
    hierarchy: tuple[tuple[str, ...], ...] | None = None


@dataclass(frozen=True)
class MemberResult:
    """What one member of an ensemble of attacks reached on an image; its adversarial image is not kept.

    Args:
        name: of the member, different for each.
        prediction: ``H x W`` uint8 (int16 for more than 256 classes), what the attacked predictor answers.
        norm: as in :class:`AttackResult`, as are all that follow.
        passes: network evaluations spent.
        seconds: wall-clock parts by name.
        flags: self-checks that fired.
        zero_gradients: share of zeros in its gradients.
    """

    name: str
    prediction: Tensor
    norm: float
    passes: Passes
    seconds: dict[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    zero_gradients: float = 0.0


@dataclass(frozen=True)
class AttackResult:
    """What an attack reached on one image.

    Args:
        adversarial: ``3 x H x W`` float32 in [0, 1], inside the threat.
        prediction: ``H x W`` int64, what the attacked predictor answers there.
        threat: the budget.
        predictor: the model attacked, in the words of :attr:`Certificate.predictor`; ``base`` for the network itself.
        norm: the norm of the perturbation in the threat's own norm, computed in float64.
        votes: ``K x H x W`` int32, for a sampled predictor the number of votes for each class; None otherwise.
        num_votes: number of samples voted on; 0 otherwise.
        passes: network evaluations spent.
        seconds: wall-clock parts by name.
        flags: self-checks that fired, for example ``zero_gradient``.
        zero_gradients: share of the gradients' entries that were exactly 0, averaged over the attack's points.
        members: of an ensemble, what each member reached; the rest is then the worst member's result, with the passes
            and seconds of all.
        winner: name of that member.
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
