"""Cityscapes: streets of 50 cities, 19 classes, 1024 x 2048."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from certseg.datasets.files import Origin
from certseg.datasets.mmseg import Layout, LibraryDataset, Part


@dataclass(eq=False, repr=False)
class Cityscapes(LibraryDataset):
    """Cityscapes (Cordts et al. 2016), the folder that holds ``leftImg8bit`` and ``gtFine``: fine annotations by
    training id, with the splits ``train`` and ``val``; the test labels are not public."""

    root: str | Path = "data/cityscapes"
    split: str = "val"

    layout = Layout(
        name="cityscapes",
        library_class="CityscapesDataset",
        origin=Origin(
            title="Cityscapes",
            tree="leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png and "
            "gtFine/{train,val}/CITY/NAME_gtFine_labelTrainIds.png "
            "(the latter written by csCreateTrainIdLabelImgs of cityscapesscripts)",
            source="www.cityscapes-dataset.com",
        ),
        splits={split: (Part(f"leftImg8bit/{split}", f"gtFine/{split}"),) for split in ("train", "val")},
    )
