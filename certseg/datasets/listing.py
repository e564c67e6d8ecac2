"""Which images of a folder belong to a split: by a list file, or by a rule that needs none."""

from __future__ import annotations

import hashlib
from pathlib import Path

from certseg.errors import DataError


def listed_names(file: Path) -> list[str]:
    """The first word of every line of a list file, in its order; blank lines and those that begin with # are none.

    Raises:
        DataError: the file cannot be read or names nothing.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"List file {file} cannot be read", received=f"{type(error).__name__}: {error}") from error
    names = [line.split()[0] for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise DataError(f"List file {file} names no image", expected="one name per line")
    return names


def tenth_of(name: str) -> int:
    """0 to 9, from the sha256 digest of ``name`` alone: a split by it is the same for everybody, and an image stays in
    its part whichever other images are there.

    >>> tenth_of("Abyssinian_1"), tenth_of("Abyssinian_2")
    (2, 4)
    """
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10
