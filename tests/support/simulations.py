"""Images whose pixels show every class with a known probability, drawn without a network: for error rates.

The rules broken on purpose are here too: a simulation counts only if it exposes them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certseg.smoothing.stopping import FixedTest
from certseg.types import Passes


class PlantedSamples:
    """Takes the place of :class:`certseg.smoothing.sampling.NoisySampler` for an image of one row.

    Args:
        probabilities: ``K x W``, of each class at each pixel; they sum to 1 over classes.
        number: of samples that can be asked for.
        rng: of the draws.
        block: so many pixels side by side are drawn by the same uniform numbers, the strongest positive dependence.
    """

    flags = frozenset()
    passes = Passes()

    def __init__(self, probabilities: Tensor, number: int, rng: np.random.Generator, block: int = 1):
        width = probabilities.shape[1]
        uniform = torch.from_numpy(rng.random((number, -(-width // block)))).repeat_interleave(block, 1)[:, :width]
        self._maps = (uniform[:, None] >= probabilities.cumsum(0)[:-1]).sum(1)
        self._probabilities = probabilities

    def class_counts(self, first: int, number: int) -> Tensor:
        """As of the sampler: ``K x 1 x W``."""
        self.guessed_from = first, number
        classes = torch.arange(len(self._probabilities))[:, None, None]
        return (self._maps[first : first + number] == classes).sum(1, dtype=torch.int16)[:, None]

    def agreement(self, choice: Tensor, first: int, number: int, groups: Tensor | None = None) -> Tensor:
        """As of the sampler: ``1 x W``."""
        maps = self._maps[first : first + number]
        hits = maps == choice if groups is None else groups[choice, maps]
        return hits.sum(0, dtype=torch.int16)[None]

    def probability(self, choice: Tensor, groups: Tensor | None = None) -> Tensor:
        """The truth about a choice: ``1 x W``."""
        of_groups = self._probabilities if groups is None else groups.double() @ self._probabilities
        return of_groups.gather(0, choice)


class ReusedSamples(PlantedSamples):
    """Broken on purpose: the samples that chose the class, as many as test it, test it."""

    def agreement(self, choice, first, number, groups=None):
        start, guessed = self.guessed_from
        return super().agreement(choice, start + first - guessed, number, groups)


class MiscountedSamples(PlantedSamples):
    """Broken on purpose: agreements are counted in half as many samples again as are said to be drawn."""

    def agreement(self, choice, first, number, groups=None):
        return super().agreement(choice, first, number + number // 2, groups).clamp(max=number)


class Peeking(FixedTest):
    """Broken on purpose: the test of all samples so far, repeated after every ``look_every`` of them."""

    def certify(self, sampler, choice, first, groups=None, *_):
        counts, certified = torch.zeros_like(choice), torch.zeros_like(choice, dtype=torch.bool)
        for seen in range(0, self.n, self.look_every):
            counts += sampler.agreement(choice, first + seen, self.look_every, groups)
            certified |= replace(self, n=seen + self.look_every).decide(counts)
        return certified, self.n


@dataclass(frozen=True)
class Images:
    """Nulls, pixels of ``K`` classes of probability ``1 / K`` each, and pixels that always show the first class.

    Whatever class is chosen for a null, its probability is ``tau = 1 / K``, the worst case. With many classes the
    most frequent one is frequent in the very samples that chose it.

    Args:
        classes: K.
        nulls: number of them; they come first.
        n: samples that choose the class, and as many that test it.
        sure: number of the other pixels.
        block: as in :class:`PlantedSamples`.
        k: so many wrong pixels of an image are an error.
    """

    classes: int
    nulls: int
    n: int
    sure: int = 0
    block: int = 1
    k: int = 1

    @property
    def tau(self) -> float:
        """The probability of every choice at a null."""
        return 1 / self.classes

    def errors(self, test: Any, images: int, samples: type[PlantedSamples] = PlantedSamples, seed: int = 0) -> float:
        """The share of images in which ``test`` certifies ``k`` nulls or more, or the mean false discovery rate if its
        correction is one of that."""
        probabilities = torch.full((self.classes, self.nulls + self.sure), self.tau, dtype=torch.float64)
        probabilities[:, self.nulls :] = torch.eye(self.classes, dtype=torch.float64)[:, :1]

        def error(rng: np.random.Generator) -> float:
            sampler = samples(probabilities, 3 * self.n, rng, self.block)
            choice = sampler.class_counts(0, self.n).argmax(0)
            certified, _ = test.certify(sampler, choice, self.n)
            wrong = int(certified[:, : self.nulls].sum())
            if test.correction == "benjamini_yekutieli":
                return wrong / max(1, int(certified.sum()))
            return float(wrong >= self.k)

        return mean(error, images, seed)


def mean(error: Callable[[np.random.Generator], float], images: int, seed: int = 0) -> float:
    """The mean of ``error`` over simulated images."""
    rng = np.random.default_rng(seed)
    return float(np.mean([error(rng) for _ in range(images)]))


def limit(alpha: float, images: int) -> float:
    """The most, up to four standard errors, that the mean of numbers in [0, 1] with an expectation of alpha comes to;
    none of these varies more than one that is 0 or 1."""
    return alpha + 4 * np.sqrt(alpha * (1 - alpha) / images)
