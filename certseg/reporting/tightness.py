"""How much room certificates and attacks leave for the truth: attacked minus certified, at every radius both have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from certseg.metrics import Estimator, known_figures
from certseg.metrics.figures import number
from certseg.reporting.claims import Pair, bracket_status, comparison, pairs
from certseg.reporting.entries import Entry, labels
from certseg.reporting.tables import markdown_table

WORST_MIOU = known_figures.WORST_MIOU.full_name(Estimator.POOLED)
ATTACKED_MIOU = known_figures.ATTACKED_MIOU.full_name(Estimator.POOLED)
GREY_LEVELS = known_figures.GREY_LEVEL_SIZE.full_name()
MEAN_NORM = known_figures.NORM.full_name(Estimator.IMAGE_MEAN)
_HEADER = (
    "certified by",
    "attacked by",
    "radius",
    "grey levels",
    "certified accuracy %",
    "attacked accuracy %",
    "gap, points",
    "worst case mIoU %",
    "attacked mIoU %",
    "gap, points",
)
_LEGEND = (
    "Gap: attacked minus certified, what is not known of the worst case. Accuracy: mean over the images of what one "
    "perturbation of a whole image must leave, and of what the attack left; mIoU: pooled over all images, likewise. "
    "Grey levels: the radius as root mean square change of an 8-bit value. In the figure bounds hold at the markers, "
    "lines only join them."
)


def gaps(entries: Sequence[Entry]) -> list[Pair]:
    """The pairs of an attack and a certificate of all pixels together, at each radius both have, of which anything
    follows for all images together."""
    return [pair for pair in pairs(entries) if pair.is_collective and pair.confidence > 0]


def tightness(entries: Sequence[Entry]) -> Iterator[str]:
    """The section of a report on what is left between certificates and attacks; nothing if there is nothing to compare.

    A table with one row for each certificate, attack and common radius; where an attack looked for the smallest
    perturbation that changes a share of the labelled pixels, the radius certified for this share and the norm it found;
    and the state of the bracket.
    """
    found, norms = gaps(entries), list(_norms(entries))
    if not found and not norms:
        return
    parts = []
    if found:
        parts.append(markdown_table(_HEADER, [_row(*row) for row in zip(found, *_names(found), strict=True)]))
        parts.append(_LEGEND + "\n")
    parts.append("\n".join([*norms, f"- Bracket: {bracket_status(entries)}."]) + "\n")
    yield "## Tightness\n\n" + "\n".join(parts)


def gap_line(entries: Sequence[Entry]) -> str:
    """The gaps in accuracy in one line, by attack; empty where there is nothing to compare."""
    found = gaps(entries)
    names = [f"{attack} above {certifier}" for certifier, attack in zip(*_names(found), strict=True)]
    texts = []
    for name in dict.fromkeys(names):
        mine = [pair for pair, other in zip(found, names, strict=True) if other == name]
        values = ", ".join(f"{_points(p.upper - p.lower)} at {_size(p.attack)}" for p in mine)
        texts.append(f"{name}, points of accuracy: {values}")
    return "; ".join(texts)


def _names(found: Sequence[Pair]) -> tuple[list[str], list[str]]:
    """What tells the certifiers and the attacks of the pairs apart."""
    return labels([pair.certifier for pair in found]), labels([pair.attack for pair in found])


def _row(pair: Pair, certifier: str, attack: str) -> list[str]:
    grey = pair.certifier.figure(GREY_LEVELS)
    worst, attacked = pair.certifier.figure(WORST_MIOU), pair.attack.figure(ATTACKED_MIOU)
    gap = None if worst is None or attacked is None else attacked - worst
    return [
        certifier,
        attack,
        f"{pair.attack.norm} ≤ {_size(pair.attack)}",
        "–" if grey is None else number(grey, 3),
        _points(pair.lower),
        _points(pair.upper),
        _points(pair.upper - pair.lower),
        _points(worst),
        _points(attacked),
        _points(gap),
    ]


def _norms(entries: Sequence[Entry]) -> Iterator[str]:
    """One line for each minimum-norm attack whose goal a certificate states the radius of."""
    for attack in entries:
        share = attack.settings.get("success")
        if attack.has_budget or share is None or attack.settings.get("away_from") != "prediction":
            continue
        found = attack.figure(MEAN_NORM)
        robustness = known_figures.ROBUSTNESS.full_name(Estimator.IMAGE_MEAN, f"{100 * share:.0f}")
        for certifier in (entry for entry in entries if entry.kind == "certifier"):
            radius = certifier.figure(robustness)
            if radius is None or not comparison(certifier, attack).is_of_norms:
                continue
            text = (
                f"found {number(found)} ({attack.name})"
                if found is not None
                else (f"{attack.name} did not reach it on every image")
            )
            times = f", {found / radius:.1f} times as much" if found is not None and radius > 0 else ""
            yield (
                f"- {attack.norm} norm that changes {100 * share:.0f} % of the labelled pixels, mean over the images: "
                f"at least {number(radius)} ({certifier.name}), {text}{times}."
            )


def _size(entry: Entry) -> str:
    return "–" if entry.size is None else number(entry.size)


def _points(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f}"
