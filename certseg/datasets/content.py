"""Digests of file contents, quick enough to be made at every start.

Files up to 256 KiB and uncompressed pictures of any length are read whole. Of longer files the length, the first and
the last 64 KiB and 16 evenly spaced blocks of 4 KiB are read, which bounds the work for large sets: a PNG has a
checksum of its pixels near its end, and another JPEG has, but for rare accidents, another length.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from certseg.errors import DataError

_WHOLE = 256 * 1024  # bytes up to which every file is read whole
_END = 64 * 1024  # bytes read at the start and at the end of a longer one
_BLOCK, _BLOCKS = 4096, 16  # in between
_UNCOMPRESSED = (".bmp", ".tif", ".tiff")  # of equal length, and alike but for the pixels that differ
_THREADS = 8  # more than cores: a network file system answers late


def file_digests(files: Iterable[Path]) -> list[str]:
    """One hex blake2b per file, in order; a function of content and suffix, not of where a file lies.

    Raises:
        DataError: a file cannot be read.
    """
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(_file_digest, files))


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= _WHOLE or path.suffix.lower() in _UNCOMPRESSED:
                return hashlib.file_digest(file, _blake2b).hexdigest()
            digest = _blake2b(str(size).encode())
            gap = (size - 2 * _END) // (_BLOCKS + 1)
            middle = ((_END + gap * (i + 1), _BLOCK) for i in range(_BLOCKS))
            for offset, length in ((0, _END), *middle, (size - _END, _END)):
                file.seek(offset)
                digest.update(file.read(length))
            return digest.hexdigest()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read", received=error.strerror, remedy="scripts/check_dataset.py lists every bad file"
        ) from error


def _blake2b(data: bytes = b"") -> hashlib.blake2b:
    return hashlib.blake2b(data, digest_size=16)
