"""Oxford-IIIT Pet: cats and dogs of 37 breeds, each cut out from its background; sizes vary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from certseg.checks import check_choice
from certseg.datasets.files import (
    FileDataset,
    FilePair,
    Legend,
    Origin,
    checked_root,
    checked_split,
    existing,
    missing_files,
)
from certseg.datasets.listing import listed_names, tenth_of
from certseg.datasets.reading import LabelCoding

CLASS_NAMES = ("pet", "background", "border")
PALETTE = ((220, 20, 60), (70, 130, 180), (255, 215, 0))
BORDER = 3
"""The value of trimaps that the data set's authors call "not classified"."""
LISTS = {"trainval": "trainval", "train": "trainval", "val": "trainval", "test": "test"}
ORIGIN = Origin(
    title="Oxford-IIIT Pet",
    tree="images/NAME.jpg, annotations/trimaps/NAME.png (1 = pet, 2 = background, 3 = border), "
    "annotations/{trainval,test}.txt",
    source="www.robots.ox.ac.uk/~vgg/data/pets (images.tar.gz, annotations.tar.gz)",
)


class OxfordPets(FileDataset):
    """Oxford-IIIT Pet (Parkhi, Vedaldi, Zisserman, Jawahar 2012): pet against background, from the trimaps.

    ``trainval`` and ``test`` are the authors' lists. They have none for validation: ``val`` are the images of
    ``trainval`` whose names :func:`~certseg.datasets.listing.tenth_of` maps to 0, ``train`` the others.

    Args:
        root: folder that holds ``images`` and ``annotations``.
        split: name of the split, ``train``, ``val``, ``trainval`` or ``test``.
        border: what the pixels between pet and background are: ``ignore`` ("not classified", as the authors say: no
            label) or ``class`` (a third class, as in tutorials).
        size: ``[height, width]`` in pixels that every sample is resized to; None, the default, keeps the files' sizes.
        strict: whether missing and unpaired files are an error, the default; otherwise they are listed in
            ``problems`` and the complete pairs are used.

    Raises:
        ConfigError: ``border`` is unknown, or another setting outside its domain.
        DataError: the folder or the split is missing, holds no image, or is incomplete while ``strict``.
    """

    def __init__(
        self,
        root: str | Path = "data/oxford_pets",
        split: str = "test",
        border: str = "ignore",
        size: Sequence[int] | None = None,
        strict: bool = True,
    ):
        legend = self.legend(border)
        folder = checked_root(root, ORIGIN)
        checked_split(split, LISTS, ORIGIN.title)
        images = existing(folder / "images", ORIGIN, folder)
        trimaps = existing(folder / "annotations" / "trimaps", ORIGIN, folder)
        names = listed_names(existing(folder / "annotations" / f"{LISTS[split]}.txt", ORIGIN, folder))
        if split in ("train", "val"):
            names = [name for name in names if (tenth_of(name) == 0) == (split == "val")]
        ignored = () if border == "class" else (BORDER,)
        super().__init__(
            legend=legend,
            split=split,
            origin=ORIGIN,
            listing=missing_files([FilePair(name, images / f"{name}.jpg", trimaps / f"{name}.png") for name in names]),
            coding=LabelCoding(len(legend.class_names), ignore=ignored, first=1),
            size=size,
            strict=strict,
        )

    @classmethod
    def legend(cls, border: str = "ignore", **settings: Any) -> Legend:
        """The classes, which depend on ``border`` alone of the constructor's arguments.

        Raises:
            ConfigError: ``border`` is neither ``ignore`` nor ``class``.
        """
        check_choice("dataset.border", border, ("ignore", "class"))
        count = 3 if border == "class" else 2
        return Legend("oxford_pets", CLASS_NAMES[:count], PALETTE[:count])
