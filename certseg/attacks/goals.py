"""What an attack with a goal wants to be predicted, or no longer."""

from __future__ import annotations

import torch
from torch import Tensor

from certseg.checks import is_count
from certseg.errors import ConfigError, DataError
from certseg.types import IGNORE_INDEX, Goal, Vanish, check_target


def check_goal(goal: object) -> None:
    """Raise :class:`ConfigError` unless ``goal`` is None, a class, a map, or that objects vanish."""
    if goal is not None and not is_count(goal, 0) and not isinstance(goal, Tensor | Vanish):
        raise ConfigError(
            "attack.goal must be a class, or vanish",
            expected="its name, or its number from 0 on; or vanish, with attack.classes",
            received=goal,
        )


def is_targeted(goal: Goal | None) -> bool:
    """Whether pixels are to become what :func:`wanted_map` says, and not to stop being it."""
    return goal is not None and not isinstance(goal, Vanish)


def wanted_map(goal: Goal, target: Tensor, num_classes: int) -> Tensor:
    """The map ``H x W`` that an attack with a goal is about, on the device of the labels: what is to be predicted, or,
    of objects that are to vanish, what is not; 255 where anything will do.

    Args:
        goal: the goal.
        target: ``H x W`` int64 labels of the image, 255 ignored.
        num_classes: the number of classes of the model.

    Raises:
        DataError: the goal names no class of the model, or is no map of the labels' size.
    """
    classes = goal.classes if isinstance(goal, Vanish) else (goal,) if isinstance(goal, int) else ()
    if classes and max(classes) >= num_classes:
        raise DataError("attack.goal is no class of the model", expected=f"below {num_classes}", received=max(classes))
    if isinstance(goal, Vanish):
        mine = torch.isin(target, torch.tensor(goal.classes, device=target.device))
        return torch.where(mine, target, IGNORE_INDEX)
    wanted = goal.to(target.device) if isinstance(goal, Tensor) else torch.full_like(target, goal)
    check_target(wanted, tuple(target.shape), num_classes)
    return wanted
