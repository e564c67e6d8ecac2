"""A part of a data set that is a data set itself: a :class:`View`, or samples :func:`evenly_spaced` over it."""

from __future__ import annotations

from certseg.checks import check_count
from certseg.datasets.files import digest
from certseg.types import Sample, SegmentationDataset


class View:
    """The samples of ``dataset`` at ``indices``, in that order.

    Args:
        dataset: the whole data set.
        indices: positions of the samples in it.
    """

    def __init__(self, dataset: SegmentationDataset, indices: tuple[int, ...]):
        self.dataset = dataset
        self.indices = indices
        self.name = dataset.name
        self.split = dataset.split
        self.class_names = dataset.class_names
        self.palette = dataset.palette

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample."""
        return self.dataset[self.indices[index]]

    def names(self) -> tuple[str, ...]:
        """The names of all samples, in order."""
        names = self.dataset.names()
        return tuple(names[index] for index in self.indices)

    def fingerprint(self) -> str:
        """Hex digest of the whole's fingerprint and the positions."""
        return digest(self.dataset.fingerprint(), self.indices)


def evenly_spaced(dataset: SegmentationDataset, limit: int | None) -> SegmentationDataset:
    """``limit`` samples evenly spaced over ``dataset``, the first one included: positions ``floor(i * len / limit)``.

    Args:
        dataset: the whole data set.
        limit: number of samples; None, or more than there are, gives ``dataset`` itself.

    Raises:
        ConfigError: ``limit`` is neither None nor a positive integer.

    >>> from certseg.datasets.streets import Streets
    >>> evenly_spaced(Streets(count=10), 3).names()
    ('test_0000', 'test_0003', 'test_0006')
    """
    check_count("dataset.limit", limit, optional=True)
    if limit is None or limit >= len(dataset):
        return dataset
    return View(dataset, tuple(i * len(dataset) // limit for i in range(limit)))
