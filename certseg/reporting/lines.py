"""The lines of a figure over radii: which entries make one line, what it is called, and its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from certseg.reporting.claims import COLLECTIVE
from certseg.reporting.entries import Entry, settings_text

Subject = tuple[str, str]
"""What a line is about: the label of the model, and the predictor."""


def sweeps(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Group entries into lines, each sorted by size.

    One line shares model, name, predictor and every setting that takes several values at one and the same size (a
    setting that changes only together with the size, such as the threshold a radius comes from, does not split it).
    """
    families: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        families.setdefault((entry.model, entry.subject, entry.name, entry.predictor), []).append(entry)
    lines: dict[tuple[str, ...], list[Entry]] = {}
    for family, members in families.items():
        splitting = _settings_at_equal_size(members)
        for entry in members:
            key = (*family, *(str(entry.settings.get(name)) for name in splitting))
            lines.setdefault(key, []).append(entry)
    return [sorted(line, key=lambda entry: entry.size or 0.0) for line in lines.values()]


def _settings_at_equal_size(members: Sequence[Entry]) -> list[str]:
    names = dict.fromkeys(name for entry in members for name in entry.settings)
    return [
        name
        for name in names
        if any(a.size == b.size and a.settings.get(name) != b.settings.get(name) for a in members for b in members)
    ]


def is_collective(line: Sequence[Entry]) -> bool:
    """Whether a line bounds all pixels together, so that it begins at the figure without attacker."""
    return all(entry.figure(COLLECTIVE) is not None for entry in line)


def values_by_size(line: Sequence[Entry], values: Sequence[float | None], origin: float | None) -> dict[float, float]:
    """The curve of a line: its values by size, where both are known.

    Args:
        line: the entries of the line.
        values: the value of each entry.
        origin: the value at size 0, with which the curve begins; None begins at the first entry.
    """
    start = {} if origin is None else {0.0: origin}
    found = zip((entry.size for entry in line), values, strict=True)
    return start | {size: value for size, value in found if size is not None and value is not None}


def xy(curve: Mapping[float, float]) -> tuple[list[float], list[float]]:
    """The sizes and the values of a curve, as a plot takes them."""
    return list(curve), list(curve.values())


def own_name(entry: Entry) -> str:
    """What a figure without attacker is about: the model where it is named, and the predictor."""
    return ": ".join(text for text in (entry.model, entry.predictor or entry.name) if text)


def line_label(line: Sequence[Entry], lines: Sequence[Sequence[Entry]], subjects: Sequence[Subject]) -> str:
    """Name, predictor where there are several, and the settings that tell the line from others of both."""
    first = line[0]
    peers = [other for other in lines if other[0].name == first.name and subject_of(other) == subject_of(line)]
    kept = [key for key, value in first.settings.items() if all(e.settings.get(key) == value for e in line)]
    telling = {k: first.settings[k] for k in kept if any(p[0].settings.get(k) != first.settings[k] for p in peers)}
    text = f"{first.name} ({settings_text(telling)})" if telling else first.name
    if len({model for model, _ in subjects}) > 1 and first.model:
        text = f"{first.model}: {text}"
    return f"{text} on {first.predictor}" if len(subjects) > 1 and first.predictor else text


def subject_of(line: Sequence[Entry]) -> Subject:
    """What a line is about."""
    return line[0].model, line[0].predictor
