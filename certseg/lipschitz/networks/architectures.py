"""DeepLabV3 and UPerNet made of Lipschitz layers, as ``configs/model`` names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from certseg.errors import ConfigError
from certseg.lipschitz.networks.convolutions import Builder
from certseg.lipschitz.networks.parts import ASPP, deeplabv3, stages_of, upernet
from certseg.lipschitz.networks.segmenter import LipschitzNetwork, NetworkSettings


class LipDeepLabV3(LipschitzNetwork):
    """DeepLabV3 of Lipschitz layers (seed 000): encoder, ASPP without global pooling, transposed decoder.

    Args:
        num_classes: classes of the data set; at least 2.
        name: how results and their folders call the model.
        size: ``tiny``, ``S``, ``M1``, ``M2``, ``L``, ``XL``, or a list of [channels, convolutions] per stage.
        convolution: kind of the convolutions, ``orthogonal``, ``spectral`` or ``free``.
        activation: ``maxmin``, ``groupsort2`` or ``relu``.
        residual: make blocks that keep the number of channels residual
            (:class:`certseg.lipschitz.networks.convolutions.Builder`).
        spread: root mean square, at the beginning, of the parameters behind each orthogonal weight; None leaves them as
            the library makes them (:class:`certseg.lipschitz.networks.convolutions.Builder`).
        rates: dilations of the ASPP's branches, in pixels of the coarsest resolution.
        aspp: how its branches are joined: ``concat`` as in the paper, where each branch sees all channels, or
            ``split``, where each sees its share of them, which keeps the norm.
        width: channels of the features below the head, an even number; None is half of the first stage's channels.
        skips: lead half of the channels around the coarser stages, from the encoder to the decoder, which costs no
            constant.
        settings: further settings of :class:`LipschitzNetwork`: ``constant``, ``head``, ``position_bias``, ``tau`` and
            ``arithmetic``.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        name: str,
        size: str | Sequence[Sequence[int]] = "tiny",
        convolution: str = "orthogonal",
        activation: str = "maxmin",
        residual: bool = False,
        spread: float | None = 0.05,
        rates: Sequence[int] = (6, 12, 18),
        aspp: str = "concat",
        width: int | None = None,
        skips: bool = False,
        **settings: Unpack[NetworkSettings],
    ):
        stages = stages_of(size)
        width = _checked_width(stages[0][0] // 2 if width is None else width)
        make, position = Builder(convolution, activation, residual, spread), bool(settings.get("position_bias", True))
        if aspp not in ASPP:
            raise ConfigError("Unknown model.aspp", expected=" or ".join(ASPP), received=aspp)
        rates = _counts("rates", rates)
        body = deeplabv3(make, stages, width=width, rates=rates, pyramid=aspp, skips=skips, position=position)
        super().__init__(
            body, width, num_classes=num_classes, name=name, convolution=convolution, spread=spread, **settings
        )


class LipUPerNet(LipschitzNetwork):
    """UPerNet of Lipschitz layers: 1-Lipschitz pyramid pooling and a feature pyramid fused by weighted concatenation.

    Args:
        num_classes: classes of the data set; at least 2.
        name: how results and their folders call the model.
        size: ``tiny``, ``S``, ``M1``, ``M2``, ``L``, ``XL``, or a list of [channels, convolutions] per stage.
        convolution: kind of the convolutions, ``orthogonal``, ``spectral`` or ``free``.
        activation: ``maxmin``, ``groupsort2`` or ``relu``.
        residual: make blocks that keep the number of channels residual
            (:class:`certseg.lipschitz.networks.convolutions.Builder`).
        spread: root mean square, at the beginning, of the parameters behind each orthogonal weight; None leaves them as
            the library makes them (:class:`certseg.lipschitz.networks.convolutions.Builder`).
        channels: channels of the feature pyramid, an even number; None is those of the second stage.
        bins: for each branch of the pyramid pooling, the number of cells along each side.
        width: channels of the features below the head, an even number; None is half of the first stage's channels.
        settings: further settings of :class:`LipschitzNetwork`: ``constant``, ``head``, ``position_bias``, ``tau`` and
            ``arithmetic``.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        name: str,
        size: str | Sequence[Sequence[int]] = "tiny",
        convolution: str = "orthogonal",
        activation: str = "maxmin",
        residual: bool = False,
        spread: float | None = 0.05,
        channels: int | None = None,
        bins: Sequence[int] = (1, 2, 3, 6),
        width: int | None = None,
        **settings: Unpack[NetworkSettings],
    ):
        stages = stages_of(size)
        width = _checked_width(stages[0][0] // 2 if width is None else width)
        channels = _checked_width(stages[min(1, len(stages) - 1)][0] if channels is None else channels)
        make, position = Builder(convolution, activation, residual, spread), bool(settings.get("position_bias", True))
        bins = _counts("bins", bins)
        body = upernet(make, stages, width=width, channels=channels, bins=bins, position=position)
        super().__init__(
            body, width, num_classes=num_classes, name=name, convolution=convolution, spread=spread, **settings
        )


def _checked_width(channels: int) -> int:
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 2 or channels % 2:
        raise ConfigError("Channels of features must be even numbers", received=repr(channels))
    return channels


def _counts(setting: str, values: Sequence[int]) -> tuple[int, ...]:
    if isinstance(values, str) or not all(isinstance(value, int) and value > 0 for value in values):
        raise ConfigError(f"model.{setting} must be a list of positive integers", received=values)
    return tuple(values)
