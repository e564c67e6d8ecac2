"""What a training step minimises. An objective sees the segmenter, a batch and its labels, nothing of the runner.

:class:`Objective` is what every objective is made from, :class:`CleanObjective` the segmenter's own loss, and
:class:`NoiseObjective` the same under the noise of :class:`GaussianNoise`.

Random draws come from torch's global generators, which the trainer reseeds before every step from (seed, rank,
iteration): an objective needs no generator of its own to be resumed exactly. An inner attack differentiates with
``torch.autograd.grad``, which leaves the parameters' gradients alone. The entries of the returned dict whose name
contains ``loss`` are summed and minimised; others are only logged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from certseg.checks import check_choice, check_number
from certseg.metrics import ClassCounts
from certseg.models.denoiser import inner_segmenter
from certseg.types import Segmenter
from certseg.types.trainable import TrainableSegmenter, trainable

SIGMA_SAMPLING = ("fixed", "uniform")
Network = TypeVar("Network", bound=Segmenter, contravariant=True)
"""The kind of network that an objective trains."""


class Measurement(Protocol):
    """What was counted on validation images; counts of several images add up to those of all."""

    def __add__(self, other: Self) -> Self:
        """The counts of both."""

    def figures(self) -> dict[str, float]:
        """What the counts say, by name, such as ``miou/pooled``."""


@dataclass(frozen=True)
class ViewCounts:
    """Pixels per class on one view of the validation images; adds up over images.

    Args:
        counts: counts of predictions against labels.
    """

    counts: ClassCounts

    def __add__(self, other: ViewCounts) -> ViewCounts:
        return ViewCounts(self.counts + other.counts)

    def figures(self) -> dict[str, float]:
        """``pixel_accuracy/pooled`` and ``miou/pooled``, shares in [0, 1]; NaN without a labelled pixel."""
        return {"pixel_accuracy/pooled": self.counts.accuracy(), "miou/pooled": self.counts.miou()}


class Objective(ABC, Generic[Network]):
    """The losses of a training step, and what validation measures.

    Only the losses have to be written. By default any network is accepted, and validation counts the pixels it predicts
    right on clean images.
    """

    def prepare(self, network: nn.Module) -> None:
        """Refuse a network that this objective cannot train, freeze the parts that stay as they are; called once,
        before the first step. By default every network is accepted."""

    @abstractmethod
    def __call__(self, network: Network, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Named losses of images ``B x 3 x H x W`` in [0, 1] and int64 labels ``B x H x W`` (255 is void)."""

    def views(self, images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The versions of ``images`` ``B x 3 x H x W`` to validate on, by name, ``clean`` first; by default no other.

        Args:
            images: ``B x 3 x H x W`` in [0, 1].
            generator: a CPU generator, of which all randomness of a view comes.
        """
        return {"clean": images}

    def measure(self, network: Network, logits: Tensor, target: Tensor) -> Mapping[str, Measurement]:
        """What to measure besides the predictions on one validation image, by name; by default nothing.

        Args:
            network: the network, in eval mode.
            logits: ``K x H x W`` of the clean image.
            target: ``H x W`` labels.
        """
        return {}

    def validate(
        self, network: Network, image: Tensor, target: Tensor, generator: torch.Generator
    ) -> Mapping[str, Measurement]:
        """Everything that is measured on one validation image: by default predictions on each of the :meth:`views`,
        and what :meth:`measure` adds.

        Args:
            network: the network, in eval mode.
            image: ``1 x 3 x H x W`` in [0, 1].
            target: ``H x W`` labels.
            generator: a CPU generator with a seed of the image's own.
        """
        logits = {name: network(view)[0] for name, view in self.views(image, generator).items()}
        measured: dict[str, Measurement] = {
            name: ViewCounts(ClassCounts.from_maps(u.argmax(0), target, network.num_classes))
            for name, u in logits.items()
        }
        return {**measured, **self.measure(network, logits["clean"], target)}


def check_own_loss(network: nn.Module) -> None:
    """Raise :class:`ModelError` unless the segmenter, behind its denoiser if it has one, knows a loss of its own."""
    trainable(inner_segmenter(network))


@dataclass(frozen=True)
class CleanObjective(Objective[TrainableSegmenter]):
    """The segmenter's own loss on unchanged images."""

    def prepare(self, network: nn.Module) -> None:
        """Refuse a segmenter without a loss.

        Raises:
            ModelError: the network has no method ``loss``.
        """
        check_own_loss(network)

    def __call__(self, network: TrainableSegmenter, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of the images as they are."""
        return network.loss(images, labels)


@dataclass(frozen=True)
class GaussianNoise(Objective[Network]):
    """Gaussian noise on training images, for the objectives that train a base classifier of randomized smoothing.

    Noise is added at full resolution and the sum is not clipped to [0, 1], because the smoothed classifier evaluates
    ``f(x + eps)`` unclipped (Cohen et al. 2019, section 3.3; Fischer et al. 2021).

    Args:
        sigma: standard deviation of the noise on the [0, 1] image scale.
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

    def perturb(self, images: Tensor) -> Tensor:
        """Noisy copies of ``images`` ``B x 3 x H x W``, drawn from torch's global generators."""
        return images + self.deviations(images) * torch.randn_like(images)

    def deviations(self, images: Tensor) -> Tensor:
        """Each image's own standard deviation ``B x 1 x 1 x 1``, drawn from torch's global generators."""
        sigmas = torch.full((len(images), 1, 1, 1), self.sigma, device=images.device)
        if self.sampling == "uniform":
            sigmas = sigmas * torch.rand_like(sigmas)
        if self.clean_share > 0:
            sigmas = sigmas * (torch.rand_like(sigmas) >= self.clean_share)
        return sigmas

    def views(self, images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Clean images, and one noisy copy of each at the full ``sigma``."""
        noise = torch.randn(images.shape, generator=generator).to(images)
        return {"clean": images, "noise": images + self.sigma * noise}


@dataclass(frozen=True)
class NoiseObjective(GaussianNoise[TrainableSegmenter]):
    """The segmenter's own loss under Gaussian noise: trains the base classifier of randomized smoothing.

    Its settings, and the errors they raise, are those of :class:`GaussianNoise`.

    >>> NoiseObjective(sigma=0.5).views(torch.zeros(1, 3, 2, 2), torch.Generator()).keys()
    dict_keys(['clean', 'noise'])
    """

    def prepare(self, network: nn.Module) -> None:
        """Refuse a segmenter without a loss.

        Raises:
            ModelError: the network has no method ``loss``.
        """
        check_own_loss(network)

    def __call__(self, network: TrainableSegmenter, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of noisy images."""
        return network.loss(self.perturb(images), labels)
