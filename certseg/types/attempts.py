"""What an attack was allowed to do, and to which model: the counterpart of a certificate's guarantee."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from certseg.types.threats import Threat, Unbounded, threat_of


@dataclass(frozen=True)
class Level:
    """One budget of an attack that is run at several.

    Args:
        place: place of this budget among the smaller radii of the attack, from 0 on; None for the largest of all.
        threat: what the attack may do at this budget.
    """

    place: int | None
    threat: Threat

    @property
    def suffix(self) -> str:
        """What the names of the maps of this level end with in a store; empty for the attack's own budget."""
        return "" if self.place is None else level_suffix(self.place)


@dataclass(frozen=True)
class Attempt:
    """The budgets of an attack and the model it attacked.

    Args:
        predictor: the attacked model, in the words of certificates: ``base`` for the network itself,
            ``smoothed(gaussian, sigma=0.25)`` for its smoothed version.
        threat: the largest budget; :class:`certseg.types.threats.Unbounded` for an attack that looks for the smallest
            perturbation.
        smaller: smaller radii at which it was run too, ascending. A first radius of 0 stands for the prediction without
            an attacker.
    """

    predictor: str
    threat: Threat
    smaller: tuple[float, ...] = ()

    @property
    def levels(self) -> tuple[Level, ...]:
        """All budgets, ascending. A radius of 0 is none: there rounding alone decides between equal logits."""
        levels = [
            Level(place, self.threat.scaled_to(radius)) for place, radius in enumerate(self.smaller) if radius > 0
        ]
        return (*levels, Level(None, self.threat))

    @property
    def has_budget(self) -> bool:
        """False for an attack that looks for the smallest perturbation."""
        return self.threat.has_size

    @classmethod
    def unbounded(cls, predictor: str, norms: Sequence[str]) -> Attempt:
        """The attempt of an attack that looks for the smallest perturbation, by the first of the norms it knows."""
        return cls(predictor, Unbounded(next(iter(norms), "")))

    @classmethod
    def of_summary(cls, summary: Mapping[str, Any]) -> Attempt:
        """The attempt that a summary of an attack tells of: ``predictor``, ``threat`` and the radii of ``by_radius``,
        the last of which is that of the threat."""
        threat = threat_of(summary["threat"])
        radii = [part["radius"] for part in summary.get("by_radius") or ()] if threat.has_size else []
        return cls(summary["predictor"], threat, tuple(radii[:-1]))


def level_suffix(place: int) -> str:
    """What the names of an attack's maps end with at its smaller radii, the first of which has place 0."""
    return f"_{place}"
