"""Files of annotations in the COCO format, read into little memory: what they list, and what is wrong with it.

The file of a large data set holds millions of numbers. Each annotation is reduced to what a label needs as soon as it
is parsed, so that they never all lie in memory as Python objects.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from certseg.checks import is_count
from certseg.datasets.coco_outlines import Outline, outline_of
from certseg.errors import DataError

KINDS = ("instances", "panoptic")
MOST_ID = 2**24 - 1
"""The largest id of a segment: that of the colour white."""
_LISTS = ("images", "annotations", "categories")


@dataclass(frozen=True, slots=True)
class Annotation:
    """One entry of the annotations: an object of an image or, of kind ``panoptic``, all segments of one.

    Args:
        image: the id of its image.
        kind: ``instances`` or ``panoptic``.
        what: what messages call it.
        category: the id of the object's category; None if it has none that is an integer.
        is_crowd: whether the object is a crowd.
        outline: the object's outline; None where it has none that can be read, or the entry is panoptic.
        file_name: name of the PNG file with the ids of the segments; empty for an object.
        segments: id, category id and whether it is a crowd (1 or 0) of each segment, in turn.
        flaw: what is wrong with it, with what was expected and received; empty if nothing is.
    """

    image: object
    kind: str
    what: str
    category: int | None = None
    is_crowd: bool = False
    outline: Outline | None = None
    file_name: str = ""
    segments: array[int] = field(default_factory=lambda: array("q"))
    flaw: str = ""


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One entry of the images.

    Args:
        file_name: the path of its file below the folder of images, with forward slashes.
        size: height and width in pixels.
        annotations: its entries, in the order of the file.
    """

    file_name: str
    size: tuple[int, int]
    annotations: tuple[Annotation, ...]

    @property
    def name(self) -> str:
        """The path without suffix."""
        return PurePosixPath(self.file_name).with_suffix("").as_posix()


@dataclass(frozen=True)
class AnnotationFile:
    """What a file of annotations lists.

    Args:
        path: the file.
        kind: ``instances`` or ``panoptic``; None where it has no annotation that tells.
        categories: the names of the categories by their ids, in the order of the ids.
        images: the images by the order of their file names.
        problems: one line for each entry that cannot be used.
    """

    path: Path
    kind: str | None
    categories: Mapping[int, str]
    images: tuple[ListedImage, ...]
    problems: tuple[str, ...]


def read_annotations(path: Path) -> AnnotationFile:
    """Read a file of annotations.

    Raises:
        DataError: it cannot be read, is no JSON, lacks its lists of images, annotations and categories, has categories
            without id or name or twice, or entries of both kinds.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=_reduced)
    except (OSError, ValueError, RecursionError) as error:  # of which JSON's and Unicode's errors are two
        raise DataError(
            f"Annotation file {path} cannot be read",
            expected="JSON of the COCO format",
            received=f"{type(error).__name__}: {error}",
            remedy="Fetch or write the file again, or set dataset.annotations=<file below dataset.root>",
        ) from error
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in _LISTS):
        lists = [name for name in _LISTS if isinstance(content, dict) and isinstance(content.get(name), list)]
        raise DataError(
            f"Annotation file {path} is not of the COCO format",
            expected=f"an object with the lists {', '.join(_LISTS)}",
            received=f"the lists {', '.join(lists)}" if lists else "none of these lists",
            remedy="Set dataset.annotations=<file of instances or panoptic segmentation below dataset.root>",
        )
    entries = content["annotations"]
    if odd := [entry for entry in entries if not isinstance(entry, Annotation)]:
        raise DataError(
            f"Annotation file {path} holds annotations without an image",
            expected="image_id in every annotation",
            received=f"{len(odd)} without, such as {odd[0]!r:.80}",
            remedy="Write the file again, in the COCO format",
        )
    if len(kinds := sorted({entry.kind for entry in entries})) > 1:
        raise DataError(
            f"Annotation file {path} holds annotations of two kinds",
            expected="segmentation in each of them, or segments_info in each",
            received=" and ".join(kinds),
        )
    images, problems = _images(path, content["images"], entries)
    return AnnotationFile(path, kinds[0] if kinds else None, _categories(path, content["categories"]), images, problems)


def _reduced(entry: dict[str, object]) -> object:
    """An object of the file as it is kept: annotations as such, all others as they are."""
    if "image_id" not in entry:
        return entry
    image, what = entry["image_id"], f"annotation {entry.get('id', 'without id')}"
    if "segments_info" in entry:
        try:
            segments = _segments(entry["segments_info"])
        except ValueError as error:
            return Annotation(image, "panoptic", what, flaw=str(error))
        file_name = entry.get("file_name")
        if not _is_inside(file_name):
            flaw = f"expected file_name, the PNG file of its segments, received {file_name!r:.60}"
            return Annotation(image, "panoptic", what, flaw=flaw)
        return Annotation(image, "panoptic", what, file_name=str(file_name), segments=segments)
    told, is_crowd = entry.get("category_id"), False
    category = told if is_count(told, 0) else None
    try:
        is_crowd = _is_crowd(entry)
        outline = outline_of(entry.get("segmentation"))
    except ValueError as error:
        return Annotation(image, "instances", what, category, is_crowd, flaw=str(error))
    return Annotation(image, "instances", what, category, is_crowd, outline)


def _segments(listed: object) -> array[int]:
    segments = array("q")
    for segment in listed if isinstance(listed, list) else [listed]:
        told = segment if isinstance(segment, dict) else {}
        number, category = told.get("id"), told.get("category_id")
        if not is_count(number, 1, MOST_ID) or not is_count(category, 0, 2**62):
            raise ValueError(
                f"expected segments with id, 1 to {MOST_ID}, and category_id, received {repr(segment)[:60]}"
            )
        segments.extend((number, category, int(_is_crowd(told))))
    return segments


def _is_crowd(entry: dict[str, object]) -> bool:
    """Whether an annotation outlines several objects as one; those that do not say are of one object each.

    Raises:
        ValueError: it says something else than yes or no.
    """
    told = entry.get("iscrowd", 0)
    if told not in (0, 1):  # also False and True
        raise ValueError(f"expected iscrowd, 0 or 1, received {told!r:.60}")
    return told == 1


def _is_inside(file_name: object) -> bool:
    """Whether a name leads to a file below the folder that it is taken from."""
    if not isinstance(file_name, str) or not file_name:
        return False
    parts = PurePosixPath(file_name)
    return not parts.is_absolute() and ".." not in parts.parts and parts.name != "" and "\0" not in file_name


def _categories(path: Path, listed: list[object]) -> dict[int, str]:
    categories: dict[int, str] = {}
    for entry in listed:
        number, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if not is_count(number, 0) or not isinstance(name, str) or not name:
            raise DataError(
                f"Annotation file {path} has a category that is none",
                expected="a non-negative integer as id, and a name",
                received=f"{entry!r:.80}",
            )
        if number in categories or name in categories.values():
            raise DataError(
                f"Annotation file {path} has a category twice",
                expected="every id and every name once",
                received=f"id {number}, name {name!r}",
                remedy="Give the categories names of their own",
            )
        categories[number] = name
    return dict(sorted(categories.items()))


def _images(
    path: Path, listed: list[object], annotations: list[Annotation]
) -> tuple[tuple[ListedImage, ...], tuple[str, ...]]:
    """The images that can be used, in order, and one line for each entry that cannot."""
    by_image: dict[object, list[Annotation]] = defaultdict(list)
    problems = []
    for annotation in annotations:
        if isinstance(annotation.image, int | str):
            by_image[annotation.image].append(annotation)
        else:
            problems.append(f"{path}, {annotation.what}: expected image_id, received {annotation.image!r:.60}")
    images: list[ListedImage] = []
    ids = Counter(entry["id"] for entry in listed if isinstance(entry, dict) and isinstance(entry.get("id"), int | str))
    names: Counter[str] = Counter()
    for entry in listed:
        told = entry if isinstance(entry, dict) else {}
        number, file_name, height, width = (told.get(key) for key in ("id", "file_name", "height", "width"))
        if not isinstance(number, int | str) or not _is_inside(file_name):
            received = f"{told or entry!r:.80}"
            problems.append(f"{path}: expected images with id and file_name below the folder, received {received}")
        elif ids[number] > 1:
            problems.append(
                f"{path}, image {file_name}: expected the id of every image once, received {number} {ids[number]} times"
            )
        elif not is_count(height) or not is_count(width):
            problems.append(
                f"{path}, image {file_name}: expected height and width in pixels, received {height!r} and {width!r}"
            )
        else:
            image = ListedImage(str(file_name), (height, width), tuple(by_image.get(number, ())))
            names[image.name] += 1
            images.append(image)
    unknown = [annotation for number, found in by_image.items() if number not in ids for annotation in found]
    problems += [
        f"{path}, {annotation.what}: expected the id of an image that the file lists, received {annotation.image}"
        for annotation in unknown
    ]
    problems += [
        f"{path}, image {name}: expected every name of a file, without its suffix, once, received it {count} times"
        for name, count in sorted(names.items())
        if count > 1
    ]
    images.sort(key=lambda image: image.file_name)
    return tuple(image for image in images if names[image.name] == 1), tuple(problems)
