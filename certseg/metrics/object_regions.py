"""The labelled objects of an image: the regions of its label map that are kept or lost as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certseg.metrics.confusion import class_histogram, labelled
from certseg.types import Regions

_NEIGHBOURS = 8  # of a pixel: regions that touch at a corner are one


@dataclass(frozen=True)
class ObjectRegions:
    """The M objects of one image. They share no pixel.

    Args:
        ids: ``H x W`` int64, the object of each pixel from 0 to M - 1, and -1 where there is none.
        classes: ``(M,)`` int64, the class of each object.
        areas: ``(M,)`` int64, the number of pixels of each object.
    """

    ids: Tensor
    classes: np.ndarray
    areas: np.ndarray

    @classmethod
    def of(cls, target: Tensor, num_classes: int, objects: Tensor | None = None) -> ObjectRegions:
        """The objects of an image: pixels of one class with one number, and where no annotation tells objects apart the
        connected regions of a class, pixels that touch at a corner included.

        Args:
            target: ``H x W`` int64 labels, 255 ignored.
            num_classes: the number of classes, K.
            objects: ``H x W`` int64 numbers of objects (:attr:`certseg.types.Sample.objects`); None where there are
                none.

        Raises:
            DataError: a label is no class.

        >>> target = torch.tensor([[0, 1, 0], [0, 0, 1], [1, 0, 0]])
        >>> found = ObjectRegions.of(target, 2)
        >>> found.classes.tolist(), found.areas.tolist()  # the two pixels of class 1 at the top touch at a corner
        ([0, 1, 1], [6, 2, 1])
        """
        is_labelled = labelled(target, num_classes).numpy()
        labels = target.numpy()
        numbers = np.zeros_like(labels) if objects is None else objects.numpy()
        ids = np.full(labels.shape, -1, dtype=np.int64)
        classes: list[int] = []
        for label in np.unique(labels[is_labelled]).tolist():
            mine = is_labelled & (labels == label)
            for part, found in ((mine & (numbers > 0), numbers), (mine & (numbers == 0), None)):
                regions = _connected(part) if found is None else found
                names, places = np.unique(regions[part], return_inverse=True)
                ids[part] = len(classes) + places
                classes += [label] * len(names)
        areas = np.bincount(ids[ids >= 0], minlength=len(classes))
        return cls(torch.from_numpy(ids), np.asarray(classes, dtype=np.int64), areas.astype(np.int64))

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.classes)

    def tested(self, chosen: np.ndarray, needed: np.ndarray) -> Regions:
        """The objects ``chosen`` (``(M,)`` bool) as regions of a test, of whose pixels so many are needed (``(M,)``
        int64)."""
        places = np.append(np.where(chosen, np.cumsum(chosen) - 1, -1), -1)  # the last one's is that of id -1
        return Regions(torch.from_numpy(places)[self.ids], self.classes[chosen], needed[chosen])

    def count(self, pixels: Tensor) -> np.ndarray:
        """``(M,)`` int64, how many pixels of each object are among ``pixels`` (``H x W`` bool)."""
        return class_histogram(self.ids[pixels & (self.ids >= 0)], len(self))


def _connected(pixels: np.ndarray) -> np.ndarray:
    """``H x W`` numbers of the connected regions of ``pixels`` (``H x W`` bool)."""
    from certseg.compute.opencv import cv2  # takes long to import, and a finished run has no need of it

    return np.asarray(cv2.connectedComponents(pixels.astype(np.uint8), connectivity=_NEIGHBOURS)[1])
