"""What a training step minimises. An objective sees the segmenter, a batch and its labels, nothing of the runner.

Random draws come from torch's global generators, which the trainer reseeds before every step from (seed, rank,
iteration): an objective needs no generator of its own to be resumed exactly. An inner attack differentiates with
``torch.autograd.grad``, which leaves the parameters' gradients alone. The entries of the returned dict whose name
contains ``loss`` are summed and minimised; others are only logged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from certseg.checks import check_choice, check_number

SIGMA_SAMPLING = ("fixed", "uniform")


class TrainableSegmenter(Protocol):
    """A segmenter that knows its own loss, auxiliary heads included."""

    num_classes: int

    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``B x num_classes x H x W`` of images ``B x 3 x H x W``."""

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Named losses of images ``B x 3 x H x W`` and int64 labels ``B x H x W``."""


class Objective(Protocol):
    """One training step's losses, and the inputs validation looks at."""

    def prepare(self, segmenter: TrainableSegmenter) -> None:
        """Called once before the first step: refuse a segmenter this cannot train, freeze parts that are not to be."""

    def __call__(self, segmenter: TrainableSegmenter, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Named losses of images ``B x 3 x H x W`` in [0, 1] and labels ``B x H x W`` (255 is void)."""

    def views(self, images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The versions of ``images`` to validate on, by name; ``clean`` first. ``generator`` is a CPU generator."""


@dataclass(frozen=True)
class CleanObjective:
    """The segmenter's own loss on unchanged images."""

    def prepare(self, segmenter: TrainableSegmenter) -> None:
        """Any segmenter will do."""

    def __call__(self, segmenter: TrainableSegmenter, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of the images as they are."""
        return segmenter.loss(images, labels)

    def views(self, images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Clean images only."""
        return {"clean": images}


@dataclass(frozen=True)
class NoiseObjective:
    """The segmenter's loss under Gaussian noise: trains the base classifier of randomized smoothing.

    Noise is added at full resolution and the sum is not clipped to [0, 1], because the smoothed classifier evaluates
    ``f(x + eps)`` unclipped (Cohen et al. 2019, section 3.3; Fischer et al. 2021).

    Args:
        sigma: standard deviation on the [0, 1] image scale.
        clean_share: probability with which an image of the batch gets no noise.
        sampling: ``fixed`` uses ``sigma`` for every noisy image; ``uniform`` draws each image's standard deviation
            from [0, sigma].

    Raises:
        ConfigError: a value is outside its domain.
    """

    sigma: float = 0.25
    clean_share: float = 0.0
    sampling: str = "fixed"

    def __post_init__(self) -> None:
        remedy = "Give it on the [0, 1] image scale; training=clean trains without noise"
        check_number("training.objective.sigma", self.sigma, "(0, inf)", remedy=remedy)
        check_number("training.objective.clean_share", self.clean_share, "[0, 1)", what="a share")
        check_choice("training.objective.sampling", self.sampling, SIGMA_SAMPLING)

    def prepare(self, segmenter: TrainableSegmenter) -> None:
        """Any segmenter will do."""

    def __call__(self, segmenter: TrainableSegmenter, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of noisy images."""
        return segmenter.loss(self.perturb(images), labels)

    def perturb(self, images: Tensor) -> Tensor:
        """Noisy copies of ``images`` `B x 3 x H x W`, drawn from torch's global generators."""
        return images + self.deviations(images) * torch.randn_like(images)

    def deviations(self, images: Tensor) -> Tensor:
        """Each image's own standard deviation `B x 1 x 1 x 1`, drawn from torch's global generators."""
        sigmas = torch.full((len(images), 1, 1, 1), self.sigma, device=images.device)
        if self.sampling == "uniform":
            sigmas = sigmas * torch.rand_like(sigmas)
        if self.clean_share > 0:
            sigmas = sigmas * (torch.rand_like(sigmas) >= self.clean_share)
        return sigmas

    def views(self, images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Clean images, and one noisy copy at the full ``sigma``."""
        noise = torch.randn(images.shape, generator=generator).to(images)
        return {"clean": images, "noise": images + self.sigma * noise}
