"""The audit's rules for modules that change the size of an image: pooling, enlarging, shuffling pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from certseg.errors import ModelError
from certseg.lipschitz import layers
from certseg.lipschitz.audit.walk import Rule, Span, Walk, joined, pair
from certseg.lipschitz.operator_norms import UNIT, convolution_norm
from certseg.lipschitz.resampling import resize_norm


def checked_sides(sides: Sequence[int]) -> tuple[int, int]:
    """Height and width of a layer, once both are known to be at least 1.

    Raises:
        ModelError: one is smaller.
    """
    if min(sides) < 1:
        raise ModelError("The image is too small for the network", received=f"a layer of {sides[0]}x{sides[1]}")
    return int(sides[0]), int(sides[1])


def _pooled(walk: Walk, module: layers.Pooled, span: Span, name: str) -> Span:
    small = (module.bins, module.bins)
    down, up = module.factors(span.size)
    area = math.prod(math.ceil(n / module.bins) + 1 for n in span.size)
    inside = _resized(walk, span, resize_norm("pool", span.size, small) * down, small, area)
    inside = walk(module.body, inside, joined(name, "body"))
    if inside.size != small:
        raise ModelError(f"The body of {name} changes the size of the image")
    walk.note(module, name, resize_norm("pool", span.size, small) * down)
    return _resized(walk, inside, resize_norm("bilinear", small, span.size) * up, span.size, 4 * max(span.size))


def _enlarge(walk: Walk, module: layers.Enlarge, span: Span, name: str) -> Span:
    size = (span.size[0] * module.factor, span.size[1] * module.factor)
    norm = resize_norm("bilinear", span.size, size)
    walk.note(module, name, norm * (1.0 / norm))
    return _resized(walk, span, norm * (1.0 / norm), size, 4 * max(size))


def _resized(walk: Walk, span: Span, norm: float, size: tuple[int, int], terms: int) -> Span:
    norm *= 1.0 + 8 * UNIT
    return span.grown(norm, size=size).rounded(walk.gamma(terms) * max(norm, 1.0) * (span.magnitude + span.error))


def _average_pool(walk: Walk, module: nn.AvgPool2d, span: Span, name: str) -> Span:
    kernel, stride, padding = pair(module.kernel_size), pair(module.stride), pair(module.padding)
    if module.ceil_mode or module.divisor_override or (padding != (0, 0) and not module.count_include_pad):
        raise ModelError(f"{name} divides by numbers that depend on the position", remedy="Pool without padding")
    area = math.prod(kernel)
    weight = torch.full((1, 1, *kernel), 1.0 / area, dtype=torch.float64)
    bound = convolution_norm(weight, stride)
    walk.note(module, name, bound.upper, bound.lower, bound.method)
    sides = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(span.size, padding, kernel, stride)]
    return _resized(walk, span, bound.upper, checked_sides(sides), area)


def _max_pool(walk: Walk, module: nn.MaxPool2d, span: Span, name: str) -> Span:
    kernel, stride, padding = pair(module.kernel_size), pair(module.stride), pair(module.padding)
    if pair(module.dilation) != (1, 1) or module.ceil_mode or module.return_indices:
        raise ModelError(f"{name} is set in a way that has no rule", expected="dilation 1 and no ceil_mode")
    windows = math.prod(math.ceil(k / s) for k, s in zip(kernel, stride))  # that hold one pixel, at most
    walk.note(module, name, math.sqrt(windows), 1.0, "windows")
    sides = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(span.size, padding, kernel, stride)]
    return span.grown(math.sqrt(windows), size=checked_sides(sides))


def _adaptive_pool(walk: Walk, module: nn.AdaptiveAvgPool2d, span: Span, name: str) -> Span:
    wanted = module.output_size
    sides = (wanted, wanted) if isinstance(wanted, int) else wanted or ()
    fixed = [side for side in sides if side is not None]
    if len(fixed) != 2:
        raise ModelError(f"{name} has no fixed output size")
    size = pair(fixed)
    norm = resize_norm("pool", span.size, size)
    walk.note(module, name, norm)
    area = math.prod(math.ceil(n / m) + 1 for n, m in zip(span.size, size))
    return _resized(walk, span, norm, size, area)


def _upsample(walk: Walk, module: nn.Upsample, span: Span, name: str) -> Span:
    factor = float(module.scale_factor) if isinstance(module.scale_factor, int | float) else 0.0  # which has no rule
    whole = factor.is_integer() and factor >= 1
    exact = whole and (module.mode == "bilinear" or (module.mode == "nearest" and int(factor).bit_count() == 1))
    if module.size is not None or not exact or module.align_corners:  # nearest rounds 1 / 3 in float32
        raise ModelError(
            f"{name} is set in a way that has no rule",
            expected="an integer scale_factor: bilinear without align_corners, or nearest and a power of 2",
        )
    size = (span.size[0] * int(factor), span.size[1] * int(factor))
    norm = factor if module.mode == "nearest" else resize_norm("bilinear", span.size, size)
    walk.note(module, name, norm)
    return _resized(walk, span, norm, size, 4 * max(size))


def _shuffle(walk: Walk, module: nn.PixelShuffle, span: Span, name: str) -> Span:
    factor = module.upscale_factor
    return replace(span, channels=span.channels // factor**2, size=(span.size[0] * factor, span.size[1] * factor))


def _unshuffle(walk: Walk, module: nn.PixelUnshuffle, span: Span, name: str) -> Span:
    factor = module.downscale_factor
    return replace(span, channels=span.channels * factor**2, size=(span.size[0] // factor, span.size[1] // factor))


RESAMPLING: dict[type[nn.Module], Rule] = {
    layers.Pooled: _pooled,
    layers.Enlarge: _enlarge,
    nn.AvgPool2d: _average_pool,
    nn.MaxPool2d: _max_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.Upsample: _upsample,
    nn.PixelShuffle: _shuffle,
    nn.PixelUnshuffle: _unshuffle,
}
