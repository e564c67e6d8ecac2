"""The adapter to mmsegmentation's data set classes: class names, palettes, suffixes and listings come from there.

Pixels do not: certseg reads them itself. The library takes seconds to import and is imported on first use.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from certseg.datasets.files import (
    FileDataset,
    FilePair,
    Legend,
    Origin,
    checked_root,
    checked_split,
    existing,
    missing_files,
)
from certseg.datasets.reading import Coding, LabelCoding
from certseg.datasets.walking import pictures_in
from certseg.types import IGNORE_INDEX


@dataclass(frozen=True)
class Part:
    """Where one part of a split lies, as paths below the root.

    Args:
        images: folder of images.
        labels: folder of label files.
        listing: text file with one name per line; empty to take every image in the folder.
    """

    images: str
    labels: str
    listing: str = ""


@dataclass(frozen=True)
class Layout:
    """A data set as mmsegmentation knows it.

    Args:
        name: certseg's name of it.
        library_class: the class's name in ``mmseg.datasets``.
        origin: what error messages tell about it.
        splits: the parts of each split.
        options: further arguments of the library's class.
    """

    name: str
    library_class: str
    origin: Origin
    splits: Mapping[str, Sequence[Part]]
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(eq=False, repr=False)
class LibraryDataset(FileDataset):
    """A data set listed by mmsegmentation, read by certseg. A subclass says by ``layout`` what and where, and gives
    ``root`` and ``split`` their defaults.

    Args:
        root: the folder that ``layout`` speaks of.
        split: one of those of ``layout``.
        size: ``[height, width]`` to resize to, or None for the files' own sizes.
        strict: see :class:`~certseg.datasets.files.FileDataset`.

    Raises:
        ConfigError, DataError: see :class:`~certseg.datasets.files.FileDataset`.
    """

    root: str | Path
    split: str
    size: InitVar[Sequence[int] | None] = None
    strict: bool = True

    layout: ClassVar[Layout]

    def __post_init__(self, size: Sequence[int] | None) -> None:
        layout, split = self.layout, self.split
        folder = checked_root(self.root, layout.origin)
        checked_split(split, layout.splits, layout.origin.title)
        pairs: list[FilePair] = []
        problems: list[str] = []
        for part in self.parts():
            for path in filter(None, (part.images, part.labels, part.listing)):
                existing(folder / path, layout.origin, folder)
            library = _library_dataset(layout, folder, part, self.options(folder / part.labels))
            listed = _pairs(library, folder / part.images)
            pairs += listed
            if not part.listing:
                problems += _orphans(folder / part.labels, library.seg_map_suffix, listed)
        complete, missing = missing_files(pairs)
        legend = self.legend()
        super().__init__(
            legend=legend,
            split=split,
            origin=layout.origin,
            listing=(complete, missing + problems),
            coding=self.label_coding(library, len(legend.class_names)),
            size=size,
            strict=self.strict,
        )

    def parts(self) -> tuple[Part, ...]:
        """Where the samples of the split lie."""
        return tuple(self.layout.splits[self.split])

    def options(self, labels: Path) -> Mapping[str, object]:
        """Arguments of the library's class for the label files in a folder: those of ``layout``."""
        return self.layout.options

    def label_coding(self, library: Any, num_classes: int) -> Coding:
        """The meaning of the label files, by default what the library's data set says.

        Args:
            library: the last part of the split, as the library lists it.
            num_classes: number of classes.
        """
        zero_is_void = library.reduce_zero_label
        ignore = (0, IGNORE_INDEX) if zero_is_void else (IGNORE_INDEX,)
        return LabelCoding(num_classes, ignore, first=1 if zero_is_void else 0)

    @classmethod
    def legend(cls, **settings: Any) -> Legend:
        """The classes as mmsegmentation has them, whatever the constructor's arguments ``settings``."""
        info = _library_class(cls.layout).METAINFO
        names = tuple(name.strip() for name in info["classes"])
        return Legend(cls.layout.name, names, tuple(tuple(colour) for colour in info["palette"]))


def _library_class(layout: Layout) -> type[Any]:
    with contextlib.redirect_stdout(io.StringIO()):  # the import prints that an optional package is missing
        import mmseg.datasets  # takes seconds: only those who name such a data set wait for it

    return getattr(mmseg.datasets, layout.library_class)


def _library_dataset(layout: Layout, root: Path, part: Part, options: Mapping[str, object]):
    return _library_class(layout)(
        data_root=str(root),
        data_prefix={"img_path": part.images, "seg_map_path": part.labels},
        ann_file=part.listing,
        lazy_init=True,
        **options,
    )


def _pairs(library, images: Path) -> list[FilePair]:
    pairs = []
    for entry in library.load_data_list():
        image = Path(entry["img_path"])
        name = image.relative_to(images).as_posix()[: -len(library.img_suffix)]
        if name:  # a blank line in a list file names nothing
            pairs.append(FilePair(name, image, Path(entry["seg_map_path"])))
    return pairs


def _orphans(labels: Path, suffix: str, pairs: Sequence[FilePair]) -> list[str]:
    known = {pair.label for pair in pairs}
    return [f"{file}: label without an image" for file, _ in pictures_in(labels, [suffix]).files if file not in known]
