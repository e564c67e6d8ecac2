"""PASCAL VOC 2012 segmentation: 20 object classes and background, optionally with the SBD labels for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from certseg.checks import check_flag
from certseg.datasets.files import Origin
from certseg.datasets.mmseg import Layout, LibraryDataset, Part

_LISTS = "ImageSets/Segmentation"
_SBD = Part("JPEGImages", "SegmentationClassAug", f"{_LISTS}/aug.txt")


@dataclass(eq=False, repr=False)
class VOC2012(LibraryDataset):
    """PASCAL VOC 2012 (Everingham et al.), the folder ``VOCdevkit/VOC2012``, with the splits ``train``, ``val`` and
    ``trainval``; 255 in label files is "no label".

    Args:
        root: as of :class:`LibraryDataset`.
        split: as of :class:`LibraryDataset`.
        size: as of :class:`LibraryDataset`.
        strict: as of :class:`LibraryDataset`.
        augmented: the ``train`` split also holds the images of SBD (Hariharan et al. 2011) that are in neither VOC
            split, 10582 images in all; the other splits stay as they are.
    """

    root: str | Path = "data/VOCdevkit/VOC2012"
    split: str = "val"
    augmented: bool = False

    layout = Layout(
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

    def __post_init__(self, size: Sequence[int] | None) -> None:
        check_flag("dataset.augmented", self.augmented)
        super().__post_init__(size)

    def parts(self) -> tuple[Part, ...]:
        """Where the samples of the split lie, those of SBD included where they are asked for."""
        return super().parts() + ((_SBD,) if self.augmented and self.split == "train" else ())
