"""The masks of objects as annotations of the COCO format outline them: by polygons or by the lengths of runs."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from certseg.checks import is_count
from certseg.compute.extras import library
from certseg.errors import DataError
from certseg.types import IGNORE_INDEX

_LEAST = 6  # coordinates of a polygon: those of three corners
_CODED = range(48, 112)  # the characters of compressed runs, six bits each


@dataclass(frozen=True, slots=True)
class Polygons:
    """The polygons that make up an object, in little memory.

    Args:
        corners: for each polygon x and y of its corners, in pixels from the upper left corner of the image, in turn.
    """

    corners: tuple[array[float], ...]

    def misfit(self, size: tuple[int, int]) -> str:
        """Why they are none of an image of this height and width; empty if they may be."""
        for axis, side in enumerate((size[1], size[0])):
            values = [polygon[axis::2] for polygon in self.corners]
            least, most = min(map(min, values)), max(map(max, values))
            if least < -side or most > 2 * side:  # drawn in memory that grows with its length
                return f"expected {'xy'[axis]} from 0 to {side}, received {least:g} to {most:g}, far beyond the image"
        return ""

    def content(self) -> bytes:
        """What a digest takes of them."""
        return b"".join(len(polygon).to_bytes(8, "little") + polygon.tobytes() for polygon in self.corners)

    def lengths(self, size: tuple[int, int]) -> np.ndarray:
        """Lengths of the runs, int64, of all polygons together in an image of this height and width: column by column,
        in turn outside and inside.

        Raises:
            DependencyError: pycocotools is missing.
        """
        masks = coco_masks()
        runs = masks.merge(masks.frPyObjects([list(polygon) for polygon in self.corners], *size))
        return np.fromiter(run_lengths(runs["counts"]), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Runs:
    """The lengths of an object's runs, column by column, in turn outside and inside it.

    Args:
        height: height in pixels of the image that they are of.
        width: its width.
        counts: the lengths, or bytes that hold them compressed.
    """

    height: int
    width: int
    counts: array[int] | bytes

    def misfit(self, size: tuple[int, int]) -> str:
        """Why they are none of an image of this height and width; empty if they may be."""
        if (self.height, self.width) == size:
            return ""
        return f"expected runs of {size[0]} x {size[1]} pixels, received size {self.height} x {self.width}"

    def content(self) -> bytes:
        """What a digest takes of them."""
        return self.counts if isinstance(self.counts, bytes) else self.counts.tobytes()

    def lengths(self, size: tuple[int, int]) -> np.ndarray:
        """Lengths of the runs, int64, in an image of this height and width.

        Raises:
            ValueError: they do not cover the image.
        """
        lengths = list(run_lengths(self.counts)) if isinstance(self.counts, bytes) else list(self.counts)
        if min(lengths, default=0) < 0 or sum(lengths) != size[0] * size[1]:
            raise ValueError(
                f"expected runs of {size[0]} x {size[1]} = {size[0] * size[1]} pixels, received {lengths!r:.60}"
            )
        return np.asarray(lengths, dtype=np.int64)


Outline = Polygons | Runs
CROWD = -1
"""What takes the place of a class where an outline is that of a crowd."""


def coco_masks() -> Any:
    """The module of pycocotools that draws polygons, by the rules of the authors of COCO.

    Raises:
        DependencyError: it is not installed.
    """
    return library("pycocotools.mask", "polygons of dataset=coco")


def outline_of(segmentation: object) -> Outline:
    """An object's outline, as a file of annotations has it.

    Args:
        segmentation: a list of polygons ``[x, y, x, y, ...]``, or ``{"size": [height, width], "counts": ...}`` with a
            list of lengths or their compressed text.

    Raises:
        ValueError: it is something else; says what was expected and received.

    >>> outline_of([[0, 0, 4, 0, 4]])
    Traceback (most recent call last):
    ValueError: expected an even number of at least 6 coordinates, received a polygon of 5
    """
    if isinstance(segmentation, dict):
        return _runs(segmentation.get("size"), segmentation.get("counts"))
    if not isinstance(segmentation, list) or not segmentation:
        received = "none" if segmentation in (None, []) else repr(segmentation)[:60]
        raise ValueError(f"expected polygons or runs as segmentation, received {received}")
    return Polygons(tuple(map(_polygon, segmentation)))


def _polygon(coordinates: object) -> array[float]:
    if not isinstance(coordinates, list):
        raise ValueError(f"expected a list of polygons, each a list, received {repr(coordinates)[:60]} among them")
    if len(coordinates) < _LEAST or len(coordinates) % 2:
        raise ValueError(
            f"expected an even number of at least {_LEAST} coordinates, received a polygon of {len(coordinates)}"
        )
    try:
        polygon = array("d", coordinates)
    except (TypeError, OverflowError):
        polygon = array("d", [math.nan])
    if not all(map(math.isfinite, polygon)):
        raise ValueError(f"expected finite numbers as coordinates, received {repr(coordinates)[:60]}")
    return polygon


def _runs(size: object, counts: object) -> Runs:
    sides = size if isinstance(size, list) else []
    if len(sides) != 2 or not all(is_count(side) for side in sides):
        raise ValueError(f"expected runs with size [height, width], received {repr(size)[:60]}")
    if isinstance(counts, str) and counts and all(ord(character) in _CODED for character in counts):
        return Runs(sides[0], sides[1], counts.encode("ascii"))
    if isinstance(counts, list) and counts and all(is_count(count, 0, 2**62) for count in counts):
        return Runs(sides[0], sides[1], array("q", counts))
    raise ValueError(f"expected counts as non-negative integers or their compressed text, received {counts!r:.60}")


def run_lengths(coded: bytes) -> Iterator[int]:
    """The lengths that a compressed text holds: five bits a character, the lowest first, each length from the fourth on
    as its difference to the last but one.

    Raises:
        ValueError: the text ends within a length.

    >>> list(run_lengths(b"327"))
    [3, 2, 7]
    """
    lengths: list[int] = []
    value = shift = 0
    for character in coded:
        part = character - _CODED.start
        value |= (part & 31) << shift
        shift += 5
        if part & 32:
            continue
        if part & 16:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        yield lengths[-1]
        value = shift = 0
    if shift:
        raise ValueError("compressed runs that end within a length")


def painted(
    objects: Sequence[tuple[int, Outline]], size: tuple[int, int], *, rest: int, largest_first: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Class ids and ignore index, ``H x W`` int64, of the objects of an image, and the number of the object that each
    pixel belongs to, ``H x W`` int64, from 1 on in the order of ``objects`` and 0 for none: crowds under everything
    else, as ignored, then the others one over the other.

    Args:
        objects: the class of each, or :data:`CROWD`, and its outline.
        size: height and width of the image in pixels.
        rest: what pixels of no object count as.
        largest_first: whether the others are painted by the number of their pixels, so that smaller ones lie over
            larger ones, and not in the order of ``objects``, which still decides between those of equal size.

    Raises:
        DataError: an outline is none of an image of that size.
        DependencyError: there are polygons, and pycocotools is missing.
    """
    labels, numbers = np.full(size, rest, dtype=np.int64), np.zeros(size, dtype=np.int64)
    try:
        drawn = [(label, outline.lengths(size), number) for number, (label, outline) in enumerate(objects, 1)]
    except ValueError as error:
        raise DataError("The segmentation of an object cannot be drawn", received=error) from error
    if largest_first:
        drawn.sort(key=lambda entry: -int(entry[1][1::2].sum()))
    drawn.sort(key=lambda entry: entry[0] != CROWD)  # a stable sort
    for label, lengths, number in drawn:
        mask = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(size, order="F")
        labels[mask] = IGNORE_INDEX if label == CROWD else label
        numbers[mask] = 0 if label == CROWD else number
    return labels, numbers
