"""The table of figures: one object that renders as Markdown, on the console and as CSV.

``certified_accuracy`` of a certifier and ``attacked_accuracy`` of an attack stand in one column with the plain
``accuracy`` of a prediction, and a column says which of the three a row is: read downwards, they are the figure
without attacker, the lower bound and the upper bound. Figures of different estimators never share a column. What a
figure is called, how it is shown and what it means is read in the registry (:mod:`certseg.metrics.figures`).
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
from certseg.metrics import FIGURES, Estimator, FigureKey, Side, Unit
from certseg.metrics.figures import LAST, words
from certseg.reporting.entries import KINDS, Entry, labels, plural, threat_text
from certseg.types import Guarantee

_ROLES = {"prediction": "clean", "certifier": "certified", "attack": "attacked"}
_ROLE_LEGEND = {
    "prediction": "clean: without attacker",
    "certifier": "certified: certified and correct, an abstained pixel is a miss",
    "attack": "attacked: what an attack reached, the worst case is not above it",
}
_LOWER_LEGEND = "bounds of the worst case from below, as far as the certificate promises: "
_COUNT_LEGEND = (
    "counts of certified pixels and no bounds, where a certificate lets some of them be wrong or promises nothing "
    "about an image: "
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
        entries: the summaries, one for each row.
        columns: the columns, descriptions first.
        legend: what estimators and kinds of rows mean, and how many images the figures are over.
    """

    entries: tuple[Entry, ...]
    columns: tuple[Column, ...]
    legend: tuple[str, ...]

    def markdown(self) -> str:
        """The table and its legend in Markdown."""
        rows = [[column.header for column in self.columns], ["---:" if c.is_figure else "---" for c in self.columns]]
        rows += [list(cells) for cells in zip(*(column.cells for column in self.columns))]
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

    >>> figures = {"accuracy/image_mean": 0.875, "miou/pooled": 0.75}
    >>> entry = Entry({"kind": "prediction", "name": "prediction", "images": 2, "figures": figures})
    >>> for line in figure_table([entry]).markdown().splitlines()[:3]:
    ...     print(line)
    |  | accuracy % (image mean) | mIoU % (pooled) |
    | --- | ---: | ---: |
    | prediction | 87.5 | 75.0 |
    """
    if not entries:
        raise ResultError("There is nothing to tabulate", expected="at least one summary")
    ordered = tuple(sorted(entries, key=lambda entry: KINDS.index(entry.kind)))
    return FigureTable(ordered, (*_descriptions(ordered), *_figures(ordered)), _legend(ordered))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts in Markdown, with a line break at its end."""
    return "\n".join(_markdown_row(line) for line in (header, ["---"] * len(header), *rows)) + "\n"


def _needed_width(column: Column, first: bool) -> int:
    """Characters below which words of the first column and of headers, and cells of the others, would be broken."""
    cells = [word for cell in column.cells for word in cell.split()] if first else list(column.cells)
    return min(24, max(len(text) for text in (*cells, *column.header.split(), "")))


def _rich(columns: Sequence[Column], widths: Sequence[int], rows: int | None) -> rich.table.Table:
    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), caption_justify="left"
    )
    for column, width in zip(columns, widths):
        is_first = column is columns[0]
        table.add_column(
            rich.text.Text(column.header),
            justify="right" if column.is_figure else "left",
            overflow="fold",
            min_width=width if is_first else None,
            width=None if is_first else width,
        )
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


@dataclass(frozen=True)
class _Place:
    """What figures of one column share."""

    heading: str
    unit: Unit
    estimator: Estimator | None

    @property
    def header(self) -> str:
        parts = (self.heading, self.unit.mark, "" if self.estimator is None else self.estimator.words)
        return " ".join(part for part in parts if part)


def _places(entry: Entry) -> dict[_Place, FigureKey]:
    """The figures of an entry by column; one whose column is taken has another of its own."""
    places: dict[_Place, FigureKey] = {}
    for key in map(FIGURES.key, entry.summary["figures"]):
        found = (_Place(text, key.figure.unit, key.estimator) for text in (key.heading, key.name_in_words, str(key)))
        places[next(place for place in found if place not in places)] = key
    return places


def _in_order(by_entry: Sequence[Mapping[_Place, FigureKey]]) -> dict[_Place, list[FigureKey]]:
    """The columns with the different figures in each, in reading order; those without one stay as they come."""
    columns: dict[_Place, list[FigureKey]] = {}
    for place, key in (pair for places in by_entry for pair in places.items()):
        columns.setdefault(place, []).append(key)
    estimators = [*Estimator, None]

    def position(place: _Place) -> tuple[int, int]:
        order = min(key.figure.order for key in columns[place])
        return order, estimators.index(place.estimator) if order < LAST else 0

    return {place: list(dict.fromkeys(columns[place])) for place in sorted(columns, key=position)}


def _figures(entries: Sequence[Entry]) -> Iterator[Column]:
    by_entry = [_places(entry) for entry in entries]
    seen = set()
    for place in _in_order(by_entry):
        cells = (_cell(entry, mine.get(place)) for entry, mine in zip(entries, by_entry))
        is_average = place.estimator is not None and place.estimator.is_average
        yield Column(place.header, tuple(cells), is_optional=is_average and (place.heading, place.unit) in seen)
        seen.add((place.heading, place.unit))


def _legend(entries: Sequence[Entry]) -> tuple[str, ...]:
    columns = _in_order([_places(entry) for entry in entries])
    keys = [key for found in columns.values() for key in found]
    used = {key.estimator for key in keys}
    lines = [f"{words(one.suffix)}: {one.meaning}" for one in Estimator if one in used and one.is_average]
    kinds = {entry.kind for entry in entries}
    if len(kinds) > 1 or "prediction" not in kinds:
        lines += [text for kind, text in _ROLE_LEGEND.items() if kind in kinds]
    first = {key.figure: key for key in reversed(keys)}  # of a family one is enough
    keys = [key for key in keys if first[key.figure] is key]
    lower = [key.heading for key in keys if key.figure.side is Side.LOWER and _is_bound(entries, key)]
    if lower:
        lines.append(_LOWER_LEGEND + ", ".join(dict.fromkeys(lower)))
    counts = [key.heading for key in keys if key.figure.side is Side.LOWER and not _is_bound(entries, key, all_of=True)]
    if counts:
        lines.append(_COUNT_LEGEND + ", ".join(dict.fromkeys(counts)))
    lines += [f"{key.heading}: {key.meaning}" for key in keys if key.meaning and not key.figure.is_plain]
    unknown = [key.heading for key in keys if not key.figure.is_described]
    if unknown:
        lines.append(f"without a description: {', '.join(dict.fromkeys(unknown))}")
    if len({entry.images for entry in entries}) == 1:
        lines.append(f"over {plural(entries[0].images, 'image')}")
    return tuple(lines)


def _is_bound(entries: Sequence[Entry], key: FigureKey, *, all_of: bool = False) -> bool:
    """Whether a figure is a lower bound in any entry that has it, or in all of them, as their guarantees say; where an
    entry has none, as the figure says."""
    guarantees = [
        Guarantee.from_json(told) if (told := entry.summary.get("guarantee")) else None
        for entry in entries
        if str(key) in entry.summary["figures"]
    ]
    bound = (guarantee is None or key.figure.bounds_under(guarantee) for guarantee in guarantees)
    return all(bound) if all_of else any(bound)


def _cell(entry: Entry, key: FigureKey | None) -> str:
    if key is None:
        return ""
    value = entry.figure(str(key))
    return _UNDEFINED if value is None else key.figure.unit.shown(value)


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
