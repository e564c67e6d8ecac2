"""ADE20K in the SceneParsing form: everyday scenes, 150 classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from certseg.datasets.files import Origin
from certseg.datasets.mmseg import Layout, LibraryDataset, Part


@dataclass(eq=False, repr=False)
class ADE20K(LibraryDataset):
    """ADE20K (Zhou et al. 2017), the folder ``ADEChallengeData2016``, with the splits ``train`` and ``val``; the value
    0 in label files is "no label", 1 to 150 become classes 0 to 149."""

    root: str | Path = "data/ade/ADEChallengeData2016"
    split: str = "val"

    layout = Layout(
        name="ade20k",
        library_class="ADE20KDataset",
        origin=Origin(
            title="ADE20K",
            tree="images/{training,validation}/NAME.jpg and annotations/{training,validation}/NAME.png, "
            "0 = no label, 1-150 = classes",
            source="groups.csail.mit.edu/vision/datasets/ADE20K (ADEChallengeData2016.zip)",
        ),
        splits={
            "train": (Part("images/training", "annotations/training"),),
            "val": (Part("images/validation", "annotations/validation"),),
        },
    )
