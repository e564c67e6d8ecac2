"""What the user sees besides results: errors in one line, a line on what happens now, and progress."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from certseg.errors import CertsegError, ResultError
from certseg.pipeline.suggestions import reworded

USER_ERROR = 2
_DISK = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS), "write"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.ENOTDIR), "open"),  # to read or to write: the system does not say
}
"""What a disk answers that is full, or that forbids what is tried, whoever of the many libraries writes."""


def explain(error: BaseException) -> int:
    """Print an error and return the exit status of the process.

    What a user can mend is printed as one line, with status 2; a defect of the program with its stack trace, with
    status 1. With CERTSEG_TRACEBACK set in the environment every error has its stack trace.
    """
    if isinstance(error, OSError) and error.errno in _DISK and not isinstance(error, CertsegError):
        error = ResultError(
            f"Cannot {_DISK[error.errno]} {error.filename or 'a file'} ({error.strerror})",
            remedy="Check the folder, its rights and the free space; the same command keeps what is finished",
        )
    expected = (CertsegError, HydraException, OmegaConfBaseException)
    if not isinstance(error, expected) or os.environ.get("CERTSEG_TRACEBACK"):
        traceback.print_exception(error)
        return 1
    text = str(error)
    if not isinstance(error, CertsegError):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        text = " ".join(line for line in lines if not line.startswith(("full_key", "object_type", "Set the environ")))
        text = reworded(text, sys.argv[1:])
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return USER_ERROR


def say(text: str) -> None:
    """Print one line about what happens now."""
    Console(highlight=False, soft_wrap=True).print(text)


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show how far work on ``total`` images is: a bar with the time left on a terminal, elsewhere a line a tenth.

    Args:
        label: what is done, shown before the numbers.
        total: number of images.

    Yields:
        A function to be called with the name of each image when it is done.
    """
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        done = 0

        def line(name: str) -> None:
            nonlocal done
            done += 1
            if done == total or done % max(1, total // 10) == 0:
                console.print(f"{label}: {done}/{total} ({name})")

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=total)
        yield lambda name: bar.advance(task)
