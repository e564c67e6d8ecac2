"""What the labels of a data set let figures say: counts of classes, and in words where a figure means nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from certseg.metrics.confusion import class_histogram, labelled
from certseg.types import Sample

_SHOWN = 8  # classes named in one line


@dataclass(frozen=True)
class LabelCounts:
    """How many pixels of some images have each label.

    Args:
        pixels: ``(K,)`` int64, the pixels labelled as each class.
        unlabelled: number of pixels without a label; None where that was not counted.
        images: number of images.

    >>> LabelCounts(np.array([5, 0]), 3, images=2).obstacle(["background", "lesion"])[:57]
    "Every labelled pixel of these 2 images is 'background': a"
    """

    pixels: np.ndarray
    unlabelled: int | None
    images: int

    @classmethod
    def of(cls, samples: Iterable[Sample], num_classes: int) -> LabelCounts:
        """Count the labels of images.

        Args:
            samples: the images.
            num_classes: the number of classes, K.

        Raises:
            DataError: a label is no class.
        """
        pixels, unlabelled, images = np.zeros(num_classes, dtype=np.int64), 0, 0
        for sample in samples:
            has_label = labelled(sample.target, num_classes)
            pixels += class_histogram(sample.target[has_label], num_classes)
            unlabelled += int((~has_label).sum())
            images += 1
        return cls(pixels, unlabelled, images)

    def obstacle(self, class_names: Sequence[str]) -> str:
        """Why accuracy and mIoU over these images mean nothing, in a sentence; empty where they mean something.

        Args:
            class_names: the names of the classes, in the order of their ids.
        """
        present = [name for name, count in zip(class_names, self.pixels, strict=True) if count]
        if not present:
            return f"No pixel of {self._these} has a label: no accuracy and no mIoU means anything."
        if len(present) == 1:
            coding = (
                " Where label files hold two values, of which one means 'no label' to dataset.ignore_index, that "
                "setting has to be changed."
            )
            return (
                f"Every labelled pixel of {self._these} is {present[0]!r}: accuracy and mIoU say nothing about other "
                f"classes, and a network that always answers {present[0]!r} has 100 %."
                + (coding if self.unlabelled is None or self.unlabelled else "")
            )
        return ""

    def absent(self, class_names: Sequence[str]) -> str:
        """Which classes never occur, in a sentence; empty where all do, and where :meth:`obstacle` says more.

        Args:
            class_names: the names of the classes, in the order of their ids.
        """
        missing = [name for name, count in zip(class_names, self.pixels, strict=True) if not count]
        if not missing or self.obstacle(class_names):
            return ""
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        verb = "occurs" if len(missing) == 1 else "occur"
        return (
            f"{', '.join(missing[:_SHOWN])}{more} never {verb} in the labels of {self._these}: mIoU is the mean of "
            f"the other {len(class_names) - len(missing)} classes."
        )

    def doubt(self, class_names: Sequence[str], correct: int) -> str:
        """That a network is worse than one that always answers the commonest class, in a sentence; empty where it is
        not, and where :meth:`obstacle` says more.

        Args:
            class_names: the names of the classes, in the order of their ids.
            correct: number of labelled pixels that it has right.
        """
        most, total = int(self.pixels.max()), int(self.pixels.sum())
        if correct >= most or self.obstacle(class_names):
            return ""
        common = class_names[int(self.pixels.argmax())]
        return (
            f"The network is right at {correct / total:.1%} of the labelled pixels; to answer {common!r} everywhere is "
            f"right at {most / total:.1%}. If it was trained for more, check how it is shown colours "
            "(model.normalise), the order of the classes, and model.outputs."
        )

    @property
    def _these(self) -> str:
        return "this image" if self.images == 1 else f"these {self.images} images"
