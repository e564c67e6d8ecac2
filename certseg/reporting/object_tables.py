"""The table of labelled objects by class and size: how many are kept, certified to be kept, left by an attack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from certseg.metrics import SHARE
from certseg.reporting.entries import Entry, labels, threat_text
from certseg.reporting.tables import markdown_table

_ROLES = {"prediction": "kept", "certifier": "certified to be kept", "attack": "left by the attack"}


def object_table(entries: Sequence[Entry]) -> Iterator[str]:
    """A section of a report; none where no entry tells of objects.

    Args:
        entries: the results; those with ``objects`` in their summary are columns.
    """
    told = [
        (entry, label, objects)
        for entry, label in zip(entries, labels(entries))
        if (objects := entry.summary.get("objects"))
    ]
    if not told:
        return
    heads = (f"{label}, {threat_text(entry.threat)}" if entry.threat else label for entry, label, _ in told)
    columns = [f"{head}: {_ROLES[entry.kind]} %" for head, (entry, _, _) in zip(heads, told)]
    numbers: dict[tuple[str, str], int] = {}
    cells: dict[tuple[str, str], dict[int, float | None]] = {}
    for column, (_, _, objects) in enumerate(told):
        for part in objects["by_size"]:
            row = part["class"], part["size"]
            numbers[row] = part["objects"]
            cells.setdefault(row, {})[column] = part["kept"]
    rows = [
        [f"{name}, {size}", str(numbers[name, size]), *(_share(values.get(i)) for i in range(len(told)))]
        for (name, size), values in cells.items()
    ]
    shares = ", ".join(dict.fromkeys(f"{100 * objects['share']:g} %" for _, _, objects in told))
    yield (
        "## Objects\n\n"
        + markdown_table(["", "objects", *columns], rows)
        + f"\nAn object is kept where at least {shares} of its pixels has its class. – : there is no such object, or "
        "nothing is promised about it.\n"
    )


def _share(value: float | None) -> str:
    return "–" if value is None or value != value else SHARE.shown(value)
