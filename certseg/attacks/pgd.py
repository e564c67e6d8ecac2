"""Projected gradient descent (Madry et al. 2018) on every pixel of a segmentation, plain or through noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from certseg.errors import ConfigError, ModelError
from certseg.geometry import ascent_direction, perturbation_norm, project, random_start
from certseg.hardware import Hardware, Stopwatch
from certseg.losses import cross_entropy, masked_cross_entropy
from certseg.noise import Gaussian, NoiseStream
from certseg.sampling import NoisySampler, WorkingBatch, check_logits
from certseg.types import IGNORE_INDEX, AttackResult, Passes, Segmenter, Threat, check_image, check_target

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "masked_cross_entropy": masked_cross_entropy,
}


@dataclass(frozen=True)
class Smoothing:
    """Attack the smoothed model instead of the network (Salman et al. 2019): gradients of the loss of class
    probabilities averaged over noisy copies, and a prediction by majority vote.

    Args:
        sigma: standard deviation of the certified model's Gaussian noise.
        samples: noisy copies per gradient; fresh ones at every step.
        votes: noisy copies whose majority is the prediction at the adversarial image, at least 50: of fewer not even
            a unanimous vote against a certified pixel of a large image would be significant.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    sigma: float
    samples: int = 4
    votes: int = 100

    def __post_init__(self) -> None:
        Gaussian(self.sigma)
        for option, least in (("samples", 1), ("votes", 50)):
            value = getattr(self, option)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"attack.smoothing.{option} must be an integer of at least {least}", received=value)

    @property
    def predictor(self) -> str:
        """The attacked model, in the words of its certificates."""
        return f"smoothed({Gaussian(self.sigma)})"


@dataclass(frozen=True)
class PGD:
    """Projected steepest ascent, keeping the iterate with the lowest pixel accuracy.

    The first restart begins at the image itself, further ones at random points of the ball. For l2 the step is the
    normalised gradient, for l-inf its sign. The perturbation stays in the ball and the image in [0, 1], both checked
    in float64 at the end.

    Args:
        steps: gradient steps per restart.
        step_size: length of a step as a share of the radius; shrinks linearly to a tenth over the steps.
        restarts: number of runs; the best result is kept.
        loss: a key of :data:`LOSSES`.
        smoothing: None attacks the network itself.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    steps: int = 20
    step_size: float = 0.2
    restarts: int = 1
    loss: str = "cross_entropy"
    smoothing: Smoothing | None = None
    norms = ("l2", "linf")

    def __post_init__(self) -> None:
        for option in ("steps", "restarts"):
            value = getattr(self, option)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"attack.{option} must be a positive integer", received=value)
        if not isinstance(self.step_size, (int, float)) or not 0 < self.step_size <= 2:
            raise ConfigError(
                "attack.step_size must be a share of the radius", expected="a number in (0, 2]", received=self.step_size
            )
        if self.loss not in LOSSES:
            raise ConfigError("Unknown attack.loss", expected=", ".join(LOSSES), received=self.loss)

    @property
    def predictor(self) -> str:
        """The attacked model, in the words of the certificates it may be compared with."""
        return self.smoothing.predictor if self.smoothing else "base"

    def __call__(
        self, segmenter: Segmenter, image: Tensor, target: Tensor, threat: Threat, *, stream: NoiseStream,
        hardware: Hardware,
    ) -> AttackResult:  # fmt: skip
        """Attack one image.

        Args:
            segmenter: the network, differentiable with respect to its input, on the hardware's device.
            image: ``3 x H x W`` in [0, 1].
            target: ``H x W`` int64 labels, 255 ignored.
            threat: L2 or Linf.
            stream: the image's random numbers.
            hardware: device; copies per forward pass when smoothing.

        Raises:
            DataError: the image is not in [0, 1], or the target does not fit it or the model.
            ModelError: NaN or infinite logits.
        """
        check_image(image, stream.name)
        check_target(target, tuple(image.shape[-2:]), segmenter.num_classes)
        device = hardware.torch_device
        watch = Stopwatch(device)
        image, target = image.to(device), target.to(device)
        objective = _Objective(
            segmenter, target, LOSSES[self.loss], self.smoothing, stream.for_purpose("attack"), hardware
        )
        with watch("attack"):
            best, lowest = image, float("inf")
            for restart in range(self.restarts):
                start = image
                if restart:
                    start = random_start(image, threat, stream.for_purpose("restart").generator(restart, device))
                point, accuracy = _ascend(objective, start, image, threat, self.steps, self.step_size)
                if accuracy < lowest:
                    best, lowest = point, accuracy
        norm = perturbation_norm(best, image, threat)
        if not norm <= threat.radius or float(best.min()) < 0 or float(best.max()) > 1:
            raise AssertionError(f"pgd left its budget on {stream.name!r}: norm {norm} of {threat}")
        with watch("evaluation"):
            prediction, votes, passes = objective.predict(best)
        return AttackResult(
            adversarial=best.cpu(), prediction=prediction.cpu(), threat=threat, predictor=self.predictor, norm=norm,
            votes=votes, num_votes=self.smoothing.votes if self.smoothing else 0, passes=objective.passes + passes,
            seconds=watch.seconds, flags=objective.flags,
        )  # fmt: skip


def _ascend(
    objective: _Objective, start: Tensor, image: Tensor, threat: Threat, steps: int, step_size: float
) -> tuple[Tensor, float]:
    """The visited point of lowest accuracy, and that accuracy. The last point is evaluated too."""
    point = start
    best, lowest = start, float("inf")
    for step in range(steps + 1):
        accuracy, gradient = objective(point)
        if accuracy < lowest:
            best, lowest = point, accuracy
        if step == steps or lowest == 0.0:
            break
        length = threat.radius * step_size * (1.0 - 0.9 * step / steps)
        point = project(point + length * ascent_direction(gradient, threat), image, threat)
    return best, lowest


class _Objective:
    """Loss, gradient and accuracy at a point, for the network or its smoothed version."""

    def __init__(
        self, segmenter: Segmenter, target: Tensor, loss: Callable[[Tensor, Tensor], Tensor],
        smoothing: Smoothing | None, stream: NoiseStream, hardware: Hardware,
    ) -> None:  # fmt: skip
        self._segmenter, self._target, self._loss = segmenter, target, loss
        self._smoothing, self._stream, self._hardware = smoothing, stream, hardware
        self._noise = Gaussian(smoothing.sigma) if smoothing else None
        self._batch = WorkingBatch(segmenter, (3, *target.shape), hardware, task="gradient")
        self._labelled = target != IGNORE_INDEX
        self._calls = 0
        self._zero_gradients = 0
        self.passes = Passes()

    @property
    def flags(self) -> tuple[str, ...]:
        flags = {"zero_gradient"} if self._zero_gradients else set()
        return tuple(sorted(flags | self._batch.flags))

    def __call__(self, point: Tensor) -> tuple[float, Tensor]:
        """Pixel accuracy at ``point`` (estimated from the gradient's own samples) and the gradient of the loss."""
        if self._smoothing:
            (probabilities, gradient), _ = self._batch.run(lambda size: self._smoothed(point, size))
        else:
            probabilities, gradient = self._plain(point)
        correct = (probabilities.argmax(dim=1)[0] == self._target) & self._labelled
        self._calls += 1
        if not torch.isfinite(gradient).all():
            raise ModelError(f"The gradient of the model is not finite on image {self._stream.name!r}")
        accuracy = float(correct.sum() / self._labelled.sum().clamp_min(1))
        self._zero_gradients += int(accuracy > 0 and not gradient.any())  # of a success there is nothing to climb
        return accuracy, gradient

    def _plain(self, point: Tensor) -> tuple[Tensor, Tensor]:
        leaf = point[None].detach().requires_grad_(True)
        log_probabilities = self._log_probabilities(leaf)
        (gradient,) = torch.autograd.grad(self._loss(log_probabilities, self._target[None]), leaf)
        self.passes += Passes(1, 1)
        return log_probabilities.detach(), gradient[0]

    def _smoothed(self, point: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Gradient of the loss of the mean probability, in two passes over batches of copies so that memory does not
        grow with their number: the mean first, then its gradient copy by copy through the chain rule."""
        count = self._smoothing.samples
        first = self._calls * count
        starts = range(0, count, batch)
        if count <= batch:
            leaf = point[None].detach().requires_grad_(True)
            mean = self._probabilities(leaf, first, count).mean(dim=0, keepdim=True)
            (gradient,) = torch.autograd.grad(self._loss(mean.clamp_min(1e-12).log(), self._target[None]), leaf)
            self.passes += Passes(count, count)
            return mean.detach(), gradient[0]
        with torch.no_grad():
            total = sum(self._probabilities(point[None], first + s, min(batch, count - s)).sum(0) for s in starts)
        mean = (total[None] / count).requires_grad_(True)
        (weight,) = torch.autograd.grad(self._loss(mean.clamp_min(1e-12).log(), self._target[None]), mean)
        gradient = torch.zeros_like(point)
        for s in starts:
            leaf = point[None].detach().requires_grad_(True)
            part = self._probabilities(leaf, first + s, min(batch, count - s)).sum(0, keepdim=True) / count
            gradient += torch.autograd.grad(part, leaf, grad_outputs=weight)[0][0]
        self.passes += Passes(2 * count, count)
        return mean.detach(), gradient

    def _probabilities(self, leaf: Tensor, first: int, size: int) -> Tensor:
        noise = torch.empty(size, *leaf.shape[1:], device=leaf.device)
        self._stream.fill(noise, self._noise, first)
        return self._log_probabilities(leaf + noise).exp()

    def _log_probabilities(self, images: Tensor) -> Tensor:
        logits = self._segmenter(images)
        check_logits(logits, images, self._segmenter)
        if not torch.isfinite(logits).all():
            raise ModelError(
                f"The model returned NaN or infinite logits under attack on image {self._stream.name!r}",
                remedy="Check the checkpoint",
            )
        return logits.float().log_softmax(dim=1)

    def predict(self, point: Tensor) -> tuple[Tensor, Tensor | None, Passes]:
        """Prediction ``H x W`` at ``point``, all votes where the predictor is sampled, and the passes."""
        if self._smoothing is None:
            with torch.inference_mode():
                return self._log_probabilities(point[None]).argmax(dim=1)[0], None, Passes(1)
        sampler = NoisySampler(
            self._segmenter, point, self._noise, self._stream.for_purpose("attack evaluation"), self._hardware
        )
        votes = sampler.class_counts(0, self._smoothing.votes)
        return votes.argmax(dim=0), votes.cpu(), sampler.passes
