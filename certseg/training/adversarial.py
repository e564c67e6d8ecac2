"""Adversarial training: :class:`AdversarialObjective` attacks every batch before the network learns from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certseg.attacks.losses import LOSSES, Pixels
from certseg.checks import check_choice, check_count, check_number
from certseg.training.objectives import Objective, check_own_loss
from certseg.types.trainable import TrainableSegmenter

NORMS = ("linf", "l2")


@dataclass(frozen=True)
class AdversarialObjective(Objective[TrainableSegmenter]):
    """The segmenter's loss on images that projected gradient ascent has just made worse for it (Madry et al. 2018; for
    segmentation Gu et al. 2022, seed 002 section 4: AT2 and AT5 are ``steps`` 2 and 5).

    The ascent starts at a random point of the ball and is projected onto the ball and onto [0, 1]. It runs on the
    network in eval mode, so that batch statistics are neither used nor moved by it; the loss at its last point is taken
    in training mode. A step costs ``steps`` more forward and backward passes than clean training.

    Args:
        radius: radius of the ball on the [0, 1] image scale, over one whole training crop.
        norm: norm of the ball: ``linf`` (steps along the sign of the gradient) or ``l2`` (along the gradient,
            normalised per image).
        steps: number of gradient steps, at least 1.
        step_size: length of a step, on the [0, 1] image scale in the norm of the ball.
        loss: what the ascent raises, one of :data:`certseg.attacks.losses.LOSSES`: ``balanced_cross_entropy`` is
            SegPGD's.
        clean_share: probability with which an image of the batch is left as it is.

    Raises:
        ConfigError: a value is outside its domain.
    """

    radius: float = 4 / 255
    norm: str = "linf"
    steps: int = 5
    step_size: float = 0.01
    loss: str = "cross_entropy"
    clean_share: float = 0.0

    def __post_init__(self) -> None:
        remedy = "Give it on the [0, 1] image scale, for example 4/255"
        for name in ("radius", "step_size"):
            check_number(f"training.objective.{name}", getattr(self, name), "(0, inf)", remedy=remedy)
        check_choice("training.objective.norm", self.norm, NORMS)
        check_count("training.objective.steps", self.steps)
        check_choice("training.objective.loss", self.loss, LOSSES)
        check_number("training.objective.clean_share", self.clean_share, "[0, 1)", what="a share")

    def prepare(self, network: nn.Module) -> None:
        """Refuse a segmenter without a loss; it must also be differentiable with respect to its input.

        Raises:
            ModelError: the network has no method ``loss``.
        """
        check_own_loss(network)

    def __call__(self, network: TrainableSegmenter, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of attacked images."""
        return network.loss(self.attack(network, images, labels), labels)

    def attack(self, segmenter: TrainableSegmenter, images: Tensor, labels: Tensor) -> Tensor:
        """Adversarial versions of ``images`` ``B x 3 x H x W``; neither modes, gradients nor batch statistics of the
        segmenter change. Random draws come from torch's global generators."""
        loss = LOSSES[self.loss]
        point = self._project(images + self._start(images), images)
        with _in_eval_mode(segmenter):
            for step in range(self.steps):
                point.requires_grad_(True)
                pixels = Pixels(segmenter(point).float(), labels)
                raised = loss(pixels, progress=step / self.steps).sum()  # a mean's gradient vanishes in float16
                (gradient,) = torch.autograd.grad(raised, point)
                point = self._project(point.detach() + self.step_size * self._direction(gradient), images)
        if self.clean_share > 0:
            keep = torch.rand(len(images), 1, 1, 1, device=images.device) < self.clean_share
            point = torch.where(keep, images, point)
        return point

    def _start(self, images: Tensor) -> Tensor:
        """A random point of the ball around 0: uniform for l-inf, of uniform direction and length for l2."""
        if self.norm == "linf":
            return (2.0 * torch.rand_like(images) - 1.0) * self.radius
        length = self.radius * torch.rand(len(images), 1, 1, 1, device=images.device)
        return length * self._direction(torch.randn_like(images))

    def _direction(self, gradient: Tensor) -> Tensor:
        if self.norm == "linf":
            return gradient.sign()
        scaled = gradient / _largest(gradient)  # so that small entries' squares do not vanish
        return scaled / _length(scaled).clamp_min(1.0)

    def _project(self, point: Tensor, images: Tensor) -> Tensor:
        change = point - images
        if self.norm == "linf":
            change = change.clamp(-self.radius, self.radius)
        else:
            change = change * (self.radius / _length(change).clamp_min(1e-12)).clamp_max(1.0)
        return (images + change).clamp(0.0, 1.0)


def _length(images: Tensor) -> Tensor:
    return images.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _largest(images: Tensor) -> Tensor:
    return images.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(images.dtype).tiny).view(-1, 1, 1, 1)


@contextlib.contextmanager
def _in_eval_mode(segmenter: TrainableSegmenter) -> Iterator[None]:
    """Every module in eval mode, and back in its own mode afterwards: parts may be frozen in one of them."""
    modes = [(module, module.training) for module in segmenter.modules()]
    segmenter.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
