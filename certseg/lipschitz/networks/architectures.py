"""DeepLabV3 and UPerNet made of Lipschitz layers, by the names of configs/model."""

from __future__ import annotations

from collections.abc import Sequence

from certseg.checks import check_choice, checked_counts, is_count
from certseg.errors import ConfigError
from certseg.lipschitz.networks.convolutions import Builder
from certseg.lipschitz.networks.parts import ASPP, deeplabv3, stages_of, upernet
from certseg.lipschitz.networks.segmenter import LipschitzNetwork


class LipDeepLabV3(LipschitzNetwork):
    """DeepLabV3 of Lipschitz layers (seed 000): encoder, ASPP without global pooling, transposed decoder.

    Args:
        num_classes: classes of the data set; at least 2.
        name: how results and their folders call the model.
        size: ``tiny``, ``S``, ``M1``, ``M2``, ``L``, ``XL``, or a list of [channels, convolutions] per stage.
        convolution: ``orthogonal``, ``spectral`` or ``free``.
        activation: ``maxmin``, ``groupsort2`` or ``relu``.
        residual: as of :class:`certseg.lipschitz.networks.convolutions.Builder`.
        spread: as there.
        rates: dilations of the ASPP.
        aspp: ``concat`` (the seed's: each branch sees all channels) or ``split`` (its share, which keeps the norm).
        width: channels of the features below the head; null for half of the first stage's.
        skips: split skips from encoder to decoder, which cost no constant.
        settings: as of :class:`LipschitzNetwork`.

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
        **settings: object,
    ):
        stages = stages_of(size)
        width = _checked_width(stages[0][0] // 2 if width is None else width)
        make, position = Builder(convolution, activation, residual, spread), bool(settings.get("position_bias", True))
        check_choice("model.aspp", aspp, ASPP)
        rates = checked_counts("model.rates", rates)
        body = deeplabv3(make, stages, width=width, rates=rates, pyramid=aspp, skips=skips, position=position)
        settings |= {"convolution": convolution, "spread": spread}
        super().__init__(body, width, num_classes=num_classes, name=name, **settings)


class LipUPerNet(LipschitzNetwork):
    """UPerNet of Lipschitz layers: 1-Lipschitz pyramid pooling and a feature pyramid fused by weighted concatenation.

    Args:
        num_classes: classes of the data set; at least 2.
        name: how results and their folders call the model.
        size: as of :class:`LipDeepLabV3`.
        convolution: ``orthogonal``, ``spectral`` or ``free``.
        activation: ``maxmin``, ``groupsort2`` or ``relu``.
        residual: as of :class:`certseg.lipschitz.networks.convolutions.Builder`.
        spread: as there.
        channels: of the feature pyramid; null for those of the second stage.
        bins: cells along each side, of each branch of the pyramid pooling.
        width: channels of the features below the head; null for half of the first stage's.
        settings: as of :class:`LipschitzNetwork`.

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
        **settings: object,
    ):
        stages = stages_of(size)
        width = _checked_width(stages[0][0] // 2 if width is None else width)
        channels = _checked_width(stages[min(1, len(stages) - 1)][0] if channels is None else channels)
        make, position = Builder(convolution, activation, residual, spread), bool(settings.get("position_bias", True))
        bins = checked_counts("model.bins", bins)
        body = upernet(make, stages, width=width, channels=channels, bins=bins, position=position)
        settings |= {"convolution": convolution, "spread": spread}
        super().__init__(body, width, num_classes=num_classes, name=name, **settings)


def _checked_width(channels: int) -> int:
    if not is_count(channels, 2) or channels % 2:
        raise ConfigError("Channels of features must be even numbers", received=repr(channels))
    return channels
