"""Images of any channels and depth: which bands of a file are read, and which of its values become 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from certseg.checks import is_count, is_number
from certseg.compute.extras import library
from certseg.compute.opencv import cv2
from certseg.datasets.reading import SPREAD, image_size, read_image, turn
from certseg.errors import ConfigError, DataError, DependencyError
from certseg.types import Sides

_TIFF = (".tif", ".tiff")
_ORIENTATION = 274  # the tag of a TIFF
_BANDS_FIRST, _BANDS_LAST = ("SYX", "CYX"), ("YXS", "YXC")  # tifffile's names of axes
_PLAIN_MODES = ("1", "L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I;16L", "I", "F")


@dataclass(frozen=True)
class Reader:
    """How image files become pixels in [0, 1].

    Without bands and window it reads what a screen shows: 8-bit colours, grey three times, nothing transparent. With
    either it reads numbers: the channels of PNG, JPEG, BMP and TIFF files, of 8 or 16 bits or, in TIFFs, floating point
    numbers. A value v of band b becomes ``(v - low_b) / (high_b - low_b)``, cut off at 0 and 1.

    Args:
        bands: which channels of a file are the image's, in this order, from 0 on; None for all.
        windows: for each band, or once for all, the values ``(low, high)`` that become 0 and 1; None for 0 and 255,
            which only 8-bit files have.

    Raises:
        ConfigError: a setting is outside its domain.
    """

    bands: tuple[int, ...] | None = None
    windows: tuple[tuple[float, float], ...] | None = None

    @classmethod
    def of(cls, bands: Sequence[int] | None, window: Sequence[Any] | None) -> Reader:
        """The reader of the settings ``dataset.bands`` and ``dataset.window``.

        Args:
            bands: a list of numbers from 0 on, of which one may stand several times, as grey in three channels; None.
            window: ``[low, high]``, or a list of such pairs, one for each band; None.

        Raises:
            ConfigError: a setting is something else.
        """
        chosen = None if bands is None else _checked_bands(bands)
        windows = None if window is None else _checked_windows(window)
        if windows is not None and len(windows) > 1 and (chosen is None or len(chosen) != len(windows)):
            raise ConfigError(
                "dataset.window has another number of pairs than dataset.bands has bands",
                expected="one pair for all bands, or one for each",
                received=f"{len(windows)} pairs, {'no' if chosen is None else len(chosen)} bands",
            )
        return cls(chosen, windows)

    @property
    def is_plain(self) -> bool:
        """Whether it reads what a screen shows."""
        return self.bands is None and self.windows is None

    @property
    def scale(self) -> str:
        """What 0 and 1 of an image are, and with them a radius of 1, in words; empty for 8-bit colours."""
        if self.windows is None:
            return ""
        pairs = ", ".join(f"{low:g} to {high:g}" for low, high in self.windows)
        return f"values {pairs} of the files are 0 to 1" + ("" if len(self.windows) == 1 else ", band by band")

    def identity(self) -> list[object]:
        """What a fingerprint holds of it, in types that JSON has; nothing of the plain one."""
        return [] if self.is_plain else [{"bands": self.bands, "windows": self.windows}]

    def sides(self, file: Path) -> Sides:
        """Height and width of an image file as it is read, from its header where that tells them.

        Raises:
            DataError: the file is no image, or one that is not read.
        """
        if self.is_plain:
            return image_size(file)
        height, width = self._numbers(file).shape[:2]
        return height, width

    def turn(self, file: Path) -> str:
        """What an EXIF orientation does to an image when it is read, as :func:`certseg.datasets.reading.turn` says it;
        none is looked for in TIFFs that are read as numbers.

        Raises:
            DataError: the file is no image.
        """
        return "" if not self.is_plain and file.suffix.lower() in _TIFF else turn(file)

    def read(self, file: Path) -> np.ndarray:
        """An image, turned upright: ``H x W x 3`` uint8 RGB of a plain reader, else ``H x W x C`` float32 in [0, 1].

        Raises:
            DataError: the file cannot be read as the settings say.
            DependencyError: it is a TIFF that needs a library which is not installed.
        """
        if self.is_plain:
            return read_image(file)
        numbers = self._numbers(file)
        number = numbers.shape[-1]
        bands = tuple(range(number)) if self.bands is None else self.bands
        if max(bands) >= number:
            raise DataError(
                f"Image file {file} has no band {max(bands)}",
                expected=f"{number} bands, 0 to {number - 1}",
                received=f"dataset.bands=[{', '.join(map(str, bands))}]",
            )
        chosen = numbers[..., list(bands)]
        if self.windows is None and chosen.dtype != np.uint8:
            low, high = (f"{value:g}" for value in (chosen.min(), chosen.max()))
            raise DataError(
                f"Image file {file} has values of {chosen.dtype}, and it is not said which of them become 0 and 1",
                expected="dataset.window=[low, high], the same for all images",
                received=f"values {low} to {high} in this one",
                remedy="Set it to what the sensor or the viewer uses, for example [0, 65535] for all that 16 bits hold",
            )
        if not np.isfinite(chosen).all():
            raise DataError(f"Image file {file} has values that are no numbers (NaN or infinite)")
        low_high = np.asarray(self.windows or ((0.0, 255.0),), dtype=np.float64)
        scaled = (chosen.astype(np.float64) - low_high[:, 0]) / (low_high[:, 1] - low_high[:, 0])
        return np.ascontiguousarray(scaled.clip(0.0, 1.0), dtype=np.float32)

    def _numbers(self, file: Path) -> np.ndarray:
        """``H x W x N``, the values of all channels as the file has them."""
        numbers = _tiff(file) if file.suffix.lower() in _TIFF else _picture(file)
        return numbers[..., None] if numbers.ndim == 2 else numbers


PLAIN = Reader()
"""The reader of 8-bit colours."""


def _picture(file: Path) -> np.ndarray:
    """The values of a PNG, JPEG or BMP; Pillow has no colours of 16 bits, which OpenCV has."""
    try:
        with Image.open(file) as picture:
            stored = " ".join(str(tile[3]) for tile in picture.tile)
            if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":  # of formats that may hold several
                raise DataError(f"Image file {file} holds several pictures", expected="one page or frame")
            if ";16" in stored and picture.mode == "LA":
                raise DataError(
                    f"Image file {file} is grey with an alpha channel of 16 bits, which is not read",
                    remedy="Write it without alpha, or as TIFF",
                )
            if ";16" not in stored or picture.mode in ("I;16", "I;16B", "I"):
                picture.load()
                if picture.mode not in _PLAIN_MODES:
                    raise DataError(
                        f"Image file {file} has no bands of numbers",
                        expected="grey or colour, with 8 or 16 bits",
                        received=f"mode {picture.mode}",
                        remedy="Write it without a palette, in RGB",
                    )
                values = np.asarray(ImageOps.exif_transpose(picture))
                if picture.mode == "L" and stored in SPREAD:
                    values = values // SPREAD[stored]
                return values.astype(np.uint16) if picture.mode == "I" and ";16" in stored else values
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from error
    if turn(file):
        raise DataError(
            f"Image file {file} has an EXIF orientation, which is not read with 16 bits per channel",
            remedy="Write it upright, without it",
        )
    decoded = cv2.imdecode(np.fromfile(file, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise _unreadable(file, "it is damaged")
    order = [2, 1, 0, 3][: decoded.shape[-1]] if decoded.ndim == 3 else []
    return decoded[..., order] if order else decoded


def _tiff(file: Path) -> np.ndarray:
    """The values of a TIFF, its bands last."""
    tifffile = library("tifffile", f"dataset.bands and dataset.window with {file.suffix} files")
    try:
        with tifffile.TiffFile(file) as tiff:
            if not tiff.series:
                raise _unreadable(file, "it holds no picture")
            if len(tiff.series) != 1:
                raise DataError(
                    f"Image file {file} holds several pictures",
                    expected="one",
                    received=len(tiff.series),
                    remedy="Write the one that is meant as a file of its own",
                )
            page = tiff.pages[0]
            if wrong := _untold(page):
                raise DataError(f"Image file {file} {wrong}", remedy="Write its numbers as they are meant, upright")
            axes, values = tiff.series[0].axes, tiff.series[0].asarray()
    except DataError:
        raise
    except Exception as error:  # whatever a damaged file provokes in the reader
        if "imagecodecs" in str(error):
            raise DependencyError(
                f"Image file {file} has a compression that tifffile does not know by itself",
                received=str(error),
                remedy="Install imagecodecs, or write the file without compression or with deflate",
            ) from error
        raise _unreadable(file, error) from error
    if axes in _BANDS_FIRST:
        values = np.moveaxis(values, 0, -1)
    elif axes not in ("YX", *_BANDS_LAST):
        raise DataError(
            f"Image file {file} holds several pictures",
            expected="one page, with its bands in it",
            received=f"axes {axes} of {values.shape}",
            remedy="Write one page with several samples per pixel",
        )
    if values.dtype.kind not in "uif":
        raise DataError(f"Image file {file} has values that are no numbers", received=str(values.dtype))
    found: np.ndarray = values
    return found


def _untold(page: Any) -> str:
    """What a page of a TIFF says of its numbers that reading them would pass over; empty for nothing."""
    orientation = page.tags.get(_ORIENTATION)
    if orientation is not None and orientation.value != 1:
        return "has an orientation, which is not applied to numbers"
    photometric = str(getattr(page.photometric, "name", page.photometric))  # an enumeration, or a number it lacks
    return f"is stored as {photometric}" if photometric in ("PALETTE", "MINISWHITE") else ""


def _unreadable(file: Path, error: object) -> DataError:
    told = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)
    return DataError(
        f"Image file {file} cannot be read",
        received=" ".join(told.split()),
        remedy="Fetch or write the file again; scripts/check_dataset.py lists every bad file",
    )


def _checked_bands(bands: object) -> tuple[int, ...]:
    listed = list(bands) if isinstance(bands, Sequence) and not isinstance(bands, str) else []
    numbers = tuple(band for band in listed if is_count(band, 0))
    if not numbers or len(numbers) != len(listed):
        raise ConfigError("dataset.bands cannot be read", expected="a list of numbers from 0 on", received=repr(bands))
    return numbers


def _checked_windows(window: object) -> tuple[tuple[float, float], ...]:
    listed = list(window) if isinstance(window, Sequence) and not isinstance(window, str) else []
    pairs = [listed] if len(listed) == 2 and all(map(is_number, listed)) else listed
    windows: list[tuple[float, float]] = []
    for pair in pairs:
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(map(is_number, pair)) or not pair[0] < pair[1]:
            windows = []
            break
        windows.append((float(pair[0]), float(pair[1])))
    if not windows:
        raise ConfigError(
            "dataset.window cannot be read",
            expected="[low, high] with low < high, or a list of such pairs",
            received=repr(window),
        )
    return tuple(windows)
