"""What an attack sees of a model at a point: accuracy, loss and gradient, of the network or of its smoothed version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor

from certseg.attacks.losses import COMPARED_BY, LOSSES, Pixels, mean_over_labelled, number_labelled
from certseg.checks import check_choice, check_count
from certseg.compute.decisions import decide
from certseg.compute.forward import WorkingBatch, check_logits
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ModelError
from certseg.smoothing.noise import NOISES, Noise
from certseg.smoothing.sampling import NoisySampler
from certseg.types import Passes, Segmenter

_PROBES = 1024  # logits remembered of a point, to tell whether the model gives them twice
_ROUNDING = 1e-3  # share of the largest logit by which two forward passes of one image may differ


@dataclass(frozen=True)
class Smoothing:
    """Attack the smoothed model instead of the network (Salman et al. 2019): gradients of the loss of class
    probabilities averaged over noisy copies, and a prediction by majority vote.

    Args:
        sigma: standard deviation of the certified model's noise.
        samples: noisy copies per gradient; fresh ones at every step.
        votes: noisy copies whose majority is the prediction at the adversarial image, at least 50: of fewer not even
            a unanimous vote against a certified pixel of a large image would be significant.
        noise: kind of the certified model's noise, a key of :data:`certseg.smoothing.noise.NOISES`.
        grey_levels: that of the certified model, whose network sees noisy copies rounded to them; None where it is
            certified with floating point noise. Points of an attack lie between grey levels, so their noise is drawn
            in floating point either way; gradients pass the rounding as if it were not there.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    sigma: float
    samples: int = 4
    votes: int = 100
    noise: str = "gaussian"
    grey_levels: int | None = 255

    def __post_init__(self) -> None:
        check_choice("attack.smoothing.noise", self.noise, NOISES)
        self.distribution  # noqa: B018 - it checks sigma
        for option, least in (("samples", 1), ("votes", 50)):
            check_count(f"attack.smoothing.{option}", getattr(self, option), least)

    @property
    def predictor(self) -> str:
        """The attacked model, in the words of its certificates."""
        return f"smoothed({self.distribution})"

    @property
    def distribution(self) -> Noise:
        """The noise that is added."""
        return NOISES[self.noise](self.sigma, self.grey_levels)

    def clean(self, image: Tensor) -> Tensor:
        """The image ``C x H x W`` that the certificate is about, from which perturbations are measured: rounded to grey
        levels."""
        lattice = self.distribution.lattice
        return image if lattice is None or lattice.holds(image) else lattice.rounded(image)


@dataclass(frozen=True)
class Evaluation:
    """An objective at one point.

    Args:
        point: ``3 x H x W``.
        accuracy: share of the labelled pixels that are correct, 0 without any; of a smoothed model an estimate from the
            gradient's own samples. Of a targeted attack the share that does not have the wanted class yet.
        loss: the value by which points are compared.
        gradient: ``3 x H x W``, the gradient of the attacked loss.
        probe: some of the logits; None for a smoothed model, which gives others at every call.
    """

    point: Tensor
    accuracy: float
    loss: float
    gradient: Tensor
    probe: Tensor | None = None


class Summary(NamedTuple):
    """The numbers of one evaluation, together so that an attack waits for the device once per step.

    ``zeros`` is the share of zeros in the gradient, -1 where there is nothing else; ``check`` is 0 if all is finite.
    """

    accuracy: float
    loss: float
    zeros: float
    check: float


class AttackObjective:
    """Loss, gradient and accuracy of one image's labels, for the network or its smoothed version.

    Args:
        segmenter: the network that is attacked.
        target: ``H x W`` int64 labels, 255 ignored.
        loss: a key of :data:`certseg.attacks.losses.LOSSES`; its mean over labelled pixels is to be raised.
        smoothing: how the smoothed model that is attacked is sampled; None attacks the network itself.
        stream: the image's random numbers for this attack.
        hardware: device, and how many images or noisy copies go through the network at once.
        compare: the loss by which points are compared, None for what suits ``loss``
            (:data:`certseg.attacks.losses.COMPARED_BY`).
        targeted: ``target`` is what the prediction is to become: the loss is to be lowered.
        scale: what the logits are multiplied by before the loss.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        target: Tensor,
        loss: str,
        smoothing: Smoothing | None,
        stream: NoiseStream,
        hardware: Hardware,
        compare: str | None = None,
        targeted: bool = False,
        scale: float = 1.0,
    ) -> None:
        self.segmenter, self.target, self.smoothing, self.name = segmenter, target, smoothing, stream.name
        self.number = number_labelled(target[None])[0]
        self.batch = WorkingBatch(segmenter, (3, *target.shape), hardware, task="gradient")
        self._loss, self._compare = LOSSES[loss], LOSSES[compare or COMPARED_BY[loss] or loss]
        self._stream, self._hardware, self._targeted, self.scale = stream, hardware, targeted, scale
        self._calls = 0
        self._zero_shares: list[float] = []
        self._flags: set[str] = set()
        self.accuracies: list[float] = []
        self.passes = Passes()

    @property
    def flags(self) -> tuple[str, ...]:
        """Self-checks that fired."""
        return tuple(sorted(self._flags | self.batch.flags))

    @property
    def instead(self) -> str:
        """The choice that attacks the same model without gradient."""
        return gradient_free(self.smoothing)

    @property
    def zero_gradients(self) -> float:
        """Mean share of entries of the gradient that are exactly 0, over the points with something left to gain."""
        return sum(self._zero_shares) / max(1, len(self._zero_shares))

    def __call__(self, point: Tensor, progress: float = 0.0) -> Evaluation:
        """The objective at ``point`` (``3 x H x W``), ``progress`` of the way through the attack.

        Raises:
            ModelError: NaN or infinite logits or gradients.
        """
        smoothing = self.smoothing
        if smoothing is None:
            return evaluate_together([self], [point], [progress])[0]
        (pixels, attacked, gradient, passes), _ = self.batch.run(
            lambda size: self._smoothed(smoothing, point, size, progress)
        )
        (summary,) = self.summarise(pixels, attacked, gradient[None], self.number[None])
        return self.record(Evaluation(point, summary.accuracy, summary.loss, gradient), summary, passes)

    def attacked(self, pixels: Pixels, progress: float | Tensor, number: Tensor) -> Tensor:
        """The loss to raise, ``(B,)``, of images with ``number`` (``(B,)``) labelled pixels."""
        return self._signed(mean_over_labelled(self._loss(pixels, progress), number))

    def summarise(self, pixels: Pixels, attacked: Tensor, gradient: Tensor, number: Tensor) -> list[Summary]:
        """The numbers of each image of a batch, from its attacked losses (``(B,)``) and their gradients."""
        with torch.no_grad():
            same = self._compare is self._loss
            compared = attacked.detach() if same else self._signed(mean_over_labelled(self._compare(pixels), number))
            left = pixels.labelled & ~pixels.correct if self._targeted else pixels.correct
            accuracy = mean_over_labelled(left.to(compared.dtype), number)
            zeros, extremes = zip(*(_zeros_and_extremes(part) for part in gradient))
            check = (pixels.decision[1].to(compared.dtype) + torch.stack(extremes)) * 0.0
            return [Summary(*row) for row in torch.stack([accuracy, compared, torch.stack(zeros), check], 1).tolist()]

    def _signed(self, loss: Tensor) -> Tensor:
        return -loss if self._targeted else loss

    def record(self, evaluation: Evaluation, summary: Summary, passes: Passes) -> Evaluation:
        """Count an evaluation and let its self-checks see it."""
        self._calls += 1
        self.passes += passes
        self.accuracies.append(evaluation.accuracy)
        if summary.check != 0.0:  # NaN
            raise self._broken()
        if evaluation.accuracy > 0.0:  # of a success there is nothing to climb
            self._zero_shares.append(abs(summary.zeros))
            if summary.zeros == -1.0:
                self._flags.add("zero_gradient")
        return evaluation

    def _broken(self) -> ModelError:
        return ModelError(
            f"The model gave NaN or infinite logits or gradients under attack on image {self.name!r}",
            remedy="Check the checkpoint",
        )

    def _smoothed(
        self, smoothing: Smoothing, point: Tensor, batch: int, progress: float
    ) -> tuple[Pixels, Tensor, Tensor, Passes]:
        """Gradient of the loss of the mean probability, in two passes over batches of copies so that memory does not
        grow with their number: the mean first, then its gradient copy by copy through the chain rule."""
        count, noise = smoothing.samples, smoothing.distribution
        first = self._calls * count
        starts = range(0, count, batch)

        def loss_of(mean: Tensor) -> tuple[Pixels, Tensor]:
            pixels = Pixels(mean.clamp_min(1e-12).log(), self.target[None])
            return pixels, self.attacked(pixels, progress, self.number[None])

        if count <= batch:
            leaf = point[None].detach().requires_grad_(True)
            pixels, loss = loss_of(self._probabilities(leaf, noise, first, count).mean(dim=0, keepdim=True))
            (gradient,) = torch.autograd.grad(loss, leaf)
            return pixels, loss, gradient[0], Passes(count, count)
        with torch.no_grad():
            total = reduce(
                add, (self._probabilities(point[None], noise, first + s, min(batch, count - s)).sum(0) for s in starts)
            )
        mean = (total[None] / count).requires_grad_(True)
        pixels, loss = loss_of(mean)
        (weight,) = torch.autograd.grad(loss, mean)
        gradient = torch.zeros_like(point)
        for s in starts:
            leaf = point[None].detach().requires_grad_(True)
            part = self._probabilities(leaf, noise, first + s, min(batch, count - s)).sum(0, keepdim=True) / count
            gradient += torch.autograd.grad(part, leaf, grad_outputs=weight)[0][0]
        return pixels, loss, gradient, Passes(2 * count, count)

    def _probabilities(self, leaf: Tensor, noise: Noise, first: int, size: int) -> Tensor:
        """Class probabilities of noisy copies ``first`` to ``first + size - 1``: ``size x K x H x W``."""
        copies = torch.empty(size, *leaf.shape[1:], device=leaf.device)
        noise.copies_around(leaf.detach()[0], self._stream, first, copies)
        seen = copies + (leaf - leaf.detach())  # adds 0, and the gradient of the point
        return (self.scale * checked_logits(self.segmenter, seen, self.instead)).log_softmax(dim=1).exp()

    def predict(self, point: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Prediction ``H x W`` at a point, and all votes where the predictor is sampled. Flags a network that does not
        give the logits (:func:`probe`) there that it gave ``before``.

        Raises:
            ModelError: NaN or infinite logits.
        """
        if self.smoothing is None:
            with torch.inference_mode():
                logits = checked_logits(self.segmenter, point[None])
                classes, check = decide(logits)
                prediction = classes[0].long()
                again = probe(logits[0])
            self.passes += Passes(1)
            if not bool(torch.isfinite(check).all()):
                raise self._broken()
            if before is not None and not (again - before).abs().amax() <= _ROUNDING * before.abs().amax():
                self._flags.add("stochastic_logits")
            return prediction, None
        votes, passes = voted(self.segmenter, point, self.smoothing, self._stream, self._hardware)
        self.passes += passes
        return votes.argmax(dim=0), votes.cpu()


def voted(
    segmenter: Segmenter, point: Tensor, smoothing: Smoothing, stream: NoiseStream, hardware: Hardware
) -> tuple[Tensor, Passes]:
    """The votes ``K x H x W`` of noisy copies of a point, ``smoothing.votes`` in number and with noise of their own,
    and the passes they took.

    Raises:
        ModelError: NaN or infinite logits.
    """
    votes = stream.for_purpose("attack evaluation")
    sampler = NoisySampler(segmenter, point, smoothing.distribution, votes, hardware, is_point=True)
    return sampler.class_counts(0, smoothing.votes), sampler.passes


def evaluate_together(
    objectives: Sequence[AttackObjective], points: Sequence[Tensor], progress: Sequence[float]
) -> list[Evaluation]:
    """Objectives of images of one shape, for the same network and loss and without smoothing, each at its own point and
    its own progress.

    As many images as fit go through the network at once (:class:`certseg.compute.forward.WorkingBatch`).

    Raises:
        ModelError: NaN or infinite logits or gradients.
    """
    first = objectives[0]
    results: list[Evaluation] = []

    def work(size: int) -> list[tuple[Evaluation, Summary]]:
        """The next ``size`` images in one pass."""
        chunk = slice(len(results), len(results) + size)
        target = _stacked([objective.target for objective in objectives[chunk]])
        number = _stacked([objective.number for objective in objectives[chunk]])
        leaf = _stacked(points[chunk]).detach().requires_grad_(True)
        logits = checked_logits(first.segmenter, leaf, first.instead)
        pixels = Pixels(logits if first.scale == 1.0 else first.scale * logits, target)
        shares = leaf.new_tensor(progress[chunk])[:, None, None] if size > 1 else progress[chunk.start]
        attacked = first.attacked(pixels, shares, number)
        (gradient,) = torch.autograd.grad(attacked.sum(), leaf)
        summaries = first.summarise(pixels, attacked, gradient, number)
        gradients = [gradient[0]] if size == 1 else [part.clone() for part in gradient]  # to be kept one by one
        probes = [probe(part) for part in logits]
        parts = zip(points[chunk], summaries, gradients, probes)
        return [(Evaluation(p, s.accuracy, s.loss, g, kept), s) for p, s, g, kept in parts]

    while len(results) < len(points):
        done, _ = first.batch.run(work, len(points) - len(results))
        for objective, (evaluation, summary) in zip(objectives[len(results) :], done):
            results.append(objective.record(evaluation, summary, Passes(1, 1)))
    return results


def _zeros_and_extremes(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Share of zeros among an eighth of the entries, -1 if all are zero; and the sum of smallest and largest."""
    smallest, largest = gradient.aminmax()
    some = gradient.flatten()[::8]
    share = 1.0 - torch.count_nonzero(some) / some.numel()
    return torch.where((smallest == 0.0) & (largest == 0.0), -1.0, share).to(gradient.dtype), smallest + largest


def gradient_free(smoothing: Smoothing | None) -> str:
    """The choice that attacks a network, or its smoothed version, by its answers alone."""
    return "attack=square_smoothed" if smoothing else "attack=square"


def checked_logits(segmenter: Segmenter, images: Tensor, instead: str = "attack=square") -> Tensor:
    """Logits of ``images`` in float32 at least.

    Args:
        segmenter: the network.
        images: ``B x 3 x H x W`` in [0, 1], or noisy copies.
        instead: the choice that attacks the same model without gradient, for messages.

    Raises:
        ModelError: they have the wrong shape, or no gradient where one was asked for.
    """
    logits = segmenter(images)
    check_logits(logits, images, segmenter.num_classes)
    if images.requires_grad and not logits.requires_grad:
        raise ModelError(
            "The model cannot be attacked by gradient: its logits do not depend differentiably on the image",
            remedy=f"Use an attack that needs no gradient: {instead}",
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def probe(logits: Tensor) -> Tensor:
    """Evenly spaced entries of the logits of an image, few enough to keep."""
    flat = logits.detach().flatten()
    return flat[:: max(1, flat.numel() // _PROBES)].clone()


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))
