"""What an attack without gradients may ask: a network, its smoothed version, or a certifier against patches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from certseg.attacks.defence import Defence, DefendedObjective
from certseg.attacks.losses import Pixels
from certseg.attacks.objective import Smoothing, checked_logits, voted
from certseg.compute.decisions import decide
from certseg.compute.forward import WorkingBatch
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ModelError
from certseg.patches.canvas import Corners
from certseg.types import IGNORE_INDEX, CoarseLogits, Passes, Segmenter, coarse_logits_of


class Answer(NamedTuple):
    """What one query says of a point.

    Args:
        point: ``3 x H x W``.
        accuracy: share of the labelled pixels that are correct (or raise an alert), 0 without any.
        margins: ``H x W``, how far a pixel's label lies above the best other class, 0 where it does not and without a
            label; in logits, of a smoothed model in probabilities.
        margin: their mean over labelled pixels.
        corners: where the rectangles of a patch attack lie; none in a ball.
    """

    point: Tensor
    accuracy: float
    margins: Tensor
    margin: float
    corners: Corners = ()

    @property
    def correct(self) -> Tensor:
        """``H x W`` bool, the pixels whose label lies above every other class."""
        return self.margins > 0.0


class Confirmation(NamedTuple):
    """What the attacked model answers at the point that an attack ends at.

    Args:
        prediction: ``H x W`` int64.
        votes: ``K x H x W`` of a smoothed model, None of others.
        alerts: ``H x W`` bool where a detection raises an alert, None where there is no such thing.
        flags: self-checks that fired.
    """

    prediction: Tensor
    votes: Tensor | None = None
    alerts: Tensor | None = None
    flags: tuple[str, ...] = ()


class Queries(ABC):
    """A model that is asked about one image and counted.

    Args:
        segmenter: the network.
        target: ``H x W`` int64 labels on its device, 255 ignored.
        stream: the image's random numbers.
        hardware: the device, and how many copies go through the network at once.
    """

    def __init__(self, segmenter: Segmenter, target: Tensor, stream: NoiseStream, hardware: Hardware) -> None:
        self.segmenter, self.target, self.name = segmenter, target, stream.name
        self.labelled = target != IGNORE_INDEX
        self.number = 0
        self.passes = Passes()
        self._stream, self._hardware = stream, hardware
        self._number_labelled = max(1, int(self.labelled.sum()))

    def __call__(self, point: Tensor, corners: Corners) -> Answer:
        """One query.

        Raises:
            ModelError: NaN or infinite logits.
        """
        self.number += 1
        accuracy, margins = self._ask(point)
        both = torch.stack([accuracy.double(), margins.double().sum() / self._number_labelled])
        return Answer(point, both[0].item(), margins, both[1].item(), corners)

    @abstractmethod
    def confirmed(self, best: Answer) -> Confirmation:
        """What the model answers at a point, asked again; a flag where it answers otherwise than before."""

    @abstractmethod
    def _ask(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Share of the labelled pixels that are correct, and margins ``H x W``."""

    def _share(self, correct: Tensor) -> Tensor:
        """Share of the labelled pixels that are ``correct`` (``H x W`` bool)."""
        return (correct & self.labelled).sum(dtype=torch.float64) / self._number_labelled

    def _finite(self, check: Tensor) -> None:
        """Raise :class:`ModelError` if a number is not finite that is so only if all logits are."""
        if not bool(torch.isfinite(check).all()):
            raise ModelError(
                f"The model gave NaN or infinite logits under attack on image {self.name!r}",
                remedy="Check the checkpoint",
            )


class NetworkQueries(Queries):
    """Asks the network itself, one pass a query."""

    def confirmed(self, best: Answer) -> Confirmation:
        """The network's prediction at a point, asked again; a flag where it answers otherwise than before."""
        self.passes += Passes(1)
        classes, check = decide(checked_logits(self.segmenter, best.point[None]))
        self._finite(check)
        prediction = classes[0].long()
        changed = abs(float(self._share(prediction == self.target)) - best.accuracy) > 1e-6
        return Confirmation(prediction, flags=("stochastic_answer",) if changed else ())

    def _ask(self, point: Tensor) -> tuple[Tensor, Tensor]:
        return self._judged(self._scores(point))

    def _scores(self, point: Tensor) -> Tensor:
        """``1 x K x H x W``, of which the largest decides."""
        self.passes += Passes(1)
        return checked_logits(self.segmenter, point[None])

    def _judged(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        pixels = Pixels(scores, self.target[None])
        classes, check = pixels.decision
        self._finite(check)
        return self._share(classes[0] == self.target), margins_of(scores, self.target[None])[0]


class SmoothedQueries(NetworkQueries):
    """Asks the smoothed model: class probabilities averaged over noisy copies, ``smoothing.samples`` passes a query.

    The copies have the same noise at every query, so that what two points differ in is the points. The answer at the
    end is the majority of ``smoothing.votes`` copies with other noise, which the attack has not seen.
    """

    def __init__(
        self, smoothing: Smoothing, segmenter: Segmenter, target: Tensor, stream: NoiseStream, hardware: Hardware
    ) -> None:
        super().__init__(segmenter, target, stream, hardware)
        self._smoothing = smoothing
        self._noise = stream.for_purpose("square noise")
        self._batch = WorkingBatch(segmenter, (3, *target.shape), hardware)

    def confirmed(self, best: Answer) -> Confirmation:
        """The majority at a point, and all votes."""
        votes, passes = voted(self.segmenter, best.point, self._smoothing, self._stream, self._hardware)
        self.passes += passes
        return Confirmation(votes.argmax(dim=0), votes.cpu(), flags=tuple(sorted(self._batch.flags)))

    def _scores(self, point: Tensor) -> Tensor:
        number, done = self._smoothing.samples, 0
        total = torch.zeros(self.segmenter.num_classes, *point.shape[1:], device=point.device)
        while done < number:
            part, size = self._batch.run(partial(self._sum, point, done), number - done)
            total += part
            done += size
        self.passes += Passes(number)
        return total[None] / number

    def _sum(self, point: Tensor, first: int, size: int) -> Tensor:
        """The sum of the probabilities ``K x H x W`` of copies ``first`` to ``first + size - 1``."""
        copies = torch.empty(size, *point.shape, device=point.device)
        self._smoothing.distribution.copies_around(point, self._noise, first, copies)
        return checked_logits(self.segmenter, copies).softmax(dim=1).sum(dim=0)


class DefendedQueries(Queries):
    """Asks a certifier against patches, one of its answers a query.

    Accuracy is that of its answer, where a detection counts an alert as a correct pixel. The margins are the network's
    on the masked copies that the certifier asks it for, on average: an answer by votes hardly ever changes at once.
    """

    def __init__(
        self, defence: Defence, segmenter: Segmenter, target: Tensor, stream: NoiseStream, hardware: Hardware
    ) -> None:
        super().__init__(segmenter, target, stream, hardware)
        self._watched = _Watched(segmenter, target)
        self._objective = DefendedObjective(defence, self._watched, target, "multi_margin", stream, hardware)

    def confirmed(self, best: Answer) -> Confirmation:
        """The certifier's answer at a point, asked again, and its alerts."""
        judgement = self._objective.judge(best.point)
        self.passes = self._objective.passes
        flags = ("stochastic_answer",) if abs(judgement.safe - best.accuracy) > 1e-6 else ()
        return Confirmation(judgement.classes.long(), alerts=judgement.alerts, flags=flags)

    def _ask(self, point: Tensor) -> tuple[Tensor, Tensor]:
        self._watched.restart()
        judgement = self._objective.judge(point)
        self.passes = self._objective.passes
        margins = self._watched.total / max(1, self._watched.number)
        self._finite(margins)
        return torch.tensor(judgement.safe, dtype=torch.float64, device=point.device), margins


class _Watched:
    """A segmenter whose margins are summed over the images it is given.

    Args:
        segmenter: the segmenter.
        target: ``H x W`` int64 labels on its device, 255 ignored.
    """

    def __init__(self, segmenter: Segmenter, target: Tensor) -> None:
        self._segmenter, self._target, self.num_classes = segmenter, target, segmenter.num_classes
        self.restart()

    def restart(self) -> None:
        """Begin a sum anew."""
        self.number, self.total = 0, torch.zeros(self._target.shape, device=self._target.device)

    def __call__(self, images: Tensor) -> Tensor:
        logits = self._segmenter(images)
        self._add(logits)
        return logits

    def coarse_logits(self, images: Tensor) -> CoarseLogits | None:
        """Those of the segmenter, whose margins are summed after their enlargement."""
        coarse = coarse_logits_of(self._segmenter, images)
        if coarse is not None:
            size = self._target.shape
            self._add(F.interpolate(coarse.logits.float(), size, mode="bilinear", align_corners=coarse.align_corners))
        return coarse

    def _add(self, logits: Tensor) -> None:
        if logits.ndim == 4 and logits.shape[1:] == (self.num_classes, *self._target.shape):  # the certifier refuses it
            self.total += margins_of(logits.float(), self._target.expand(len(logits), -1, -1)).sum(dim=0)
            self.number += len(logits)


def margins_of(scores: Tensor, target: Tensor) -> Tensor:
    """How far the label's score lies above the largest other: ``B x H x W``, 0 where it does not or there is no label.

    Args:
        scores: ``B x K x H x W`` floating point.
        target: ``B x H x W`` int64, 255 ignored.
    """
    pixels = Pixels(scores, target)
    other = scores.scatter(1, pixels.label[:, None], -torch.inf).amax(dim=1)
    return torch.where(pixels.labelled, (pixels.label_logit - other).clamp_min(0.0), 0.0)
