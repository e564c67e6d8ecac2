"""Which images of a folder belong to a split: by a list file, or by a rule that needs none."""

from __future__ import annotations

import hashlib
from pathlib import Path

from certseg.errors import ConfigError, DataError


def list_file(lists: object, split: str | None, title: str, remedy: str) -> Path:
    """The list file of a split, ``SPLIT.txt`` in the folder that ``dataset.lists`` names.

    Args:
        lists: the setting.
        split: name of the split.
        title: what the data set is called in the message.
        remedy: what else than a folder of lists the user may choose, as a full sentence.

    Raises:
        ConfigError: ``lists`` is no path, or empty.
        DataError: there is no such file.
    """
    if not isinstance(lists, (str, Path)) or not str(lists):
        raise ConfigError("dataset.lists is no folder", expected="null or a folder of list files", received=repr(lists))
    file = Path(lists).expanduser() / f"{split}.txt"
    if not file.is_file():
        raise DataError(
            f"{title} has no list of the split {split!r}: there is no {file.absolute()}",
            expected="one file SPLIT.txt for dataset.split, dataset.train_split and dataset.val_split",
            remedy=remedy,
        )
    return file


def listed_names(file: Path, *, whole: bool = False) -> list[str]:
    """The first word of every line of a list file, in its order; blank lines and those that begin with # are none.

    Args:
        file: the list file.
        whole: take whole lines, for names that hold spaces.

    Raises:
        DataError: the file cannot be read or names nothing.
    """
    try:
        lines = file.read_text(encoding="utf-8", errors="surrogateescape" if whole else "strict").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"List file {file} cannot be read", received=f"{type(error).__name__}: {error}") from error
    names = [
        line.strip() if whole else line.split()[0]
        for line in lines
        if line.strip() and not line.lstrip().startswith("#")
    ]
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
