"""What figures claim, in plain words, and whether certificates and attacks agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from certseg.bracket import Comparison
from certseg.metrics import Estimator, known_figures
from certseg.reporting.entries import Entry, plural, threat_text
from certseg.reporting.rows import read_rows
from certseg.types import threat_of

LOWER = known_figures.CERTIFIED_ACCURACY.full_name(Estimator.IMAGE_MEAN)
WORST_ACCURACY = known_figures.WORST_ACCURACY.full_name(Estimator.IMAGE_MEAN)
COLLECTIVE = known_figures.COLLECTIVE_ACCURACY.full_name(Estimator.IMAGE_MEAN)
UPPER = known_figures.ATTACKED_ACCURACY.full_name(Estimator.IMAGE_MEAN)
VIOLATIONS = known_figures.VIOLATIONS.full_name()
UNDECIDED = known_figures.UNDECIDED.full_name()
CERTIFIED_PIXELS = known_figures.CERTIFIED_PIXELS.full_name()
BOUNDS = known_figures.BOUNDS.full_name()
ALERTED = known_figures.ALERTED.full_name()
SKIPPED = known_figures.SKIPPED.full_name()
NORMS = known_figures.NORMS.full_name()

_CLEARLY = 0.01  # share of an image's pixels by which one attack beats another beyond ties and rounding


@dataclass(frozen=True)
class Pair:
    """A certifier and an attack whose accuracies bound the same worst case from below and from above.

    Args:
        certifier: the entry with the lower bound, at this threat.
        attack: the entry with the upper bound, at the same threat.
        lower: the certified accuracy there, as a mean over the images.
        upper: the accuracy under attack there, as a mean over the images.
        violations: what the comparison of single images found, at all radii of the attack together; None if there was
            none.
    """

    certifier: Entry
    attack: Entry
    lower: float
    upper: float
    violations: float | None = None

    @property
    def holds(self) -> bool:
        """Whether no image violates it; where images were not compared, whether the averages are in order.

        The comparison of images knows which pixels of a sampled prediction are undecided, the averages do not.
        """
        return self.lower <= self.upper + 1e-9 if self.violations is None else self.violations == 0

    @property
    def confidence(self) -> float:
        """Probability with which the mean over the images lies between the two: the errors of the certificate and of an
        attack's votes, image by image, taken off 1 (union bound). Not positive where nothing follows."""
        known = (self.certifier.guarantee.confidence, self.certifier.confidence, self.attack.confidence)
        certain = [1.0 if value is None else value for value in known]
        return joint_confidence(self.certifier.images, 2.0 - min(certain[:2]) - certain[2])

    @property
    def is_collective(self) -> bool:
        """Whether the certificate bounds what is left of all pixels together."""
        return self.certifier.figure(COLLECTIVE) is not None


def pairs(entries: Sequence[Entry]) -> list[Pair]:
    """All pairs of a certifier and an attack whose accuracies bound one worst case, at every radius both have figures
    for."""
    return [
        Pair(below, above, lower, upper, attack.figure(VIOLATIONS))
        for certifier in entries
        for attack in entries
        if may_be_compared(certifier, attack)
        for below, lower in _points(certifier, lower_accuracy)
        for above, upper in _points(attack, _upper)
        if _is_level(comparison(certifier, attack), below, above)
    ]


def may_be_compared(certifier: Entry, attack: Entry) -> bool:
    """Whether the first entry is of a certifier and the second of an attack on the same model, and single images are
    certified."""
    return (certifier.kind, attack.kind) == ("certifier", "attack") and comparison(certifier, attack).is_about_images


def comparison(certifier: Entry, attack: Entry) -> Comparison:
    """The comparison of a certifier's and an attack's entry."""
    return Comparison.of(
        certifier.guarantee,
        attack.attempt,
        names=(certifier.name, attack.name),
        subjects=((certifier.subject, certifier.images), (attack.subject, attack.images)),
    )


def _is_level(compared: Comparison, lower: Entry, upper: Entry) -> bool:
    """Whether figures of a certifier and of an attack are about one threat and bound the same accuracy."""
    if 0 in (lower.threat.get("radius"), upper.threat.get("radius")):  # which is no threat: what there is without one
        return compared.guarantee.bounds_accuracy and dict(lower.threat) == dict(upper.threat)
    guarantee = compared.guarantee.within(threat_of(lower.threat))
    return replace(compared, guarantee=guarantee, attempt=upper.attempt).bounds_accuracy


def lower_accuracy(entry: Entry) -> float | None:
    """The lower bound of the accuracy, image mean, that a certifier's entry gives: of all pixels together where it
    bounds that, for it is never lower; no other where no pixel is certified on its own; else its certified accuracy,
    less the pixels that may be wrong."""
    guarantee, together = entry.guarantee, entry.figure(COLLECTIVE)
    if not guarantee.covers_pixels:
        return together
    alone = entry.figure(LOWER if guarantee.keeps_every_pixel else WORST_ACCURACY)
    return alone if alone is None or together is None else together


def _upper(entry: Entry) -> float | None:
    """Accuracy under attack, image mean."""
    return entry.figure(UPPER)


def _points(entry: Entry, value: Callable[[Entry], float | None]) -> list[tuple[Entry, float]]:
    """The entry at each radius at which it has the value, and the value."""
    found = [(part, value(part)) for part in entry.by_radius]
    known = [(part, number) for part, number in found if number is not None]
    own = value(entry)
    return known or ([(entry, own)] if own is not None else [])


def bracket_status(entries: Sequence[Entry]) -> str:
    """One line on ``certified <= truth <= attacked``: holds, not significantly violated, violated, not checked, or
    nothing was there to compare."""
    found = pairs(entries)
    violations = sum(entry.figure(VIOLATIONS) or 0 for entry in entries)
    broken = sum(not pair.holds for pair in found)
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
    if found:
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

    The words are those of the guarantee (:meth:`certseg.types.Guarantee.statement`). The radius is called R, so that a
    sweep has one wording.

    Raises:
        ResultError: the summary holds no guarantee.
    """
    guarantee = entry.guarantee
    statement = guarantee.statement()
    if guarantee.assumption:
        statement = f"provided that {guarantee.assumption}, {statement}"
    if not guarantee.covers_images:
        return f"{statement}. {guarantee.assuming}".strip()
    scale = "R counts the whole image, on the [0, 1] scale." if entry.threat.get("radius") is not None else ""
    if entry.by_radius and not guarantee.is_deterministic:
        scale += " That holds at all radii of its curve together, with this one probability."
    scale = f"{scale} {guarantee.assuming}".strip()
    confidence = guarantee.confidence if entry.confidence is None else entry.confidence
    if guarantee.is_deterministic and guarantee.assumption:
        return f"Not proven throughout, without any error probability otherwise: {statement}. {scale}".strip()
    if guarantee.is_deterministic:
        return f"Deterministic, without any error probability: {statement}. {scale}".strip()
    text = f"With probability ≥ {probability(confidence)} per image, {statement}. {scale}".strip()
    error = 1.0 - confidence
    joint = joint_confidence(entry.images, error)
    bound = f"union bound, 1 - {entry.images} · {probability(error)}"
    if joint <= 0:
        return f"{text} Jointly for all {plural(entry.images, 'image')} nothing follows ({bound}, is not positive)."
    return f"{text} Jointly for all {plural(entry.images, 'image')}: with probability ≥ {probability(joint)} ({bound})."


def separate_tests(entries: Sequence[Entry]) -> list[str]:
    """A sentence for each model whose certificates by sampling were tested at several radii one by one: a figure joins
    them to a curve that no probability is claimed for."""
    radii: dict[tuple[str, str, str], set[float]] = {}
    for entry in entries:
        sampled = entry.kind == "certifier" and entry.size is not None and not entry.guarantee.is_deterministic
        if sampled and not entry.by_radius and entry.guarantee.covers_images:
            radii.setdefault((entry.model, entry.name, entry.predictor), set()).add(entry.size or 0.0)
    return [
        f"{name} of `{predictor}` was tested at {len(found)} radii one by one. Each holds with its own probability; "
        "the curve through them is no joint statement. certifier=segcertify and adaptive_certify test a list as "
        "certifier.tau together."
        for (_, name, predictor), found in radii.items()
        if len(found) > 1
    ]


def joint_confidence(images: int, error: float) -> float:
    """Probability with which statements about all images hold, each of which fails with probability ``error`` at most
    (union bound); not positive where nothing follows. Rounded to twelve digits, for ``1 - 0.999`` is not 0.001.

    >>> joint_confidence(10, 1 - 0.999), joint_confidence(1000, 1 - 0.999) > 0
    (0.99, False)
    """
    return round(1.0 - images * error, 12)


def probability(value: float) -> str:
    """Twelve digits hide the rounding of ``1 - 0.999`` and are never reached by a real confidence."""
    return f"{round(value, 12):.12g}"


def masked_gradients(entries: Sequence[Entry]) -> list[str]:
    """A sentence for each attack by gradient that leaves more than one without: the network's gradients lead it astray
    (Athalye et al. 2018) or it searches too little, and its figure is no measure of what an attacker can do.

    Images are compared one by one, for a mean hides those on which it fails; where no rows are at hand, means are.
    Attacks with a goal are left out, since what is left is not what they look for.
    """
    attacks = [
        entry
        for entry in entries
        if entry.kind == "attack" and "needs_gradient" in entry.summary and entry.settings.get("goal") is None
    ]
    return [
        sentence
        for seeing in attacks
        for blind in attacks
        if seeing.summary["needs_gradient"] and not blind.summary["needs_gradient"]
        if (seeing.subject, seeing.predictor, seeing.threat) == (blind.subject, blind.predictor, blind.threat)
        if (sentence := _beaten(seeing, blind))
    ]


def _beaten(seeing: Entry, blind: Entry) -> str:
    """Where the attack without gradient leaves clearly less than the one with, in a sentence; empty if nowhere."""
    more, less = (_accuracies(entry) for entry in (seeing, blind))
    common = more.keys() & less.keys()
    lower = [name for name in common if less[name] < more[name] - _CLEARLY]
    if not lower:
        return ""
    where = f"on {len(lower)} of {plural(len(common), 'image')}" if common != {""} else "on average"
    left, other = (100 * sum(values[name] for name in lower) / len(lower) for values in (less, more))
    return (
        f"{blind.name}, which uses no gradient, leaves less than {seeing.name} {where} ({left:.1f} % instead of "
        f"{other:.1f} % there, {threat_text(seeing.threat)}): either the gradients of {seeing.predictor} mislead "
        f"{seeing.name}, or it searches too little; its figure is no measure of an attacker."
    )


def _accuracies(entry: Entry) -> dict[str, float]:
    """By image the accuracy an attack left; the mean, under no name, where the rows are not at hand."""
    rows = {} if entry.directory is None else read_rows(entry.directory)
    name = known_figures.ATTACKED_ACCURACY.name
    found = {image: row["figures"].get(name) for image, row in rows.items()} or {"": entry.figure(UPPER)}
    return {image: value for image, value in found.items() if value is not None and math.isfinite(value)}
