"""Cityscapes: streets of 50 cities, 19 classes, 1024 x 2048."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from certseg.checks import check_flag
from certseg.datasets.content import file_digests
from certseg.datasets.declared import DeclaredCoding
from certseg.datasets.files import FilePair, Origin
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
INSTANCE_IDS = "_gtFine_instanceIds.png"
_PER_CLASS = 1000  # an instance id is that of its class times this, plus a number
_WITH_INSTANCES = tuple(range(24, 34))
"""The published ids of the classes whose objects are told apart; such an id by itself is a group of them."""


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

    Args:
        objects: whether objects are told apart by the files of instance ids beside the labels; by default they are not
            read, and objects are connected regions.
    """

    root: str | Path = "data/cityscapes"
    split: str = "val"
    objects: bool = False

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

    def __post_init__(self, size: Sequence[int] | None) -> None:
        check_flag("dataset.objects", self.objects)
        super().__post_init__(size)
        missing = [file for file in map(_instances, self.pairs) if not file.is_file()] if self.objects else []
        if missing:
            raise DataError(
                f"There is no file of instance ids for {len(missing)} of {len(self.pairs)} labels of Cityscapes",
                expected=f"NAME{INSTANCE_IDS} beside each, as the archive gtFine has them",
                received=f"no {missing[0]}",
                remedy="Fetch them, or set dataset.objects=false: objects are then connected regions",
            )

    def labels_and_numbers(self, pair: FilePair) -> tuple[np.ndarray, np.ndarray | None]:
        """Class ids of one image, and with ``objects`` the instance ids of what has one: -1 in groups that nobody told
        apart, 0 in classes without instances.

        Raises:
            DataError: a file cannot be read, the labels hold what has no meaning, or they are not those of the file of
                instance ids.
        """
        labels = self.labels(pair)
        if not self.objects:
            return labels, None
        file = _instances(pair)
        values = read_label(file).astype(np.int64)
        ids = np.where(values >= _PER_CLASS, values // _PER_CLASS, values)
        known = np.full(NUM_IDS + 1, IGNORE_INDEX)
        known[list(EVALUATED)] = np.arange(len(EVALUATED))
        own = known[np.clip(ids, 0, NUM_IDS)]
        if own.shape != labels.shape or (own != labels).any():
            raise DataError(
                f"The instance ids in {file} are not those of the labels in {pair.label}",
                expected="the same classes and the same size",
                received=f"{int((own != labels).sum())} pixels of another class"
                if own.shape == labels.shape
                else f"{own.shape[0]} x {own.shape[1]} pixels",
                remedy="Check that both files come from the same archive",
            )
        numbers = np.where(np.isin(ids, _WITH_INSTANCES), -1, 0)
        return labels, np.where(values >= _PER_CLASS, values, numbers)

    def labels_identity(self) -> list[object]:
        """The coding's identity, and with ``objects`` the content of the files of instance ids."""
        own = super().labels_identity()
        return [*own, file_digests(map(_instances, self.pairs))] if self.objects else own

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


def _instances(pair: FilePair) -> Path:
    """The file of instance ids beside a label file."""
    name = pair.label.name.removesuffix(TRAIN_IDS).removesuffix(LABEL_IDS)
    return pair.label.with_name(name + INSTANCE_IDS)
