"""Folder: anybody's own data set, a folder of images and a folder of label files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from certseg.checks import check_count, check_flag, check_word
from certseg.datasets.bands import Reader
from certseg.datasets.declared import (
    MOST_VALUE,
    Declared,
    DeclaredCoding,
    declared_colours,
    declared_names,
    declared_values,
)
from certseg.datasets.files import FileDataset, Legend, Listing, Origin, checked_root, existing, match_folders
from certseg.datasets.listing import list_file, listed_names
from certseg.datasets.palettes import checked_palette
from certseg.datasets.reading import Coding, LabelCoding
from certseg.errors import ConfigError, DataError, printable
from certseg.types import IGNORE_INDEX

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
JPEG_SUFFIXES = (".jpg", ".jpeg")
JPEG_REFUSED = (
    "a label as JPEG, whose compression changes ids; write it as PNG, or declare dataset.values or dataset.colours and "
    "set dataset.quantise=true, which takes the nearest"
)
ORIGIN = Origin(
    title="The data set folder",
    tree="SPLIT/images/NAME.{png,jpg,jpeg,bmp,tif,tiff} and SPLIT/labels/NAME.{png,tif,tiff,bmp}, "
    "or with dataset.split=null images/ and labels/ directly",
    source="your own files",
)


class Folder(FileDataset):
    """Images and label files of the same names.

    Label files hold class ids, or what ``values`` or ``colours`` declare; of a palette image the indices count,
    and with ``colours`` its colours. A label that carries an EXIF orientation is turned as an image is.

    Args:
        root: folder that holds ``<split>/images`` and ``<split>/labels``, or ``images`` and ``labels``.
        split: name of the split's folder; None for the flat layout.
        class_names: one name per class; None where ``num_classes`` is given.
        num_classes: number of classes, 1 to 254, which are then called ``class 0``, ``class 1``, ...; None where
            ``class_names`` are given.
        palette: one RGB colour per class, 0 to 255; None for the first of each class's ``colours``, or else evenly
            spaced hues.
        ignore_index: the value in label files that means "no label", unless ``values`` gives it to a class; None if
            there is none. Without ``values`` at most 255. Of no meaning with ``colours``.
        reduce_zero_label: whether 0 in label files means "no label", too, and ``1 .. num_classes`` are the classes.
        size: ``[height, width]`` in pixels that every sample is resized to; None, the default, keeps the files' sizes.
        strict: whether missing and unpaired files are an error, the default; otherwise they are listed in
            ``problems`` and the complete pairs are used.
        values: the value in label files of each class, 0 to 65535, or a list of several: a mapping of class names to
            them, ``{background: 0, lesion: 255}``, or a list in the order of the classes; None where they are ids.
        colours: the colour ``[red, green, blue]`` of each class, or a list of several, in either form; None where
            label files have no colours.
        ignore_colours: the colours that mean "no label"; None for none.
        quantise: whether a pixel of a label file is read as the nearest of ``values`` or ``colours``, so that JPEGs
            can be label files, too; see :class:`~certseg.datasets.declared.DeclaredCoding`.
        lists: folder of list files ``SPLIT.txt``, one name per line, with or without suffix; the images and labels of
            all splits then lie in ``images`` and ``labels`` directly. None where each split has its folder.
        bands: which channels of image files are read, from 0 on, in this order; with ``window``, images may have any
            number of them. None with a window for all, and without one for what a screen shows: 8-bit RGB.
        window: the values ``[low, high]`` of image files that become 0 and 1, or one such pair for each band; None for
            0 and 255. See :class:`~certseg.datasets.bands.Reader`.
        name: what results, their folders and reports call the data set: letters, digits, ``.``, ``_`` and ``-``; None
            for ``folder``.

    Raises:
        ConfigError: the classes are told by none of ``class_names``, ``num_classes``, ``values`` and ``colours``, or
            these contradict each other, the palette has another length, or another setting is outside its domain.
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
        values: Declared | None = None,
        colours: Declared | None = None,
        ignore_colours: Sequence[Sequence[int]] | None = None,
        quantise: bool = False,
        lists: str | Path | None = None,
        bands: Sequence[int] | None = None,
        window: Sequence[Any] | None = None,
        name: str | None = None,
    ):
        reader = Reader.of(bands, window)
        legend = self.legend(class_names, num_classes, palette, values, colours, name)
        declared = _declared(values, colours, ignore_index, ignore_colours, quantise)
        coding = _coding(len(legend.class_names), declared, ignore_index, reduce_zero_label)
        base = checked_root(root, ORIGIN)
        folder = base if lists is not None else _folder_of(base, split)
        images, labels = (existing(folder / kind, ORIGIN, base) for kind in ("images", "labels"))
        listing = match_folders(
            images,
            labels,
            IMAGE_SUFFIXES,
            LABEL_SUFFIXES + (JPEG_SUFFIXES if quantise else ()),
            refused_labels={} if quantise else dict.fromkeys(JPEG_SUFFIXES, JPEG_REFUSED),
        )
        super().__init__(
            legend=legend,
            split="all" if split is None else str(split),
            origin=ORIGIN,
            listing=listing if lists is None else _listed(listing, lists, split),
            coding=coding,
            size=size,
            strict=strict,
            reader=reader,
        )

    @classmethod
    def legend(
        cls,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        values: Declared | None = None,
        colours: Declared | None = None,
        name: str | None = None,
        **settings: Any,
    ) -> Legend:
        """The classes; the constructor's other arguments ``settings`` change nothing about them.

        Args:
            class_names: one name per class; None where ``num_classes`` is given.
            num_classes: number of classes, 1 to 254; None where ``class_names`` are given.
            palette: one RGB colour per class, 0 to 255; None for the first of each class's ``colours``, or else
                evenly spaced hues.
            values: the values of the classes in label files, by name or in order; None if not declared.
            colours: the colours of the classes in label files, by name or in order; None if not declared.
            name: what the data set is called; None for ``folder``.

        Raises:
            ConfigError: nothing tells the classes, or what does contradicts itself, or the palette has another length.

        >>> Folder.legend(num_classes=2).class_names
        ('class 0', 'class 1')
        >>> Folder.legend(values={"background": 0, "lesion": 255}).class_names
        ('background', 'lesion')
        """
        name = "folder" if name is None else name
        check_word("dataset.name", name)
        declared = _declared(values, colours)
        named = declared_names(values if values is not None else colours)
        if class_names is not None and named is not None and tuple(map(str, class_names)) != named:
            raise ConfigError(
                f"dataset.class_names and dataset.{'values' if colours is None else 'colours'} name different classes",
                expected=", ".join(named),
                received=", ".join(map(str, class_names)),
                remedy="Leave dataset.class_names out: the mapping names the classes, in its order",
            )
        if declared is not None and class_names is None and num_classes is None:
            num_classes = len(declared.classes) if named is None else None
        names = _class_names(class_names if named is None else named, num_classes)
        if declared is not None and len(declared.classes) != len(names):
            raise ConfigError(
                f"dataset.{declared.what} does not fit the classes",
                expected=f"{len(names)} entries",
                received=len(declared.classes),
            )
        if palette is None and declared is not None and declared.what == "colours":
            palette = [codes[0] for codes in declared.classes]
        return Legend(name, names, checked_palette(palette, len(names)))


def _folder_of(base: Path, split: str | None) -> Path:
    folder = base if split is None else base / str(split)
    if not folder.is_dir():
        found = sorted(path.name for path in base.iterdir() if (path / "images").is_dir())
        raise DataError(
            f"{base.absolute()} has no split {split!r}",
            expected=" or ".join(found) or ORIGIN.tree,
            remedy="Set dataset.split=<name>, dataset.split=null for the flat layout, or dataset.lists=<folder>",
        )
    return folder


def _listed(listing: Listing, lists: str | Path, split: str | None) -> Listing:
    """The listed ones of all pairs, in the order of the list; problems with files that are not listed do not count."""
    remedy = "Set dataset.lists=<folder>, or dataset.lists=null where each split has its folder"
    names = [printable(name) for name in listed_names(list_file(lists, split, ORIGIN.title, remedy), whole=True)]
    pairs = {pair.name: pair for pair in listing[0]}
    by_file = {pair.name + printable(pair.image.suffix): pair for pair in listing[0]}
    chosen, problems = {}, []
    for name in names:
        pair = pairs.get(name) or by_file.get(name)
        if pair is None:
            problems.append(f"{name}: listed, but not an image with a label")
        elif pair.name in chosen:
            problems.append(f"{name}: listed twice")
        else:
            chosen[pair.name] = pair
    return list(chosen.values()), problems + (listing[1] if problems else [])


def _declared(
    values: Declared | None,
    colours: Declared | None,
    ignore_index: int | None = None,
    ignore_colours: Sequence[Sequence[int]] | None = None,
    quantise: bool = False,
) -> DeclaredCoding | None:
    check_flag("dataset.quantise", quantise)
    if values is not None and colours is not None:
        raise ConfigError("dataset.values and dataset.colours are both set", expected="one of them")
    if colours is None and ignore_colours is not None:
        raise ConfigError("dataset.ignore_colours is set without dataset.colours", expected="both or neither")
    if values is not None:
        return declared_values(values, ignore_index, quantise)
    if colours is not None:
        return declared_colours(colours, ignore_colours, quantise)
    if quantise:
        raise ConfigError(
            "dataset.quantise=true needs what to take the nearest of",
            expected="dataset.values or dataset.colours",
            remedy="Declare them: ids that follow each other are too near to be told apart after compression",
        )
    return None


def _coding(
    num_classes: int, declared: DeclaredCoding | None, ignore_index: int | None, reduce_zero_label: bool
) -> Coding:
    check_flag("dataset.reduce_zero_label", reduce_zero_label)
    most = 255 if declared is None or declared.what != "values" else MOST_VALUE
    check_count("dataset.ignore_index", ignore_index, 0, most, optional=True)
    if declared is None:
        return LabelCoding(num_classes, _ignored(ignore_index, reduce_zero_label), first=int(reduce_zero_label))
    if reduce_zero_label:
        raise ConfigError(
            f"dataset.reduce_zero_label and dataset.{declared.what} contradict each other",
            remedy="Leave dataset.reduce_zero_label out: what is declared says which values are classes",
        )
    return declared


def _class_names(class_names: Sequence[str] | None, num_classes: int | None) -> tuple[str, ...]:
    if class_names is None:
        if num_classes is None:
            raise ConfigError(
                "The number of classes of the data set folder is unknown",
                remedy="Set dataset.num_classes=<number> or dataset.class_names=[<name>, ...], or declare "
                "dataset.values or dataset.colours by name",
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
    values = ([0] if reduce_zero_label else []) + ([ignore_index] if ignore_index is not None else [])
    return tuple(sorted(set(values)))
