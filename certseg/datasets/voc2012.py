"""PASCAL VOC 2012 segmentation: 20 object classes and background, optionally with the SBD labels for training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from certseg.checks import check_flag
from certseg.datasets.files import Origin
from certseg.datasets.mmseg import Layout, LibraryDataset, Part

_LISTS = "ImageSets/Segmentation"
LAYOUT = Layout(
    name="voc2012",
    library_class="PascalVOCDataset",
    origin=Origin(
        title="PASCAL VOC 2012",
        tree=f"JPEGImages/NAME.jpg, SegmentationClass/NAME.png, {_LISTS}/{{train,val,trainval}}.txt "
        f"(with augmented: SegmentationClassAug/NAME.png and {_LISTS}/aug.txt)",
        source="host.robots.ox.ac.uk/pascal/VOC/voc2012",
    ),
    splits={
        split: (Part("JPEGImages", "SegmentationClass", f"{_LISTS}/{split}.txt"),)
        for split in ("train", "val", "trainval")
    },
)
_SBD = Part("JPEGImages", "SegmentationClassAug", f"{_LISTS}/aug.txt")


class VOC2012(LibraryDataset):
    """PASCAL VOC 2012 (Everingham et al.); 255 in label files is "no label".

    Args:
        root: the folder ``VOCdevkit/VOC2012``.
        split: ``train``, ``val`` or ``trainval``.
        augmented: the ``train`` split also holds the images of SBD (Hariharan et al. 2011) that are in neither VOC
            split, 10582 images in all; the other splits stay as they are.
        size, strict: see :class:`~certseg.datasets.files.FileDataset`.

    Raises:
        ConfigError, DataError: see :class:`~certseg.datasets.files.FileDataset`.
    """

    layout = LAYOUT

    def __init__(
        self,
        root: str | Path = "data/VOCdevkit/VOC2012",
        split: str = "val",
        augmented: bool = False,
        size: Sequence[int] | None = None,
        strict: bool = True,
    ):
        check_flag("dataset.augmented", augmented)
        extra = (_SBD,) if augmented and split == "train" else ()
        super().__init__(root, split, size, strict, extra)
