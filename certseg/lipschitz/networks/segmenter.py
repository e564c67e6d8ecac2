"""Lipschitz networks as segmenters: trained with parametrized layers, evaluated and certified in their baked form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certseg.checks import check_choice, check_count, check_number, check_word
from certseg.errors import ModelError
from certseg.lipschitz.audit import ConstantCertificate, bake, full_precision, state_of
from certseg.lipschitz.audit.walk import check_untouched
from certseg.lipschitz.layers import Normalise, PositionBias, Scale
from certseg.lipschitz.networks.convolutions import Builder
from certseg.lipschitz.networks.frozen import Frozen, Holder
from certseg.lipschitz.resampling import resize_norm
from certseg.types import IGNORE_INDEX, LipschitzBound, TrainingOutput
from certseg.types.images import check_images, check_labels

ARITHMETICS = {"float64": torch.float64, "float32": torch.float32}
HEADS = ("free", "constrained")
ROUNDING_ASSUMPTION = (
    "float32 rounds no logit, at any image within R, by more than the slack that certificates leave for it: a hundred "
    "times what was measured on a few images (model.arithmetic=float64 needs no such assumption)"
)
"""What certificates of a network in float32 assume."""
_NOTICED = 1.0 + 1e-6  # above the claimed constant by more than this: certificates are flagged


class NetworkSettings(TypedDict, total=False):
    """The settings of a :class:`LipschitzNetwork` that do not depend on its architecture, with its defaults."""

    constant: float
    head: str
    position_bias: bool
    tau: float
    arithmetic: str


class LipschitzNetwork(nn.Module):
    """Features with a known Lipschitz constant, a 1x1 head on top, and logits of the images' size.

    In training mode the parametrized layers compute. In eval mode a baked copy of them does, with plain convolutions of
    norm at most 1, in float64 unless asked otherwise and never under autocast or TF32; it is made anew whenever a
    weight or a module has changed, so what is evaluated, attacked and certified is one function. Logits then have that
    dtype.

    Args:
        body: a module that maps images ``B x 3 x H x W`` to features ``B x width x H x W``.
        width: channels of the features.
        num_classes: classes of the data set; at least 2.
        name: how results and their folders call the model.
        convolution: the kind of convolutions that the body was built of, ``orthogonal``, ``spectral`` or ``free``.
        spread: root mean square, at the beginning, of the parameters behind a constrained head
            (:class:`certseg.lipschitz.networks.convolutions.Builder`); None leaves them as they are.
        constant: positive Lipschitz constant of the features by construction: images are centred and multiplied by it.
            No claim is made if ``convolution`` is ``free``.
        head: ``free`` for rows without constraint, whose distances enter the certificates; ``constrained`` for a
            last layer of the same kind as the others.
        position_bias: add a learned map to the logits, which costs no constant.
        tau: positive temperature of the loss CE(tau u, y) / tau of logits u and labels y, where the training objective
            has none of its own.
        arithmetic: floating point type of eval mode: ``float64``, whose rounding is bounded in advance, or ``float32``,
            which is faster and whose rounding is measured on some images and multiplied by 100 (flag ``calibrated``):
            certificates then assume that no other image is rounded worse, and say so.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    def __init__(
        self,
        body: nn.Module,
        width: int,
        *,
        num_classes: int,
        name: str,
        convolution: str,
        spread: float | None = None,
        constant: float = 1.0,
        head: str = "free",
        position_bias: bool = True,
        tau: float = 30.0,
        arithmetic: str = "float64",
    ):
        super().__init__()
        check_count("num_classes", num_classes, 2, remedy="A segmentation model needs at least two classes")
        check_word("model.name", name)
        _check_arguments(constant, head, tau, arithmetic)
        self.num_classes, self.name, self.tau = num_classes, name, float(tau)
        self.constant = None if convolution == "free" else float(constant)
        self.body = nn.Sequential(Normalise([0.5] * 3, [1.0] * 3), Scale(constant), body)
        if head == "free":
            self.head = nn.Conv2d(width, num_classes, 1)
            nn.init.orthogonal_(self.head.weight)
            if self.head.bias is not None:
                nn.init.zeros_(self.head.bias)
        else:
            self.head = Builder(convolution, spread=spread).convolution(width, num_classes, 1, bias=True)
        self.offset = PositionBias(num_classes) if position_bias else nn.Identity()
        self._dtype = ARITHMETICS[arithmetic]
        self._held = Holder()
        self._compilation: dict[str, Any] | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``B x num_classes x H x W`` of RGB images ``B x 3 x H x W`` in [0, 1].

        Raises:
            ModelError: ``images`` has another shape.
        """
        check_images(images)
        if self.training:
            logits: Tensor = self.offset(self.head(self.body(images)))
            return logits
        frozen = self._frozen()
        with full_precision(images.device, self._dtype):
            return frozen.logits(images.to(self._dtype))

    def features(self, images: Tensor) -> Tensor:
        """The features ``B x width x H x W`` that the constant is about, as eval mode computes them."""
        frozen = self._frozen()
        with full_precision(images.device, self._dtype):
            features: Tensor = frozen.body(images.to(self._dtype))
        return features

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``loss_ce``, CE(tau u, y) / tau averaged over labelled pixels, and the pixel accuracy ``acc_seg`` in percent.

        Args:
            images: ``B x 3 x H x W`` in [0, 1].
            labels: ``B x H x W`` int64 in 0..num_classes - 1, or 255 where there is no label.

        Raises:
            ModelError: shapes or labels are not as stated.
        """
        return self.loss_and_logits(images, labels).losses

    def loss_and_logits(self, images: Tensor, labels: Tensor) -> TrainingOutput:
        """The losses of :meth:`loss` and the logits they come from.

        Args:
            images: ``B x 3 x H x W`` in [0, 1].
            labels: ``B x H x W`` int64 in 0..num_classes - 1, or 255 where there is no label.

        Raises:
            ModelError: shapes or labels are not as stated.
        """
        logits = self(images)
        check_labels(labels, logits, self.num_classes)
        labelled = labels != IGNORE_INDEX
        pixels = labelled.sum().clamp(min=1)
        total = F.cross_entropy(self.tau * logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
        hits = ((logits.argmax(dim=1) == labels) & labelled).sum()
        losses = {"loss_ce": total / (self.tau * pixels), "acc_seg": 100.0 * hits / pixels}
        return TrainingOutput(losses, logits, labels)

    def certificate(self, size: Sequence[int]) -> ConstantCertificate:
        """What the audit proves about the features of images of ``size`` (height, width). Its sha256 of the weights
        covers head and offset too.

        Raises:
            ModelError: nothing can be proven, for the reasons that :meth:`certified_bound` names.
        """
        return self._proven(size)[0]

    def certified_bound(self, size: Sequence[int]) -> LipschitzBound:
        """What holds for logits of images of ``size`` (height, width), from the weights as they are now.

        A constant above the one the network is built for, by more than rounding, is flagged ``constant_above_claim``;
        certificates use what was proven.

        Raises:
            ModelError: the network is in training mode; nothing can be proven for this size; the constant is above the
                one the network is built for by more than a thousandth; or the network, its head or its offset has been
                changed since it was built.
        """
        return self._proven(size)[1]

    def compile(self, **settings: Any) -> None:
        """Compile what eval mode computes, whenever it is baked (``torch.compile``)."""
        torch.compiler.assume_constant_result(resize_norm)  # numpy and caches inside; depends on sizes alone
        self._compilation, self._held.frozen = settings, None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LipschitzNetwork:
        """Keep weights in their own memory order, whatever order images have: parametrizations reshape them."""
        nn.Module._apply(self, fn, recurse)
        for tensor in (*self.parameters(), *self.buffers()):
            if not tensor.is_contiguous():
                tensor.data = tensor.data.contiguous()
        return self

    def _proven(self, size: Sequence[int]) -> tuple[ConstantCertificate, LipschitzBound]:
        if self.training:
            raise ModelError("Nothing can be proven about a network in training mode", remedy="Call eval()")
        frozen, sides = self._frozen(), (int(size[0]), int(size[1]))
        if sides not in frozen.bounds:
            check_untouched(self, "the network")
            for method in ("__call__", "forward", "features", "_frozen"):
                if getattr(type(self), method) is not getattr(LipschitzNetwork, method):
                    raise ModelError(f"{type(self).__name__} has a {method} of its own, of which nothing is known")
            with full_precision(frozen.matrix.weight.device, self._dtype):
                certificate = replace(frozen.audit.certificate(sides), weights=frozen.weights)
                frozen.check_ends(self.num_classes, certificate.output, sides)
                if self.constant is not None:
                    certificate.check_claim(self.constant)
                frozen.bounds[sides] = certificate, self._bound(frozen, certificate)
        return frozen.bounds[sides]

    def _bound(self, frozen: Frozen, certificate: ConstantCertificate) -> LipschitzBound:
        flags: tuple[str, ...]
        if self._dtype == torch.float64:
            slack, flags, assumption = frozen.rounding(certificate), (), ""
        else:
            slack, flags, assumption = frozen.measured_rounding(certificate), ("calibrated",), ROUNDING_ASSUMPTION
        if self.constant is not None and certificate.constant > self.constant * _NOTICED:
            flags += ("constant_above_claim",)
        head = frozen.matrix.weight[:, :, 0, 0].double().clone()
        return LipschitzBound(certificate.constant, head, slack, flags, assumption)

    def _frozen(self) -> Frozen:
        """The baked network, made anew if anything about the network has changed."""
        state = state_of(self)
        if self._held.frozen is None or self._held.frozen.state != state:
            with torch.inference_mode(False):  # an attack differentiates through what a prediction has baked
                body, head, offset = (bake(part, self._dtype) for part in (self.body, self.head, self.offset))
            logits: Callable[[Tensor], Tensor] = nn.Sequential(body, head, offset)
            if self._compilation is not None:
                logits = torch.compile(logits, **self._compilation)
            self._held.frozen = Frozen(state, body, head, offset, logits)
        return self._held.frozen

    def train(self, mode: bool = True) -> LipschitzNetwork:
        """Switch between the parametrized layers and their baked copy."""
        if mode:
            self._held.frozen = None
        return super().train(mode)


def _check_arguments(constant: float, head: str, tau: float, arithmetic: str) -> None:
    for setting, value in (("constant", constant), ("tau", tau)):
        check_number(f"model.{setting}", value, "(0, inf)")
    check_choice("model.head", head, HEADS)
    check_choice("model.arithmetic", arithmetic, ARITHMETICS)
