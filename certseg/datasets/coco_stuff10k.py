"""COCO-Stuff 10k: everyday scenes, 171 classes of things and stuff."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from certseg.datasets.files import Origin
from certseg.datasets.mmseg import Layout, LibraryDataset, Part


@dataclass(eq=False, repr=False)
class COCOStuff10k(LibraryDataset):
    """COCO-Stuff 10k (Caesar, Uijlings, Ferrari 2018), the folder that holds ``images`` and ``annotations``, with the
    splits ``train`` and ``test``; 0 in label files is "no label", 1 to 171 become 0 to 170."""

    root: str | Path = "data/coco_stuff10k"
    split: str = "test"

    layout = Layout(
        name="coco_stuff10k",
        library_class="COCOStuffDataset",
        origin=Origin(
            title="COCO-Stuff 10k",
            tree="images/{train2014,test2014}/NAME.jpg and annotations/{train2014,test2014}/NAME_labelTrainIds.png, "
            "0 = no label, 1-171 = classes (written by mmsegmentation's converter coco_stuff10k.py)",
            source="github.com/nightrome/cocostuff10k",
        ),
        splits={split: (Part(f"images/{split}2014", f"annotations/{split}2014"),) for split in ("train", "test")},
        options={"reduce_zero_label": True},
    )
