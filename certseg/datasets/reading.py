"""From image and label files to :class:`certseg.types.Sample`: decoding, the meaning of label values, resizing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps

from certseg.compute.opencv import cv2
from certseg.errors import DataError
from certseg.types import IGNORE_INDEX, Sample

_INVALID = -1
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "F")  # Pillow cuts the values of all others to 8 bits
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations in which height and width change places


class Coding(Protocol):
    """What the values in label files mean."""

    def labels(self, file: Path) -> np.ndarray:
        """Class ids and ignore index, ``H x W`` int64, of a label file.

        Raises:
            DataError: the file cannot be read, or holds what has no meaning.
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


def read_image(file: Path) -> np.ndarray:
    """``H x W x 3`` uint8 RGB, turned upright as the file's EXIF orientation says.

    Raises:
        DataError: the file cannot be decoded completely, holds several pictures, has more than 8 bits per channel, a
            fourth channel that is no alpha, or a pixel that is transparent.
    """
    return read_colours(file, "Image")


def read_colours(file: Path, what: str) -> np.ndarray:
    """``H x W x 3`` uint8 RGB of a file, turned upright; ``what`` it is called in messages, ``Image`` or ``Label``.

    Raises:
        DataError: the file cannot be decoded completely, holds several pictures, has more than 8 bits per channel, a
            fourth channel that is no alpha, or a pixel that is transparent.
    """
    picture = _open(file, what)
    if picture.mode not in _EIGHT_BIT_MODES:
        raise DataError(
            f"{what} file {file} cannot be used",
            expected="8 bits per channel, grey or colour",
            received="a fourth channel that is no alpha" if picture.mode == "RGBX" else f"mode {picture.mode}",
            remedy="Write it as an 8-bit PNG of one or three channels",
        )
    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data or picture.mode == "P":
        picture = picture.convert("RGBA")
        transparent = np.asarray(picture.getchannel("A")) < 255
        if transparent.any():
            raise DataError(
                f"{what} file {file} is transparent, so that its colours are not those that are seen",
                expected="no alpha channel, or 255 everywhere in it",
                received=f"{int(transparent.sum())} transparent pixels",
                remedy="Write it without transparency, on the background that is meant",
            )
    return np.asarray(picture.convert("RGB"))


def image_size(file: Path) -> tuple[int, int]:
    """Height and width of an image file as :func:`read_image` turns it, from its header.

    Raises:
        DataError: the file is no image.
    """
    try:
        with Image.open(file) as picture:
            is_sideways = picture.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
            return (picture.width, picture.height) if is_sideways else (picture.height, picture.width)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"Image file {file} cannot be read", received=f"{type(error).__name__}: {error}") from error


def read_label(file: Path) -> np.ndarray:
    """``H x W`` values as they are in the file, turned upright; a palette image gives its indices, not its colours.

    Raises:
        DataError: the file cannot be decoded completely, holds several pictures, or has more than one channel.
    """
    picture = _open(file, "Label")
    if picture.mode not in _LABEL_MODES:
        raise DataError(
            f"Label file {file} is a colour picture",
            expected="one channel of class ids (grey or palette PNG)",
            received=f"mode {picture.mode}",
            remedy="Convert colours to class ids, or declare them as dataset.colours of dataset=folder",
        )
    return np.asarray(ImageOps.exif_transpose(picture))


def _open(file: Path, what: str) -> Image.Image:
    """The decoded file. Of the several pictures of a camera's MPO file, a JPEG with previews or views from the side,
    the first is the picture itself; other files of several pictures are refused.
    """
    try:
        with Image.open(file) as picture:
            count = getattr(picture, "n_frames", 1)  # Pillow gives it to formats that may hold several
            stored = " ".join(str(tile[3]) for tile in picture.tile)
            picture.load()
    # a broken file makes Pillow's decoders raise any of these
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{what} file {file} cannot be read",
            received=f"{type(error).__name__}: {error}",
            remedy="Fetch or write the file again; scripts/check_dataset.py lists every bad file",
        ) from error
    if count > 1 and picture.format != "MPO":
        raise DataError(
            f"{what} file {file} holds several pictures",
            expected="one page or frame",
            received=count,
            remedy="Write the one that is meant as a file of its own",
        )
    if ";16" in stored and picture.mode not in _SIXTEEN_BIT_MODES:
        raise DataError(
            f"{what} file {file} has 16 bits per channel, of which half would be lost",
            expected="8 bits per channel, grey or colour",
            remedy="Write it with 8 bits, with the range of values that is meant",
        )
    return picture


def turned(file: Path) -> bool:
    """Whether a file's EXIF orientation changes it when it is read.

    Raises:
        DataError: the file cannot be decoded completely.
    """
    return _open(file, "Image").getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)


def resized(image: np.ndarray, labels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Image ``H x W x 3`` and labels ``H x W`` at ``size`` (height, width).

    The image is averaged over areas where both sides shrink and interpolated bilinearly otherwise; a pixel's label is
    the nearest one.
    """
    if labels.shape == size:
        return image, labels
    shrinks = size[0] <= labels.shape[0] and size[1] <= labels.shape[1]
    target = (size[1], size[0])
    image = cv2.resize(image, target, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    labels = cv2.resize(labels.astype(np.uint8), target, interpolation=cv2.INTER_NEAREST_EXACT)
    return image, labels.astype(np.int64)


def to_sample(name: str, image: np.ndarray, labels: np.ndarray) -> Sample:
    """A :class:`Sample` from ``H x W x 3`` uint8 RGB and ``H x W`` class ids."""
    pixels = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
    return Sample(name, torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)))
