"""The table of labelled objects by class and size: how many are kept, certified to be kept, left by an attack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from certseg.metrics import SHARE
from certseg.reporting.entries import Entry, labels, threat_text
from certseg.reporting.tables import markdown_table
from certseg.types import Guarantee

_ROLES = {"prediction": "kept", "certifier": "certified to be kept", "attack": "left by the attack"}


def object_table(entries: Sequence[Entry]) -> Iterator[str]:
    """A section of a report; none where no entry tells of objects.

    Args:
        entries: the results; those with ``objects`` in their summary are columns, with a further one for the objects'
            own test where there was one.
    """
    told = [
        (entry, label, objects)
        for entry, label in zip(entries, labels(entries))
        if (objects := entry.summary.get("objects"))
    ]
    if not told:
        return
    columns: list[str] = []
    cells: dict[tuple[str, str, int], dict[str, float | None]] = {}
    for entry, label, objects in told:
        head = f"{label}, {threat_text(entry.threat)}" if entry.threat else label
        for part, role in (("kept", _ROLES[entry.kind]), ("present", "certified to be present")):
            if any(part in row for row in objects["by_size"]):
                columns.append(f"{head}: {role} %")
                for row in objects["by_size"]:
                    place = row["class"], row["size"], row["objects"]
                    cells.setdefault(place, {})[columns[-1]] = row.get(part)
    rows = [
        [f"{name}, {size}", str(number), *(_share(values.get(column)) for column in columns)]
        for (name, size, number), values in cells.items()
    ]
    shares = ", ".join(dict.fromkeys(f"{100 * objects['share']:g} %" for _, _, objects in told))
    yield (
        "## Objects\n\n"
        + markdown_table(["", "objects", *columns], rows)
        + f"\nAn object is kept where at least {shares} of its pixels has its class. – : there is no such object, or "
        "nothing is promised about it.\n" + "".join(_test(entry, label) for entry, label, _ in told)
    )


def _test(entry: Entry, label: str) -> str:
    """What the objects' own test promises, in words; empty where there was none."""
    fields = entry.summary.get("region_guarantee")
    if fields is None:
        return ""
    guarantee = Guarantee.from_json(fields)
    return (
        f"\n**{label}**, the objects' own test: with probability ≥ {round(guarantee.confidence, 12):.12g} per image, "
        f"{guarantee.statement()}. Together with the certificate of pixels it holds with 1 minus both error "
        f"probabilities. It is about `{guarantee.predictor}`, which no attack is on: it is compared with none.\n"
    )


def _share(value: float | None) -> str:
    return "–" if value is None or value != value else SHARE.shown(value)
