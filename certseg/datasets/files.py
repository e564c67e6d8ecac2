"""Data sets made of image files and label files: finding, reading, checking and fingerprinting them.

:class:`ImageDataset` is what every such data set is made from, :class:`FileDataset` one with a label file for each
image; :func:`match_folders` and :func:`missing_files` pair the files, and the ``checked_`` functions look at what users
set.
"""

from __future__ import annotations

import functools
import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np

from certseg.checks import checked_size
from certseg.datasets.bands import PLAIN, Reader
from certseg.datasets.content import file_digests
from certseg.datasets.reading import Coding, resized, resized_numbers, to_sample, turn
from certseg.datasets.walking import pictures_in
from certseg.errors import ConfigError, DataError, printable
from certseg.types import Sample, Sides

_SHOWN = 5  # files named in one message
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Origin:
    """What a user who lacks the files has to know.

    Args:
        title: the data set as its authors write it.
        tree: the expected layout below the root, in one or two lines.
        source: where the files are obtained.
        option: the Hydra option that points at them.
    """

    title: str
    tree: str
    source: str
    option: str = "dataset.root"


@dataclass(frozen=True)
class Legend:
    """What the classes of a data set are called and how they are drawn, which is known without its files.

    Args:
        name: the data set's name in tables and result folders.
        class_names: one name per class.
        palette: one RGB colour per class, 0 to 255.
    """

    name: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]


@runtime_checkable
class TellsLegend(Protocol):
    """A data set, or its class, that tells its classes without its files; a class of one's own need not."""

    def legend(self, **settings: Any) -> Legend:
        """Name and classes of the data set that the constructor's arguments ``settings`` give."""


@dataclass(frozen=True)
class FilePair:
    """One image file and the file that holds its label.

    Args:
        name: the sample's name: the image's path below the split's folder, without suffix, with forward slashes, and
            :func:`~certseg.errors.printable`.
        image: the image file.
        label: the label file, or a file that tells the labels of many images.
    """

    name: str
    image: Path
    label: Path


Listing = tuple[list[FilePair], list[str]]
"""Complete pairs, and one line for each problem with the files."""


def checked_root(root: str | Path, origin: Origin) -> Path:
    """The folder that ``dataset.root`` names, with ``~`` replaced.

    Args:
        root: the setting.
        origin: what a message tells about the data set.

    Raises:
        ConfigError: ``root`` is no path, or empty.
        DataError: there is no such folder.
    """
    if not isinstance(root, (str, Path)) or not str(root):
        raise ConfigError(
            "dataset.root is not set",
            expected="the folder of the data set",
            received=repr(root),
            remedy="Set dataset.root=<folder>",
        )
    folder = Path(root).expanduser()
    return existing(folder, origin, folder)


def checked_split(split: str, known: Iterable[str], title: str) -> str:
    """``split`` if it is one of ``known``.

    Args:
        split: name of a split.
        known: the names that the data set has.
        title: what the data set is called in the message.

    Raises:
        DataError: ``split`` is not among them.
    """
    if split not in (known := tuple(known)):
        raise DataError(f"{title} has no such split", expected=" or ".join(known), received=repr(split))
    return split


def existing(path: Path, origin: Origin, root: Path) -> Path:
    """``path`` if it exists.

    Args:
        path: a file or folder of the data set.
        origin: what a message tells about the data set.
        root: the folder of the data set.

    Raises:
        DataError: ``path`` does not exist; says where it looked, the expected layout, the source and the option to set.
    """
    if path.exists():
        return path
    raise DataError(
        f"{origin.title} was not found: there is no {path.absolute()}",
        expected=f"below {root.absolute()}: {origin.tree}",
        remedy=f"Get it from {origin.source} and set {origin.option}=<folder>",
    )


def match_folders(
    images: Path,
    labels: Path,
    image_suffixes: Sequence[str],
    label_suffixes: Sequence[str] = (".png",),
    *,
    refused_labels: Mapping[str, str] = _NOTHING,
) -> Listing:
    """Pair the images below one folder with the label files of the same relative name below another.

    Args:
        images: folder of the image files.
        labels: folder of the label files.
        image_suffixes: what names of image files end in, in small letters; what of other files, says
            :mod:`certseg.datasets.walking`.
        label_suffixes: what names of label files end in, in small letters, ``.png`` by default.
        refused_labels: why label files that end otherwise cannot be used, by that suffix; none by default.

    Returns:
        ``(pairs, problems)``: the complete pairs in the order of their names, and one line for each file that lacks
        its partner, shares its name with another or is a picture that cannot be read.
    """
    image_files, problems, image_twice = _by_name(images, image_suffixes, "image")
    label_files, label_problems, label_twice = _by_name(labels, label_suffixes, "label", refused_labels)
    refused = {name for name, (_, suffix) in label_files.items() if suffix in refused_labels}
    label_problems += [f"{label_files[name][0]}: {refused_labels[label_files[name][1]]}" for name in sorted(refused)]
    for name in sorted(image_files.keys() - label_files.keys()):
        missing = labels / (name + label_suffixes[0])
        problems.append(f"{image_files[name][0]}: image without a label, {missing} is missing")
    for name in sorted(label_files.keys() - image_files.keys() - refused):
        problems.append(f"{label_files[name][0]}: label without an image in {images}")
    common = sorted((image_files.keys() & label_files.keys()) - refused - image_twice - label_twice)
    pairs = [FilePair(name, image_files[name][0], label_files[name][0]) for name in common]
    return pairs, problems + label_problems


def _by_name(
    folder: Path, suffixes: Sequence[str], what: str, refused: Mapping[str, str] = _NOTHING
) -> tuple[dict[str, tuple[Path, str]], list[str], set[str]]:
    """The files with their suffixes by their names below the folder, one line for each that cannot be used, and the
    names that several have.
    """
    found = pictures_in(folder, [*suffixes, *refused])
    files: dict[str, tuple[Path, str]] = {}
    twice = set()
    problems = [f"{path}: {what}s of this kind are not read, only {', '.join(suffixes)}" for path in found.foreign]
    for path, suffix in found.files:
        name = printable(path.relative_to(folder).as_posix()[: -len(suffix)])
        if name in files:
            problems.append(f"{path}: a second {what} of the name {name!r}, beside {files[name][0]}")
            twice.add(name)
        else:
            files[name] = path, suffix
    return files, problems, twice


def missing_files(pairs: Sequence[FilePair]) -> Listing:
    """Split listed pairs into those whose two files exist and one line for each file that does not.

    Returns:
        ``(pairs, problems)`` as :func:`match_folders` gives them.
    """
    counts = Counter(pair.name for pair in pairs)
    problems = [f"{name}: listed {count} times" for name, count in counts.items() if count > 1]
    complete = []
    for pair in {pair.name: pair for pair in pairs}.values():
        absent = [f"{file}: listed but missing" for file in (pair.image, pair.label) if not file.is_file()]
        problems.extend(absent)
        if not absent:
            complete.append(pair)
    return complete, problems


def _orientations(turns: Sequence[str]) -> str | None:
    """What may have made the sizes of an image and its label differ: an orientation of which only one of the programs
    knew.
    """
    names = [name for name, way in zip(("image", "label"), turns) if way]
    if not names:
        return None
    return (
        f"The sizes are those after the EXIF orientation of the {' and the '.join(names)} has been applied: write both "
        "files upright, without it"
    )


def digest(*parts: object) -> str:
    """Hex sha256 of the parts written as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class ImageDataset(ABC):
    """A :class:`certseg.types.SegmentationDataset` over image files whose labels lie in files, too. A subclass says by
    its methods how labels are read.

    Args:
        legend: the data set's name and classes.
        split: the split's name.
        origin: what error messages tell about the data set.
        listing: ``(pairs, problems)`` from :func:`match_folders` or :func:`missing_files`.
        size: ``(height, width)`` every sample is resized to, or None for the files' own sizes.
        strict: raise on ``problems``; otherwise keep them in the attribute of that name and use the complete pairs.
        reader: how images are read; by default as 8-bit colours.

    Raises:
        ConfigError: ``size`` is no image size.
        DataError: there is no pair, or ``strict`` and there are problems.
    """

    def __init__(
        self,
        *,
        legend: Legend,
        split: str,
        origin: Origin,
        listing: Listing,
        size: Sequence[int] | None,
        strict: bool,
        reader: Reader = PLAIN,
    ):
        self.reader = reader
        self.name = legend.name
        self.class_names = legend.class_names
        self.palette = legend.palette
        self.split = split
        self.size = checked_size("dataset.size", size, optional=True)
        self.pairs, self.problems = tuple(listing[0]), tuple(map(printable, listing[1]))
        if strict and self.problems:
            shown = "; ".join(self.problems[:_SHOWN])
            more = len(self.problems) - _SHOWN
            raise DataError(
                f"{origin.title}, split {split}, is incomplete: {shown}" + (f"; and {more} more" if more > 0 else ""),
                expected=origin.tree,
                remedy="Complete the files; scripts/check_dataset.py with the same settings lists every bad file",
            )
        if not self.pairs:
            raise DataError(
                f"{origin.title}, split {split}, holds no image with a label",
                expected=origin.tree,
                received="; ".join(self.problems[:_SHOWN]) or "empty folders or none of the expected suffixes",
                remedy=f"Get it from {origin.source} and set {origin.option}=<folder>",
            )

    @abstractmethod
    def labels(self, pair: FilePair) -> np.ndarray:
        """Class ids and ignore index, ``H x W`` int64, of the image of a pair.

        Raises:
            DataError: the label cannot be read, or holds what has no meaning.
        """

    def labels_and_numbers(self, pair: FilePair) -> tuple[np.ndarray, np.ndarray | None]:
        """The :meth:`labels` of a pair, and where annotations tell objects apart their numbers, ``H x W`` int64
        (:attr:`certseg.types.Sample.objects`); by default they do not.

        Raises:
            DataError: as :meth:`labels`.
        """
        return self.labels(pair), None

    @abstractmethod
    def label_size(self, pair: FilePair) -> Sides:
        """Height and width of the label of a pair, as far as that is told without decoding it.

        Raises:
            DataError: the label cannot be read.
        """

    @abstractmethod
    def pictures(self, pair: FilePair) -> tuple[Path, ...]:
        """The files of a pair that hold pixels: the image, then the label if it is a picture."""

    @abstractmethod
    def labels_identity(self) -> list[object]:
        """What the fingerprint holds of labels beside the content of :meth:`pictures`, in types that JSON has."""

    def check_turn(self, pair: FilePair) -> None:
        """Raise DataError where the EXIF orientation of one file of a pair turns it and the other has none: whether the
        label was drawn on the image as it is stored or as it is shown cannot be told from their sizes."""
        image, label = self._turns(pair)
        if image == label:
            return
        if "sides" in (image, label):
            height, width = self.reader.sides(pair.image)
            if height != width:  # then the sizes tell
                return
        told = ("turned" if way else "as it is" for way in (image, label))
        raise DataError(
            f"Of {pair.image} and its label one has an EXIF orientation and the other has none",
            expected="both or neither, for it cannot be told which way up the label was drawn",
            received=", ".join(f"the {name} {way}" for name, way in zip(("image", "label"), told)),
            remedy="Write both upright, without the orientation",
        )

    def _turns(self, pair: FilePair) -> tuple[str, str]:
        """What EXIF orientations do to the image and to the label; to one that is no picture nothing."""
        pictures = self.pictures(pair)
        return self.reader.turn(pair.image), turn(pictures[1]) if len(pictures) > 1 else ""

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            DataError: a file cannot be read, image and label differ in size, or a label value has no meaning.
        """
        pair = self.pairs[index]
        self.check_turn(pair)
        image, (labels, numbers) = self.reader.read(pair.image), self.labels_and_numbers(pair)
        if image.shape[:2] != labels.shape:
            raise DataError(
                f"Image and label differ in size: {pair.image} and {pair.label}",
                expected=f"a label of {image.shape[0]} x {image.shape[1]} pixels",
                received=f"{labels.shape[0]} x {labels.shape[1]}",
                remedy=_orientations(self._turns(pair)),
            )
        if self.size is not None:
            image, labels = resized(image, labels, self.size)
            numbers = None if numbers is None else resized_numbers(numbers, self.size)
        return to_sample(pair.name, image, labels, numbers)

    def names(self) -> tuple[str, ...]:
        """The names of all samples, in order."""
        return tuple(pair.name for pair in self.pairs)

    def fingerprint(self) -> str:
        """Hex digest over names, the files' contents, and every setting that changes pixels or labels.

        It stays when the folder moves. The files are read when it is first asked for (what of long files, says
        :mod:`certseg.datasets.content`); later changes show in a new object.

        Raises:
            DataError: a file cannot be read.
        """
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        contents = iter(file_digests(file for pair in self.pairs for file in self.pictures(pair)))
        files = [[pair.name, *(next(contents) for _ in self.pictures(pair))] for pair in self.pairs]
        labels, reader = self.labels_identity(), self.reader.identity()
        return digest(self.name, self.split, self.size, labels, self.class_names, files, *reader)


class FileDataset(ImageDataset):
    """An :class:`ImageDataset` with a label file for each image.

    Args:
        legend: the data set's name and classes.
        split: the split's name.
        origin: what error messages tell about the data set.
        listing: ``(pairs, problems)`` from :func:`match_folders` or :func:`missing_files`.
        coding: the meaning of the values in label files.
        size: ``(height, width)`` every sample is resized to, or None for the files' own sizes.
        strict: as of :class:`ImageDataset`.
        reader: how images are read; by default as 8-bit colours.

    Raises:
        ConfigError, DataError: see :class:`ImageDataset`.
    """

    def __init__(
        self,
        *,
        legend: Legend,
        split: str,
        origin: Origin,
        listing: Listing,
        coding: Coding,
        size: Sequence[int] | None,
        strict: bool,
        reader: Reader = PLAIN,
    ):
        super().__init__(
            legend=legend, split=split, origin=origin, listing=listing, size=size, strict=strict, reader=reader
        )
        self.coding = coding

    def labels(self, pair: FilePair) -> np.ndarray:
        """Class ids and ignore index, ``H x W`` int64, of the label file.

        Raises:
            DataError: the file cannot be read, or holds what has no meaning.
        """
        return self.coding.labels(pair.label)

    def label_size(self, pair: FilePair) -> Sides:
        """Height and width of the label file, from its header.

        Raises:
            DataError: the header tells that the file cannot be read.
        """
        return self.coding.sides(pair.label)

    def pictures(self, pair: FilePair) -> tuple[Path, ...]:
        """Both files."""
        return pair.image, pair.label

    def labels_identity(self) -> list[object]:
        """The coding's identity."""
        return self.coding.identity()
