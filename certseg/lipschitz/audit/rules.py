"""What every kind of module does to a Lipschitz constant, to the size of values and to rounding errors.

Exact types only: a subclass may compute something else. What has no rule here cannot be certified.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from certseg.errors import ModelError
from certseg.lipschitz import layers
from certseg.lipschitz.audit.attributes import settings_of
from certseg.lipschitz.audit.baking import bare
from certseg.lipschitz.audit.resampling_rules import RESAMPLING, checked_sides
from certseg.lipschitz.audit.walk import Rule, Span, Walk, check_untouched, joined
from certseg.lipschitz.operator_norms import UNIT, absolute_norm, convolution_norm

_SMALLEST = 1e-30  # what is divided by; float32 tells smaller numbers apart badly or not at all


def _sequential(walk: Walk, module: nn.Sequential, span: Span, name: str) -> Span:
    for part, child in module._modules.items():  # named_children leaves out what occurs a second time
        span = walk(child, span, joined(name, part))
    return span


def _unchanged(walk: Walk, module: nn.Module, span: Span, name: str) -> Span:
    return span


def _check_channels(expected: int, span: Span, name: str) -> None:
    if span.channels != expected:
        raise ModelError(f"{name} takes {expected} channels", received=span.channels)


def _check_by_channel(span: Span, name: str, *values: Tensor) -> None:
    """Raise ModelError unless each of ``values`` has one number per channel: others would be repeated, or the image."""
    for part in values:
        if part.ndim != 1:
            raise ModelError(f"{name} needs one number for each channel", received=f"shape {tuple(part.shape)}")
        _check_channels(len(part), span, name)


def _sorted(walk: Walk, module: nn.Module, span: Span, name: str) -> Span:
    if span.channels % 2:
        raise ModelError(f"{name} needs an even number of channels", received=span.channels)
    return span


def _check_form(module: nn.Conv2d | nn.ConvTranspose2d, name: str) -> None:
    """Raise ModelError unless the weights have the form that the module's settings say: sizes are computed from these,
    norms from those."""
    ends = [module.out_channels, module.in_channels]
    ends = ends[::-1] if isinstance(module, nn.ConvTranspose2d) else ends
    expected = (ends[0], ends[1] // module.groups, *module.kernel_size)
    wrong_bias = module.bias is not None and module.bias.shape != (module.out_channels,)
    if module.weight.shape != expected or wrong_bias:
        raise ModelError(
            f"{name} is set otherwise than its weights are",
            expected=f"a weight of {expected}",
            received=f"{tuple(module.weight.shape)}{', and a bias of another length' if wrong_bias else ''}",
        )
    for setting in ("stride", "padding", "dilation", "output_padding"):
        value = getattr(module, setting)
        if not isinstance(value, str) and (not isinstance(value, tuple) or len(value) != 2):
            raise ModelError(f"{setting} of {name} must be a pair of integers", received=value)
    _check_built(module, name)


def _check_built(module: nn.Conv2d | nn.ConvTranspose2d, name: str) -> None:
    """Raise ModelError unless the module is what its settings would build: torch pads by what it derived from them when
    it was built, whatever they say now."""
    try:
        built = dict(settings_of(bare(module, module.weight.dtype, torch.device("meta")).eval()))
    except (ValueError, TypeError) as error:
        raise ModelError(f"{name} has settings that no convolution can be built of", received=error) from error
    own = dict(settings_of(module))
    changed = sorted(setting for setting, value in built.items() if own.get(setting) != value)
    if changed:
        raise ModelError(
            f"{name} was changed after it was built",
            expected=", ".join(f"{setting} {built[setting]}" for setting in changed),
            received=", ".join(f"{own.get(setting)}" for setting in changed),
            remedy="Build a convolution of the settings that are meant",
        )


def _convolution(walk: Walk, module: nn.Conv2d | nn.ConvTranspose2d, span: Span, name: str) -> Span:
    _check_form(module, name)
    _check_channels(module.in_channels, span, name)
    _check_padding(module, span, name)
    if name not in walk.norms:
        settings = module.weight, module.stride, module.dilation, module.groups
        walk.norms[name] = convolution_norm(*settings), absolute_norm(*settings)
    bound, absolute = walk.norms[name]
    walk.note(module, name, bound.upper, bound.lower, bound.method)
    if isinstance(module, nn.ConvTranspose2d):
        size = _transposed_size(module, span.size)
    else:
        size = _convolved_size(module, span.size)
    added = 0.0 if module.bias is None else _norm(module.bias) * math.sqrt(math.prod(size))
    terms = module.in_channels // module.groups * math.prod(module.kernel_size) + 1
    error = walk.gamma(terms) * (absolute * (span.magnitude + span.error) + added)
    return span.grown(bound.upper, added, channels=module.out_channels, size=size).rounded(error)


def _check_padding(module: nn.Conv2d | nn.ConvTranspose2d, span: Span, name: str) -> None:
    """Zero padding of any amount, or circular padding where it makes a circular convolution of the image.

    Raises:
        ModelError: another padding, or one that wraps windows around at the wrong phase for this size.
    """
    if module.padding_mode == "zeros":
        return
    if module.padding_mode != "circular":
        raise ModelError(
            f"{name} pads by {module.padding_mode}, which repeats pixels and so increases norms",
            expected="padding_mode zeros",
        )
    for axis in range(2):
        wrapped = module.padding if isinstance(module.padding, str) else module.padding[axis]
        needed = module.dilation[axis] * (module.kernel_size[axis] - 1)
        step, side = module.stride[axis], span.size[axis]
        is_whole = wrapped == "same" or 2 * wrapped == needed
        if not is_whole or side % step or needed // 2 > side:
            raise ModelError(
                f"The circular padding of {name} gives no bound for this size: windows that wrap around overlap the "
                "others at another phase",
                expected=f"padding {needed / 2:g} and a side that {step} divides",
                received=f"{wrapped} and {side}",
                remedy="Use zero padding, which holds for every size",
            )


def _convolved_size(module: nn.Conv2d, size: Sequence[int]) -> tuple[int, int]:
    padding: Sequence[float]
    if isinstance(module.padding, str):
        padding = [
            (d * (k - 1)) / 2 if module.padding == "same" else 0 for d, k in zip(module.dilation, module.kernel_size)
        ]
    else:
        padding = module.padding
    return checked_sides(
        [
            math.floor((n + 2 * p - d * (k - 1) - 1) / s) + 1
            for n, p, d, k, s in zip(size, padding, module.dilation, module.kernel_size, module.stride)
        ]
    )


def _transposed_size(module: nn.ConvTranspose2d, size: Sequence[int]) -> tuple[int, int]:
    settings = zip(size, module.stride, module.padding, module.dilation, module.kernel_size, module.output_padding)
    return checked_sides([(n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, s, p, d, k, o in settings])


def _centering(walk: Walk, module: layers.BatchCentering, span: Span, name: str) -> Span:
    _check_by_channel(span, name, module.mean, module.bias)
    pixels = math.sqrt(math.prod(span.size))
    parts = (_norm(module.mean) + _norm(module.bias)) * pixels
    return span.grown(1.0, parts).rounded(4 * walk.unit * (span.magnitude + span.error + 2 * parts))


def _position(walk: Walk, module: layers.PositionBias, span: Span, name: str) -> Span:
    if module.map.ndim != 4 or len(module.map) != 1:
        raise ModelError(f"{name} adds no map of 1 x C x h x w", received=f"shape {tuple(module.map.shape)}")
    _check_channels(module.map.shape[1], span, name)
    stretched = _norm(module.stretched(span.size))
    return span.grown(1.0, stretched).rounded(4 * walk.unit * (span.magnitude + span.error + stretched))


def _scale(walk: Walk, module: layers.Scale, span: Span, name: str) -> Span:
    factor = abs(float(module.factor))
    walk.note(module, name, factor)
    return span.grown(factor).rounded(walk.gamma(1) * factor * (span.magnitude + span.error))


def _normalise(walk: Walk, module: layers.Normalise, span: Span, name: str) -> Span:
    _check_by_channel(span, name, module.mean, module.std)
    if not bool((module.std.double() > _SMALLEST).all()):
        raise ModelError(f"{name} divides by numbers that are not positive", received=module.std.tolist())
    factor = 1.0 / float(module.std.double().min()) * (1.0 + 2 * UNIT)
    walk.note(module, name, factor)
    added = _norm(module.mean.double() / module.std.double()) * math.sqrt(math.prod(span.size))
    return span.grown(factor, added).rounded(walk.gamma(2) * (factor * (span.magnitude + span.error) + 2 * added))


def _batch_norm(walk: Walk, module: nn.BatchNorm2d, span: Span, name: str) -> Span:
    if module.running_var is None or module.running_mean is None:
        raise ModelError(f"{name} normalises by the statistics of the batch, also in eval mode")
    _check_by_channel(span, name, module.running_mean, module.running_var)
    if not (bool((module.running_var >= 0).all()) and module.eps > _SMALLEST):
        raise ModelError(  # of a negative variance and eps next to nothing may be left, which rounding multiplies
            f"{name} has variances that no images have",
            expected=f"none below 0, and eps above {_SMALLEST:g}",
            received=f"{float(module.running_var.min()):g} at least, eps {module.eps:g}",
        )
    weight = torch.ones_like(module.running_var) if module.weight is None else module.weight
    scale = weight.detach().double().abs() / (module.running_var.double() + module.eps).sqrt()
    factor = float(scale.max()) * (1.0 + 8 * UNIT)
    walk.note(module, name, factor)
    bias = 0.0 if module.bias is None else _norm(module.bias)
    added = (bias + _norm(scale * module.running_mean.double())) * math.sqrt(math.prod(span.size))
    return span.grown(factor, added).rounded(walk.gamma(8) * (factor * (span.magnitude + span.error) + 2 * added))


def _concat(walk: Walk, module: layers.Concat, span: Span, name: str) -> Span:
    spans = _branches(walk, module.branches, [span] * len(module.branches), name)
    parts = [part.grown(abs(weight)) for part, weight in zip(spans, module.weights)]
    walk.note(module, name, math.hypot(*module.weights))
    return _side_by_side(walk, parts)


def _sum(walk: Walk, module: layers.WeightedSum, span: Span, name: str) -> Span:
    spans = _branches(walk, module.branches, [span] * len(module.branches), name)
    if len({part.channels for part in spans}) > 1:
        raise ModelError(f"The branches of {name} have different numbers of channels")
    parts = [part.grown(abs(weight)) for part, weight in zip(spans, module.weights)]
    walk.note(module, name, sum(map(abs, module.weights)))
    total = replace(
        parts[0],
        lipschitz=sum(p.lipschitz for p in parts),
        magnitude=sum(p.magnitude for p in parts),
        error=sum(p.error for p in parts),
    )
    return total.rounded(walk.gamma(len(parts) + 1) * (total.magnitude + total.error))


def _potential(walk: Walk, module: layers.ConvexPotential, span: Span, name: str) -> Span:
    if type(module.convolution) is not nn.Conv2d or not module.is_symmetric:
        raise ModelError(f"The convolution of {name} is not one that its transpose leads back from")
    if type(module.translation) not in (nn.Identity, layers.BatchCentering):
        raise ModelError(f"Nothing is known of the translation of {name}", received=type(module.translation).__name__)
    part = joined(name, "convolution")
    _check_form(module.convolution, part)
    if part not in walk.norms:  # a norm of 1 is enough, and no smaller one gives more
        settings = module.convolution.weight, (1, 1), module.convolution.dilation
        walk.norms[part] = convolution_norm(*settings, enough=1.0), absolute_norm(*settings)
    norm, absolute = walk.norms[part]
    factor = max(1.0, 2.0 * norm.upper * norm.upper - 1.0)
    walk.note(module, name, factor, 0.0, "potential")
    # the errors of one evaluation at the input as it was computed; those of the input itself grow by the factor
    computed = replace(span, magnitude=span.magnitude + span.error, error=0.0)
    middle = walk(module.convolution, computed, part)
    inner = walk(module.translation, middle, joined(name, "translation"))
    at_zero = walk(module.translation, replace(middle, magnitude=0.0, error=0.0), joined(name, "translation"))
    moved = 2.0 * norm.upper * (inner.magnitude + inner.error)
    terms = module.convolution.out_channels * math.prod(module.convolution.kernel_size) + 1
    local = 2.0 * norm.upper * inner.error
    local += walk.gamma(terms) * 2.0 * absolute * (inner.magnitude + inner.error)
    local += walk.gamma(2) * (computed.magnitude + moved + local)
    return span.grown(factor, 2.0 * norm.upper * at_zero.magnitude).rounded(local)


def _split(walk: Walk, module: layers.ChannelSplit, span: Span, name: str) -> Span:
    if sum(module.channels) != span.channels:
        raise ModelError(f"{name} splits {sum(module.channels)} channels", received=span.channels)
    inputs = [replace(span, lipschitz=1.0, channels=channels) for channels in module.channels]
    spans = _branches(walk, module.branches, inputs, name)
    joined = _side_by_side(walk, spans)
    return replace(joined, lipschitz=span.lipschitz * max(part.lipschitz for part in spans))


def _branches(walk: Walk, branches: nn.ModuleList, spans: Sequence[Span], name: str) -> list[Span]:
    check_untouched(branches, name)
    found = [walk(branch, span, f"{name}.{i}") for i, (branch, span) in enumerate(zip(branches, spans))]
    if len({span.size for span in found}) > 1:
        raise ModelError(f"The branches of {name} have different sizes", received=[span.size for span in found])
    return found


def _side_by_side(walk: Walk, parts: Sequence[Span]) -> Span:
    joined = replace(
        parts[0],
        lipschitz=math.hypot(*(part.lipschitz for part in parts)),
        magnitude=math.hypot(*(part.magnitude for part in parts)),
        error=math.hypot(*(part.error for part in parts)),
        channels=sum(part.channels for part in parts),
    )
    return joined.rounded(walk.gamma(1) * (joined.magnitude + joined.error))


def _same_size(walk: Walk, module: layers.SameSize, span: Span, name: str) -> Span:
    return replace(walk(module.body, span, joined(name, "body")), size=span.size)


def _norm(values: Tensor) -> float:
    return float(values.detach().double().norm()) * (1.0 + values.numel() * UNIT)


RULES: dict[type[nn.Module], Rule] = {
    nn.Sequential: _sequential,
    nn.Identity: _unchanged,
    nn.Dropout: _unchanged,
    nn.Dropout2d: _unchanged,
    nn.ReLU: _unchanged,
    layers.MaxMin: _sorted,
    layers.GroupSort2: _sorted,
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _convolution,
    layers.BatchCentering: _centering,
    layers.PositionBias: _position,
    layers.Scale: _scale,
    layers.Normalise: _normalise,
    nn.BatchNorm2d: _batch_norm,
    layers.Concat: _concat,
    layers.WeightedSum: _sum,
    layers.ChannelSplit: _split,
    layers.ConvexPotential: _potential,
    layers.SameSize: _same_size,
    **RESAMPLING,
}
