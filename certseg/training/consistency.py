"""Consistency regularisation: :class:`ConsistencyObjective` asks that noisy copies of an image are segmented alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certseg.checks import check_count, check_number
from certseg.models.denoiser import inner_segmenter
from certseg.training.objectives import GaussianNoise
from certseg.types import IGNORE_INDEX
from certseg.types.trainable import ExplainedSegmenter, explained


@dataclass(frozen=True)
class ConsistencyObjective(GaussianNoise[ExplainedSegmenter]):
    """The segmenter's loss under Gaussian noise, and a penalty on predictions that change with the noise.

    With ``F_i`` the softmax at a pixel of noisy copy ``i`` of ``m`` and ``G`` their mean, a step minimises

        mean over i of the segmenter's loss + weight * mean over i of KL(G || F_i) + entropy * H(G)

    (Jeong and Shin 2020, "Consistency Regularization for Certified Robustness of Smoothed Classifiers"; ``weight`` is
    their lambda and ``entropy`` their eta), the last two averaged over the labelled pixels of the batch; where there
    are none they are 0. They are logged as ``loss_consistency`` and ``loss_entropy``, factors included.

    All copies go through the network as one batch of ``m * B`` images, copy after copy: batch normalisation sees them
    together, as in the paper, and memory and time grow by the factor ``m`` over one noisy copy an image. The terms
    need about four further tensors of ``m * B * num_classes * h * w`` floats, ``h x w`` being the resolution of the
    loss. The segmenter's loss of all copies is the mean over the copies where it is a mean over pixels, as
    cross-entropy is.

    Args:
        sigma: standard deviation of the noise on the [0, 1] image scale.
        clean_share: probability with which an image of the batch gets no noise; its copies are then equal.
        sampling: ``fixed`` uses ``sigma`` for every noisy image; ``uniform`` draws each image's standard deviation
            from [0, sigma], which its copies share.
        copies: number ``m`` of noisy copies of each image, at least 2.
        weight: factor ``lambda`` of the divergence, at least 0. The authors' choice on CIFAR-10 is 20 for a sigma of
            0.25.
        entropy: factor ``eta`` of the entropy, at least 0; 0.5 throughout the paper.

    Raises:
        ConfigError: a value is outside its domain.
    """

    copies: int = 2
    weight: float = 20.0
    entropy: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("training.objective.copies", self.copies, 2)
        for name in ("weight", "entropy"):
            check_number(f"training.objective.{name}", getattr(self, name), "[0, inf)")

    def prepare(self, network: nn.Module) -> None:
        """Refuse a segmenter without ``loss_and_logits``.

        Raises:
            ModelError: the network has no such method.
        """
        explained(inner_segmenter(network))

    def __call__(self, network: ExplainedSegmenter, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of noisy images, and the two terms."""
        sigmas = torch.cat([self.deviations(images)] * self.copies)
        noisy = torch.cat([images] * self.copies)  # m * B x 3 x H x W
        noisy = noisy + sigmas * torch.randn_like(noisy)
        output = network.loss_and_logits(noisy, torch.cat([labels] * self.copies))
        divergence, entropy = consistency(output.logits, output.labels, self.copies)
        return {
            **output.losses,
            "loss_consistency": self.weight * divergence,
            "loss_entropy": self.entropy * entropy,
        }


def consistency(logits: Tensor, labels: Tensor, copies: int) -> tuple[Tensor, Tensor]:
    """How much predictions differ between copies, and how uncertain their mean is.

    Args:
        logits: ``m * B x K x h x w``, copy after copy of the whole batch.
        labels: ``m * B x h x w``; pixels labelled 255 do not count. Copies of an image have the same labels.
        copies: number ``m`` of copies of each image.

    Returns:
        mean over copies of ``KL(G || F_i)``, and ``H(G)``, with ``F_i`` the softmax of copy ``i`` and ``G`` the mean
        of all ``F_i``: scalars in nats, averaged over labelled pixels; 0 if there are none.

    >>> certain = torch.tensor([20.0, 0.0]).view(1, 2, 1, 1)  # of one pixel, copies that contradict each other
    >>> divergence, entropy = consistency(torch.cat([certain, -certain]), torch.zeros(2, 1, 1), copies=2)
    >>> f"{float(divergence):.1f} {float(entropy):.4f}"
    '9.3 0.6931'
    """
    # at least in float32; logarithms throughout, because probabilities of confident networks underflow
    log_each = F.log_softmax(logits.float() if logits.element_size() < 4 else logits, dim=1)
    log_each = log_each.unflatten(0, (copies, -1))  # m x B x K x h x w
    log_mean = torch.logsumexp(log_each, dim=0) - math.log(copies)
    mean = log_mean.exp()
    divergence = (mean * (log_mean - log_each.mean(dim=0))).sum(dim=1)  # B x h x w; linear in log F_i
    entropy = -(mean * log_mean).sum(dim=1)
    labelled = labels[: len(mean)] != IGNORE_INDEX
    pixels = labelled.sum().clamp(min=1)
    return (divergence * labelled).sum() / pixels, (entropy * labelled).sum() / pixels
