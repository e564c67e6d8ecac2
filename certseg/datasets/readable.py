"""Whether the files of a data set can be read, found out before work that would end at the first that cannot."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from certseg.datasets.files import FilePair, ImageDataset
from certseg.datasets.view import View
from certseg.errors import DataError
from certseg.types import SegmentationDataset

_SHOWN = 5  # files named in one message
_THREADS = 8  # more than cores: a network file system answers late


def check_headers(dataset: SegmentationDataset) -> None:
    """Open every file of a data set and read its header; that of an image and of its label must tell of the same sides.
    Data sets that are not made of files pass.

    Raises:
        DataError: a file is no image, or two do not fit; names the first few.
    """
    with ThreadPoolExecutor(_THREADS) as threads:
        found = [problem for problem in threads.map(_problem, _pairs(dataset)) if problem]
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise DataError(
            f"{dataset.name}, split {dataset.split}, has files that cannot be used: {'; '.join(found[:_SHOWN])}{more}",
            remedy="Repair or remove them (scripts/check_dataset.py with the same settings lists every bad file), or "
            "leave them out: dataset.on_error=skip",
        )


def readable(dataset: SegmentationDataset) -> tuple[SegmentationDataset, list[str]]:
    """The samples of a data set that can be read, which is found out by reading all of them, and one line for each
    other.

    Raises:
        DataError: none can be read.
    """
    good, problems = [], []
    for index in range(len(dataset)):
        try:
            dataset[index]
        except DataError as error:
            problems.append(str(error))
        else:
            good.append(index)
    if not good:
        raise DataError(f"No image of {dataset.name}, split {dataset.split}, can be read", received=problems[0])
    return (View(dataset, tuple(good)), problems) if problems else (dataset, [])


def _pairs(dataset: SegmentationDataset) -> list[tuple[ImageDataset, FilePair]]:
    """The pairs of a data set, each with the data set that reads it; none if it is not made of files."""
    if isinstance(dataset, View):
        pairs = _pairs(dataset.dataset)
        return [pairs[index] for index in dataset.indices] if pairs else []
    return [(dataset, pair) for pair in dataset.pairs] if isinstance(dataset, ImageDataset) else []


def _problem(known: tuple[ImageDataset, FilePair]) -> str:
    """What is wrong with a pair; empty for nothing."""
    dataset, pair = known
    try:
        dataset.check_turn(pair)
        image, label = dataset.reader.sides(pair.image), dataset.label_size(pair)
    except DataError as error:
        return str(error).rstrip(".")
    if sorted(image) != sorted(label):  # which side is the upper one, the reader decides
        return f"{pair.label} has {label[0]} x {label[1]} pixels and its image {image[0]} x {image[1]}: {pair.image}"
    return ""
