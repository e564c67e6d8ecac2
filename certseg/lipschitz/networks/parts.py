"""Bodies of Lipschitz segmentation networks: from images to features of the images' size.

Each level of a network is a module inside the level above it, so that the tree of modules says all of the forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from certseg.errors import ConfigError
from certseg.lipschitz.layers import ChannelSplit, Concat, Pooled, PositionBias, SameSize
from certseg.lipschitz.networks.convolutions import Builder

SIZES: dict[str, tuple[tuple[int, int], ...]] = {  # (channels, convolutions) of each stage
    "tiny": ((16, 2), (32, 2), (64, 2)),
    "S": ((32, 3), (64, 3), (128, 3)),
    "M1": ((64, 5), (128, 5), (256, 5)),
    "M2": ((64, 5), (128, 5), (256, 5), (512, 5)),
    "L": ((64, 7), (128, 7), (256, 7), (512, 7)),
    "XL": ((128, 5), (256, 5), (512, 5), (1024, 5), (2048, 5)),
}
_GRID = (6, 8)  # of the position bias at the coarsest level


@dataclass(frozen=True)
class BodyPlan:
    """What every body is built by.

    Args:
        make: makes the layers.
        stages: channels and convolutions of each stage.
        width: channels of the features.
        position: whether to add a learned map at the lowest resolution.
    """

    make: Builder
    stages: tuple[tuple[int, int], ...]
    width: int
    position: bool = True


def stages_of(size: str | Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    """Channels and convolutions of each stage, by a name in :data:`SIZES` or as they are.

    Raises:
        ConfigError: the name is unknown or the numbers cannot be used.
    """
    if isinstance(size, str) and size in SIZES:
        return SIZES[size]
    stages = list(size) if isinstance(size, Sequence) and not isinstance(size, str) else []
    pairs = [stage for stage in stages if isinstance(stage, Sequence) and len(stage) == 2]
    if not stages or len(pairs) < len(stages) or any(c < 4 or c % 4 or n < 1 for c, n in pairs):
        raise ConfigError(
            "Unknown model.size",
            expected=f"{', '.join(SIZES)} or a list of [channels, convolutions], channels a multiple of 4",
            received=size,
        )
    return tuple((int(channels), int(count)) for channels, count in pairs)


def stage(make: Builder, before: int, channels: int, count: int) -> list[nn.Module]:
    """``count`` blocks, the first of which halves the resolution and leads from ``before`` to ``channels`` channels."""
    return [make.block(before, channels, stride=2), *(make.refinement(channels) for _ in range(count - 1))]


def aspp(make: Builder, channels: int, rates: Sequence[int]) -> list[nn.Module]:
    """Atrous spatial pyramid pooling without global pooling (seed 000): branches of equal weight, then a 1x1 block."""
    branches = [make.block(channels, channels, 1), *(make.block(channels, channels, dilation=r) for r in rates)]
    return [Concat(branches), make.block(channels * len(branches), channels, 1)]


def split_aspp(make: Builder, channels: int, rates: Sequence[int]) -> list[nn.Module]:
    """:func:`aspp` in which every branch takes its share of the channels, then a 1x1 block.

    All parts of it can keep the norm. In :func:`aspp` most of it is lost, and with it the margins: in the scaled
    concatenation of branches over the same channels, and in the block that leads back from four times the channels.

    Raises:
        ConfigError: there are fewer than two channels for a branch.
    """
    branches = 1 + len(rates)
    share = channels // branches // 2 * 2
    shares = [channels - share * len(rates), *[share] * len(rates)]
    if share < 2:
        raise ConfigError(
            "model.aspp=split needs two channels or more for each branch",
            expected=f"at least {2 * branches} channels in the last stage",
            received=channels,
        )
    blocks = [make.block(shares[0], shares[0], 1)]
    blocks += [make.block(share, share, dilation=rate) for rate in rates]
    return [ChannelSplit(blocks, shares), make.block(channels, channels, 1)]


ASPP = {"concat": aspp, "split": split_aspp}
"""Ways to join the branches of atrous spatial pyramid pooling, by the names of ``model.aspp``."""


def deeplabv3(plan: BodyPlan, *, rates: Sequence[int], pyramid: str, skips: bool) -> nn.Module:
    """Encoder, ASPP and a decoder of transposed convolutions, 3 channels to the plan's width at the size of the image.

    Args:
        plan: the layers, stages and width of the network.
        rates: dilations of the ASPP's branches.
        pyramid: how the ASPP's branches are joined, a name in :data:`ASPP`.
        skips: lead half of the channels of each stage but the last around the stages below (:class:`ChannelSplit`),
            which costs no constant; the decoder then has one more block per stage to mix them.
    """
    make, size = plan.make, plan.stages
    last = len(size) - 1

    def level(index: int, before: int, after: int) -> nn.Module:
        """Stage ``index`` and all below it, ``before`` channels to ``after`` at the size of what comes in."""
        channels, count = size[index]
        modules = stage(make, before, channels, count)
        if index == last:
            modules += [PositionBias(channels, _GRID)] if plan.position else []
            modules += [*ASPP[pyramid](make, channels, rates), make.refinement(channels)]
        elif skips:
            half = channels // 2
            modules += [ChannelSplit([nn.Identity(), level(index + 1, half, half)], [half, half])]
            modules += [make.refinement(channels)]
        else:
            modules.append(level(index + 1, channels, channels))
        return SameSize(nn.Sequential(*modules, make.doubling(channels, after)))

    return level(0, 3, plan.width)


def upernet(plan: BodyPlan, *, channels: int, bins: Sequence[int]) -> nn.Module:
    """An encoder, pyramid pooling and a feature pyramid, all fused by weighted concatenation; 3 channels to the plan's
    width.

    At each level the lateral features and the enlarged pyramid from below are concatenated with weights 1/sqrt(2) and
    mixed by a 3x3 block; UPerNet adds them and fuses all levels at the end, which here happens on the way up.

    Args:
        plan: the layers, stages and width of the network.
        channels: channels of the feature pyramid.
        bins: for each branch of the pyramid pooling, the number of cells along each side.
    """
    make, size = plan.make, plan.stages
    last = len(size) - 1

    def level(index: int, before: int) -> nn.Module:
        """Stage ``index`` and all below it, ``before`` channels to those of the pyramid at half the size."""
        inner, count = size[index]
        modules = stage(make, before, inner, count)
        if index == last:
            modules += [PositionBias(inner, _GRID)] if plan.position else []
            pyramid = Concat([nn.Identity(), *(Pooled(make.block(inner, inner, 1), b) for b in bins)])
            modules += [pyramid, make.block(inner * (1 + len(bins)), channels)]
        else:
            below = SameSize(nn.Sequential(level(index + 1, inner), make.doubling(channels, channels)))
            modules += [Concat([make.block(inner, channels, 1), below]), make.block(2 * channels, channels)]
        return nn.Sequential(*modules)

    return SameSize(nn.Sequential(level(0, 3), make.doubling(channels, plan.width)))
