"""Files that are replaced as a whole, and what went wrong with one in a line."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

_NOT_OWN = (Path(__file__).parents[1], Path(os.__file__).parent)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of ``path`` at the end of the block, on disk by then.

    A killed process leaves the old file or the new one; a block that fails leaves the old one. Of several writers,
    perhaps on several machines, the last one's file stays, whole.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def save_tensors(path: Path, content: Any) -> None:
    """Write ``content``, plain types and tensors, by :func:`torch.save` in the place of ``path``, as :func:`replacing`.

    Raises:
        OSError: the file cannot be written. What torch's writer raises then, tells of its own state only.
    """
    with replacing(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def first_line(error: Exception) -> str:
    """Kind and first line of an error; the messages of torch often have many lines.

    >>> first_line(RuntimeError("out of memory\\nlonger story"))
    'RuntimeError: out of memory'
    """
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"


def place_of(error: BaseException) -> str:
    """Where in a user's own code an error was raised, as `` (mine.py, line 3)``; empty if it was not in such code.

    Code of installed packages, of Python and of certseg is nobody's own.
    """
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        is_own = file.is_file() and not any(file.is_relative_to(folder) for folder in _NOT_OWN)
        if is_own and "site-packages" not in file.parts:
            place = f" ({file.name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place
