"""Accuracy against the attacker's radius: certificates from below, attacks from above.

Drawn on :class:`matplotlib.figure.Figure` objects without pyplot, so nothing global changes and no display is needed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from certseg.reporting.entries import Entry, plural, settings_text

# Okabe and Ito's colours, told apart with every common colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_ATTACK_MARKERS = ("v", "X", "s", "D", "P", "^")
_CERTIFIED = "certified_accuracy/image_mean"
_ABSTENTION = "abstention/image_mean"
_PREDICTION = "prediction_accuracy/image_mean"
_ATTACKED = "attacked_accuracy/image_mean"
_CLEAN = "accuracy/image_mean"
INK = "#333333"


def radius_figures(entries: Sequence[Entry]) -> dict[str, Figure]:
    """One figure per kind of threat (``l2``, ``linf``, ...): accuracy (image mean) against its size.

    A certifier's entries that share everything but the radius and settings that change with it are one line; the
    light band above it is what abstains. Attacks are markers at their radius; where there are certificates, only
    attacks on one of the certified predictors are drawn, for no others may be compared with them. At radius 0 stand
    the certified predictors' own accuracy and that of the plain network.

    Returns:
        The figures by threat; empty when no entry has both a threat with a size and an accuracy.
    """
    figures = {}
    for norm in dict.fromkeys(entry.norm for entry in entries if _has_point(entry)):
        certified = [e for e in entries if e.norm == norm and _point(e, _CERTIFIED)]
        subjects = dict.fromkeys((e.model, e.predictor) for e in certified)
        attacked = [e for e in entries if e.norm == norm and _point(e, _ATTACKED)]
        if subjects:
            attacked = [e for e in attacked if (e.model, e.predictor) in subjects]
        if certified or attacked:
            clean = [e for e in entries if e.kind == "prediction" and e.figure(_CLEAN) is not None]
            figures[norm] = _radius_figure(certified, attacked, clean)
    return figures


def save_figure(figure: Figure, stem: str | os.PathLike[str], formats: Iterable[str] = ("png", "pdf")) -> list[Path]:
    """Write ``figure`` to ``<stem>.<format>`` for every format and return the files; folders are created."""
    paths = [Path(f"{os.fspath(stem)}.{suffix}") for suffix in formats]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a date the same results give the same file.
        metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(path.suffix[1:])
        figure.savefig(path, dpi=200, metadata=metadata)
    return paths


def sweeps(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Group entries into lines, each sorted by size.

    One line shares model, name, predictor and every setting that takes several values at one and the same size (a
    setting that changes only together with the size, such as the threshold a radius comes from, does not split it).
    """
    families: dict[tuple, list[Entry]] = {}
    for entry in entries:
        families.setdefault((entry.model, entry.subject, entry.name, entry.predictor), []).append(entry)
    lines: dict[tuple, list[Entry]] = {}
    for family, members in families.items():
        splitting = _settings_at_equal_size(members)
        for entry in members:
            key = (*family, *(str(entry.settings.get(name)) for name in splitting))
            lines.setdefault(key, []).append(entry)
    return [sorted(line, key=lambda entry: entry.size) for line in lines.values()]


def _settings_at_equal_size(members: Sequence[Entry]) -> list[str]:
    names = dict.fromkeys(name for entry in members for name in entry.settings)
    return [
        name
        for name in names
        if any(a.size == b.size and a.settings.get(name) != b.settings.get(name) for a in members for b in members)
    ]


def _radius_figure(certified: list[Entry], attacked: list[Entry], clean: list[Entry]) -> Figure:
    figure = Figure(layout="constrained")
    axes = figure.add_subplot()
    subjects = list(dict.fromkeys((e.model, e.predictor) for e in [*certified, *attacked]))
    if len(subjects) == 1:
        axes.set_title(": ".join(text for text in subjects[0] if text), loc="left", fontsize=10, color=INK)
    attack_lines, certified_lines = sweeps(attacked), sweeps(certified)
    colours = _line_colours(certified_lines, subjects)
    for line in certified_lines:
        _draw_certified(axes, line, colours[id(line)], _line_label(line, certified_lines, subjects))
        _draw_own(axes, line, colours[id(line)])
    names = list(dict.fromkeys(entry.name for entry in attacked))
    for line in attack_lines:
        colour = next((colours[id(c)] for c in certified_lines if _subject(c) == _subject(line)), None)
        colour = colour or _COLOURS[subjects.index(_subject(line)) % len(_COLOURS)]
        marker = _ATTACK_MARKERS[names.index(line[0].name) % len(_ATTACK_MARKERS)]
        _draw_attacked(axes, line, colour, marker, _line_label(line, attack_lines, subjects))
    _draw_clean(axes, clean)
    _finish(axes, (certified or attacked)[0])
    return figure


def _line_colours(lines: Sequence[list[Entry]], subjects: Sequence[tuple[str, str]]) -> dict[int, str]:
    """One colour per certified line; attacks then take the colour of the first line about their predictor."""
    order = sorted(lines, key=lambda line: subjects.index(_subject(line)))
    return {id(line): _COLOURS[index % len(_COLOURS)] for index, line in enumerate(order)}


def _draw_certified(axes: Axes, line: list[Entry], colour: str, label: str) -> None:
    sizes = [entry.size for entry in line]
    values = [entry.figure(_CERTIFIED) for entry in line]
    tops = [min(1.0, value + (entry.figure(_ABSTENTION) or 0.0)) for entry, value in zip(line, values)]
    if len(line) > 1:
        axes.fill_between(sizes, values, tops, color=colour, alpha=0.12, linewidth=0, gid="abstention")
    else:
        axes.vlines(sizes, values, tops, color=colour, alpha=0.2, linewidth=7, gid="abstention")
    axes.plot(sizes, values, "o-", color=colour, markersize=5.5, linewidth=1.8, label=f"certified: {label}", zorder=3)


def _draw_own(axes: Axes, line: list[Entry], colour: str) -> None:
    """The certified predictor's own accuracy without attacker, once however many lines are about it."""
    values = [entry.figure(_PREDICTION) for entry in line if entry.figure(_PREDICTION) is not None]
    label = f"no attacker: {_own_name(line[0])}"
    if values and label not in axes.get_legend_handles_labels()[1]:
        style = {"color": colour, "markersize": 6, "markerfacecolor": "white", "clip_on": False, "zorder": 4}
        axes.plot([0], values[:1], "o", label=label, **style)


def _draw_attacked(axes: Axes, line: list[Entry], colour: str, marker: str, label: str) -> None:
    sizes, values = [e.size for e in line], [e.figure(_ATTACKED) for e in line]
    style = {"color": colour, "markersize": 7, "markeredgecolor": "white", "linewidth": 1.2}
    axes.plot(sizes, values, linestyle="--", marker=marker, label=f"attacked: {label}", zorder=3, **style)


def _draw_clean(axes: Axes, clean: Sequence[Entry]) -> None:
    for entry, colour in zip(clean, [INK, *_COLOURS]):
        style = {"color": colour, "markersize": 10, "markeredgecolor": "white", "clip_on": False, "zorder": 4}
        axes.plot([0], [entry.figure(_CLEAN)], "*", label=f"no attacker: {_own_name(entry)}", **style)


def _own_name(entry: Entry) -> str:
    return ": ".join(text for text in (entry.model, entry.predictor or entry.name) if text)


def _line_label(line: Sequence[Entry], lines: Sequence[Sequence[Entry]], subjects: Sequence[tuple[str, str]]) -> str:
    """Name, predictor where there are several, and the settings that tell the line from others of both."""
    first = line[0]
    peers = [other for other in lines if other[0].name == first.name and _subject(other) == _subject(line)]
    kept = [key for key, value in first.settings.items() if all(e.settings.get(key) == value for e in line)]
    telling = {k: first.settings[k] for k in kept if any(p[0].settings.get(k) != first.settings[k] for p in peers)}
    text = f"{first.name} ({settings_text(telling)})" if telling else first.name
    if len({model for model, _ in subjects}) > 1 and first.model:
        text = f"{first.model}: {text}"
    return f"{text} on {first.predictor}" if len(subjects) > 1 and first.predictor else text


def _finish(axes: Axes, example: Entry) -> None:
    unit = ", [0, 1] images" if example.size_name == "radius" else ""
    axes.set_xlabel(f"{example.norm} {example.size_name}{unit}", color=INK)
    axes.set_ylabel(f"pixel accuracy (mean over {plural(example.images, 'image')})", color=INK)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
    lowest = min(float(value) for line in axes.lines for value in line.get_ydata())
    axes.set_ylim(max(0.0, math.floor(5 * lowest - 0.5) / 5), 1)
    axes.set_xlim(0, 1.08 * max(float(value) for line in axes.lines for value in line.get_xdata()))
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")
    axes.tick_params(colors=INK)
    if any(artist.get_gid() == "abstention" for artist in axes.collections):
        axes.set_title("light: abstains", loc="right", fontsize=9, color="#777777")
    _add_legend(axes)


def _add_legend(axes: Axes) -> None:
    """The legend below the axes, in one column where texts are long; the figure grows with it."""
    handles, texts = _unique(*axes.get_legend_handles_labels())
    columns = 2 if len(texts) > 1 and max(map(len, texts)) <= 48 else 1
    axes.figure.legend(
        handles, texts, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, labelcolor=INK
    )
    axes.figure.set_size_inches(7.2, 3.7 + 0.2 * math.ceil(len(texts) / columns))


def _unique(handles: Iterable, texts: Iterable[str]) -> tuple[list, list[str]]:
    """Legend entries without repeated texts, certificates first, then attacks, then the figures without attacker."""
    first = {}
    for handle, text in zip(handles, texts):
        first.setdefault(text, handle)
    order = sorted(first, key=lambda text: ("certified", "attacked", "no attacker").index(text.split(":")[0]))
    return [first[text] for text in order], order


def _subject(line: Sequence[Entry]) -> tuple[str, str]:
    return line[0].model, line[0].predictor


def _point(entry: Entry, figure: str) -> bool:
    return entry.size is not None and entry.figure(figure) is not None


def _has_point(entry: Entry) -> bool:
    return _point(entry, _CERTIFIED) or _point(entry, _ATTACKED)
