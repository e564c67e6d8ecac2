"""UPerNet of Lipschitz layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from certseg.checks import checked_counts
from certseg.lipschitz.networks.parts import BodyPlan, upernet
from certseg.lipschitz.networks.staged import StagedNetwork, checked_width


class LipUPerNet(StagedNetwork):
    """UPerNet of Lipschitz layers: 1-Lipschitz pyramid pooling and a feature pyramid fused by weighted concatenation.

    Args:
        channels: number of channels of the feature pyramid; None for as many as the second stage has.
        bins: for each branch of the pyramid pooling the number of cells along each side of the image.
        settings: the arguments of :class:`certseg.lipschitz.networks.StagedNetwork` except ``body``; of them
            ``num_classes`` and ``name`` have no default.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    def __init__(self, *, channels: int | None = None, bins: Sequence[int] = (1, 2, 3, 6), **settings: Any):
        cells = checked_counts("model.bins", bins)

        def body(plan: BodyPlan) -> nn.Module:
            second = plan.stages[min(1, len(plan.stages) - 1)][0]
            return upernet(plan, channels=checked_width(second if channels is None else channels), bins=cells)

        super().__init__(body, **settings)
