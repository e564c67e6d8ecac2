"""What the architectures of Lipschitz layers share: stages, kinds of layers and the width of the features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from certseg.checks import is_count
from certseg.errors import ConfigError
from certseg.lipschitz.networks.convolutions import Builder
from certseg.lipschitz.networks.parts import BodyPlan, stages_of
from certseg.lipschitz.networks.segmenter import LipschitzNetwork


class StagedNetwork(LipschitzNetwork):
    """A :class:`LipschitzNetwork` whose encoder is made of stages, each at half the resolution of the one before.

    Args:
        body: builds the network below the head from a plan.
        num_classes: classes of the data set; at least 2.
        name: how results and their folders call the model.
        size: ``tiny``, ``S``, ``M1``, ``M2``, ``L``, ``XL``, or a list of [channels, convolutions] per stage.
        convolution: ``orthogonal``, ``spectral`` or ``free``.
        activation: ``maxmin``, ``groupsort2`` or ``relu``.
        residual: whether blocks that keep the number of channels are steps of a gradient flow
            (:class:`certseg.lipschitz.layers.ConvexPotential`).
        spread: root mean square, at the beginning, of the parameters behind each orthogonal weight; None leaves them as
            they are (see :class:`certseg.lipschitz.networks.convolutions.Builder`).
        width: channels of the features below the head; None for half of the first stage's.
        position_bias: add learned maps to the logits and at the lowest resolution, which costs no constant.
        settings: ``constant``, ``head``, ``tau`` and ``arithmetic``, which :class:`LipschitzNetwork` explains.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    def __init__(
        self,
        body: Callable[[BodyPlan], nn.Module],
        *,
        num_classes: int,
        name: str,
        size: str | Sequence[Sequence[int]] = "tiny",
        convolution: str = "orthogonal",
        activation: str = "maxmin",
        residual: bool = False,
        spread: float | None = 0.05,
        width: int | None = None,
        position_bias: bool = True,
        **settings: Any,
    ):
        stages = stages_of(size)
        width = checked_width(stages[0][0] // 2 if width is None else width)
        plan = BodyPlan(Builder(convolution, activation, residual, spread), stages, width, bool(position_bias))
        settings |= {"convolution": convolution, "spread": spread, "position_bias": position_bias}
        super().__init__(body(plan), width, num_classes=num_classes, name=name, **settings)


def checked_width(channels: int) -> int:
    """A number of channels that activations can pair.

    Raises:
        ConfigError: it is no even positive integer.
    """
    if not is_count(channels, 2) or channels % 2:
        raise ConfigError("Channels of features must be even numbers", received=repr(channels))
    return channels
