"""Convolutions of three kinds behind one choice, and the blocks made of them.

``orthogonal``: adaptive orthogonal convolutions (Boissin et al. 2025, orthogonium), all of whose singular values are 1.
``spectral``: a reshaped kernel with singular values 1, divided by the number of windows that share a pixel (Serrurier
et al. 2021, deel-torchlip), whose operator norm is at most 1. ``free``: no constraint. All pad with zeros, the
one padding under which the norm of the kernel bounds that of the layer for every image size.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from certseg.checks import check_choice, check_flag, check_number
from certseg.errors import ConfigError
from certseg.lipschitz.audit.baking import LIMIT
from certseg.lipschitz.layers import BatchCentering, ConvexPotential, GroupSort2, MaxMin

Convolution = TypeVar("Convolution", bound=nn.Module)

KINDS = ("orthogonal", "spectral", "free")
ACTIVATIONS = {"maxmin": MaxMin, "groupsort2": GroupSort2, "relu": nn.ReLU}


@dataclass(frozen=True)
class Builder:
    """Makes the layers of a network.

    Args:
        kind: kind of the convolutions, ``orthogonal``, ``spectral`` or ``free``.
        activation: ``maxmin``, ``groupsort2`` (both sort pairs of channels) or ``relu``.
        residual: make blocks that keep the number of channels steps of a gradient flow
            (:class:`certseg.lipschitz.layers.ConvexPotential`). Where other convolutions are orthogonal, those of the
            steps are almost orthogonal (Prach and Lampert 2022, "Almost-orthogonal layers for efficient general-purpose
            Lipschitz networks", orthogonium).
        spread: root mean square, at the beginning, of the parameters behind each orthogonal weight. Only their
            direction counts, so their scale decides by which angle a step of Adam turns it. The libraries begin with
            0.01 to 1, depending on the kind and width of a layer; with one scale for all, one learning rate suits all.
            None leaves the parameters as they are. Those of spectral convolutions always stay as they are: one power
            iteration a step cannot follow larger angles.

    Raises:
        ConfigError: a name is unknown.
    """

    kind: str = "orthogonal"
    activation: str = "maxmin"
    residual: bool = False
    spread: float | None = 0.05

    def __post_init__(self) -> None:
        check_choice("model.convolution", self.kind, KINDS)
        check_flag("model.residual", self.residual)
        if self.residual and self.kind == "free":
            raise ConfigError(
                "Residual steps need a constraint", expected="model.convolution=orthogonal or spectral", received="free"
            )
        check_number("model.spread", self.spread, "(0, inf)", optional=True)
        check_choice("model.activation", self.activation, ACTIVATIONS)

    def convolution(
        self, before: int, after: int, kernel: int = 3, stride: int = 1, dilation: int = 1, bias: bool = False
    ) -> nn.Conv2d:
        """A convolution whose output is ``ceil(side / stride)`` high and wide; norm at most 1 unless free."""
        padding = dilation * (kernel // 2) if kernel > stride else 0
        if self.kind == "free":
            return nn.Conv2d(before, after, kernel, stride, padding, dilation, bias=bias)
        with _quiet():
            if self.kind == "orthogonal":
                from orthogonium.layers import AdaptiveOrthoConv2d as Convolution
            else:
                from deel.torchlip import SpectralConv2d as Convolution
        form = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
        constrained: nn.Conv2d = Convolution(before, after, **form, bias=bias, padding_mode="zeros")
        return self._limited(constrained)

    def enlargement(self, before: int, after: int) -> nn.ConvTranspose2d:
        """A transposed convolution of kernel and stride 2, which doubles height and width; norm at most 1 unless
        free."""
        if self.kind == "free":
            return nn.ConvTranspose2d(before, after, 2, 2, 0, bias=False)
        with _quiet():
            if self.kind == "orthogonal":
                from orthogonium.layers import AdaptiveOrthoConvTranspose2d as Convolution
            else:
                from deel.torchlip import SpectralConvTranspose2d as Convolution
        constrained: nn.ConvTranspose2d = Convolution(before, after, kernel_size=2, stride=2, padding=0, bias=False)
        return self._limited(constrained)

    def finished(self, convolution: nn.Module, channels: int) -> nn.Sequential:
        """A convolution, centering (batch normalisation if free) and the activation."""
        centering = nn.BatchNorm2d(channels) if self.kind == "free" else BatchCentering(channels)
        return nn.Sequential(convolution, centering, ACTIVATIONS[self.activation]())

    def block(self, before: int, after: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
        """A :meth:`convolution` with centering and activation (:meth:`finished`)."""
        return self.finished(self.convolution(before, after, kernel, stride, dilation), after)

    def refinement(self, channels: int) -> nn.Module:
        """A 3x3 :meth:`block` that keeps the number of channels, or a residual step."""
        if not self.residual:
            return self.block(channels, channels)
        if self.kind == "orthogonal":
            with _quiet():
                from orthogonium.layers.conv.AOL import AOLConv2D
            almost = AOLConv2D(channels, channels, 3, padding=1, bias=False)
            inner: nn.Conv2d = self._limited(almost)
            almost.parametrizations.weight[0].q.requires_grad_(False)  # cancels out of the library's normalisation
        else:
            inner = self.convolution(channels, channels)
        return ConvexPotential(inner, BatchCentering(channels))

    def doubling(self, before: int, after: int) -> nn.Sequential:
        """An :meth:`enlargement` with centering and activation (:meth:`finished`)."""
        return self.finished(self.enlargement(before, after), after)

    def _limited(self, convolution: Convolution) -> Convolution:
        """``convolution``, whose norm is at most 1 once it is baked, with its parameters spread as the builder says."""
        setattr(convolution, LIMIT, 1.0)  # baking scales down what iterations left above it
        for name, parameter in convolution.named_parameters():
            if (
                self.spread is not None
                and self.kind == "orthogonal"
                and name.endswith(".original")
                and parameter.requires_grad
            ):
                parameter.data *= self.spread / parameter.detach().pow(2).mean().sqrt()
        return convolution


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' warnings on import: invalid escapes in docstrings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
