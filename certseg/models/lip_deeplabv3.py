"""DeepLabV3 of Lipschitz layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from certseg.checks import check_choice, checked_counts
from certseg.lipschitz.networks.parts import ASPP, deeplabv3
from certseg.lipschitz.networks.staged import StagedNetwork


class LipDeepLabV3(StagedNetwork):
    """DeepLabV3 of Lipschitz layers (seed 000): encoder, ASPP without global pooling, transposed decoder.

    Args:
        rates: dilations of the ASPP.
        aspp: ``concat`` (the seed's: each branch sees all channels) or ``split`` (its share, which keeps the norm).
        skips: split skips from encoder to decoder, which cost no constant.
        settings: as of :class:`certseg.lipschitz.networks.StagedNetwork`; ``num_classes`` and ``name`` have no default.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    def __init__(
        self, *, rates: Sequence[int] = (6, 12, 18), aspp: str = "concat", skips: bool = False, **settings: Any
    ):
        check_choice("model.aspp", aspp, ASPP)
        dilations = checked_counts("model.rates", rates)
        super().__init__(lambda plan: deeplabv3(plan, rates=dilations, pyramid=aspp, skips=skips), **settings)
