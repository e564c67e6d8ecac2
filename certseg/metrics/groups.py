"""Counts of a map certified on the levels of a hierarchy: how much it says, and where it abstains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from certseg.metrics.confusion import class_histogram, labelled
from certseg.types.hierarchy import Hierarchy


@dataclass(frozen=True)
class GroupCounts:
    """Labelled pixels by the level they are certified on; adds up over images.

    Args:
        certified: ``(L,)`` int64, for each of L levels the labelled pixels certified on that level.
        correct: ``(L, K)`` int64, for each level and each size of a group (1 to K classes) the pixels certified as a
            group of that size that holds their true class.
        labelled: number of labelled pixels, certified or not.
    """

    certified: np.ndarray
    correct: np.ndarray
    labelled: int

    @classmethod
    def from_maps(
        cls, classes: Tensor, levels: Tensor, certified: Tensor, target: Tensor, hierarchy: Hierarchy
    ) -> GroupCounts:
        """Count one image.

        Args:
            classes: ``H x W`` int64, a class in the group that each pixel is certified as.
            levels: ``H x W`` integers, the level of that group.
            certified: ``H x W`` bool, False where the certifier abstains.
            target: ``H x W`` int64 labels, 255 ignored.
            hierarchy: the levels of groups that the classes are joined into.
        """
        shape = hierarchy.num_levels, hierarchy.num_classes
        mask = labelled(target, hierarchy.num_classes)
        said = mask & certified
        level, group, members = levels[said].long(), hierarchy.ids(classes, levels)[said], hierarchy.members
        right = members[group, target[said]]
        cells = level * hierarchy.num_classes + members.sum(dim=1)[group] - 1
        correct = class_histogram(cells[right], shape[0] * shape[1]).reshape(shape)
        return cls(class_histogram(level, shape[0]), correct, int(mask.sum()))

    def __add__(self, other: GroupCounts) -> GroupCounts:
        return GroupCounts(
            self.certified + other.certified, self.correct + other.correct, self.labelled + other.labelled
        )

    def accuracy(self, tolerated: int = 0) -> float:
        """Share of labelled pixels whose true class lies in their certified group; NaN without labels.

        Args:
            tolerated: how many certified pixels may be wrong; with these taken off it is a lower bound.
        """
        return self._share(max(0, int(self.correct.sum()) - tolerated))

    def information_gain(self, tolerated: int = 0) -> float:
        """Certified information gain (Anani et al. 2024): the mean over labelled pixels of
        ``(log K - log |group|) / log K`` where the true class lies in the certified group and 0 elsewhere; NaN without
        labels. On a map certified as single classes it equals the certified accuracy.

        Args:
            tolerated: how many certified pixels may be wrong; with these taken off, where most is gained, it is a lower
                bound.
        """
        sizes = np.arange(1, self.correct.shape[1] + 1)
        number = self.correct.sum(axis=0)  # the smallest groups gain most
        kept = np.maximum(np.cumsum(number) - tolerated, 0)
        return self._share(np.diff(kept, prepend=0) @ (1.0 - np.log(sizes) / np.log(sizes[-1])))

    def abstention(self) -> float:
        """Share of labelled pixels that are certified on no level; NaN without labels."""
        return self._share(self.labelled - self.certified.sum())

    def by_level(self) -> list[float]:
        """Share of labelled pixels certified on each level, rightly or wrongly; NaN without labels."""
        return [self._share(number) for number in self.certified]

    def _share(self, part: float) -> float:
        return float(part / self.labelled) if self.labelled else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Plain lists for a row."""
        return {"certified": self.certified.tolist(), "correct": self.correct.tolist(), "labelled": self.labelled}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> GroupCounts:
        """Inverse of :meth:`to_json`."""
        certified, correct = (np.asarray(data[name], dtype=np.int64) for name in ("certified", "correct"))
        return cls(certified, correct, data["labelled"])
