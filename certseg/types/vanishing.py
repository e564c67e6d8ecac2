"""The goal of attacks that make the objects of some classes vanish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from certseg.checks import checked_counts
from certseg.errors import ConfigError


@dataclass(frozen=True)
class Vanish:
    """That no pixel labelled as one of these classes is predicted as it; what becomes of all others does not matter.

    Args:
        classes: the numbers of the classes, at least one.

    Raises:
        ConfigError: there is none, or one is no number of a class.
    """

    classes: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", checked_counts("The classes of attack.goal=vanish", self.classes, least=0))
        if not self.classes:
            raise ConfigError(
                "attack.goal=vanish has no class whose objects are to vanish",
                remedy="Name them in attack.classes=[...]; attack=vanish takes those of metrics.objects",
            )


Goal = int | Tensor | Vanish
"""What an attack with a goal is after: a class that every pixel is to have, a map ``H x W`` of what is to be predicted,
255 where anything will do, or that objects vanish."""
