"""A look at the labels of a run before its work: whether they can teach or measure anything."""

from __future__ import annotations

from certseg.compute.hardware import rank
from certseg.datasets import evenly_spaced
from certseg.errors import DataError
from certseg.metrics import LabelCounts
from certseg.pipeline.console import say
from certseg.types import SegmentationDataset, checked_sample

_GLANCE = 32  # images, evenly spaced, that are looked at first


def survey(dataset: SegmentationDataset) -> LabelCounts:
    """The labels of a few images, evenly spaced over a split, or of all of it if the few do not suffice to measure
    anything."""
    few = _counts(evenly_spaced(dataset, _GLANCE))
    return few if few.images == len(dataset) or not few.obstacle(dataset.class_names) else _counts(dataset)


def check_validation(dataset: SegmentationDataset, number: int | None) -> None:
    """Read what a training validates on, for a file that cannot be read there would end it after its work.

    Args:
        dataset: the split that is validated on.
        number: how many of its first images are; None for all.

    Raises:
        DataError: an image cannot be read, or a label is no class.
    """
    _counts(dataset, number)


def check_training_labels(train_set: SegmentationDataset, evaluated: SegmentationDataset | None) -> None:
    """Look at the labels before a training. Where all labels of a split are one class, that is said.

    Args:
        train_set: the split that is trained on.
        evaluated: the images that are evaluated afterwards; None for none.

    Raises:
        DataError: no pixel of the training split has a label.
    """
    found = survey(train_set)
    if not found.pixels.any():
        raise DataError(
            f"No pixel of the {found.images} training images of {train_set.name} has a label",
            expected=f"classes {', '.join(train_set.class_names[:8])}",
            received="'no label' everywhere",
            remedy="Check what dataset.ignore_index and the values in the label files mean; scripts/check_dataset.py "
            "counts them",
        )
    for split, dataset in ((f"Training split {train_set.split}", train_set), ("Evaluated images", evaluated)):
        counts = found if dataset is train_set or dataset is None else survey(dataset)
        obstacle = "" if dataset is None else counts.obstacle(dataset.class_names)
        if obstacle and rank() == 0:
            say(f"{split}: {obstacle}")


def _counts(dataset: SegmentationDataset, number: int | None = None) -> LabelCounts:
    samples = (checked_sample(dataset[index], index) for index in range(min(len(dataset), number or len(dataset))))
    return LabelCounts.of(samples, len(dataset.class_names))
