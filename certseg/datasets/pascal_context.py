"""PASCAL-Context: whole scenes of VOC 2010, the 59 frequent classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from certseg.datasets.files import Origin
from certseg.datasets.mmseg import Layout, LibraryDataset, Part

_LISTS = "ImageSets/SegmentationContext"


@dataclass(eq=False, repr=False)
class PascalContext(LibraryDataset):
    """PASCAL-Context (Mottaghi et al. 2014), the folder ``VOCdevkit/VOC2010``, with the splits ``train`` and ``val``; 0
    in label files is "no label", 1 to 59 become classes 0 to 58."""

    root: str | Path = "data/VOCdevkit/VOC2010"
    split: str = "val"

    layout = Layout(
        name="pascal_context",
        library_class="PascalContextDataset59",
        origin=Origin(
            title="PASCAL-Context",
            tree=f"JPEGImages/NAME.jpg, SegmentationClassContext/NAME.png, {_LISTS}/{{train,val}}.txt, "
            "0 = no label, 1-59 = classes (labels and lists written by mmsegmentation's converter pascal_context.py)",
            source="host.robots.ox.ac.uk/pascal/VOC/voc2010 and cs.stanford.edu/~roozbeh/pascal-context",
        ),
        splits={
            split: (Part("JPEGImages", "SegmentationClassContext", f"{_LISTS}/{split}.txt"),)
            for split in ("train", "val")
        },
    )
