"""The worst case over several attacks: one attack chosen for each image so that the pooled mean IoU is low."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from certseg.errors import ResultError
from certseg.metrics.confusion import ClassCounts


@dataclass(frozen=True)
class WorstCase:
    """A choice of one attack per image and the pooled mean IoU it gives.

    Args:
        miou: mean IoU in [0, 1], pooled over all images; NaN where no pixel is labelled.
        choice: ``(N,)`` int64, the index of the attack chosen for each image.
        counts: the counts of the chosen attacks, summed over the images.
    """

    miou: float
    choice: np.ndarray
    counts: ClassCounts


def worst_pooled_miou(counts: Sequence[Sequence[ClassCounts]], random_starts: int = 1) -> WorstCase:
    """One attack per image so that the pooled mean IoU is low (seed 002, section 3.3; METHODS, section 3).

    Pooled IoU does not split into images, so the lowest one over all choices is not found image by image. Coordinate
    descent is run from several starts: every single attack, the attack of lowest accuracy on each image, that of lowest
    image-wise mean IoU, and random choices. A move is made only if it lowers the mean IoU, until no image has one.

    The value returned is therefore never above that of any single attack, and an *upper* bound on the lowest value over
    all choices. The descent is run over the first attack, then over the first two, and so on, and the choice found last
    is always among the starts: another attack appended to the list never raises the value.

    Args:
        counts: ``counts[a][i]`` are the counts of attack a on image i; all attacks have the same images in the same
            order, with the same labels.
        random_starts: how many random choices to start from, at least 0; their seed is fixed.

    Raises:
        ResultError: there is no attack or no image, or the attacks have different numbers of images.
    """
    if not counts or not counts[0] or len({len(images) for images in counts}) != 1:
        raise ResultError(
            "Attacks can only be combined over the same images",
            expected="at least one attack and one image",
            received=f"attacks over {', '.join(str(len(images)) for images in counts) or 'no'} images",
        )
    descent = _Descent(counts)
    rng = np.random.default_rng(0)
    best = np.zeros(len(counts[0]), dtype=np.int64)
    for attacks in range(1, len(counts) + 1):
        starts = [best, np.full_like(best, attacks - 1)]
        starts += [scores[:attacks].argmin(axis=0) for scores in descent.scores]
        starts += [rng.integers(attacks, size=len(best)) for _ in range(random_starts)]
        found = [descent.run(start, attacks) for start in starts]
        best = min(found, key=descent.miou)
    return WorstCase(descent.miou(best), best, descent.total(best))


class _Descent:
    """Coordinate descent over the choice of attacks, on integer sums."""

    def __init__(self, counts: Sequence[Sequence[ClassCounts]]) -> None:
        self._hits = np.array([[image.true_positive for image in images] for images in counts])  # A x N x K
        self._predicted = np.array([[image.predicted for image in images] for images in counts])
        self._target = np.array([image.target for image in counts[0]])  # N x K
        self._present = self._target.sum(axis=0) > 0
        correct = self._hits.sum(axis=2)
        image_wise = np.array([[image.miou() for image in images] for images in counts])
        self.scores = (correct, np.nan_to_num(image_wise, nan=1.0))
        """Two orders of the attacks on each image, ``A x N``: correct pixels, and image-wise mean IoU."""

    def total(self, choice: np.ndarray) -> ClassCounts:
        """Counts summed under a choice."""
        images = np.arange(len(choice))
        return ClassCounts(
            self._hits[choice, images].sum(axis=0),
            self._predicted[choice, images].sum(axis=0),
            self._target.sum(axis=0),
        )

    def miou(self, choice: np.ndarray) -> float:
        """Pooled mean IoU of a choice."""
        return self.total(choice).miou()

    def run(self, start: np.ndarray, attacks: int) -> np.ndarray:
        """The end of the descent from ``start`` over the first ``attacks`` attacks."""
        choice = start.copy()
        if not self._present.any():
            return choice
        total = self.total(choice)
        hits, predicted = total.true_positive[self._present], total.predicted[self._present]
        target = total.target[self._present]
        own_hits, own_predicted = (part[:attacks, :, self._present] for part in (self._hits, self._predicted))
        value, moved = self.miou(choice), True
        while moved:
            moved = False
            for image in range(len(choice)):
                now = choice[image]
                new_hits = hits + own_hits[:, image] - own_hits[now, image]  # attacks x classes
                new_predicted = predicted + own_predicted[:, image] - own_predicted[now, image]
                values = (new_hits / (new_predicted + target - new_hits)).mean(axis=1)
                best = int(values.argmin())
                if values[best] < value - 1e-12:  # more than the rounding of a mean
                    choice[image], value, moved = best, float(values[best]), True
                    hits, predicted = new_hits[best], new_predicted[best]
        return choice
