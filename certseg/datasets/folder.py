"""Folder: anybody's own data set, a folder of images and a folder of label files."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from certseg.checks import check_count, check_flag
from certseg.datasets.files import FileDataset, Legend, Origin, checked_root, existing, match_folders
from certseg.datasets.reading import LabelCoding
from certseg.errors import ConfigError, DataError
from certseg.types import IGNORE_INDEX

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
ORIGIN = Origin(
    title="The data set folder",
    tree="SPLIT/images/NAME.{png,jpg,jpeg,bmp,tif,tiff} and SPLIT/labels/NAME.png, "
    "or with dataset.split=null images/ and labels/ directly",
    source="your own files",
)


class Folder(FileDataset):
    """Images and single-channel label PNGs of the same names.

    Args:
        root: folder that holds ``<split>/images`` and ``<split>/labels``, or ``images`` and ``labels``.
        split: name of the split's folder; None for the flat layout.
        class_names: one name per class; None where ``num_classes`` is given.
        num_classes: number of classes, 1 to 254, which are then called ``class 0``, ``class 1``, ...; None where
            ``class_names`` are given.
        palette: one RGB colour per class, 0 to 255; None for evenly spaced hues.
        ignore_index: the value in label files that means "no label"; None if there is none.
        reduce_zero_label: whether 0 in label files means "no label", too, and ``1 .. num_classes`` are the classes.
        size: ``[height, width]`` in pixels that every sample is resized to; None, the default, keeps the files' sizes.
        strict: whether missing and unpaired files are an error, the default; otherwise they are listed in
            ``problems`` and the complete pairs are used.

    Raises:
        ConfigError: ``class_names`` and ``num_classes`` are both missing or contradict each other, the palette has
            another length, or another setting is outside its domain.
        DataError: the folder or the split is missing, holds no image, or is incomplete while ``strict``.
    """

    def __init__(
        self,
        root: str | Path = "data/folder",
        split: str | None = "test",
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        ignore_index: int | None = IGNORE_INDEX,
        reduce_zero_label: bool = False,
        size: Sequence[int] | None = None,
        strict: bool = True,
    ):
        legend = self.legend(class_names, num_classes, palette)
        ignore = _ignored(ignore_index, reduce_zero_label)
        base = checked_root(root, ORIGIN)
        folder = base if split is None else base / str(split)
        if not folder.is_dir():
            found = sorted(path.name for path in base.iterdir() if (path / "images").is_dir())
            raise DataError(
                f"{base.absolute()} has no split {split!r}",
                expected=" or ".join(found) or ORIGIN.tree,
                remedy="Set dataset.split=<name>, or dataset.split=null for the flat layout",
            )
        images, labels = (existing(folder / kind, ORIGIN, base) for kind in ("images", "labels"))
        super().__init__(
            legend=legend,
            split="all" if split is None else str(split),
            origin=ORIGIN,
            listing=match_folders(images, labels, IMAGE_SUFFIXES),
            coding=LabelCoding(len(legend.class_names), ignore=ignore, first=int(reduce_zero_label)),
            size=size,
            strict=strict,
        )

    @classmethod
    def legend(
        cls,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        **settings: Any,
    ) -> Legend:
        """The classes; the constructor's other arguments ``settings`` change nothing about them.

        Args:
            class_names: one name per class; None where ``num_classes`` is given.
            num_classes: number of classes, 1 to 254; None where ``class_names`` are given.
            palette: one RGB colour per class, 0 to 255; None for evenly spaced hues.

        Raises:
            ConfigError: ``class_names`` and ``num_classes`` are both missing or contradict each other, or the palette
                has another length.

        >>> Folder.legend(num_classes=2).class_names
        ('class 0', 'class 1')
        """
        names = _class_names(class_names, num_classes)
        return Legend("folder", names, _palette(palette, len(names)))


def _class_names(class_names: Sequence[str] | None, num_classes: int | None) -> tuple[str, ...]:
    if class_names is None:
        if num_classes is None:
            raise ConfigError(
                "The number of classes of the data set folder is unknown",
                remedy="Set dataset.num_classes=<number> or dataset.class_names=[<name>, ...]",
            )
        check_count("dataset.num_classes", num_classes, most=IGNORE_INDEX - 1)
        return tuple(f"class {index}" for index in range(num_classes))
    names = tuple(str(name) for name in class_names)
    if num_classes is not None and num_classes != len(names):
        raise ConfigError(
            "dataset.class_names and dataset.num_classes contradict each other",
            expected=f"{num_classes} names",
            received=f"{len(names)} names",
        )
    if len(set(names)) != len(names):
        raise ConfigError("dataset.class_names holds a name twice", received=names)
    check_count("dataset.num_classes", len(names), most=IGNORE_INDEX - 1)
    return names


def _ignored(ignore_index: int | None, reduce_zero_label: bool) -> tuple[int, ...]:
    check_flag("dataset.reduce_zero_label", reduce_zero_label)
    check_count("dataset.ignore_index", ignore_index, 0, 255, optional=True)
    values = ([0] if reduce_zero_label else []) + ([ignore_index] if ignore_index is not None else [])
    return tuple(sorted(set(values)))


def _palette(palette: Sequence[Sequence[int]] | None, count: int) -> tuple[tuple[int, int, int], ...]:
    if palette is None:
        return tuple(_hue((index * 0.618034) % 1.0) for index in range(count))  # golden ratio: neighbours differ
    colours = tuple(_colour(tuple(colour)) for colour in palette)
    if len(colours) != count:
        raise ConfigError(
            "dataset.palette does not fit the classes", expected=f"{count} colours", received=len(colours)
        )
    return colours


def _hue(hue: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def _colour(colour: tuple[int, ...]) -> tuple[int, int, int]:
    if len(colour) != 3 or any(not isinstance(v, int) or not 0 <= v <= 255 for v in colour):
        raise ConfigError("dataset.palette holds no RGB colour", expected="three integers 0 to 255", received=colour)
    red, green, blue = colour
    return red, green, blue
