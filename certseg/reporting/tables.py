"""The table of figures: one object that renders as Markdown, on the console and as CSV.

``certified_accuracy`` of a certifier and ``attacked_accuracy`` of an attack stand in one column with the plain
``accuracy`` of a prediction, and a column says which of the three a row is: read downwards, they are the figure
without attacker, the lower bound and the upper bound. Figures of different estimators never share a column.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rich.box
import rich.table
import rich.text

from certseg.errors import ResultError
from certseg.reporting.entries import KINDS, Entry, labels, number, plural, threat_text, words

ESTIMATORS = {
    "image_mean": "image mean: computed per image, then averaged over the images",
    "pooled": "pooled: counted over all pixels of the data set (mIoU: mean over the classes present in its labels)",
}
_ROLES = {"prediction": "clean", "certifier": "certified", "attack": "attacked"}
_ROLE_LEGEND = {
    "prediction": "clean: without attacker",
    "certifier": "certified: certified and correct, an abstained pixel is a miss; nobody within the threat gets the "
    "accuracy below it, while for the mIoU only a worst-case figure is such a bound",
    "attack": "attacked: what an attack reached, the worst case is not above it",
}
# A figure whose name ends in one of these is a share and is shown in per cent.
_SHARES = (
    "accuracy",
    "miou",
    "iou",
    "abstention",
    "recall",
    "precision",
    "share",
    "ratio",
    "rate",
    "far",
    "fnr",
    "gain",
)
# Reading order of the figures met most; all others follow in the order in which they come.
_ORDER = (
    "accuracy",
    "collective_accuracy",
    "norm",
    "reached_share",
    "group_accuracy",
    "information_gain",
    "miou",
    "worst_case_miou",
    "abstention",
    "group_abstention",
    "prediction_accuracy",
    "prediction_miou",
)
_GROUP_LEGEND = (
    "group accuracy: certified groups of classes that hold the true one count too, in accuracy and mIoU they do not; "
    "group abstention: certified on no level; "
    "information gain: of those pixels one whose group has s of the K classes counts 1 - log s / log K; level: share "
    "of the pixels certified on it, level 0 are the classes"
)
_COLLECTIVE_LEGEND = (
    "collective accuracy: what one perturbation of the whole image must leave, where accuracy and abstention ask of "
    "each pixel whether any perturbation changes it; robustness@25: radius below which less than 25 % of the pixels "
    "change; grey levels: the radius as root mean square change of an 8-bit value"
)
_NORM_LEGEND = (
    "norm: of the smallest perturbation found; where the goal was not reached it is infinite, and a mean or percentile "
    "that takes it in is shown as a dash; norm@25: a quarter of the images has none above it; reached share: images "
    "whose goal was reached, at several radii within each of them; the accuracies beside are those at the points found"
)
_UNDEFINED = "–"


@dataclass(frozen=True)
class Column:
    """A column as shown.

    Args:
        header: name, unit and estimator, for example ``accuracy % (image mean)``.
        cells: one text per row; empty where the row has no such figure, a dash where it is undefined.
        is_figure: whether it holds numbers.
        is_optional: whether a narrow console may leave it out first.
    """

    header: str
    cells: tuple[str, ...]
    is_figure: bool = True
    is_optional: bool = False


@dataclass(frozen=True)
class FigureTable:
    """Figures of several entries. Build it with :func:`figure_table`.

    Args:
        entries: the rows.
        columns: the columns, descriptions first.
        legend: what estimators and kinds of rows mean, and how many images the figures are over.
    """

    entries: tuple[Entry, ...]
    columns: tuple[Column, ...]
    legend: tuple[str, ...]

    def markdown(self) -> str:
        """The table and its legend in Markdown."""
        rows = [[column.header for column in self.columns], ["---:" if c.is_figure else "---" for c in self.columns]]
        rows += zip(*(column.cells for column in self.columns))
        legend = "; ".join(self.legend)
        return "\n".join(_markdown_row(row) for row in rows) + f"\n\n{legend[:1].upper()}{legend[1:]}.\n"

    def rich(self, width: int = 100, rows: int | None = None) -> rich.table.Table:
        """The table for a console of ``width`` columns, with at most ``rows`` rows.

        Where there is no room, second estimators and the predictor are left out first, then the last figures, then
        the last rows; the table says so.
        """
        for columns in _fewer(self.columns):
            widths = [_needed_width(column, first=column is self.columns[0]) for column in columns]
            if sum(widths) + 2 * (len(widths) - 1) <= width:
                break
        table = _rich(columns, widths, rows)
        if len(columns) < len(self.columns):
            left_out = plural(len(self.columns) - len(columns), "more column")
            table.caption = f"{left_out} in the report"
        return table

    def csv(self) -> str:
        """Everything as CSV: figures with full precision, as stored (shares in [0, 1]), under their full names."""
        fixed = ["kind", "name", "model", "predictor", "images", "confidence"]
        groups = {part: _union(getattr(entry, part) for entry in self.entries) for part in ("threat", "settings")}
        figures = _union(entry.summary["figures"] for entry in self.entries)
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(fixed + [f"{part}.{key}" for part, keys in groups.items() for key in keys] + figures)
        for entry in self.entries:
            described = [getattr(entry, part).get(key) for part, keys in groups.items() for key in keys]
            values = [getattr(entry, key) for key in fixed] + described + [entry.figure(name) for name in figures]
            writer.writerow(["" if value is None else value for value in values])
        return out.getvalue()


def figure_table(entries: Sequence[Entry]) -> FigureTable:
    """The table of all figures that occur in ``entries``: predictions first, then certifiers, then attacks.

    Raises:
        ResultError: there are no entries.
    """
    if not entries:
        raise ResultError("There is nothing to tabulate", expected="at least one summary")
    ordered = tuple(sorted(entries, key=lambda entry: KINDS.index(entry.kind)))
    return FigureTable(ordered, (*_descriptions(ordered), *_figures(ordered)), _legend(ordered))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts in Markdown, with a line break at its end."""
    return "\n".join(_markdown_row(line) for line in (header, ["---"] * len(header), *rows)) + "\n"


def shared_name(entry: Entry, figure: str) -> str:
    """The column of a figure: its name without ``certified_`` on a certifier's row, ``attacked_`` on an attack's."""
    return figure.removeprefix(f"{_ROLES[entry.kind]}_")


def _needed_width(column: Column, first: bool) -> int:
    """Characters below which words of the first column and of headers, and cells of the others, would be broken."""
    cells = [word for cell in column.cells for word in cell.split()] if first else list(column.cells)
    return min(24, max(len(text) for text in (*cells, *column.header.split(), "")))


def _rich(columns: Sequence[Column], widths: Sequence[int], rows: int | None) -> rich.table.Table:
    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), caption_justify="left"
    )
    for column, width in zip(columns, widths):
        justify = "right" if column.is_figure else "left"
        exact = {"min_width": width} if column is columns[0] else {"width": width}
        table.add_column(rich.text.Text(column.header), justify=justify, overflow="fold", **exact)
    cells = list(zip(*(column.cells for column in columns)))
    shown = cells if rows is None or len(cells) <= rows else cells[: max(1, rows - 1)]
    for row in shown:
        table.add_row(*(rich.text.Text(cell) for cell in row))
    if len(shown) < len(cells):
        table.add_row(rich.text.Text(f"and {len(cells) - len(shown)} more", style="dim"))
    return table


def _descriptions(entries: Sequence[Entry]) -> Iterator[Column]:
    yield Column("", tuple(labels(entries)), is_figure=False)
    if len({entry.predictor for entry in entries}) > 1:
        yield Column("predictor", tuple(entry.predictor for entry in entries), is_figure=False, is_optional=True)
    if any(entry.threat for entry in entries):
        yield Column("threat", tuple(threat_text(entry.threat) for entry in entries), is_figure=False)
    if len({entry.kind for entry in entries}) > 1:
        yield Column("figures", tuple(_ROLES[entry.kind] for entry in entries), is_figure=False)
    if len({entry.images for entry in entries}) > 1:
        yield Column("images", tuple(str(entry.images) for entry in entries))


def _figures(entries: Sequence[Entry]) -> Iterator[Column]:
    by_entry = [{shared_name(entry, name): name for name in entry.summary["figures"]} for entry in entries]
    names = _union(by_entry)
    names.sort(key=_position)  # stable: unknown figures stay in the order in which they come
    seen = set()
    for name in names:
        stem, estimator = _split(name)
        cells = (_cell(entry, mine.get(name), _is_share(stem)) for entry, mine in zip(entries, by_entry))
        yield Column(_header(stem, estimator), tuple(cells), is_optional=estimator in ESTIMATORS and stem in seen)
        seen.add(stem)


def _legend(entries: Sequence[Entry]) -> tuple[str, ...]:
    used = {_split(name)[1] for entry in entries for name in entry.summary["figures"]}
    lines = [text for estimator, text in ESTIMATORS.items() if estimator in used]
    kinds = {entry.kind for entry in entries}
    if len(kinds) > 1 or "prediction" not in kinds:
        lines += [text for kind, text in _ROLE_LEGEND.items() if kind in kinds]
    if any("level_0_share" in _split(name)[0] for entry in entries for name in entry.summary["figures"]):
        lines.append(_GROUP_LEGEND)
    if any("collective_accuracy" in name for entry in entries for name in entry.summary["figures"]):
        lines.append(_COLLECTIVE_LEGEND)
    if any("reached_share" in name for entry in entries for name in entry.summary["figures"]):
        lines.append(_NORM_LEGEND)
    if len({entry.images for entry in entries}) == 1:
        lines.append(f"over {plural(entries[0].images, 'image')}")
    return tuple(lines)


def _split(name: str) -> tuple[str, str]:
    stem, slash, estimator = name.rpartition("/")
    return (stem, estimator) if slash else (name, "")


def _is_share(stem: str) -> bool:
    return stem.split("@")[0].rpartition("_")[2].lower() in _SHARES


def _header(stem: str, estimator: str) -> str:
    text = words(stem) + (" %" if _is_share(stem) else "")
    if estimator in ESTIMATORS:
        return f"{text} ({words(estimator)})"
    return f"{text} {words(estimator)}".strip()


def _cell(entry: Entry, name: str | None, is_share: bool) -> str:
    if name is None:
        return ""
    value = entry.figure(name)
    if value is None:
        return _UNDEFINED
    return f"{100 * value:.1f}" if is_share else number(value)


def _position(name: str) -> tuple[int, int]:
    stem, estimator = _split(name)
    if stem not in _ORDER:
        return len(_ORDER), 0
    return _ORDER.index(stem), list(ESTIMATORS).index(estimator) if estimator in ESTIMATORS else len(ESTIMATORS)


def _fewer(columns: tuple[Column, ...]) -> Iterator[tuple[Column, ...]]:
    """Ever fewer columns: all, without the optional ones, then without the last figures."""
    yield columns
    needed = tuple(column for column in columns if not column.is_optional)
    described = sum(not column.is_figure for column in needed)
    for count in range(len(needed), described, -1):
        yield needed[:count]


def _union(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
