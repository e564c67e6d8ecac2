"""The nouns every part of certseg shares: threats, samples, segmenters, attacks, certificates.

Conventions. Images are float32 RGB in [0, 1], ``3 x H x W``; every radius, sigma and epsilon is on that scale, over the
whole image (an l2 norm sums over all channels and pixels). Targets are int64 ``H x W`` with :data:`IGNORE_INDEX` where
there is no label. Abstention is a boolean mask, never a class id.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from certseg.errors import DataError, ModelError
from certseg.threats import L1, L2, THREATS, Linf, NormBall, Patch, Threat  # noqa: F401 - found here by everybody

IGNORE_INDEX = 255


@dataclass(frozen=True)
class Sample:
    """One image of a data set.

    Args:
        name: unique within its split, stable over machines, usable as a file name after ``/`` is replaced.
        image: ``3 x H x W`` float32 RGB in [0, 1].
        target: ``H x W`` int64 class ids, :data:`IGNORE_INDEX` where unlabelled.

    Raises:
        DataError: shapes, types or values are not as stated.
    """

    name: str
    image: Tensor
    target: Tensor

    def __post_init__(self) -> None:
        check_image(self.image, self.name)
        if self.target.dtype != torch.int64 or self.target.shape != self.image.shape[-2:]:
            raise DataError(
                f"The target of image {self.name!r} does not fit its image",
                expected=f"int64 labels of shape {tuple(self.image.shape[-2:])}",
                received=f"{self.target.dtype} of shape {tuple(self.target.shape)}",
                remedy="Check that image and label files belong together (scripts/check_dataset.py names them)",
            )


def check_image(image: Tensor, name: str = "input") -> None:
    """Raise :class:`DataError` unless ``image`` is ``3 x H x W`` floating point with finite values in [0, 1]."""
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise DataError(
            f"Image {name!r} has the wrong form",
            expected="a floating point tensor of shape (3, H, W)",
            received=f"{image.dtype} of shape {tuple(image.shape)}",
            remedy="Convert it to RGB and divide 8-bit values by 255",
        )
    low, high = (float(v) for v in image.aminmax())
    if not (low >= 0.0 and high <= 1.0):  # false for NaN too
        raise DataError(
            f"Image {name!r} has values outside [0, 1]",
            received=f"values from {low:g} to {high:g}",
            remedy="Divide 8-bit values by 255 and leave normalisation to the model",
        )


def check_target(target: Tensor, size: tuple[int, int], num_classes: int) -> None:
    """Raise :class:`DataError` unless ``target`` is int64 of shape ``size`` (height, width) with every value below
    ``num_classes`` or :data:`IGNORE_INDEX`."""
    if target.dtype != torch.int64 or tuple(target.shape) != tuple(size):
        raise DataError(
            "The target does not fit its image",
            expected=f"int64 labels of shape {tuple(size)}",
            received=f"{target.dtype} of shape {tuple(target.shape)}",
        )
    bad = (target != IGNORE_INDEX) & ((target < 0) | (target >= num_classes))
    if bad.any():
        raise DataError(
            "The target holds labels the model does not know",
            expected=f"0 .. {num_classes - 1} or {IGNORE_INDEX}",
            received=target[bad].unique().tolist()[:8],
            remedy="Check the data set's label mapping and the model's number of classes",
        )


@runtime_checkable
class Segmenter(Protocol):
    """A segmentation model as attacks and certifiers see it: images in [0, 1] in, one logits tensor out.

    ``segmenter(images)`` maps ``B x 3 x H x W`` to ``B x num_classes x H x W`` at the same resolution and is
    differentiable with respect to its input; normalisation and rescaling happen inside.
    """

    num_classes: int

    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``B x num_classes x H x W`` of images ``B x 3 x H x W`` in [0, 1]."""


@runtime_checkable
class Inpainter(Protocol):
    """Fills in the hidden pixels of images from the visible ones; each image on its own, and always alike.

    ``name`` is a word for tables; ``settings`` is everything that decides the result, in plain values.
    """

    name: str
    settings: dict[str, object]

    def __call__(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Images ``B x 3 x H x W`` in [0, 1], equal to ``images`` wherever ``hidden`` (``B x H x W`` bool) is False."""


@dataclass(frozen=True)
class CoarseLogits:
    """Logits at a network's own resolution. A segmenter may have a method ``coarse_logits(images)`` that returns them
    where its logits are their bilinear enlargement, else None; sampling on the CPU then spares the enlargement.

    Args:
        logits: ``B x num_classes x h x w``.
        align_corners: of the enlargement, as in :func:`torch.nn.functional.interpolate`.
    """

    logits: Tensor
    align_corners: bool


@dataclass(frozen=True)
class LipschitzBound:
    """What an audit proved about a network in eval mode: its logits are ``head @ features + offset`` at every pixel,
    and ||features(x) - features(y)||_2 <= ``constant`` * ||x - y||_2 for any two images, over all pixels and channels
    together. The offset may depend on class and position.

    Args:
        constant: joint l2 constant of the features, on the [0, 1] image scale; finite and positive.
        head: ``K x D``, the rows w_k of the last linear map; None where the logits themselves are the features.
        slack: no computed logit, at any image, is further than this from the exact one. 0 where logits are computed
            exactly enough to be taken as they are.
        flags: what a reader of the certificates should know, for example ``calibrated`` where the slack was measured.

    Raises:
        ModelError: a number is not as stated.
    """

    constant: float
    head: Tensor | None = None
    slack: float = 0.0
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.constant) and self.constant > 0):
            raise ModelError("A Lipschitz constant must be finite and positive", received=self.constant)
        if not (math.isfinite(self.slack) and self.slack >= 0):
            raise ModelError("The rounding slack of logits must be finite and not negative", received=self.slack)
        if self.head is not None and (self.head.ndim != 2 or not torch.isfinite(self.head).all()):
            raise ModelError(
                "The head of a Lipschitz bound must be a matrix of finite numbers, one row for each class",
                received=f"shape {tuple(self.head.shape)}",
            )

    def budget(self, radius: float) -> float:
        """The squared feature distance that a perturbation of l2 norm ``radius`` can cover, rounded up."""
        reach = math.nextafter(self.constant * radius, math.inf) if radius > 0 else 0.0
        return math.nextafter(reach * reach, math.inf) if radius > 0 else 0.0


@runtime_checkable
class LipschitzSegmenter(Segmenter, Protocol):
    """A segmenter whose Lipschitz constant was audited."""

    def certified_bound(self, size: tuple[int, int]) -> LipschitzBound:
        """What holds for images of this height and width, from the weights as they are now. Asked once an image: a
        network keeps the answer for as long as its weights do not change.

        Raises:
            ModelError: nothing can be proven, for example in train mode or for this size.
        """


class SegmentationDataset(Protocol):
    """A split of a data set: a sequence of :class:`Sample` with names known without reading the images."""

    name: str
    split: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """Read one sample."""

    def names(self) -> tuple[str, ...]:
        """The names of all samples, in order."""

    def fingerprint(self) -> str:
        """Hex digest that changes when the split's content changes and stays when its folder moves."""


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
            (:class:`certseg.hierarchy.Hierarchy`).
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
