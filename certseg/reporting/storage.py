"""Single files, written so that a reader sees the old content or the new one, never a part: JSON and arrays."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from certseg.compute.atomic import replacing
from certseg.errors import ResultError

_LONGEST_NAME = 200  # bytes; file systems allow 255, a suffix needs some


def write_json_atomic(path: str | os.PathLike[str], obj: Any) -> None:
    """Write ``obj`` as JSON (sorted keys, indent 1, final newline) so that readers see the old file or the new one.

    Numpy and torch values become plain ones, NaN and infinities null.

    Raises:
        ResultError: ``obj`` is not made of JSON types or the disk refused it.
    """
    write_text_atomic(path, json.dumps(plain(obj), sort_keys=True, indent=1, allow_nan=False) + "\n")


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text so that readers see the old file or the new one.

    Raises:
        ResultError: the disk refused the file.
    """
    with _written(Path(path)) as file:
        file.write(text.encode("utf-8"))


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        ResultError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultError(f"Cannot read {path}", expected="a JSON file", received=error) from error


def save_arrays(path: str | os.PathLike[str], **arrays: np.ndarray) -> Path:
    """Write arrays to one compressed file, atomically; :func:`load_arrays` gives them back unchanged.

    Raises:
        ResultError: an array is not numeric or boolean, or the disk refused the file.
    """
    packed, forms = {}, {}
    for key, value in arrays.items():
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise ResultError(f"Map {key!r} cannot be stored", expected="numbers or booleans", received=array.dtype)
        forms[key] = {"dtype": array.dtype.str, "shape": array.shape}
        packed[f"data/{key}"] = _packed(array)
    with _written(Path(path)) as file:
        np.savez_compressed(file, allow_pickle=False, forms=np.array(json.dumps(forms)), **packed)
    return Path(path)


def load_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read what :func:`save_arrays` wrote.

    Raises:
        ResultError: the file is missing or damaged.
    """
    try:
        # Opened here, for numpy leaves a damaged file open; NpzFile, for numpy.load also takes other formats.
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file) as stored:
            forms = json.loads(str(stored["forms"]))
            return {key: _unpacked(stored[f"data/{key}"], **form) for key, form in forms.items()}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ResultError(
            f"Cannot read the maps in {path}",
            received=error,
            remedy="Delete the file and its row in rows.jsonl and run again",
        ) from error


def safe_name(name: str) -> str:
    """A file name for an image name, different for different images: other characters than ``A-Za-z0-9._-`` become
    ``=`` and their bytes in hexadecimal; very long names keep their start and end in a digest.
    """
    encoded = re.sub(rb"[^A-Za-z0-9._-]", lambda match: b"=%02X" % match.group()[0], name.encode()).decode()
    if len(encoded) <= _LONGEST_NAME:
        return encoded
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"{encoded[: _LONGEST_NAME - len(digest) - 2]}=={digest}"  # "==" occurs in no shorter encoding


def plain(value: Any) -> Any:
    """``value`` in JSON types: anything with ``tolist`` (numpy, torch) converted, NaN and infinities as None.

    Raises:
        ResultError: something in ``value`` has no JSON form.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    raise ResultError("A value cannot be stored as JSON", received=f"{value!r} ({type(value).__name__})")


def _packed(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "b":
        return np.packbits(array)
    if array.dtype.kind in "iu" and array.size:
        smallest = np.result_type(np.min_scalar_type(array.min()), np.min_scalar_type(array.max()))
        if smallest.itemsize < array.dtype.itemsize and smallest.kind in "iu":
            return array.astype(smallest)
    return array


def _unpacked(data: np.ndarray, dtype: str, shape: list[int]) -> np.ndarray:
    if np.dtype(dtype).kind == "b":
        return np.unpackbits(data, count=math.prod(shape)).astype(bool).reshape(shape)
    return data.astype(dtype, copy=False)


@contextlib.contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """A file in the place of ``path``, whose folder is made if it is missing; ResultError if the disk refuses it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise ResultError(f"Cannot write {path}", received=error) from error
