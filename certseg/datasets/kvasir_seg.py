"""Kvasir-SEG: images of colonoscopies in which polyps are outlined; sizes vary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from certseg.datasets.files import (
    FileDataset,
    FilePair,
    Legend,
    Listing,
    Origin,
    checked_root,
    checked_split,
    existing,
    match_folders,
    missing_files,
)
from certseg.datasets.listing import list_file, listed_names, tenth_of
from certseg.datasets.reading import LabelCoding, image_size, read_image
from certseg.errors import DataError
from certseg.types import Sides

CLASS_NAMES = ("background", "polyp")
PALETTE = ((70, 70, 70), (220, 60, 60))
PARTS = {"train": range(2, 10), "val": (1,), "test": (0,), "all": range(10)}
"""The tenths of the images that belong to each split."""
ORIGIN = Origin(
    title="Kvasir-SEG",
    tree="images/NAME.jpg and masks/NAME.jpg, white where a polyp is",
    source="datasets.simula.no/kvasir-seg (kvasir-seg.zip)",
)
_WHITE = 128
_TRACES = 32  # that far compression may take a value from black or white, or a channel from the others
_MOST_BETWEEN = 0.1  # share of pixels further away: a few lie along edges


class KvasirSEG(FileDataset):
    """Kvasir-SEG (Jha et al. 2020): polyp against background, from black and white JPEG masks, read as white from 128.

    The archive has no list of splits. Here a name's :func:`~certseg.datasets.listing.tenth_of` decides: 0 is ``test``,
    1 ``val``, 2 to 9 ``train``, ``all`` has every image. Other splits are given as list files.

    Args:
        root: folder that holds ``images`` and ``masks``.
        split: name of the split, ``train``, ``val``, ``test`` or ``all``; with ``lists`` that of a list file.
        lists: folder of list files ``SPLIT.txt``, one name without suffix per line; None for the rule above.
        size: ``[height, width]`` in pixels that every sample is resized to; None, the default, keeps the files' sizes.
        strict: whether missing and unpaired files are an error, the default; otherwise they are listed in
            ``problems`` and the complete pairs are used.

    Raises:
        ConfigError: a setting is outside its domain.
        DataError: the folder or the split is missing, holds no image, or is incomplete while ``strict``.
    """

    def __init__(
        self,
        root: str | Path = "data/kvasir_seg",
        split: str = "test",
        lists: str | Path | None = None,
        size: Sequence[int] | None = None,
        strict: bool = True,
    ):
        folder = checked_root(root, ORIGIN)
        images = existing(folder / "images", ORIGIN, folder)
        masks = existing(folder / "masks", ORIGIN, folder)
        super().__init__(
            legend=self.legend(),
            split=split,
            origin=ORIGIN,
            listing=_part(images, masks, split) if lists is None else _listed(images, masks, split, lists),
            coding=MaskCoding(len(CLASS_NAMES), ignore=()),
            size=size,
            strict=strict,
        )

    @classmethod
    def legend(cls, **settings: Any) -> Legend:
        """The two classes, which do not depend on the constructor's arguments ``settings``."""
        return Legend("kvasir_seg", CLASS_NAMES, PALETTE)


class MaskCoding(LabelCoding):
    """Masks of black and white, which are JPEGs; their traces of compression are seen through."""

    def sides(self, file: Path) -> Sides:
        """Height and width of a mask, from its header.

        Raises:
            DataError: the header tells that the file cannot be read.
        """
        return image_size(file)

    def labels(self, file: Path) -> np.ndarray:
        """Class ids ``H x W`` int64 of a mask.

        Raises:
            DataError: the file cannot be read, or is not black and white.
        """
        return _binary(read_image(file), file)


def _part(images: Path, masks: Path, split: str) -> Listing:
    checked_split(split, PARTS, ORIGIN.title)
    pairs, problems = match_folders(images, masks, (".jpg",), (".jpg",))
    return [pair for pair in pairs if tenth_of(pair.name) in PARTS[split]], problems


def _listed(images: Path, masks: Path, split: str, lists: str | Path) -> Listing:
    file = list_file(
        lists, split, ORIGIN.title, "Set dataset.lists=<folder>, or dataset.lists=null for certseg's own split"
    )
    names = [name.removesuffix(".jpg") for name in listed_names(file)]
    return missing_files([FilePair(name, images / f"{name}.jpg", masks / f"{name}.jpg") for name in names])


def _binary(mask: np.ndarray, file: Path) -> np.ndarray:
    """1 where an ``H x W x 3`` mask is white, else 0; another kind of file, which gives such a map too, is refused."""
    if int((mask.max(axis=2) - mask.min(axis=2)).max()) > _TRACES:
        raise DataError(f"Mask file {file} is a colour picture", expected="black, and white where a polyp is")
    values = mask[..., 0]
    between = float(((values > _TRACES) & (values < 255 - _TRACES)).mean())
    if between > _MOST_BETWEEN or 0 < values.max() < _WHITE:
        raise DataError(
            f"Mask file {file} holds values that are neither black nor white",
            expected="0 for background and 255 for polyp, but for the traces of JPEG compression",
            received=f"values up to {values.max()}, {between:.0%} of the pixels in between",
        )
    return (values >= _WHITE).astype(np.int64)
