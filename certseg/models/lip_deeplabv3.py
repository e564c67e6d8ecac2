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
        rates: dilations of the branches of the ASPP (atrous spatial pyramid pooling).
        aspp: ``concat``, where each branch sees all channels as in seed 000, or ``split``, where each sees its share of
            the channels, which keeps the norm.
        skips: whether half of the channels of a stage go around the stages below it, from encoder to decoder, which
            costs no constant.
        settings: the arguments of :class:`certseg.lipschitz.networks.StagedNetwork` except ``body``; of them
            ``num_classes`` and ``name`` have no default.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    def __init__(
        self, *, rates: Sequence[int] = (6, 12, 18), aspp: str = "concat", skips: bool = False, **settings: Any
    ):
        check_choice("model.aspp", aspp, ASPP)
        dilations = checked_counts("model.rates", rates)
        super().__init__(lambda plan: deeplabv3(plan, rates=dilations, pyramid=aspp, skips=skips), **settings)
