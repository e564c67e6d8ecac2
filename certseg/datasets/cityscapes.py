"""Cityscapes: streets of 50 cities, 19 classes, 1024 x 2048."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from certseg.datasets.declared import DeclaredCoding
from certseg.datasets.files import Origin
from certseg.datasets.mmseg import Layout, LibraryDataset, Part
from certseg.datasets.reading import Coding, LabelCoding, read_label
from certseg.datasets.walking import pictures_in
from certseg.errors import DataError
from certseg.types import IGNORE_INDEX

TRAIN_IDS = "_gtFine_labelTrainIds.png"
LABEL_IDS = "_gtFine_labelIds.png"
EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The published id of each training id 0 to 18; the others of 0 to 33 are not evaluated (``helpers/labels.py`` of the
package cityscapesscripts)."""
NUM_IDS = 34


@dataclass(frozen=True)
class TrainIdCoding(LabelCoding):
    """Training ids, which label ids under their name do not pass for."""

    def labels(self, file: Path) -> np.ndarray:
        """Class ids ``H x W`` int64 of a label file.

        Raises:
            DataError: the file cannot be read, holds label ids, or a value that is neither a class nor "no label".
        """
        values = read_label(file)
        beyond = (values >= self.num_classes) & (values < NUM_IDS)
        if beyond.any() and not (values == IGNORE_INDEX).any():
            found = ", ".join(map(str, np.unique(values[beyond])))
            raise DataError(
                f"Label file {file} holds label ids, not training ids as its name says",
                expected=f"0 to {self.num_classes - 1}, and {IGNORE_INDEX} for no label",
                received=f"{found} ({int(beyond.sum())} pixels)",
                remedy=f"Give label ids the name NAME{LABEL_IDS}, and remove NAME{TRAIN_IDS}: they are converted",
            )
        return self.decode(values, file)


@dataclass(eq=False, repr=False)
class Cityscapes(LibraryDataset):
    """Cityscapes (Cordts et al. 2016), the folder that holds ``leftImg8bit`` and ``gtFine``: fine annotations
    with the splits ``train`` and ``val``; the test labels are not public.

    Annotations are read by training id, or, where the folder of the split has no such file, by label id, which is
    converted to the training id.
    """

    root: str | Path = "data/cityscapes"
    split: str = "val"

    layout = Layout(
        name="cityscapes",
        library_class="CityscapesDataset",
        origin=Origin(
            title="Cityscapes",
            tree="leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png and "
            "gtFine/{train,val}/CITY/NAME_gtFine_labelTrainIds.png "
            "(written by csCreateTrainIdLabelImgs of cityscapesscripts) or NAME_gtFine_labelIds.png",
            source="www.cityscapes-dataset.com",
        ),
        splits={split: (Part(f"leftImg8bit/{split}", f"gtFine/{split}"),) for split in ("train", "val")},
    )

    def options(self, labels: Path) -> Mapping[str, object]:
        """Which label files are listed: label ids only where there is not one file of training ids."""
        has_train_ids, has_ids = (bool(pictures_in(labels, [suffix]).files) for suffix in (TRAIN_IDS, LABEL_IDS))
        return {"seg_map_suffix": LABEL_IDS if has_ids and not has_train_ids else TRAIN_IDS}

    def label_coding(self, library: Any, num_classes: int) -> Coding:
        """Training ids as they are, or label ids to be converted."""
        if library.seg_map_suffix == TRAIN_IDS:
            return TrainIdCoding(num_classes)
        others = tuple((value,) for value in range(NUM_IDS) if value not in EVALUATED)
        return DeclaredCoding(tuple(((value,),) for value in EVALUATED), others)
