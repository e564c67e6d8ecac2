"""The audit: a proven constant for a network of plain modules, and the certificate that states it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from certseg.errors import ModelError
from certseg.lipschitz.audit.attributes import settings_of, tensors_of
from certseg.lipschitz.audit.precision import check_arithmetic
from certseg.lipschitz.audit.rules import RULES
from certseg.lipschitz.audit.walk import LayerBound, Span, Walk
from certseg.lipschitz.operator_norms import NormBound

_UNITS = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}
_ROUNDING = 1.0 + 2.0**-36  # more than what adding and multiplying the bounds of all layers can round off
_CLAIM = 1.0 + 1e-3


@dataclass(frozen=True)
class ConstantCertificate:
    """What an audit proved about a network and images of one size.

    Claim: for any two images x, y of ``size`` with values in [0, 1], or moved out of it by no more than their own
    largest possible norm, ||f(x) - f(y)||_2 <= ``constant`` ||x - y||_2 with f the network in exact arithmetic; and the
    computed value of f is nowhere further than ``error`` from it.

    Args:
        constant: l2 Lipschitz constant over all pixels and channels together, rounded up.
        error: bound of the l2 norm of the rounding error of the network's output, all its entries together, known
            before anything is computed.
        magnitude: l2 norm that no output exceeds.
        size: height and width of the images.
        output: channels, height and width of the network's output for such images.
        dtype: the network's arithmetic, ``float64`` or ``float32``.
        weights: sha256 of the network's weights and of the structure of its modules.
        layers: one entry for each module with a constant of its own.
        torch: the version of torch that computed the bounds.
    """

    constant: float
    error: float
    magnitude: float
    size: tuple[int, int]
    output: tuple[int, int, int]
    dtype: str
    weights: str
    layers: tuple[LayerBound, ...]
    torch: str

    def plain(self) -> dict[str, Any]:
        """The certificate in JSON values."""
        return asdict(self)

    def check_claim(self, claimed: float) -> None:
        """Raise :class:`ModelError` if the proven constant is above a claimed one by more than a thousandth: then the
        network is not built as it was meant to be. Below that, the proven constant counts, not the claimed one."""
        if self.constant > claimed * _CLAIM:
            worst = sorted(self.layers, key=lambda layer: -layer.constant)[:3]
            raise ModelError(
                "The network's Lipschitz constant is above the one it is built for",
                expected=f"at most {claimed:g}",
                received=f"{self.constant:.6g} (largest layers: "
                + ", ".join(f"{layer.name} {layer.constant:.4g}" for layer in worst)
                + ")",
                remedy="A normalisation is missing or counted twice, or a layer lost its constraint",
            )


class Audit:
    """Proves constants of one network with the weights it has now; norms of its layers are computed once.

    Args:
        network: plain modules (:data:`certseg.lipschitz.audit.rules.RULES`) in eval mode, all float32 or all float64.
        channels: number of channels of the images, 3 by default.

    Attributes:
        weights: sha256 of the network when the audit began (:func:`fingerprint`).
        unit: unit roundoff of the network's arithmetic.

    Raises:
        ModelError: the network has no weights, or weights of another or of mixed dtypes.
    """

    def __init__(self, network: nn.Module, channels: int = 3):
        self._network, self._channels = network, channels
        tensors = [t for module in network.modules() for _, t in tensors_of(module) if t.is_floating_point()]
        dtypes = {tensor.dtype for tensor in tensors}
        if len(dtypes) != 1 or not dtypes <= _UNITS.keys():
            raise ModelError(
                "The audit needs one arithmetic throughout",
                expected="float64 or float32",
                received=", ".join(sorted(map(str, dtypes))) or "no weights",
            )
        self._dtype = dtypes.pop()
        self.unit = _UNITS[self._dtype]
        self._devices = {tensor.device for tensor in tensors}
        self._norms: dict[str, tuple[NormBound, float]] = {}
        self.weights = fingerprint(network)

    def certificate(self, size: Sequence[int]) -> ConstantCertificate:
        """Prove a constant for images of ``size`` (height, width).

        Raises:
            ModelError: the network is in training mode, holds a module without a rule, was changed since the audit
                began, its arithmetic is not what its dtype says (autocast, TF32), its output has another shape than
                was proven, or nothing holds for this size.
        """
        check_arithmetic(self._dtype, {device.type for device in self._devices})
        if fingerprint(self._network) != self.weights:
            raise ModelError("The network's weights changed during its audit", remedy="Begin a new audit")
        height, width = (int(side) for side in size)
        largest = 2.0 * math.sqrt(self._channels * height * width)
        walk = Walk(RULES, self.unit, self._norms)
        end = walk(self._network, Span(1.0, largest, 0.0, self._channels, (height, width)), "")
        if not all(map(math.isfinite, (end.lipschitz, end.error, end.magnitude))):
            received = f"{end.lipschitz}, {end.error}, {end.magnitude}"
            raise ModelError("Constant, rounding error or magnitude of the network is not finite", received=received)
        self._check_output((height, width), (end.channels, *end.size))
        return ConstantCertificate(
            end.lipschitz * _ROUNDING,
            end.error * _ROUNDING,
            end.magnitude * _ROUNDING,
            (height, width),
            (end.channels, *end.size),
            str(self._dtype).removeprefix("torch."),
            self.weights,
            tuple(walk.table),
            torch.__version__,
        )

    def _check_output(self, size: tuple[int, int], audited: tuple[int, ...]) -> None:
        """Raise :class:`ModelError` if the network makes of an image of ``size`` an output of another shape than the
        walk came to: then it does not compute what its modules say."""
        image = torch.zeros(1, self._channels, *size, dtype=self._dtype, device=next(iter(self._devices)))
        with torch.no_grad():
            real = tuple(self._network(image).shape[1:])
        if real != audited:
            raise ModelError(
                "The network's output has another shape than its modules say",
                expected="x".join(map(str, audited)),
                received="x".join(map(str, real)),
            )


def audit(
    network: nn.Module, size: Sequence[int], *, channels: int = 3, claimed: float | None = None
) -> ConstantCertificate:
    """Prove a Lipschitz constant of ``network`` for images of one size.

    Args:
        network: plain modules in eval mode, all float32 or all float64 (:class:`Audit`); parametrized weights are to be
            baked first (:func:`certseg.lipschitz.audit.bake`).
        size: height and width of the images.
        channels: number of channels of the images, 3 by default.
        claimed: a constant that must not be exceeded by more than a thousandth; None makes no claim.

    Raises:
        ModelError: nothing can be proven (:meth:`Audit.certificate`), or the proven constant is above ``claimed``.
    """
    certificate = Audit(network, channels).certificate(size)
    if claimed is not None:
        certificate.check_claim(claimed)
    return certificate


def fingerprint(network: nn.Module) -> str:
    """sha256 of all tensors by name, registered as weights or not, of the modules by type and of their settings."""
    digest = hashlib.sha256(repr(network).encode())
    for name, module in network.named_modules(remove_duplicate=False):
        digest.update(f"{name}:{type(module).__qualname__}:{settings_of(module)}".encode())
        for own, tensor in tensors_of(module):
            digest.update(f"{name}:{own}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
