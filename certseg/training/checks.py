"""What a setting of a training may be: counts, numbers, and the one error for everything else."""

from __future__ import annotations

import math

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
