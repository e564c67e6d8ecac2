"""One finished certifier, attack or prediction as the report sees it, and the words for its threat and settings.

Nothing here knows a certifier or an attack by name: whatever a summary holds is shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certseg.errors import ResultError
from certseg.metrics.figures import number, words
from certseg.reporting.storage import read_json
from certseg.types import Attempt, Guarantee

KINDS = ("prediction", "certifier", "attack")
SUMMARY_FILE = "summary.json"
_SIZES = {"radius": "radius", "share": "share of the image"}  # what a threat's size may be called


@dataclass(frozen=True)
class Entry:
    """A summary and where it comes from.

    Args:
        summary: the content of a ``summary.json``: kind, name, predictor, threat, confidence, images, figures,
            class_iou, seconds, passes, flags, settings; a ``claim``, if there is one, replaces the usual wording of
            what a certificate guarantees.
        model: what tells entries of several models apart, for example ``camvid/upernet-noise``; empty for one model.
        directory: where rows and summary lie.

    Raises:
        ResultError: the summary has no known kind, no name or no figures.
    """

    summary: Mapping[str, Any]
    model: str = ""
    directory: Path | None = None

    def __post_init__(self) -> None:
        kind, name, figures = (self.summary.get(key) for key in ("kind", "name", "figures"))
        if kind not in KINDS or not isinstance(name, str) or not isinstance(figures, Mapping):
            raise ResultError(
                f"The summary {self.directory or ''} cannot be reported".replace("  ", " "),
                expected=f"a kind among {', '.join(KINDS)}, a name and a mapping of figures",
                received=f"kind {kind!r}, name {name!r}, figures of type {type(figures).__name__}",
            )

    @classmethod
    def read(cls, directory: str | Path, model: str = "") -> Entry:
        """The entry of a finished result directory.

        Raises:
            ResultError: there is no readable summary.
        """
        return cls(read_json(Path(directory) / SUMMARY_FILE), model=model, directory=Path(directory))

    @property
    def kind(self) -> str:
        """``prediction``, ``certifier`` or ``attack``."""
        return str(self.summary["kind"])

    @property
    def name(self) -> str:
        """The name of the certifier or attack."""
        return str(self.summary["name"])

    @property
    def predictor(self) -> str:
        """The model the figures are about; only entries of one predictor may be compared."""
        return str(self.summary.get("predictor") or "")

    @property
    def subject(self) -> str:
        """What tells weights and data apart; the label of the model where the summary does not say."""
        return str(self.summary.get("subject") or self.model)

    @property
    def threat(self) -> Mapping[str, Any]:
        """The threat as a mapping, empty for a prediction."""
        return self.summary.get("threat") or {}

    @property
    def norm(self) -> str:
        """The kind of threat: ``l2``, ``linf``, ...; empty without threat."""
        return str(self.threat.get("norm") or "")

    @property
    def size(self) -> float | None:
        """The threat's radius (or share of the image), None without one."""
        return next((float(self.threat[key]) for key in _SIZES if self.threat.get(key) is not None), None)

    @property
    def has_budget(self) -> bool:
        """False for an attack that looks for the smallest perturbation."""
        return bool(self.summary.get("has_budget", True))

    @property
    def size_name(self) -> str:
        """What :attr:`size` measures."""
        return next((words for key, words in _SIZES.items() if self.threat.get(key) is not None), "")

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings worth showing."""
        return self.summary.get("settings") or {}

    @property
    def images(self) -> int:
        """Number of images the figures are over."""
        return int(self.summary.get("images") or 0)

    @property
    def confidence(self) -> float | None:
        """Probability with which the certificates of one image hold, or the bound that an attack's votes give; None
        where neither is a matter of chance."""
        value = self.summary.get("confidence")
        return None if value is None else float(value)

    @property
    def guarantee(self) -> Guarantee:
        """What the certificates of a certifier's entry promise.

        Raises:
            ResultError: the summary holds no guarantee.
        """
        return Guarantee.from_json(self.summary.get("guarantee") or {})

    @property
    def attempt(self) -> Attempt:
        """What the attack of an attack's entry was allowed to do."""
        return Attempt.of_summary({**self.summary, "predictor": self.predictor})

    @property
    def seconds(self) -> float:
        """All seconds spent."""
        parts = (value for key, value in (self.summary.get("seconds") or {}).items() if key != "total")
        return float(sum(value for value in parts if value is not None))

    @property
    def by_radius(self) -> list[Entry]:
        """The entry at each radius of the summary's ``by_radius``, a list of figures with a ``radius`` each. Settings
        then say nothing about radii, and figures nothing about what was compared at all of them together."""
        return [
            Entry(
                {
                    **{key: value for key, value in self.summary.items() if key not in ("by_radius", "members")},
                    "threat": {**self.threat, "radius": part["radius"]},
                    "settings": {k: v for k, v in self.settings.items() if k not in ("radius", "radii")},
                    "figures": {k: v for k, v in part.items() if k != "radius" and not isinstance(v, Mapping)},
                },
                model=self.model,
            )
            for part in self.summary.get("by_radius") or ()
        ]

    def figure(self, name: str) -> float | None:
        """A figure by its full name, None where it is missing or undefined."""
        value = self.summary["figures"].get(name)
        return None if value is None or not math.isfinite(value) else float(value)


def threat_text(threat: Mapping[str, Any]) -> str:
    """A threat in one phrase: ``l2 ≤ 0.169``, ``linf ≤ 0.0157 (4/255)``, ``patch (share 0.01)``; empty without one."""
    if not threat:
        return ""
    norm, radius = str(threat.get("norm") or "threat"), threat.get("radius")
    text = norm if radius is None else f"{norm} ≤ {number(radius, 3 if norm == 'linf' else 4)}"
    notes = [f"{number(255 * radius, 3)}/255"] if norm == "linf" and radius is not None else []
    notes += [f"{words(key)} {_value(value)}" for key, value in threat.items() if key not in ("norm", "radius")]
    return f"{text} ({', '.join(notes)})" if notes else text


def differing_settings(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Per entry the settings in which it differs from another entry of the same kind and name."""
    shown = []
    for entry in entries:
        peers = [other for other in entries if (other.kind, other.name) == (entry.kind, entry.name)]
        keys = [key for key in entry.settings if any(other.settings.get(key) != entry.settings[key] for other in peers)]
        shown.append({key: entry.settings[key] for key in keys})
    return shown


def labels(entries: Sequence[Entry]) -> list[str]:
    """One name per entry: its model where there are several, its name and the settings that tell it from its peers."""
    several = len({entry.model for entry in entries}) > 1
    texts = []
    for entry, settings in zip(entries, differing_settings(entries)):
        text = f"{entry.model}: {entry.name}" if several and entry.model else entry.name
        texts.append(f"{text} ({settings_text(settings)})" if settings else text)
    return texts


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings in one phrase.

    >>> settings_text({"tau": 0.75, "n": 100})
    'tau=0.75, n=100'
    """
    return ", ".join(f"{key}={_value(value)}" for key, value in settings.items())


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best.

    >>> duration(4.21), duration(754), duration(9000)
    ('4.2 s', '12 min 34 s', '2 h 30 min')
    """
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def plural(count: int, noun: str) -> str:
    """A number and a noun that agree.

    >>> plural(1, "image"), plural(2, "image")
    ('1 image', '2 images')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _value(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)
