"""Accuracy and mean IoU against the attacker's radius: certificates from below, attacks from above.

Drawn on :class:`matplotlib.figure.Figure` objects without pyplot, so nothing global changes and no display is needed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from certseg.metrics import Estimator, known_figures
from certseg.reporting.claims import COLLECTIVE, LOWER, UPPER, WORST_ACCURACY, comparison
from certseg.reporting.entries import Entry, plural
from certseg.reporting.lines import Subject, is_collective, line_label, own_name, subject_of, sweeps, values_by_size, xy
from certseg.reporting.tightness import ATTACKED_MIOU, GREY_LEVELS, WORST_MIOU

if TYPE_CHECKING:  # imported where something is drawn: it takes most of a second
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

# Okabe and Ito's colours, told apart with every common colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_ATTACK_MARKERS = ("v", "X", "s", "D", "P", "^")
_ABSTENTION = known_figures.ABSTENTION.full_name(Estimator.IMAGE_MEAN)
INK = "#333333"
_FAINT = "#777777"


@dataclass(frozen=True)
class _Quantity:
    """What one panel shows, by the names of figures.

    Args:
        text: label of the vertical axis, with a place for the number of images.
        certified: figures that are lower bounds; an entry's line shows the first of them that it has.
        attacked: the figure that is the upper bound.
        own: the figure of a certified predictor without attacker.
        clean: the figure of a plain prediction.
        alone: a weaker lower bound that is drawn faintly where the line is another; None for none.
    """

    text: str
    certified: tuple[str, ...]
    attacked: str
    own: str
    clean: str
    alone: str | None = None

    def lower(self, entry: Entry) -> float | None:
        """The bound an entry's line shows; none where its pixels are counted and any of them may be wrong."""
        found = ((name, entry.figure(name)) for name in self.certified if name in entry.summary["figures"])
        return next((value for name, value in found if value is not None or name == WORST_ACCURACY), None)


_ACCURACY = _Quantity(
    "pixel accuracy (mean over {})",
    (COLLECTIVE, WORST_ACCURACY, LOWER),
    UPPER,
    known_figures.PREDICTION_ACCURACY.full_name(Estimator.IMAGE_MEAN),
    known_figures.ACCURACY.full_name(Estimator.IMAGE_MEAN),
    LOWER,
)
_MEAN_IOU = _Quantity(
    "mean IoU (pooled over {})",
    (WORST_MIOU,),
    ATTACKED_MIOU,
    known_figures.PREDICTION_MIOU.full_name(Estimator.POOLED),
    known_figures.MIOU.full_name(Estimator.POOLED),
)


def radius_figures(entries: Sequence[Entry]) -> dict[str, Figure]:
    """One figure per kind of threat (``l2``, ``linf``, ...): accuracy (image mean) against its size.

    A certifier's entries that share everything but the radius and settings that change with it are one line, as are
    the radii of one entry; the light band above it is what abstains. Attacks are markers at their radius; where there
    are certificates, only attacks on one of the certified predictors are drawn, for no others may be compared with
    them. At radius 0 stand the certified predictors' own accuracy and that of the plain network.

    Certificates of all pixels together are lines from there on, with those of each pixel alone in dots, and light is
    what lies between them and the lowest attack. Where they bound the mean IoU too, a second panel shows it. What is
    drawn between two radii only joins them.

    Returns:
        The figures by threat; empty when no entry has both a threat with a size and an accuracy.
    """
    points = [point for entry in entries if _is_drawn(entry, entries) for point in _points(entry)]
    clean = [entry for entry in entries if entry.kind == "prediction"]
    figures = {}
    for norm in dict.fromkeys(point.norm for point in points):
        certified = [point for point in points if point.norm == norm and point.kind == "certifier"]
        attacked = [point for point in points if point.norm == norm and point.kind == "attack"]
        if certified or attacked:
            figures[norm] = _radius_figure(certified, attacked, clean)
    return figures


def _is_drawn(entry: Entry, entries: Sequence[Entry]) -> bool:
    """Whether an entry may stand in the figure: attacks where they are on a certified model, or nothing is certified
    against such threats."""
    if entry.kind != "attack":
        return True
    certifiers = [other for other in entries if other.kind == "certifier" and other.norm == entry.norm]
    return not certifiers or any(comparison(certifier, entry).same_model for certifier in certifiers)


def _points(entry: Entry) -> list[Entry]:
    """The entry at each radius at which it has an accuracy; what it says of itself without attacker stays with it."""
    own = {q.own: entry.figure(q.own) for q in (_ACCURACY, _MEAN_IOU) if entry.figure(q.own) is not None}
    parts = [
        Entry({**part.summary, "figures": {**own, **part.summary["figures"]}}, model=entry.model)
        for part in entry.by_radius
    ]
    found = [part for part in parts if _has_accuracy(part)]
    return found or ([entry] if entry.size is not None and _has_accuracy(entry) else [])


def _has_accuracy(entry: Entry) -> bool:
    return _ACCURACY.lower(entry) is not None or entry.figure(_ACCURACY.attacked) is not None


def save_figure(figure: Figure, stem: str | os.PathLike[str], formats: Iterable[str] = ("png", "pdf")) -> list[Path]:
    """Write ``figure`` to ``<stem>.<format>`` for every format and return the files; folders are created."""
    paths = [Path(f"{os.fspath(stem)}.{suffix}") for suffix in formats]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a date the same results give the same file.
        metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(path.suffix[1:])
        figure.savefig(path, dpi=200, metadata=metadata)
    return paths


def _radius_figure(certified: list[Entry], attacked: list[Entry], clean: list[Entry]) -> Figure:
    has_iou = any(entry.figure(COLLECTIVE) is not None and _MEAN_IOU.lower(entry) is not None for entry in certified)
    quantities = (_ACCURACY, _MEAN_IOU) if has_iou else (_ACCURACY,)
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    for axes, quantity in zip(figure.subplots(1, len(quantities), squeeze=False)[0], quantities, strict=True):
        _draw_panel(axes, quantity, certified, attacked, clean)
    subjects = dict.fromkeys(subject_of([entry]) for entry in [*certified, *attacked])
    if len(subjects) == 1:
        title = ": ".join(text for text in next(iter(subjects)) if text)
        figure.axes[0].set_title(title, loc="left", fontsize=10, color=INK)
    _add_legend(figure)
    return figure


def _draw_panel(
    axes: Axes, quantity: _Quantity, certified: list[Entry], attacked: list[Entry], clean: list[Entry]
) -> None:
    lower = sweeps([entry for entry in certified if quantity.lower(entry) is not None])
    upper = sweeps([entry for entry in attacked if entry.figure(quantity.attacked) is not None])
    subjects = list(dict.fromkeys(subject_of([entry]) for entry in [*certified, *attacked]))
    colours = _line_colours(lower, subjects)
    origins = {subject_of(line): line[0].figure(quantity.own) for line in lower if is_collective(line)}
    for line in lower:
        _draw_certified(axes, quantity, line, colours[id(line)], line_label(line, lower, subjects))
        _draw_own(axes, quantity, line, colours[id(line)])
    names = list(dict.fromkeys(entry.name for entry in attacked))
    for line in upper:
        colour = next((colours[id(c)] for c in lower if subject_of(c) == subject_of(line)), None)
        colour = colour or _COLOURS[subjects.index(subject_of(line)) % len(_COLOURS)]
        marker = _ATTACK_MARKERS[names.index(line[0].name) % len(_ATTACK_MARKERS)]
        curve = values_by_size(line, [entry.figure(quantity.attacked) for entry in line], origins.get(subject_of(line)))
        _draw_attacked(axes, curve, colour, marker, line_label(line, upper, subjects))
    if len(lower) == 1 and is_collective(lower[0]):
        _shade_gap(axes, quantity, lower[0], [line for line in upper if subject_of(line) == subject_of(lower[0])])
    _draw_clean(axes, quantity, [entry for entry in clean if entry.figure(quantity.clean) is not None])
    _finish(axes, quantity, [*certified, *attacked])


def _line_colours(lines: Sequence[list[Entry]], subjects: Sequence[Subject]) -> dict[int, str]:
    """One colour per certified line; attacks then take the colour of the first line about their predictor."""
    order = sorted(lines, key=lambda line: subjects.index(subject_of(line)))
    return {id(line): _COLOURS[index % len(_COLOURS)] for index, line in enumerate(order)}


def _draw_certified(axes: Axes, quantity: _Quantity, line: list[Entry], colour: str, label: str) -> None:
    values = [quantity.lower(entry) for entry in line]
    is_curve = is_collective(line)
    origin = line[0].figure(quantity.own) if is_curve else None
    curve = values_by_size(line, values, origin)
    if is_curve and quantity.alone is not None:
        alone = values_by_size(line, [entry.figure(quantity.alone) for entry in line], origin)
        words = f"certified, each pixel alone: {label}"
        axes.plot(*xy(alone), ":", color=colour, linewidth=1.2, label=words, zorder=2)
    if not is_curve:
        abstentions = [entry.figure(_ABSTENTION) or 0.0 for entry in line]
        tops = [None if value is None else min(1.0, value + more) for value, more in zip(values, abstentions)]
        _draw_abstention(axes, curve, values_by_size(line, tops, None), colour)
    axes.plot(
        *xy(curve),
        "o-",
        color=colour,
        linewidth=1.8,
        markersize=5.5,
        markevery=slice(len(curve) - len(line), None),
        label=f"certified: {label}",
        zorder=3,
    )


def _draw_abstention(axes: Axes, bottom: Mapping[float, float], top: Mapping[float, float], colour: str) -> None:
    """What abstains: between what is certified and what would be if all that abstains were correct too."""
    sizes, values = xy(bottom)
    if len(sizes) > 1:
        axes.fill_between(sizes, values, xy(top)[1], color=colour, alpha=0.12, linewidth=0, gid="abstention")
    else:
        axes.vlines(sizes, values, xy(top)[1], color=colour, alpha=0.2, linewidth=7, gid="abstention")


def _shade_gap(axes: Axes, quantity: _Quantity, line: list[Entry], attacks: list[list[Entry]]) -> None:
    """What lies between a certificate and the lowest attack, over the radii that both have."""
    lowest: dict[float, float] = {}
    for entry in (entry for attack in attacks for entry in attack):
        size, value = entry.size, entry.figure(quantity.attacked)
        if size is not None and value is not None:
            lowest[size] = min(lowest.get(size, math.inf), value)
    shared = [entry for entry in line if entry.size in lowest]
    bottom = values_by_size(shared, [quantity.lower(entry) for entry in shared], line[0].figure(quantity.own))
    top = bottom | {entry.size: lowest[entry.size] for entry in shared if entry.size is not None}
    if len(bottom) > 1:
        axes.fill_between(*xy(bottom), xy(top)[1], color="#000000", alpha=0.06, linewidth=0, gid="gap")


def _draw_own(axes: Axes, quantity: _Quantity, line: list[Entry], colour: str) -> None:
    """The certified predictor's own figure without attacker, once however many lines are about it."""
    known = (entry.figure(quantity.own) for entry in line)
    values = [value for value in known if value is not None]
    label = f"no attacker: {own_name(line[0])}"
    if values and label not in axes.get_legend_handles_labels()[1]:
        axes.plot(
            [0],
            values[:1],
            "o",
            color=colour,
            markersize=6,
            markerfacecolor="white",
            clip_on=False,
            label=label,
            zorder=4,
        )


def _draw_attacked(axes: Axes, curve: Mapping[float, float], colour: str, marker: str, label: str) -> None:
    axes.plot(
        *xy(curve),
        color=colour,
        linestyle="--",
        linewidth=1.2,
        marker=marker,
        markersize=7,
        markeredgecolor="white",
        label=f"attacked: {label}",
        zorder=3,
    )


def _draw_clean(axes: Axes, quantity: _Quantity, clean: Sequence[Entry]) -> None:
    for entry, colour in zip(clean, [INK, *_COLOURS]):
        label, value = f"no attacker: {own_name(entry)}", entry.figure(quantity.clean)
        if value is None or label in axes.get_legend_handles_labels()[1]:
            continue  # with such a label what is certified is the plain network itself
        axes.plot(
            [0],
            [value],
            "*",
            color=colour,
            markersize=10,
            markeredgecolor="white",
            clip_on=False,
            label=label,
            zorder=4,
        )


def _finish(axes: Axes, quantity: _Quantity, entries: Sequence[Entry]) -> None:
    from matplotlib.ticker import PercentFormatter

    example = entries[0]
    unit = ", [0, 1] images" if example.size_name == "radius" else ""
    axes.set_xlabel(f"{example.norm} {example.size_name}{unit}", color=INK)
    axes.set_ylabel(quantity.text.format(plural(example.images, "image")), color=INK)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
    sizes, values = (_all(data) for data in zip(*(line.get_data() for line in axes.lines)))
    top = 1.0 if quantity is _ACCURACY else min(1.0, math.ceil(20 * max(values) + 0.5) / 20)
    axes.set_ylim(max(0.0, math.floor(5 * min(values) - 0.5) / 5), top)
    axes.set_xlim(0, 1.08 * max(sizes))
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")
    axes.tick_params(colors=INK)
    _add_grey_levels(axes, entries)
    drawn = {artist.get_gid() for artist in axes.collections}
    notes = {"abstention": "light: abstains", "gap": "light: not known"}
    shown = [text for gid, text in notes.items() if gid in drawn]
    if shown:
        axes.set_title("; ".join(shown), loc="right", fontsize=9, color=_FAINT)


def _all(data: Iterable[ArrayLike]) -> list[float]:
    """The values of several lines in one list."""
    return [value for values in data for value in np.asarray(values, dtype=float).tolist()]


def _add_grey_levels(axes: Axes, entries: Sequence[Entry]) -> None:
    """A second scale above: the radius as root mean square change of an 8-bit value, where it is one for all images."""
    pairs = [(entry.figure(GREY_LEVELS), entry.size) for entry in entries]
    factors = [levels / size for levels, size in pairs if levels and size]
    if not factors or not all(math.isclose(factor, factors[0], rel_tol=1e-6) for factor in factors):
        return
    factor = factors[0]
    above = axes.secondary_xaxis(
        "top", functions=(lambda size: np.multiply(size, factor), lambda grey: np.divide(grey, factor))
    )
    above.set_xlabel("root mean square change in grey levels of 255", fontsize=9, color=_FAINT)
    above.tick_params(colors=_FAINT, labelsize=8)
    above.spines["top"].set_color("#999999")


def _add_legend(figure: Figure) -> None:
    """The legend below the panels, in one column where texts are long; the figure grows with it."""
    found = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles, texts = _unique(*([part for parts in side for part in parts] for side in zip(*found)))
    columns = 2 if len(texts) > 1 and max(map(len, texts)) <= 48 else 1
    figure.legend(handles, texts, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, labelcolor=INK)
    scales = 0.5 * any(axes.child_axes for axes in figure.axes)
    figure.set_size_inches(3.4 + 3.8 * len(figure.axes), 3.7 + scales + 0.2 * math.ceil(len(texts) / columns))


def _unique(handles: Iterable[Artist], texts: Iterable[str]) -> tuple[list[Artist], list[str]]:
    """Legend entries without repeated texts, certificates first, then attacks, then the figures without attacker."""
    first: dict[str, Artist] = {}
    for handle, text in zip(handles, texts):
        first.setdefault(text, handle)
    kinds = ("certified", "attacked", "no attacker")
    order = sorted(first, key=lambda text: kinds.index(text.split(":")[0].split(",")[0]))
    return [first[text] for text in order], order
