"""What a module holds: everything that its forward pass could read, of whatever kind and wherever it is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set

import numpy as np
import torch
from torch import Tensor, nn


def settings_of(module: nn.Module) -> list[tuple[str, str]]:
    """Attributes of a module that are plain values, by name, as text that tells any two numbers apart."""
    return sorted((name, repr(value)) for name, value in held_by(module) if not isinstance(value, Tensor))


def tensors_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """All tensors that a module itself holds, by name: parameters, buffers, and attributes that are neither, also in
    lists and mappings. numpy's arrays count as tensors."""
    return [(name, value) for name, value in held_by(module) if isinstance(value, Tensor)]


def held_by(module: nn.Module) -> Iterator[tuple[str, object]]:
    """Plain values and tensors of a module, each under the name of the attribute it is found in. Other modules and
    functions are left out; so is what only training reads."""
    for name, value in vars(module).items():
        if name != "_modules" and "hook" not in name:
            yield from _inside(name, value)


def _inside(name: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, np.ndarray | np.generic):
        yield name, torch.from_numpy(np.frombuffer(np.asarray(value).tobytes(), dtype=np.uint8).copy())
    elif isinstance(value, Tensor | int | float | complex | str | bytes | torch.dtype) or value is None:
        yield name, value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _inside(f"{name}.{key}", entry)
    elif isinstance(value, Set):
        yield name, tuple(sorted(map(repr, value)))
    elif isinstance(value, Sequence):
        yield name, f"{type(value).__name__} of {len(value)}"
        for place, entry in enumerate(value):
            yield from _inside(f"{name}.{place}", entry)
