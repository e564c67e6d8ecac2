"""Where the choices of config groups lie: with certseg, and in folders of one's own that a command line names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import certseg


def config_directory() -> Path:
    """The folder of the config groups: inside the package where it is installed, beside it in a checkout."""
    package = Path(certseg.__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def own_config_folders(words: Sequence[str]) -> list[Path]:
    """The folders of choices of one's own that a command line names by ``--config-dir``.

    >>> own_config_folders(["--config-dir", "mine", "certifier=strict", "--config-dir=others"])
    [PosixPath('mine'), PosixPath('others')]
    """
    given = [second for first, second in pairwise(words) if first in ("--config-dir", "-cd")]
    return list(map(Path, given + [word.partition("=")[2] for word in words if word.startswith("--config-dir=")]))
