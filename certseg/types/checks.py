"""What a setting of a training may be: counts, numbers, and the one error for everything else."""

from __future__ import annotations

import math
import re

from certseg.errors import ConfigError


def require(name: str, value: object, expected: str, holds: bool) -> None:
    """Raise :class:`ConfigError`, saying that ``name`` must be ``expected``, unless it ``holds``."""
    if not holds:
        raise ConfigError(f"{name} must be {expected}", received=repr(value))


def is_count(value: object, least: int) -> bool:
    """Whether ``value`` is an integer of at least ``least``; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite real number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_names(num_classes: int, name: str) -> None:
    """Raise :class:`ConfigError` unless ``num_classes`` is an integer of at least 2 and ``name`` a plain word."""
    if not isinstance(num_classes, int) or num_classes < 2:
        raise ConfigError("A segmentation model needs at least two classes", received=f"num_classes {num_classes!r}")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(
            "model.name must be a plain word, for it becomes a folder",
            expected="letters, digits, '.', '_' and '-', the first a letter or digit",
            received=repr(name),
        )
