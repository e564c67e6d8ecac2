"""What a targeted attack wants to be predicted."""

from __future__ import annotations

import torch
from torch import Tensor

from certseg.checks import is_count
from certseg.errors import ConfigError, DataError
from certseg.types import check_target


def check_goal(goal: object) -> None:
    """Raise :class:`ConfigError` unless ``goal`` is None, a class or a map."""
    if goal is not None and not is_count(goal, 0) and not isinstance(goal, Tensor):
        raise ConfigError("attack.goal must be a class", expected="its name, or its number from 0 on", received=goal)


def wanted_map(goal: int | Tensor, target: Tensor, num_classes: int) -> Tensor:
    """The map ``H x W`` of what is to be predicted in an image whose labels are ``target``, on that one's device.

    Raises:
        DataError: the goal is no class of the model, or no map of the labels' size.
    """
    if isinstance(goal, int) and goal >= num_classes:
        raise DataError("attack.goal is no class of the model", expected=f"below {num_classes}", received=goal)
    wanted = goal.to(target.device) if isinstance(goal, Tensor) else torch.full_like(target, goal)
    check_target(wanted, tuple(target.shape), num_classes)
    return wanted
