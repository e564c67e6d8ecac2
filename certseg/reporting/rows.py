"""Rows on disk: one JSON line per image, one compressed file of maps per image, one identity per directory.

Layout of a result directory::

    identity.json      the settings that define the results; another identity is refused
    rows.jsonl         one row per image, appended as soon as the image is done
    maps/<image>.npz   arrays of one image, written before its row, so that a row implies its map

A row is ``{"image": str, "figures": {name: float | null}, "counts": {...}, "seconds": {part: float},
"passes": {"forward": int, "backward": int}, "flags": [str]}``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from certseg.errors import ResultError
from certseg.reporting.storage import load_arrays, plain, read_json, safe_name, save_arrays, write_json_atomic

ROWS_FILE = "rows.jsonl"
IDENTITY_FILE = "identity.json"
_ROW_PARTS = {"figures": Mapping, "counts": Mapping, "seconds": Mapping, "passes": Mapping, "flags": list | tuple}


class RowStore:
    """The results of one certifier or attack on one data set, safe against kills and concurrent writers.

    Every row is on disk when :meth:`append` returns. A process killed while appending loses that row alone: the
    unterminated last line is dropped by :meth:`read` and cut off by the next :meth:`append`. Where an image has
    several rows the last one wins, because the last writer's map is the one that lies beside it.

    Args:
        directory: created if missing.
        identity: the settings that define the results, made of JSON types (tuples count as lists). Stored at first
            use and compared ever after.

    Raises:
        ResultError: the directory holds the results of other settings, or rows without an identity, or cannot be
            written; or ``identity`` is not made of finite JSON values.
    """

    def __init__(self, directory: str | os.PathLike[str], *, identity: Mapping[str, Any]):
        self.directory = Path(directory)
        self.identity = _plain_identity(identity)
        try:
            (self.directory / "maps").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResultError(f"Cannot create the result directory {self.directory}", received=error) from error
        with _locked(self._rows, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX) as handle:
            self._check_identity(has_rows=os.fstat(handle).st_size > 0)

    @property
    def _rows(self) -> Path:
        return self.directory / ROWS_FILE

    def _check_identity(self, has_rows: bool) -> None:
        path = self.directory / IDENTITY_FILE
        if path.exists():
            differences = _differences(read_json(path), self.identity)
            if differences:
                raise ResultError(
                    f"{self.directory} holds results of other settings",
                    received="; ".join(differences),
                    remedy="Use the stored settings to resume, or another directory for the new ones",
                )
        elif has_rows:
            raise ResultError(
                f"{self._rows} has rows but there is no {IDENTITY_FILE} that says which settings made them",
                remedy=f"Move {self.directory} away and run again",
            )
        else:
            write_json_atomic(path, self.identity)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row and return when it is on disk. Several processes may append at once.

        Numpy and torch numbers and arrays become plain numbers and lists; NaN and infinities become null.

        Raises:
            ResultError: the row has not the form described above, or the disk refused it (the file is then as before).
        """
        line = json.dumps(plain(_checked(row)), sort_keys=True, allow_nan=False).encode() + b"\n"
        with _locked(self._rows, os.O_RDWR | os.O_CREAT | os.O_APPEND, fcntl.LOCK_EX) as handle:
            end = _cut_fragment(handle)
            try:
                _write_all(handle, line)
                os.fsync(handle)
            except OSError as error:
                os.ftruncate(handle, end)
                raise ResultError(
                    f"Cannot append to {self._rows}", received=error, remedy="Free some space and run again to resume"
                ) from error

    def read(self) -> dict[str, dict[str, Any]]:
        """All finished rows by image name, in the order in which the images were first finished.

        Raises:
            ResultError: a line is corrupt (other than an unterminated last one); the message names file and line.
        """
        return read_rows(self.directory)

    def map_path(self, name: str) -> Path:
        """The file that holds, or would hold, the maps of image ``name``."""
        return self.directory / "maps" / f"{safe_name(name)}.npz"

    def has_map(self, name: str) -> bool:
        """Whether maps of image ``name`` are stored."""
        return self.map_path(name).is_file()

    def save_map(self, name: str, **arrays: np.ndarray) -> Path:
        """Store the arrays of image ``name``, all of them or none, replacing earlier ones; return the file.

        Booleans take one bit and integers the smallest type that holds them; :meth:`load_map` undoes both.

        Raises:
            ResultError: an array is not numeric or boolean, or the disk refused the file.
        """
        return save_arrays(self.map_path(name), **arrays)

    def load_map(self, name: str) -> dict[str, np.ndarray]:
        """The arrays stored for image ``name``, with the types and shapes they had.

        Raises:
            ResultError: there are none or the file is damaged.
        """
        return load_arrays(self.map_path(name))


def read_rows(directory: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """The rows of a result directory by image name, without opening it for writing; empty if there are none yet.

    Raises:
        ResultError: a line is corrupt; an unterminated last line is what a kill leaves and is dropped instead.
    """
    path = Path(directory) / ROWS_FILE
    if not path.exists():
        return {}
    with _locked(path, os.O_RDONLY, fcntl.LOCK_SH) as handle, os.fdopen(os.dup(handle), "rb") as file:
        lines = file.read().split(b"\n")[:-1]  # what follows the last newline is nothing or a fragment
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            rows[_checked(row)["image"]] = row
        except (ValueError, ResultError) as error:
            raise ResultError(
                f"{path}, line {number}, is not a row",
                received=error,
                remedy="Delete that line and run again: the image is then computed anew",
            ) from error
    return rows


def _plain_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in _flat(identity).items():
        if not _finite(value):  # stored as null it would equal another setting
            raise ResultError(f"Setting {key} cannot identify results", expected="finite numbers", received=value)
    found: dict[str, Any] = plain(identity)
    return found


def _finite(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_finite(entry) for entry in value)
    return not isinstance(value, float) or math.isfinite(value)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys."""
    if isinstance(value, Mapping) and value:
        parts = [_flat(entry, f"{prefix}.{key}" if prefix else str(key)) for key, entry in value.items()]
        return {key: entry for part in parts for key, entry in part.items()}
    return {prefix: value}


def _differences(stored: Any, asked: Any) -> list[str]:
    """Which settings differ, in words."""
    before, now = _flat(stored), _flat(asked)
    return [
        f"{key or 'identity'} was {_worded(before, key)} and is now {_worded(now, key)}"
        for key in sorted(before.keys() | now.keys())
        if _worded(before, key) != _worded(now, key)
    ]


def _worded(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key], sort_keys=True) if key in settings else "absent"


def _checked(row: Any) -> Mapping[str, Any]:
    if not isinstance(row, Mapping) or not isinstance(row.get("image"), str) or not row["image"]:
        raise ResultError("A row needs the name of its image", expected="a mapping with a non-empty 'image'")
    for part, kind in _ROW_PARTS.items():
        if not isinstance(row.get(part), kind):
            raise ResultError(
                f"The row of image {row['image']!r} has no valid {part!r}",
                expected="a list" if part == "flags" else "a mapping",
                received=type(row.get(part)).__name__,
            )
    return row


@contextlib.contextmanager
def _locked(path: Path, mode: int, lock: int) -> Iterator[int]:
    """An open file descriptor that holds ``lock``; the kernel lets go of it even when the process is killed."""
    try:
        handle = os.open(path, mode, 0o666)
    except OSError as error:
        raise ResultError(f"Cannot open {path}", received=error) from error
    try:
        try:
            fcntl.flock(handle, lock)
        except OSError as error:
            raise ResultError(
                f"Cannot lock {path}", received=error, remedy="Use a file system that supports flock"
            ) from error
        yield handle
    finally:
        os.close(handle)


def _cut_fragment(handle: int) -> int:
    """Cut off an unterminated last line and return the resulting size."""
    end = os.fstat(handle).st_size
    keep = end
    while keep > 0:
        start = max(0, keep - 65536)
        newline = os.pread(handle, keep - start, start).rfind(b"\n")
        if newline >= 0:
            keep = start + newline + 1
            break
        keep = start
    if keep != end:
        os.ftruncate(handle, keep)
    return keep


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
