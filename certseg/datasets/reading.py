"""From image and label files to :class:`certseg.types.Sample`: decoding, the meaning of label values, resizing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps

from certseg.compute.opencv import cv2
from certseg.errors import DataError
from certseg.types import IGNORE_INDEX, Sample, Sides

_INVALID = -1
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "F")  # Pillow cuts the values of all others to 8 bits
SPREAD = {"L;4": 17, "L;2": 85}
"""By how pixels of few bits are stored, what Pillow multiplies them by."""
_LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")
_LOSSY_COMPRESSIONS = ("jpeg", "tiff_jpeg", "webp")  # of TIFF
_OVER = (2, 3, 4)  # EXIF orientations that turn or mirror an image and keep its sides
_SIDEWAYS = (5, 6, 7, 8)  # those in which height and width change places
_WINDOW = "dataset=folder reads 16 bits with dataset.window=[low, high], the values that become 0 and 1"
_BANDS = "dataset=folder reads further channels with dataset.bands"


class Coding(Protocol):
    """What the values in label files mean."""

    def labels(self, file: Path) -> np.ndarray:
        """Class ids and ignore index, ``H x W`` int64, of a label file.

        Raises:
            DataError: the file cannot be read, or holds what has no meaning.
        """

    def sides(self, file: Path) -> Sides:
        """Height and width of a label file, from its header.

        Raises:
            DataError: the header tells that the file cannot be read.
        """

    def identity(self) -> list[object]:
        """What a fingerprint holds of the coding, in types that JSON has."""


@dataclass(frozen=True)
class LabelCoding:
    """How values in label files become class ids ``0 .. num_classes - 1`` and the ignore index.

    Args:
        num_classes: number of classes, at most 254.
        ignore: the values in the files that mean "no label".
        first: the value in the files of class 0: 1 where 0 means "no label" (mmsegmentation's
            ``reduce_zero_label``), else 0.

    >>> LabelCoding(num_classes=2, ignore=(0,), first=1).table()[:4]
    array([255,   0,   1,  -1])
    """

    num_classes: int
    ignore: tuple[int, ...] = (IGNORE_INDEX,)
    first: int = 0

    def table(self) -> np.ndarray:
        """``256`` int64: class id of each file value, -1 where the value has no meaning."""
        table = np.full(256, _INVALID, dtype=np.int64)
        table[self.first : self.first + self.num_classes] = np.arange(self.num_classes)
        table[list(self.ignore)] = IGNORE_INDEX
        return table

    def identity(self) -> list[object]:
        """What a fingerprint holds of the coding."""
        return [self.num_classes, self.ignore, self.first]

    def sides(self, file: Path) -> Sides:
        """Height and width of a label file, from its header.

        Raises:
            DataError: the header tells that the file cannot be read.
        """
        return image_size(file, LABEL)

    def labels(self, file: Path) -> np.ndarray:
        """Class ids ``H x W`` int64 of a label file.

        Raises:
            DataError: the file cannot be read, or a value is neither a class nor "no label".
        """
        return self.decode(read_label(file), file)

    def decode(self, values: np.ndarray, file: Path) -> np.ndarray:
        """Class ids ``H x W`` int64 of the file values ``H x W``; ``file`` is where they were read, for the message.

        Raises:
            DataError: a value is neither a class nor "no label"; names the file and the values.
        """
        values = values.astype(np.int64)
        known = (values >= 0) & (values < 256)
        labels = self.table()[np.where(known, values, 0)]
        wrong = ~known | (labels == _INVALID)
        if wrong.any():
            found = ", ".join(str(value) for value in np.unique(values[wrong])[:20])
            last = self.first + self.num_classes - 1
            raise DataError(
                f"Label file {file} holds values that are no class of this data set",
                expected=f"{self.first} to {last}, and {', '.join(map(str, self.ignore)) or 'nothing'} for no label",
                received=f"{found} ({int(wrong.sum())} pixels)",
                remedy="Check the data set option, the label format, and the number of classes",
            )
        return labels


@dataclass(frozen=True)
class FileKind:
    """What a file is read as.

    Args:
        name: what it is called in messages, ``Image`` or ``Label``.
        modes: the modes of Pillow that are read.
        may_be_lossy: whether it may have been compressed with a loss, as JPEG does.
    """

    name: str
    modes: tuple[str, ...]
    may_be_lossy: bool


IMAGE = FileKind("Image", _EIGHT_BIT_MODES, may_be_lossy=True)
COLOUR_LABEL = FileKind("Label", _EIGHT_BIT_MODES, may_be_lossy=False)
LABEL = FileKind("Label", _LABEL_MODES, may_be_lossy=False)


def read_image(file: Path) -> np.ndarray:
    """``H x W x 3`` uint8 RGB, turned upright as the file's EXIF orientation says.

    Raises:
        DataError: the file cannot be decoded completely, holds several pictures, has more than 8 bits per channel, a
            fourth channel that is no alpha, or a pixel that is transparent.
    """
    return read_colours(file, IMAGE)


def read_colours(file: Path, kind: FileKind) -> np.ndarray:
    """``H x W x 3`` uint8 RGB of a file, turned upright.

    Args:
        file: the file.
        kind: :data:`IMAGE`, :data:`COLOUR_LABEL`, or one that may be lossy.

    Raises:
        DataError: the file cannot be decoded completely, holds several pictures, has more than 8 bits per channel, a
            fourth channel that is no alpha, or a pixel that is transparent, or its compression loses what must not be
            lost.
    """
    picture = ImageOps.exif_transpose(_decoded(file, kind)[0])
    if picture.has_transparency_data or picture.mode == "P":
        picture = picture.convert("RGBA")
        transparent = np.asarray(picture.getchannel("A")) < 255
        if transparent.any():
            raise DataError(
                f"{kind.name} file {file} is transparent, so that its colours are not those that are seen",
                expected="no alpha channel, or 255 everywhere in it",
                received=f"{int(transparent.sum())} transparent pixels",
                remedy="Write it without transparency, on the background that is meant",
            )
    return np.asarray(picture.convert("RGB"))


def read_label(file: Path, kind: FileKind = LABEL) -> np.ndarray:
    """``H x W`` values as they are in the file, turned upright; a palette image gives its indices, not its colours.

    Raises:
        DataError: the file cannot be decoded completely, holds several pictures, has more than one channel, or its
            compression loses what must not be lost.
    """
    picture, stored = _decoded(file, kind)
    values = np.asarray(ImageOps.exif_transpose(picture))
    if picture.mode == "L" and stored in SPREAD:  # Pillow spreads the values of few bits over 0 to 255
        values = values // SPREAD[stored]
    return values


def image_size(file: Path, kind: FileKind = IMAGE) -> Sides:
    """Height and width of a file as it is turned when it is read, and all that its header tells against reading it.

    Raises:
        DataError: the file is no image, or one that is not read.
    """
    with _opened(file, kind) as picture:
        _check_header(picture, file, kind)
        is_sideways = _orientation(picture) in _SIDEWAYS
        return (picture.width, picture.height) if is_sideways else (picture.height, picture.width)


def turn(file: Path) -> str:
    """What the EXIF orientation of a file does to it when it is read: ``sides`` where height and width change places,
    ``over`` where it is turned or mirrored without that, empty for nothing.

    Raises:
        DataError: the file is no image.
    """
    with _opened(file, IMAGE) as picture:
        orientation = _orientation(picture)
    return "sides" if orientation in _SIDEWAYS else "over" if orientation in _OVER else ""


def _orientation(picture: Image.Image) -> int:
    return int(picture.getexif().get(ExifTags.Base.Orientation, 1))


@contextlib.contextmanager
def _opened(file: Path, kind: FileKind) -> Iterator[ImageFile.ImageFile]:
    """The file as Pillow opens it; what goes wrong within is said in one line."""
    try:
        with Image.open(file) as picture:
            yield picture
    # a broken file makes Pillow's decoders raise any of these
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{kind.name} file {file} cannot be read",
            received=f"{type(error).__name__}: {error}",
            remedy="Fetch or write the file again; scripts/check_dataset.py lists every bad file",
        ) from error


def _decoded(file: Path, kind: FileKind) -> tuple[Image.Image, str]:
    """The decoded file, and how its pixels are stored."""
    with _opened(file, kind) as picture:
        stored = _check_header(picture, file, kind)
        picture.load()
    return picture, stored


def _check_header(picture: ImageFile.ImageFile, file: Path, kind: FileKind) -> str:
    """How a picture's pixels are stored, once its header tells nothing against reading it. Of the several pictures of a
    camera's MPO file, a JPEG with previews or views from the side, the first is the picture itself; other files of
    several pictures are refused.

    Raises:
        DataError: it does.
    """
    said = f"{kind.name} file {file}"
    count = getattr(picture, "n_frames", 1)  # Pillow gives it to formats that may hold several
    if count > 1 and picture.format != "MPO":
        raise DataError(
            f"{said} holds several pictures",
            expected="one page or frame",
            received=count,
            remedy="Write the one that is meant as a file of its own",
        )
    stored = " ".join(str(tile[3]) for tile in picture.tile)
    if ";16" in stored and picture.mode not in _SIXTEEN_BIT_MODES:
        raise DataError(
            f"{said} has 16 bits per channel, of which half would be lost",
            expected="8 bits per channel, grey or colour",
            remedy=_WINDOW if kind.name == "Image" else "Write it with 8 bits, with the range of values that is meant",
        )
    if picture.mode not in kind.modes and kind.modes is _LABEL_MODES:
        raise DataError(
            f"{said} is a colour picture",
            expected="one channel of class ids (grey or palette PNG)",
            received=f"mode {picture.mode}",
            remedy="Convert colours to class ids, or declare them as dataset.colours of dataset=folder",
        )
    if picture.mode not in kind.modes:
        is_fourth = picture.mode == "RGBX"
        raise DataError(
            f"{said} cannot be used",
            expected="8 bits per channel, grey or colour",
            received="a fourth channel that is no alpha" if is_fourth else f"mode {picture.mode}",
            remedy="Write it as an 8-bit PNG of one or three channels"
            + (f"; {_BANDS if is_fourth else _WINDOW}" if kind.name == "Image" else ""),
        )
    compression = str(picture.info.get("compression", ""))
    if not kind.may_be_lossy and (picture.format in _LOSSY_FORMATS or compression in _LOSSY_COMPRESSIONS):
        raise DataError(
            f"{said} is {picture.format}{f' with compression {compression}' if compression else ''} whatever its name "
            "says, and that changes ids",
            expected="a compression without loss",
            remedy="Write it as PNG from the labels as they were drawn, or declare dataset.values or dataset.colours "
            "and set dataset.quantise=true, which takes the nearest",
        )
    return stored


def resized(image: np.ndarray, labels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Image ``H x W x C`` and labels ``H x W`` at ``size`` (height, width).

    The image is averaged over areas where both sides shrink and interpolated bilinearly otherwise; a pixel's label is
    the nearest one.
    """
    if labels.shape == size:
        return image, labels
    shrinks = size[0] <= labels.shape[0] and size[1] <= labels.shape[1]
    target = (size[1], size[0])
    channels = image.shape[2]
    image = cv2.resize(image, target, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    image = image.reshape(*size, channels)  # a single one is left out
    labels = cv2.resize(labels.astype(np.uint8), target, interpolation=cv2.INTER_NEAREST_EXACT)
    return image, labels.astype(np.int64)


def resized_numbers(numbers: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Numbers of objects (``H x W`` int64, below 2^24) at ``size``: at each pixel that of the pixel whose label
    :func:`resized` takes."""
    if numbers.shape == size:
        return numbers
    moved = cv2.resize(numbers.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(moved, dtype=np.int64)


def pixels_of(image: np.ndarray) -> torch.Tensor:
    """``C x H x W`` float32 in [0, 1] of ``H x W x C``, uint8 or float32 in [0, 1]."""
    pixels = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(pixels / np.float32(255) if image.dtype == np.uint8 else pixels)


def to_sample(name: str, image: np.ndarray, labels: np.ndarray, numbers: np.ndarray | None = None) -> Sample:
    """A :class:`Sample` from an image as :func:`pixels_of` takes it, ``H x W`` class ids, and ``H x W`` numbers of
    objects (:attr:`certseg.types.Sample.objects`) where there are some."""
    objects = None if numbers is None else torch.from_numpy(numbers.astype(np.int64))
    return Sample(name, pixels_of(image), torch.from_numpy(labels.astype(np.int64)), objects)
