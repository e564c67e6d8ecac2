"""What a network computes right now, as a value to compare with an earlier one: weights may change without torch
counting it."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certseg.lipschitz.audit.attributes import held_by
from certseg.lipschitz.audit.walk import HOOKS, hooks_of_all

_CHUNK = 1 << 20  # numbers mixed at a time
_MIXER, _STEP = -7046029254386353131, 6364136223846793005  # odd numbers of 64 bits without pattern


def state_of(network: nn.Module) -> tuple[object, ...]:
    """A value that stays equal as long as a network is as it was. It covers the modules, their plain settings, hooks
    and methods put upon them, and a checksum of all tensors, registered as weights or not, which takes one pass over
    their memory.

    Writing through ``tensor.data`` or numpy changes no version counter, and memory is used again, so neither versions
    nor addresses tell.
    """
    held = [(name, value) for module in network.modules() for name, value in held_by(module)]
    tensors = [value for _, value in held if isinstance(value, Tensor)]
    settings = [(name, None if isinstance(value, Tensor) else value) for name, value in held]
    modules = [(id(module), *_own(module)) for module in network.modules()]
    hooks = [id(hook) for found in hooks_of_all() for hook in found.values()]
    return (
        modules,
        settings,
        hooks,
        [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors],
        checksums(tensors),
    )


def _own(module: nn.Module) -> Iterator[tuple[str, object]]:
    for name, value in vars(module).items():
        if callable(value):
            yield name, id(value)
        elif name in HOOKS and value:
            yield name, tuple(map(id, value.values()))


def checksums(tensors: Iterable[Tensor]) -> list[int]:
    """For each device a number for the content of all tensors on it, which depends on every bit and its place."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel():
            content = tensor.detach().contiguous().flatten().view(torch.uint8)
            by_device.setdefault(tensor.device, []).append(content)
    return [_cyclic(parts) if device.type == "cpu" else mixed(torch.cat(parts)) for device, parts in by_device.items()]


def _cyclic(parts: Iterable[Tensor]) -> int:
    value = 0
    for part in parts:
        value = zlib.crc32(part.numpy().data, value)
    return value


def mixed(content: Tensor) -> int:
    """A checksum of ``(n,)`` bytes that is computed where they are."""
    words = F.pad(content, (0, -len(content) % 4)).view(torch.int32)
    total = torch.zeros((), dtype=torch.int64, device=content.device)
    places = torch.arange(min(_CHUNK, len(words)), device=content.device) * _STEP
    for part in words.split(_CHUNK):
        value = (part.long() + places[: len(part)]) * _MIXER
        value = (value ^ (value >> 32)) * _MIXER  # the low bits of a product know nothing of the high ones
        total = (total + (value ^ (value >> 29)).sum()) * _STEP
    return int(total)
