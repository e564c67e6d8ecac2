"""Baking: the same network as plain convolutions with fixed weights, none of them above its limit."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize

from certseg.errors import ModelError
from certseg.lipschitz.audit.walk import pair
from certseg.lipschitz.operator_norms import convolution_norm

LIMIT = "limit"
"""The attribute of a convolution that holds the largest norm it may have once it is baked."""
_FAMILIES = ("torch", "orthogonium", "deel")  # libraries whose convolutions compute what their weight says
_COMPUTING = ("forward", "_conv_forward", "__call__")
_NEAR = 1.0 + 1e-4  # bounds this close to the limit are good enough to scale by
_INSIDE = 1.0 - 2.0**-48  # room for the rounding of the scaled weights in float64


def bake(network: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A copy of ``network`` in eval mode without parametrized layers: this copy is what gets certified.

    The parametrizations of orthogonal and spectral layers iterate at every call and move their buffers, so that two
    calls differ; the copy has the weights of one moment. A convolution with a :data:`LIMIT` whose proven norm is above
    it is scaled down to it.

    Args:
        network: any module tree; it is not changed.
        dtype: floating point type of the copy's weights and arithmetic, float64 by default.

    Raises:
        ModelError: a convolution with a ``limit`` is of a class whose forward pass nobody knows.
    """
    network = copy.deepcopy(network).eval()
    with torch.no_grad():
        network = _plain(network, dtype, {})
    return network.to(dtype).requires_grad_(False)


def _plain(module: nn.Module, dtype: torch.dtype, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """``module`` with plain convolutions inside; one that occurs twice stays one, by ``done``."""
    if module not in done:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and _is_parametrized(module):
            done[module] = _convolution(module, dtype)
        else:
            done[module] = module
            for name, child in module._modules.items():
                if child is not None:
                    setattr(module, name, _plain(child, dtype, done))
    return done[module]


def _is_parametrized(module: nn.Module) -> bool:
    family = type(module).__module__.split(".")[0]
    is_plain = type(module) in (nn.Conv2d, nn.ConvTranspose2d)
    if hasattr(module, LIMIT) and not all(_family_of(module, name) in _FAMILIES for name in _COMPUTING):
        raise ModelError(
            "A convolution of an unknown class cannot be baked: it may compute other than its weight says",
            expected=f"a class of {', '.join(_FAMILIES)}",
            received=type(module).__qualname__,
        )
    return hasattr(module, LIMIT) or (family in _FAMILIES and (parametrize.is_parametrized(module) or not is_plain))


def _family_of(module: nn.Module, method: str) -> str:
    """The library that defines a method of ``module``; parametrizing makes a new class without methods of its own."""
    owner = next((kind for kind in type(module).__mro__ if method in vars(kind)), nn.Module)
    return owner.__module__.split(".")[0]


def _convolution(module: nn.Conv2d | nn.ConvTranspose2d, dtype: torch.dtype) -> nn.Module:
    weight = module.weight.detach().double()
    limit = getattr(module, LIMIT, None)
    if limit is not None:
        for _ in range(3):  # a cast to float32 may round the scaled weights up again
            stride, dilation, groups = module.stride, module.dilation, module.groups
            norm = convolution_norm(weight.to(dtype), stride, dilation, groups, enough=limit * _NEAR).upper
            if norm <= limit:
                break
            weight = weight * (limit / norm * (_INSIDE if dtype == torch.float64 else 1.0 - 2.0**-22))
    plain = bare(module, dtype, module.weight.device)
    plain.weight.copy_(weight)
    if module.bias is not None and plain.bias is not None:
        plain.bias.copy_(module.bias)
    return plain.eval()


def bare(
    module: nn.Conv2d | nn.ConvTranspose2d, dtype: torch.dtype, device: torch.device
) -> nn.Conv2d | nn.ConvTranspose2d:
    """A plain convolution with the settings of ``module``; the weights are still to be filled in."""
    form = module.in_channels, module.out_channels, pair(module.kernel_size), pair(module.stride)
    padding = module.padding if isinstance(module.padding, str) else pair(module.padding)
    if not isinstance(module, nn.ConvTranspose2d):
        return nn.Conv2d(
            *form,
            padding=padding,
            dilation=pair(module.dilation),
            groups=module.groups,
            bias=module.bias is not None,
            padding_mode=module.padding_mode,
            device=device,
            dtype=dtype,
        )
    assert not isinstance(padding, str)  # only plain convolutions pad by a word
    return nn.ConvTranspose2d(
        *form,
        padding=padding,
        output_padding=pair(module.output_padding),
        dilation=pair(module.dilation),
        groups=module.groups,
        bias=module.bias is not None,
        padding_mode=module.padding_mode,
        device=device,
        dtype=dtype,
    )
