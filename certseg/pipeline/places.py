"""Where a result or training lies on disk: under its key, or under the key it had in an earlier version of certseg."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certseg.compute.hardware import rank
from certseg.pipeline.console import say
from certseg.pipeline.keys import key

RESULTS = ("identity.json",)
TRAININGS = ("finished.json", "state.pt")
"""The files by which a directory of a result, or of a training, is known to hold something."""


@dataclass(frozen=True)
class Superseded:
    """A result that may lie there from before a rule changed. It is another result, of which a line is printed.

    Args:
        settings: everything that decides it, in plain values.
        told: what it is, after its directory's name.
        remedy: how it is used all the same, as a sentence; empty where it is not.
    """

    settings: Mapping[str, Any]
    told: str
    remedy: str = ""


@dataclass(frozen=True)
class Identity:
    """What decides a result.

    Args:
        settings: everything that decides the result, in plain values; its hash is the key.
        earlier: the same as it was hashed before keys called classes by name; None where that is not known.
        superseded: what took its place under other rules, in each way of hashing.
    """

    settings: Mapping[str, Any]
    earlier: Mapping[str, Any] | None = None
    superseded: tuple[Superseded, ...] = ()


@dataclass(frozen=True)
class Place:
    """A directory and what it is known by.

    Args:
        directory: the directory, which need not exist yet.
        identity: what decides its content, as it is or will be written in it.
    """

    directory: Path
    identity: dict[str, Any]


def place(folder: Path, stem: str, identity: Identity, marks: tuple[str, ...]) -> Place:
    """Where a result or training of this identity lies, or will lie: ``<folder>/<stem>-<key>``.

    What an earlier version left under its own key is used where it lies, with the identity it was given, and one line
    is printed that says so. One line also says if there are results of an older format, which cannot be used.

    Args:
        folder: the folder of the network or data set, in which the directory lies.
        stem: the first part of the directory's name.
        identity: what decides the content of the directory.
        marks: the files that tell whether a directory holds something, :data:`RESULTS` or :data:`TRAININGS`.
    """
    directory = folder / f"{stem}-{key(identity.settings)}"
    if identity.earlier is not None and not directory.is_dir():
        before = folder / f"{stem}-{key(identity.earlier)}"
        if any((before / mark).exists() for mark in marks):
            if _fits(before, marks, identity.earlier):
                _tell(f"Found under the key of an earlier version: {before}")
                return Place(before, dict(identity.earlier))
            _tell(f"{before} holds something else than its key says and is not used; it is computed anew.")
            return Place(directory, dict(identity.settings))
    if not directory.is_dir():
        for other in identity.superseded:
            before = folder / f"{stem}-{key(other.settings)}"
            if any((before / mark).exists() for mark in marks):
                _tell(f"{before} {other.told} and stays as it is; it is computed anew. {other.remedy}".rstrip())
        _tell_of_older_formats(folder, stem, marks, int(identity.settings["format"]))
    return Place(directory, dict(identity.settings))


def _fits(directory: Path, marks: tuple[str, ...], expected: Mapping[str, Any]) -> bool:
    """Whether the directory says that it holds what is expected; an unfinished training says so when it goes on."""
    found = _identity_in(directory, marks)
    return found is None or found == json.loads(json.dumps(expected, default=str))


def _identity_in(directory: Path, marks: tuple[str, ...]) -> dict[str, Any] | None:
    """The identity that a directory tells in JSON; empty if it cannot be read, None if it tells none."""
    for path in (directory / mark for mark in marks if mark.endswith(".json")):
        if path.exists():
            try:
                content = json.loads(path.read_text())
            except (OSError, ValueError):
                return {}
            found = content.get("identity", content) if isinstance(content, dict) else {}
            return found if isinstance(found, dict) else {}
    return None


def _tell_of_older_formats(folder: Path, stem: str, marks: tuple[str, ...], number: int) -> None:
    """Say how many directories of this stem hold what an older format left."""
    name = re.compile(re.escape(stem) + r"-[0-9a-f]{10}")
    beside = [path for path in folder.glob("*") if name.fullmatch(path.name)] if folder.is_dir() else []
    formats = [(_identity_in(path, marks) or {}).get("format") for path in beside]
    older = [found for found in formats if isinstance(found, int) and found < number]
    if older:
        _tell(
            f"{folder}: {len(older)} earlier {'directory' if len(older) == 1 else 'directories'} {stem}-* of format "
            f"{', '.join(map(str, sorted(set(older))))} cannot be used by this version, whose format is {number}; "
            "what is asked for is computed anew, and they are left alone."
        )


def _tell(line: str) -> None:
    if rank() == 0:
        say(line)
