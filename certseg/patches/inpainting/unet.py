"""A small network that fills hidden regions: averages of what is visible, coarse to fine, and a U-Net's correction."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certseg.checks import check_count
from certseg.types.images import check_images

_TINY = 1e-6


def pyramid_fill(erased: Tensor, visible: Tensor) -> Tensor:
    """Hidden pixels from the visible ones around them, without weights to learn (Gortler et al. 1996, "The Lumigraph").

    Each level of a pyramid holds the mean of the up to four visible cells below. Then, from coarse to fine, a cell
    without any visible pixel gets its colour from the next coarser level, enlarged bilinearly. Black where nothing at
    all is visible. Differentiable.

    Args:
        erased: ``B x 3 x H x W``, 0 where hidden.
        visible: ``B x 1 x H x W`` of the same type, 1 where visible, else 0.
    """
    levels = [(erased, visible)]
    while max(levels[-1][0].shape[-2:]) > 1:
        colour, weight = levels[-1]
        share = F.avg_pool2d(weight, 2, ceil_mode=True)
        colour = F.avg_pool2d(colour, 2, ceil_mode=True) / share.clamp_min(_TINY)
        levels.append((colour, (share > 0).to(colour.dtype)))
    filled = levels.pop()[0]
    for colour, weight in reversed(levels):
        coarser = F.interpolate(filled, size=colour.shape[-2:], mode="bilinear", align_corners=False)
        filled = colour + (1 - weight) * coarser  # where the weight is 0, so is the colour
    return filled


class _Residual(nn.Module):
    """Two 3 x 3 convolutions whose result is added to their input."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        change: Tensor = self.second(F.relu(self.first(F.relu(features))))
        return features + change


class MaskedUNet(nn.Module):
    """Fills hidden pixels of a whole batch: :func:`pyramid_fill` plus what a U-Net (Ronneberger, Fischer and Brox 2015)
    adds, which sees that filling and the map of visible pixels. Nothing in it mixes the images of a batch.

    It works on blocks of ``shrink x shrink`` pixels stacked into channels, halves the resolution ``depth`` times, and
    begins as ``pyramid_fill`` alone: its last convolution is 0. Only convolutions and ReLUs, so training and evaluation
    are the same function.

    Args:
        width: channels at the highest resolution, from 1 to 1024; level i, counted from 0, has ``(i + 1) * width``.
        depth: number of halvings of the resolution, from 1 to 8.
        shrink: side in pixels of the blocks that are stacked into channels, from 1 to 16.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    def __init__(self, width: int = 32, depth: int = 3, shrink: int = 4):
        super().__init__()
        for name, value, most in (("width", width, 1024), ("depth", depth, 8), ("shrink", shrink, 16)):
            check_count(f"The {name} of an inpainter's network", value, most=most)
        self.shrink, self.multiple = shrink, shrink * 2**depth
        self.register_buffer("architecture", torch.tensor([width, depth, shrink]))  # a checkpoint tells what it is of
        widths = [width * (level + 1) for level in range(depth + 1)]
        steps = list(pairwise(widths))
        self.stem = nn.Conv2d(4 * shrink**2, width, 3, padding=1)
        self.encoder = nn.ModuleList(_Residual(channels) for channels in widths[:-1])
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps)
        self.middle = nn.Sequential(_Residual(widths[-1]), _Residual(widths[-1]))
        self.up = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in reversed(steps))
        self.decoder = nn.ModuleList(_Residual(channels) for channels in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, 3 * shrink**2, 3, padding=1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, erased: Tensor, hidden: Tensor) -> Tensor:
        """The filled images, ``B x 3 x H x W``, not clipped to [0, 1]; images may have any size.

        Args:
            erased: ``B x 3 x H x W`` in [0, 1], 0 where hidden.
            hidden: ``B x H x W`` bool, True for pixels to fill.

        Raises:
            ModelError: the images have other channels than three.
        """
        check_images(erased)
        height, width = erased.shape[-2:]
        border = (0, -width % self.multiple, 0, -height % self.multiple)
        visible = (~hidden)[:, None].to(erased.dtype)
        filled = pyramid_fill(erased, visible)
        seen = torch.cat([F.pad(filled, border, mode="replicate"), F.pad(visible, border)], dim=1)
        features = self.stem(F.pixel_unshuffle(seen, self.shrink))
        skips = []
        for block, down in zip(self.encoder, self.down):
            skips.append(block(features))
            features = down(skips[-1])
        features = self.middle(features)
        for up, block in zip(self.up, self.decoder):
            features = block(skips.pop() + F.pixel_shuffle(up(features), 2))
        change = F.pixel_shuffle(self.head(F.relu(features)), self.shrink)
        return filled + change[..., :height, :width]
