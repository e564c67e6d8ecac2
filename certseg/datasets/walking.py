"""Which files of a folder are pictures, which are passed over, and which are nothing that can be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

FOREIGN_SUFFIXES = (
    *(".webp", ".gif", ".avif", ".heic", ".heif", ".jp2", ".jxl", ".svg", ".psd", ".pgm", ".ppm", ".tga", ".exr"),
    *(".npy", ".npz", ".mat", ".dcm", ".nii", ".nii.gz", ".nrrd", ".mha", ".h5"),
)
"""What names of pictures and masks end in that certseg does not read."""


@dataclass(frozen=True)
class FolderFiles:
    """The files below a folder, in the order of their paths.

    Args:
        files: those with one of the suffixes asked for, and the suffix of each as it was asked for.
        foreign: pictures and masks of other formats.
    """

    files: tuple[tuple[Path, str], ...]
    foreign: tuple[Path, ...]


def pictures_in(folder: Path, suffixes: Sequence[str], *, recursive: bool = True) -> FolderFiles:
    """The files below ``folder`` whose names end in one of ``suffixes``, in small or capital letters.

    Passed over is what is no picture and not meant to be one: names that begin with a dot, which systems write (macOS
    a ``._NAME.png`` beside every file of a foreign disk), and files of other kinds, such as lists, notes and
    ``Thumbs.db``.

    Args:
        folder: where they lie.
        suffixes: what names end in, in whichever case; the first that fits counts.
        recursive: whether folders within it are looked at.
    """
    return sorted_out(folder.rglob("*") if recursive else folder.iterdir(), suffixes)


def sorted_out(paths: Iterable[Path], suffixes: Sequence[str]) -> FolderFiles:
    """The same for ``paths`` that are already known."""
    files, foreign = [], []
    for path in sorted(path for path in paths if not path.name.startswith(".") and path.is_file()):
        name = path.name.lower()
        suffix = next((suffix for suffix in suffixes if name.endswith(suffix.lower())), None)
        if suffix is not None:
            files.append((path, suffix))
        elif name.endswith(FOREIGN_SUFFIXES):
            foreign.append(path)
    return FolderFiles(tuple(files), tuple(foreign))
