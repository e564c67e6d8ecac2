"""The report of a run (``report.md``) and its summary on the console, both made from summaries alone."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from certseg.errors import ResultError
from certseg.metrics.figures import words
from certseg.reporting.claims import bracket_status, claim, masked_gradients, pairs, probability, separate_tests
from certseg.reporting.entries import Entry, duration, labels, plural, threat_text
from certseg.reporting.object_tables import object_table
from certseg.reporting.plots import radius_figures, save_figure
from certseg.reporting.storage import write_text_atomic
from certseg.reporting.tables import figure_table, markdown_table
from certseg.reporting.tightness import gap_line, tightness

REPORT_FILE = "report.md"
_CONSOLE_WIDTH, _CONSOLE_LINES = 100, 24


def write_report(
    directory: str | os.PathLike[str],
    *,
    title: str,
    command: str,
    entries: Sequence[Entry],
    pictures: Sequence[str | os.PathLike[str]] = (),
    expected: str | None = None,
    context: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``report.md``, ``figures.csv`` and ``figures/accuracy-<threat>.{png,pdf}`` and return the report.

    Args:
        directory: where to write; created if missing. Links in the report are relative to it.
        title: the report's heading.
        command: the command line that gave the results.
        entries: what to report.
        pictures: files drawn by :func:`certseg.reporting.picture`.
        expected: Markdown, what a paper found or what is to be found.
        context: versions, device, commit, data set, seconds, whatever else tells how the results came about; one
            level of nesting is written as a sub-list.

    Raises:
        ResultError: no entries, a picture that does not exist, or a file that cannot be written.
    """
    directory = Path(directory)
    missing = [os.fspath(path) for path in pictures if not Path(path).is_file()]
    if missing:
        raise ResultError("A picture for the report does not exist", received=", ".join(missing))
    table = figure_table(entries)
    write_text_atomic(directory / "figures.csv", table.csv())
    plots = [
        save_figure(figure, directory / "figures" / f"accuracy-{norm}")[0]
        for norm, figure in radius_figures(entries).items()
    ]
    sections = [
        f"# {title}\n\n```sh\n{command.strip()}\n```\n",
        table.markdown(),
        *(f"> **Labels.** {line}\n" for line in _labels(table.entries)),
        *([f"## To compare with\n\n{expected.strip()}\n"] if expected else []),
        "## What the numbers mean\n\n" + "\n".join(_meaning(table.entries)) + "\n",
        *_images("Accuracy against the size of the threat", plots, directory),
        *tightness(table.entries),
        *_images("Pictures", pictures, directory),
        *_by_radius(table.entries),
        *_members(table.entries),
        *object_table(table.entries),
        *_class_table(table.entries),
        "## Cost\n\n" + _cost(table.entries),
        *_places(table.entries, directory),
        *_context(context or {}),
    ]
    write_text_atomic(directory / REPORT_FILE, "\n".join(sections))
    return directory / REPORT_FILE


def console_summary(
    entries: Sequence[Entry],
    *,
    report: str | os.PathLike[str] | None = None,
    seconds: float | None = None,
    console: Console | None = None,
) -> None:
    """Print the figures, the state of the bracket, the seconds and where the report lies, on at most 24 x 100.

    Args:
        entries: what to show; of more than fit the first ones are shown and the rest counted.
        report: the report, shown as its path.
        seconds: wall-clock seconds of the whole run; the sum over entries if not given.
        console: where to print.

    Raises:
        ResultError: there are no entries.
    """
    if console is None:
        console = Console() if Console().is_terminal else Console(width=_CONSOLE_WIDTH)  # a log file has no width
    width = min(_CONSOLE_WIDTH, console.width)
    status = bracket_status(entries)
    style = "bold red" if status.startswith("VIOLATED") else "green" if status.startswith("holds") else "dim"
    spent = sum(entry.seconds for entry in entries) if seconds is None else seconds
    flags, gaps = _flags(entries), gap_line(entries)
    closing = [
        *(Text.assemble("check    ", (line, "bold red")) for line in masked_gradients(entries)),
        *(Text.assemble("labels   ", (line, "yellow")) for line in _labels(entries, only_obstacles=True)),
        Text.assemble("bracket  ", (status, style)),
        *([Text(f"gap      {gaps}")] if gaps else []),
        *([Text.assemble("flags    ", (flags, "yellow"))] if flags else []),
        Text(f"time     {duration(spent)}"),
        *([Text.assemble("report   ", (_from_here(report), "bold"))] if report is not None else []),
    ]
    table = figure_table(entries)
    options = console.options.update(width=width, height=None)
    closing_lines = sum(len(console.render_lines(text, options)) for text in closing)
    rows = len(entries)
    while rows > 2 and len(console.render_lines(table.rich(width, rows), options)) > _CONSOLE_LINES - closing_lines:
        rows -= 1
    console.print(table.rich(width, rows), width=width)
    for text in closing:
        console.print(text, width=width, highlight=False)


def _meaning(entries: Sequence[Entry]) -> Iterator[str]:
    """One line per statement, with the entries it is about in front."""
    subjects: dict[str, list[str]] = {}
    for entry, label in zip(entries, labels(entries)):
        threat = f" ({threat_text(entry.threat)})" if entry.threat else ""
        subjects.setdefault(_statement(entry), []).append(f"**{label}**{threat}")
    for statement, names in subjects.items():
        yield f"- {', '.join(dict.fromkeys(names))}: {statement}"
    yield f"- **Bracket**, certified ≤ worst case ≤ attacked: {bracket_status(entries)}."
    yield from (f"- **Self-check**: {line}" for line in masked_gradients(entries))
    yield from (f"- **Curve**: {line}" for line in separate_tests(entries))
    single = (pair for pair in pairs(entries) if not pair.is_collective)  # the others have a table of their own
    # a mean over the images is a joint statement about all of them
    for pair in (pair for pair in single if pair.holds and pair.lower <= pair.upper and pair.confidence > 0):
        surely = "without error probability"
        if pair.confidence < 1:
            surely = f"with probability ≥ {probability(pair.confidence)} for {plural(pair.certifier.images, 'image')}"
        elif pair.certifier.guarantee.assumption:
            surely = "under the assumption above"
        yield (
            f"  - `{pair.certifier.predictor}`, {threat_text(pair.certifier.threat)}: {surely} the worst case of the "
            f"accuracy (image mean) lies between {_percent(pair.lower)} % ({pair.certifier.name}) and "
            f"{_percent(pair.upper)} % ({pair.attack.name})."
        )


def _labels(entries: Sequence[Entry], *, only_obstacles: bool = False) -> list[str]:
    """What the labels do not let figures say, and where a network is worse than none, each sentence once."""
    told = (entry.summary.get("labels") or {} for entry in entries)
    kinds = ("obstacle", "doubt") if only_obstacles else ("obstacle", "doubt", "absent")
    return list(dict.fromkeys(labels[kind] for labels in told for kind in kinds if labels.get(kind)))


def _statement(entry: Entry) -> str:
    subject = f"`{entry.predictor}`" if entry.predictor else "the model"
    if entry.kind == "certifier":
        return claim(entry)
    if not entry.has_budget:
        return (
            f"The smallest perturbations with which the attack reached its goal on {subject}. A stronger one may find "
            "smaller ones: their norms bound the worst case from above."
        )
    if entry.kind == "attack" and entry.confidence is not None:
        return (
            f"What the attack made of {subject}, whose answer is told by votes. With probability ≥ "
            f"{probability(entry.confidence)} per image no pixel counts as lost whose answer is still right: attacked "
            "figures are bounds of the worst case from above, voted ones estimates. A stronger one may do worse."
        )
    if entry.kind == "attack":
        return f"What the attack made of {subject}. A stronger one may do worse: a bound of the worst case from above."
    return f"{subject} without an attacker."


def _images(heading: str, paths: Sequence[str | os.PathLike[str]], directory: Path) -> Iterator[str]:
    if paths:
        links = [f"![{Path(path).stem}]({_link(path, directory)})\n" for path in paths]
        yield f"## {heading}\n\n" + "\n".join(links)


def _class_table(entries: Sequence[Entry]) -> Iterator[str]:
    columns = [
        (f"{label}, {threat_text(entry.threat)}: {words(name)}" if entry.threat else f"{label}: {words(name)}", values)
        for entry, label in zip(entries, labels(entries))
        for name, values in (entry.summary.get("class_iou") or {}).items()
    ]
    if columns:
        classes = dict.fromkeys(name for _, values in columns for name in values)
        rows = [[name, *(_percent(values.get(name)) for _, values in columns)] for name in classes]
        header = ["IoU % (pooled)", *(text for text, _ in columns)]
        yield "## Classes\n\n" + markdown_table(header, rows) + "\n– : the class does not occur in the labels.\n"


def _by_radius(entries: Sequence[Entry]) -> Iterator[str]:
    """A table for each entry that has figures at several radii."""
    for entry, label in zip(entries, labels(entries)):
        rows = entry.by_radius
        if rows:
            yield f"## {label} at several radii\n\n" + figure_table(rows).markdown()


def _members(entries: Sequence[Entry]) -> Iterator[str]:
    """A table for each ensemble of attacks: its summary has ``members``, figures by name."""
    for entry, label in zip(entries, labels(entries)):
        members = entry.summary.get("members") or {}
        rows = [
            Entry({**entry.summary, "name": name, "settings": {}, "figures": figures})
            for name, figures in members.items()
        ]
        if rows:
            note = "\nPasses and seconds of members are those at the largest radius.\n" * ("by_radius" in entry.summary)
            yield f"## {label}: its members\n\n" + figure_table([*rows, entry]).markdown() + note


def _cost(entries: Sequence[Entry]) -> str:
    rows = []
    for entry, label in zip(entries, labels(entries)):
        parts = (f"{name} {duration(value)}" for name, value in (entry.summary.get("seconds") or {}).items() if value)
        passes = entry.summary.get("passes") or {}
        each = duration(entry.seconds / entry.images) if entry.images else ""
        rows.append(
            [label, threat_text(entry.threat), ", ".join(parts), each]
            + [str(passes.get(direction, 0)) for direction in ("forward", "backward")]
            + [_flags([entry])]
        )
    header = ["", "threat", "seconds", "per image", "forward passes", "backward passes", "flags"]
    return markdown_table(header, rows)


def _places(entries: Sequence[Entry], directory: Path) -> Iterator[str]:
    places = ((entry.directory, label) for entry, label in zip(entries, labels(entries)))
    stored = [(place, label) for place, label in places if place is not None]
    if stored:
        lines = [f"- {label}: [{_relative(place, directory)}]({_link(place, directory)})" for place, label in stored]
        yield "## Where the results are\n\n" + "\n".join(lines) + "\n\nEach folder holds one row per image.\n"


def _context(context: Mapping[str, Any]) -> Iterator[str]:
    if context:
        lines = []
        for key, value in context.items():
            if isinstance(value, Mapping):
                lines += [f"- {words(str(key))}", *(f"  - {name}: {entry}" for name, entry in value.items())]
            else:
                lines.append(f"- {words(str(key))}: {duration(value) if key == 'seconds' else value}")
        yield "## How they came about\n\n" + "\n".join(lines) + "\n"


def _flags(entries: Sequence[Entry]) -> str:
    totals: dict[str, int] = {}
    for entry in entries:
        for flag, count in (entry.summary.get("flags") or {}).items():
            totals[flag] = totals.get(flag, 0) + count
    return ", ".join(f"{flag} x {count}" for flag, count in totals.items() if count)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _relative(path: str | os.PathLike[str], directory: Path) -> str:
    return Path(os.path.relpath(path, directory)).as_posix()


def _from_here(path: str | os.PathLike[str]) -> str:
    """The path as seen from the working directory, in full if it lies outside."""
    relative = os.path.relpath(path)
    return os.path.abspath(path) if relative.startswith(os.pardir) else relative


def _link(path: str | os.PathLike[str], directory: Path) -> str:
    return urllib.parse.quote(_relative(path, directory), safe="/=")
