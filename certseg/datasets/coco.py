"""COCO: annotations of instances or panoptic segments in the COCO format, as maps of classes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from certseg.checks import check_choice, check_text, is_count
from certseg.datasets.coco_annotations import KINDS, AnnotationFile, ListedImage, read_annotations
from certseg.datasets.coco_outlines import CROWD, Outline, Polygons, coco_masks, painted
from certseg.datasets.files import (
    FilePair,
    ImageDataset,
    Legend,
    Origin,
    checked_root,
    existing,
    missing_files,
)
from certseg.datasets.palettes import hues
from certseg.datasets.reading import COLOUR_LABEL, image_size, read_colours
from certseg.errors import ConfigError, DataError, printable
from certseg.types import IGNORE_INDEX

OTHERS = ("background", "ignore")
OVERLAPS = ("order", "area")
BACKGROUND = "background"
_GREY = (70, 70, 70)
_MOST = IGNORE_INDEX - 1  # classes
_SHOWN = 20  # names or ids in one message


@dataclass(frozen=True, slots=True)
class Label:
    """What the annotations tell of one image.

    Args:
        size: height and width in pixels.
        objects: the class of each object, or :data:`~certseg.datasets.coco_outlines.CROWD`, and its outline.
        segments: the class, or the ignore index, of each id in the PNG file; of no meaning without one.
    """

    size: tuple[int, int]
    objects: tuple[tuple[int, Outline], ...] = ()
    segments: Mapping[int, int] | None = None

    def digest(self) -> str:
        """Hex digest of what decides the label beside the pixels of files."""
        digest = hashlib.blake2b(repr((self.size, sorted((self.segments or {}).items()))).encode(), digest_size=16)
        for label, outline in self.objects:
            content = outline.content()
            digest.update(f"{label} {type(outline).__name__} {len(content)} ".encode() + content)
        return digest.hexdigest()


class COCO(ImageDataset):
    """Images with a JSON file of the COCO format (Lin et al. 2014): its instances, or its panoptic segments with PNG
    files of their ids, as a map of classes.

    A pixel has the class of the object that it belongs to; of objects of categories that are not chosen nothing is
    drawn. Crowds are ignored where no object of a chosen category lies over them, and so are pixels without a panoptic
    segment. Entries of the file are checked when it is read, once per object; the masks are drawn when an image is.

    Args:
        root: folder below which everything lies.
        split: name of the split, which takes the place of ``{split}`` in the three paths; None where they have none.
        images: folder below ``root`` that the file names in the JSON file are relative to.
        annotations: the JSON file below ``root``.
        masks: folder below ``root`` of the PNG files of panoptic segments; None, the default, for that beside the JSON
            file which has its name without suffix.
        kind: ``instances`` or ``panoptic``; None, the default, for what the file tells.
        class_names: the names of the categories that are classes, in their order; None, the default, for all of them in
            the order of their ids.
        others: what pixels of no chosen category count as: ``background``, the default, a class of that name before
            the others, or ``ignore``.
        overlap: which object a pixel of several belongs to: ``order``, the default, for the one that comes last in the
            file, or ``area`` for the one of the fewest pixels.
        size: ``[height, width]`` in pixels that every sample is resized to; None, the default, keeps the files' sizes.
        strict: whether entries and files that cannot be used are an error, the default; otherwise they are listed in
            ``problems`` and the other images are used.

    Raises:
        ConfigError: a setting is outside its domain, or names a category that the file does not have.
        DataError: a file or folder is missing, the JSON file cannot be read or is of another format, it has no image
            that can be used, or an entry or a file cannot be used while ``strict``.
        DependencyError: pycocotools, which draws polygons, is missing.
    """

    def __init__(
        self,
        root: str | Path = "data/coco",
        split: str | None = "val",
        images: str = "{split}2017",
        annotations: str = "annotations/instances_{split}2017.json",
        masks: str | None = None,
        kind: str | None = None,
        class_names: Sequence[str] | None = None,
        others: str = "background",
        overlap: str = "order",
        size: Sequence[int] | None = None,
        strict: bool = True,
    ):
        check_choice("dataset.kind", kind, KINDS, optional=True)
        check_choice("dataset.overlap", overlap, OVERLAPS)
        names = _checked_names(class_names, others)
        folder, file, origin = _places(root, split, images, annotations)
        pictures = existing(folder / _placed("dataset.images", images, split), origin, folder)
        content = read_annotations(file)
        self.kind, self.others, self.overlap = _kind(content, kind), others, overlap
        chosen = _chosen(content, names, others)
        rest = _rest(others)
        pngs = None
        if self.kind == "panoptic":
            where = file.with_suffix("") if masks is None else folder / _placed("dataset.masks", masks, split)
            pngs = existing(where, origin, folder)
        pairs, problems = [], list(content.problems)
        self._labels: dict[str, Label] = {}
        for image in content.images:
            label, wrong = _label(image, content, chosen, rest, is_panoptic=pngs is not None)
            problems += [f"{file}, image {image.file_name}, {line}" for line in wrong]
            if label is not None:
                name = printable(image.name)
                self._labels[name] = label
                told_in = file if pngs is None else pngs / image.annotations[0].file_name
                pairs.append(FilePair(name, pictures / image.file_name, told_in))
        if any(isinstance(outline, Polygons) for label in self._labels.values() for _, outline in label.objects):
            coco_masks()  # missed now rather than at the first image
        complete, missing = missing_files(pairs)
        super().__init__(
            legend=_legend(content if names is None else names, others),
            split="all" if split is None else split,
            origin=origin,
            listing=(complete, problems + missing),
            size=size,
            strict=strict,
        )

    @classmethod
    def legend(
        cls,
        root: str | Path = "data/coco",
        split: str | None = "val",
        annotations: str = "annotations/instances_{split}2017.json",
        class_names: Sequence[str] | None = None,
        others: str = "background",
        **settings: Any,
    ) -> Legend:
        """The classes, for which the JSON file is read where they are not named; the constructor's other arguments
        ``settings`` change nothing about them.

        Args:
            root: folder below which everything lies.
            split: name of the split.
            annotations: the JSON file below ``root``.
            class_names: the names of the categories that are classes, in their order; None for all of them.
            others: what pixels of no chosen category count as, ``background`` or ``ignore``.

        Raises:
            ConfigError: a setting is outside its domain.
            DataError: the JSON file is needed, and missing or not of the format.

        >>> COCO.legend(class_names=["cat", "dog"]).class_names
        ('background', 'cat', 'dog')
        """
        names = _checked_names(class_names, others)
        if names is not None:
            return _legend(names, others)
        _, file, _ = _places(root, split, settings.get("images", "{split}2017"), annotations)
        return _legend(read_annotations(file), others)

    def labels(self, pair: FilePair) -> np.ndarray:
        """Class ids and ignore index, ``H x W`` int64, of one image. Errors are those of :meth:`labels_and_numbers`."""
        return self.labels_and_numbers(pair)[0]

    def labels_and_numbers(self, pair: FilePair) -> tuple[np.ndarray, np.ndarray]:
        """Class ids and ignore index of one image, and the numbers of its objects or segments, ``H x W`` int64 each;
        what is no object of a chosen category has the number 0.

        Raises:
            DataError: an outline cannot be drawn; or the PNG file cannot be read, has another size than the JSON file
                says, or the id of a segment that is not in it.
        """
        label = self._labels[pair.name]
        if label.segments is not None:
            labels, numbers = _segment_labels(pair.label, label.size, label.segments)
            return labels, np.where(np.isin(labels, (_rest(self.others), IGNORE_INDEX)), 0, numbers)
        try:
            return painted(label.objects, label.size, rest=_rest(self.others), largest_first=self.overlap == "area")
        except DataError as error:
            raise DataError(f"Image {pair.name} of {pair.label}: {error}") from error

    def label_size(self, pair: FilePair) -> tuple[int, int]:
        """Height and width that the JSON file tells, which must be those in the header of the PNG file if there is one.

        Raises:
            DataError: the PNG file is no image, or of another size.
        """
        size = self._labels[pair.name].size
        if self.kind == "panoptic":
            _check_size(pair.label, image_size(pair.label, COLOUR_LABEL), size)
        return size

    def pictures(self, pair: FilePair) -> tuple[Path, ...]:
        """The image, and the PNG file if there is one."""
        return (pair.image,) if self.kind == "instances" else (pair.image, pair.label)

    def labels_identity(self) -> list[object]:
        """How objects become labels, and the digest of each image's."""
        how = [self.kind, self.others, *([self.overlap] if self.kind == "instances" else [])]
        return [*how, [self._labels[pair.name].digest() for pair in self.pairs]]


def _placed(name: str, pattern: object, split: str | None) -> str:
    """What a path below the root is for a split."""
    check_text(name, pattern, "a path below dataset.root")
    return str(pattern).replace("{split}", split or "{split}")


def _places(root: str | Path, split: str | None, images: str, annotations: str) -> tuple[Path, Path, Origin]:
    """The root, the JSON file of a split, and what messages tell of the data set.

    Raises:
        ConfigError: a setting is no path, or empty.
        DataError: there is no such folder or file.
    """
    check_text("dataset.split", split, "a text", optional=True)
    folder_of_images = _placed("dataset.images", images, split)
    listing = _placed("dataset.annotations", annotations, split)
    origin = Origin(
        title="The data set coco",
        tree=f"{folder_of_images}/NAME.jpg (dataset.images) and {listing} (dataset.annotations)",
        source="cocodataset.org, or as an export of your own in the COCO format,",
    )
    folder = checked_root(root, origin)
    return folder, existing(folder / listing, origin, folder), origin


def _checked_names(class_names: Sequence[str] | None, others: str) -> tuple[str, ...] | None:
    """The names of the chosen categories; None for all.

    Raises:
        ConfigError: ``others`` is unknown, or the names are no list of names that differ.
    """
    check_choice("dataset.others", others, OTHERS)
    if class_names is None:
        return None
    names = tuple(class_names) if isinstance(class_names, list | tuple) else ()
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(
            "dataset.class_names must be null or a list of names of categories", received=repr(class_names)
        )
    if len(set(names)) != len(names):
        raise ConfigError("dataset.class_names holds a name twice", received=", ".join(names))
    return names


def _legend(classes: AnnotationFile | Sequence[str], others: str) -> Legend:
    """Names and colours of the classes, the background first if there is one.

    Raises:
        ConfigError: there are too many, none, or a category has the background's name.
    """
    names = tuple(classes.categories.values()) if isinstance(classes, AnnotationFile) else tuple(classes)
    has_background = others == BACKGROUND
    if has_background and BACKGROUND in names:
        raise ConfigError(
            f"A category is called {BACKGROUND}, as is the class that dataset.others={BACKGROUND} puts first",
            remedy="Set dataset.others=ignore, or name the other categories in dataset.class_names",
        )
    if not is_count(len(names), 1, _MOST - has_background):
        raise ConfigError(
            f"The categories of {classes.path} cannot be the classes"
            if isinstance(classes, AnnotationFile)
            else "dataset.class_names holds too many names",
            expected=f"1 to {_MOST - has_background} classes",
            received=len(names),
            remedy="Choose some of them: dataset.class_names=[<name>, ...]",
        )
    colours = hues(len(names))
    if has_background:
        return Legend("coco", (BACKGROUND, *names), (_GREY, *colours))
    return Legend("coco", names, colours)


def _kind(content: AnnotationFile, kind: str | None) -> str:
    """What the annotations are.

    Raises:
        ConfigError: they are of another kind than the setting says, or there are none to tell, and no setting.
    """
    if content.kind is None and kind is None:
        raise ConfigError(
            f"{content.path} has no annotation that tells of which kind it is",
            expected=" or ".join(f"dataset.kind={known}" for known in KINDS),
        )
    if content.kind is not None and kind is not None and content.kind != kind:
        raise ConfigError(
            f"{content.path} is of another kind than dataset.kind",
            expected=kind,
            received=content.kind,
            remedy="Set dataset.kind=null, or dataset.annotations=<another file>",
        )
    return str(content.kind or kind)


def _chosen(content: AnnotationFile, names: tuple[str, ...] | None, others: str) -> dict[int, int]:
    """The class of each chosen category by its id.

    Raises:
        ConfigError: a name is none of the file's.
    """
    by_name = {name: number for number, name in content.categories.items()}
    if unknown := [name for name in names or () if name not in by_name]:
        known = ", ".join(list(by_name)[:_SHOWN]) + (", ..." if len(by_name) > _SHOWN else "")
        raise ConfigError(
            f"dataset.class_names holds what is no category of {content.path}",
            expected=known or "names of categories",
            received=", ".join(unknown),
        )
    first = int(others == BACKGROUND)
    return {by_name[name]: first + index for index, name in enumerate(by_name if names is None else names)}


def _rest(others: str) -> int:
    """What a pixel of no chosen category is: the class of the background, or the ignore index."""
    return 0 if others == BACKGROUND else IGNORE_INDEX


def _label(
    image: ListedImage, content: AnnotationFile, chosen: Mapping[int, int], rest: int, *, is_panoptic: bool
) -> tuple[Label | None, list[str]]:
    """What the annotations tell of an image, or None and one line for each of them that cannot be used."""
    if is_panoptic:
        return _panoptic_label(image, content, chosen, rest)
    objects: list[tuple[int, Outline]] = []
    problems = []
    for annotation in image.annotations:
        wrong = _unknown(annotation.category, content)
        label = CROWD if annotation.is_crowd else chosen.get(annotation.category or 0)
        if not wrong and label is not None:
            outline = annotation.outline
            wrong = annotation.flaw if outline is None else outline.misfit(image.size)
            if outline is not None:
                objects.append((label, outline))
        if wrong:
            problems.append(f"{annotation.what}: {wrong}")
    return (None, problems) if problems else (Label(image.size, tuple(objects)), [])


def _unknown(category: int | None, content: AnnotationFile) -> str:
    """Why an id is that of no category; empty if it is one."""
    if category in content.categories:
        return ""
    known = ", ".join(map(str, list(content.categories)[:_SHOWN])) + (
        ", ..." if len(content.categories) > _SHOWN else ""
    )
    return f"expected the id of a category, {known or 'of which there are none'}, received {category}"


def _panoptic_label(
    image: ListedImage, content: AnnotationFile, chosen: Mapping[int, int], rest: int
) -> tuple[Label | None, list[str]]:
    if len(image.annotations) != 1:
        return None, [f"expected one annotation with its segments, received {len(image.annotations)}"]
    (annotation,) = image.annotations
    if annotation.flaw:
        return None, [f"{annotation.what}: {annotation.flaw}"]
    entries = list(zip(annotation.segments[::3], annotation.segments[1::3], annotation.segments[2::3], strict=True))
    problems = [
        f"segment {number}: {wrong}" for number, category, _ in entries if (wrong := _unknown(category, content))
    ]
    if len({number for number, _, _ in entries}) != len(entries):
        problems.append("expected every id of a segment once, received one twice")
    segments = {
        number: IGNORE_INDEX if is_crowd else chosen.get(category, rest) for number, category, is_crowd in entries
    }
    return (None, problems) if problems else (Label(image.size, segments=segments), [])


def _segment_labels(file: Path, size: tuple[int, int], segments: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Class ids and ignore index, ``H x W`` int64, of a PNG file with the ids of segments, of which 0 is none; and the
    number of the segment of each pixel, from 1 on in the order of their ids, 0 for none."""
    colours = read_colours(file, COLOUR_LABEL).astype(np.int64)
    _check_size(file, (colours.shape[0], colours.shape[1]), size)
    numbers, places, counts = np.unique(colours @ (1, 1 << 8, 1 << 16), return_inverse=True, return_counts=True)
    known = {0: IGNORE_INDEX, **segments}
    if unknown := [(int(n), int(count)) for n, count in zip(numbers, counts, strict=True) if int(n) not in known]:
        shown = ", ".join(f"{number} ({count} pixels)" for number, count in unknown[:_SHOWN])
        raise DataError(
            f"Label file {file} has segments that the annotations do not list",
            expected=", ".join(map(str, list(segments)[:_SHOWN])) or "none",
            received=shown,
            remedy="Check that dataset.masks is the folder that belongs to dataset.annotations",
        )
    labels = np.asarray([known[int(number)] for number in numbers], dtype=np.int64)
    own = np.cumsum(numbers != 0) * (numbers != 0)
    return labels[places].reshape(size), own[places].reshape(size)


def _check_size(file: Path, found: tuple[int, int], told: tuple[int, int]) -> None:
    """Raise :class:`DataError` unless a PNG file has the size that the JSON file tells."""
    if found != told:
        raise DataError(
            f"Label file {file} has another size than the annotations tell",
            expected=f"{told[0]} x {told[1]} pixels",
            received=f"{found[0]} x {found[1]}",
        )
