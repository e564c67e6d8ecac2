"""What figures claim, in plain words, and whether certificates and attacks agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from certseg.metrics import Estimator, known_figures
from certseg.reporting.entries import Entry, plural, threat_text

LOWER = known_figures.CERTIFIED_ACCURACY.full_name(Estimator.IMAGE_MEAN)
COLLECTIVE = known_figures.COLLECTIVE_ACCURACY.full_name(Estimator.IMAGE_MEAN)
UPPER = known_figures.ATTACKED_ACCURACY.full_name(Estimator.IMAGE_MEAN)
VIOLATIONS = known_figures.VIOLATIONS.full_name()
UNDECIDED = known_figures.UNDECIDED.full_name()
CERTIFIED_PIXELS = known_figures.CERTIFIED_PIXELS.full_name()
BOUNDS = known_figures.BOUNDS.full_name()
ALERTED = known_figures.ALERTED.full_name()
SKIPPED = known_figures.SKIPPED.full_name()
NORMS = known_figures.NORMS.full_name()


@dataclass(frozen=True)
class Bracket:
    """A certifier and an attack on the same model, predictor and threat, over equally many images.

    Args:
        certifier: the entry with the lower bound, at this threat.
        attack: the entry with the upper bound, likewise.
        violations: what the comparison of single images found, at all radii of the attack together; None if there was
            none.
    """

    certifier: Entry
    attack: Entry
    violations: float | None = None

    @property
    def lower(self) -> float:
        """Certified accuracy, image mean: of all pixels together where the certifier bounds that, it is never lower."""
        collective = self.certifier.figure(COLLECTIVE)
        return self.certifier.figure(LOWER) if collective is None else collective

    @property
    def upper(self) -> float:
        """Accuracy under attack, image mean."""
        return self.attack.figure(UPPER)

    @property
    def holds(self) -> bool:
        """Whether no image violates it; where images were not compared, whether the averages are in order.

        The comparison of images knows which pixels of a sampled prediction are undecided, the averages do not.
        """
        return self.lower <= self.upper + 1e-9 if self.violations is None else self.violations == 0

    @property
    def is_collective(self) -> bool:
        """Whether the certificate bounds what is left of all pixels together."""
        return self.certifier.figure(COLLECTIVE) is not None


def brackets(entries: Sequence[Entry]) -> list[Bracket]:
    """All pairs of a certifier and an attack that may be compared, at every radius both have figures for."""
    return [
        Bracket(lower, upper, attack.figure(VIOLATIONS))
        for certifier in entries
        for attack in entries
        if _subject(certifier) == _subject(attack)
        for lower in _points(certifier, LOWER)
        for upper in _points(attack, UPPER)
        if _same_threat(lower, upper)
    ]


def _points(entry: Entry, figure: str) -> list[Entry]:
    """The entry at each radius at which it has the figure."""
    parts = [part for part in entry.by_radius if part.figure(figure) is not None]
    return parts or ([entry] if entry.figure(figure) is not None else [])


def bracket_status(entries: Sequence[Entry]) -> str:
    """One line on ``certified <= truth <= attacked``: holds, not significantly violated, violated, not checked, or
    nothing was there to compare."""
    pairs = brackets(entries)
    violations = sum(entry.figure(VIOLATIONS) or 0 for entry in entries)
    broken = sum(not pair.holds for pair in pairs)
    if violations or broken:
        what = plural(int(violations), "violation") if violations else f"{plural(broken, 'pair')} out of order"
        return f"VIOLATED: {what}; a certificate or an attack has a defect"
    checked = [entry for entry in entries if entry.figure(VIOLATIONS) is not None]
    outvoted = sum(entry.figure(UNDECIDED) or 0 for entry in checked)
    if outvoted:
        certified = sum(entry.figure(CERTIFIED_PIXELS) or 0 for entry in checked)
        return (
            f"no significant violation: {outvoted:.0f} of {certified:.0f} certified pixels were outvoted under attack, "
            "within the chance of the vote"
        )
    if checked:
        return _checked_status(checked)
    if pairs:
        return "holds for the averages (certified ≤ attacked); single images were not compared"
    return "not checked: no attack shares model, predictor and threat with a certificate"


def _checked_status(checked: Sequence[Entry]) -> str:
    """What holds, by what there was to compare: certified pixels, bounds on whole images, or nothing."""
    numbers = [(entry.figure(CERTIFIED_PIXELS), entry.figure(BOUNDS)) for entry in checked]
    bounds = sum(number or 0 for _, number in numbers)
    norms = sum(entry.figure(NORMS) or 0 for entry in checked)
    short = f"none of {plural(int(norms), 'norm')} is below the radius certified for its share of pixels"
    if all(pixels == 0 for pixels, _ in numbers):
        if bounds == 0:
            return f"holds: {short}" if norms else "nothing to compare: no pixel is certified"
        text = f"holds: no pixel is certified alone, none of {plural(int(bounds), 'bound')} on images was undercut"
        return f"{text}, {short}" if norms else text
    text = "holds on every image checked: no certified pixel changed"
    text += " without an alert" if any(entry.figure(ALERTED) is not None for entry in checked) else ""
    text = f"{text}, none of {plural(int(bounds), 'bound')} undercut" if bounds else text
    skipped = sum(entry.figure(SKIPPED) or 0 for entry in checked)
    text += f"; {plural(int(skipped), 'image')} with larger patches not compared" if skipped else ""
    return f"{text}, {short}" if norms else text


def claim(entry: Entry) -> str:
    """What the certificates of ``entry`` guarantee, with which probability, and jointly over its images.

    The wording comes from kind of threat, predictor and confidence; a ``claim`` in the summary replaces the part that
    says what holds for a certified pixel. The radius is called R, so that a sweep has one wording.
    """
    if entry.confidence is None:
        return "The summary states no confidence, so nothing is claimed."
    if entry.confidence == 0:
        return f"{entry.summary.get('claim') or 'No statement about single images'}."
    guarantee = entry.summary.get("claim") or _does_not_change(entry)
    scale = "R counts the whole image, on the [0, 1] scale." if entry.threat.get("radius") is not None else ""
    if entry.confidence >= 1:
        return f"Deterministic, without any error probability: {guarantee}. {scale}".strip()
    text = f"With probability ≥ {_probability(entry.confidence)} per image, {guarantee}. {scale}".strip()
    error = 1.0 - entry.confidence
    joint = 1.0 - entry.images * error
    bound = f"union bound, 1 - {entry.images} · {_probability(error)}"
    if joint <= 0:
        return f"{text} Jointly for all {plural(entry.images, 'image')} nothing follows ({bound}, is not positive)."
    return (
        f"{text} Jointly for all {plural(entry.images, 'image')}: with probability ≥ {_probability(joint)} ({bound})."
    )


def _does_not_change(entry: Entry) -> str:
    attacks = f"every {entry.norm} perturbation of norm ≤ R"
    if entry.threat.get("radius") is None:
        attacks = f"every attack within the threat {threat_text(entry.threat)}"
    predictor = f"`{entry.predictor}`" if entry.predictor else "the model"
    text = f"for every certified pixel and {attacks} the class of {predictor} does not change"
    if entry.confidence < 1:
        text += " (where it abstains by a threshold of its own it may come to abstain, but shows no other class)"
    return text


def _subject(entry: Entry) -> tuple:
    return entry.subject, entry.predictor, entry.images


def _same_threat(one: Entry, other: Entry) -> bool:
    def fixed(entry: Entry) -> dict:
        return {key: value for key, value in entry.threat.items() if key != "radius"}

    a, b = one.threat.get("radius"), other.threat.get("radius")
    same_radius = a == b if a is None or b is None else math.isclose(a, b, rel_tol=1e-6)
    return bool(one.threat) and fixed(one) == fixed(other) and same_radius


def _probability(value: float) -> str:
    """Twelve digits hide the rounding of ``1 - 0.999`` and are never reached by a real confidence."""
    return f"{round(value, 12):.12g}"
