"""Losses an attack maximises, pixel by pixel: the formulas of seed 002, section 3.1, and of the papers it builds on.

With ``u`` the logits of a pixel, ``y`` its label and ``p = softmax(u)``. Every function takes :class:`Pixels` and gives
a map ``B x H x W`` that is 0, with zero gradient, where there is no label; :func:`mean_over_labelled` makes one number
per image of it. What a pixel weighs (whether it is still correct, its class's share, a cosine) carries no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from certseg.compute.decisions import decide
from certseg.types import IGNORE_INDEX


@dataclass(frozen=True)
class Pixels:
    """Logits and labels, with what several losses need of them computed once.

    Args:
        logits: ``B x K x H x W``, float32 or float64; log-probabilities are logits too.
        target: ``B x H x W`` int64, 255 ignored.
    """

    logits: Tensor
    target: Tensor

    @cached_property
    def labelled(self) -> Tensor:
        """``B x H x W`` bool."""
        return self.target != IGNORE_INDEX

    @cached_property
    def label(self) -> Tensor:
        """The target with class 0 where there is no label: ``B x H x W`` int64."""
        return torch.where(self.labelled, self.target, 0)

    @cached_property
    def label_logit(self) -> Tensor:
        """``u_y``, ``B x H x W``."""
        return self.logits.gather(1, self.label[:, None])[:, 0]

    @cached_property
    def decision(self) -> tuple[Tensor, Tensor]:
        """:func:`decide` of the logits."""
        return decide(self.logits.detach())

    @cached_property
    def correct(self) -> Tensor:
        """Labelled pixels whose label is predicted, ``B x H x W`` bool."""
        hits = self.decision[0] == self.target
        return hits if self.logits.shape[1] <= IGNORE_INDEX else hits & self.labelled

    @cached_property
    def cross_entropy(self) -> Tensor:
        """``-log p_y``, 0 without label: ``B x H x W``."""
        apply: Callable[..., Tensor] = _CrossEntropy.apply
        return apply(self.logits, self.label, self.labelled)


class _CrossEntropy(torch.autograd.Function):
    """``-log p_y`` of labelled pixels, 0 elsewhere. On its way back torch's own goes through a tensor of zeros as large
    as the logits."""

    @staticmethod
    def forward(context: Any, logits: Tensor, label: Tensor, labelled: Tensor) -> Tensor:
        log_p = logits.log_softmax(dim=1)
        context.save_for_backward(log_p, label, labelled)
        return torch.where(labelled, -log_p.gather(1, label[:, None])[:, 0], 0.0)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        log_p, label, labelled = context.saved_tensors
        weight = torch.where(labelled, gradient, 0.0)[:, None]
        return log_p.exp().mul_(weight).scatter_add_(1, label[:, None], -weight), None, None


def cross_entropy(pixels: Pixels, progress: float = 0.0) -> Tensor:
    """``-log p_y`` (L_CE). Unbounded: pixels that are wrong already keep pulling."""
    return pixels.cross_entropy


def balanced_cross_entropy(pixels: Pixels, progress: float | Tensor = 0.0) -> Tensor:
    """``-(1 - lambda) log p_y`` on correct pixels and ``-lambda log p_y`` on wrong ones (SegPGD, Gu et al. 2022).

    Args:
        pixels: logits and labels.
        progress: share of the steps done before this one, ``(t - 1) / T``, a number or ``B x 1 x 1``;
            ``lambda = (t - 1) / (2 T)`` is half of it.
    """
    balance = progress / 2
    correct = pixels.correct.to(pixels.logits.dtype)
    return pixels.cross_entropy * (balance + (1.0 - 2.0 * balance) * correct)


def cosine_cross_entropy(pixels: Pixels, progress: float = 0.0) -> Tensor:
    """``-sigmoid(u_y) / ||sigmoid(u)||_2 log p_y`` (CosPGD, Agnihotri and Keuper 2023).

    The sigmoid is the papers'; their code takes a softmax. The cosine is a weight without gradient, as in that code:
    its own gradient would raise ``u_y`` at the pixels that are wrong most clearly.
    """
    with torch.no_grad():
        score = F.logsigmoid(pixels.logits)
        score = (score - score.amax(dim=1, keepdim=True)).exp()  # the cosine is the same, and nothing underflows
        cosine = score.gather(1, pixels.label[:, None])[:, 0] / _size(score)
    return cosine * pixels.cross_entropy


def masked_cross_entropy(pixels: Pixels, progress: float = 0.0) -> Tensor:
    """``-log p_y`` on pixels that are still correct, else 0 (L_Mask-CE). It falls where a pixel flips."""
    return pixels.cross_entropy * pixels.correct


def class_balanced_masked_cross_entropy(
    pixels: Pixels, progress: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """``-w_y log p_y`` on pixels that are still correct, else 0 (the mIoU attack of Croce et al. 2024).

    Args:
        pixels: logits and labels.
        progress: no part of this loss, which takes it as all losses do.
        class_weights: ``(K,)``, for example of the data set; None balances the classes of each image: ``w_c`` is the
            number of labelled pixels over the number of classes present times the pixels of class c, 1 on average.
    """
    if class_weights is None:
        weight = _inverse_frequency(pixels).gather(1, pixels.label.flatten(1)).view_as(pixels.label)
    else:
        weight = class_weights.to(pixels.logits)[pixels.label]
    return pixels.cross_entropy * (weight * pixels.correct)


def jensen_shannon(pixels: Pixels, progress: float = 0.0) -> Tensor:
    """Jensen-Shannon divergence of ``p`` and the one-hot label, between 0 and ``ln 2`` (L_JS).

    In closed form ``ln 2 + (p_y ln p_y - (1 + p_y) ln(1 + p_y)) / 2``. The definition is a sum over classes with terms
    ``p_k ln(p_k / m_k)`` that are NaN in float32 as soon as a ``p_k`` underflows; here ``ln p_y`` is finite for all
    finite logits and a ``p_y`` of 0 gives ``ln 2`` with zero gradient.
    """
    log_p = -pixels.cross_entropy
    p = log_p.exp()
    divergence = math.log(2.0) + 0.5 * (p * log_p - (1.0 + p) * p.log1p())
    return torch.where(pixels.labelled, divergence, 0.0)


def masked_spherical(pixels: Pixels, progress: float = 0.0) -> Tensor:
    """``-u_y / ||u||_2`` on pixels that are still correct, else 0 (L_Mask-Sph)."""
    return torch.where(pixels.correct, -pixels.label_logit / _size(pixels.logits), 0.0)


def multi_margin(pixels: Pixels, progress: float = 0.0) -> Tensor:
    """``sum_{k != y} max(0, 1 - u_y + u_k) / K``, torch's multi-margin loss (the patch attack of seed 003, appendix D).
    Pixels that are right by more than 1 have no gradient, wrong ones keep pulling."""
    over = (pixels.logits - pixels.label_logit[:, None] + 1.0).clamp_min(0.0)
    over = over.scatter(1, pixels.label[:, None], 0.0)
    return torch.where(pixels.labelled, over.sum(dim=1) / over.shape[1], 0.0)


LOSSES: dict[str, Callable[..., Tensor]] = {
    loss.__name__: loss
    for loss in (
        cross_entropy,
        balanced_cross_entropy,
        cosine_cross_entropy,
        masked_cross_entropy,
        class_balanced_masked_cross_entropy,
        jensen_shannon,
        masked_spherical,
        multi_margin,
    )
}
"""The losses a configuration can name; each is called with pixels and progress (:func:`balanced_cross_entropy`)."""

COMPARED_BY: dict[str, str | None] = dict.fromkeys(LOSSES) | dict.fromkeys(
    (
        "balanced_cross_entropy",
        "cosine_cross_entropy",
        "masked_cross_entropy",
        "class_balanced_masked_cross_entropy",
        "masked_spherical",
    ),
    "cross_entropy",
)
"""By which loss points are to be compared, None by the same. A masked cross-entropy falls as pixels flip, a masked
spherical loss does where logits are negative, and a weighted one falls as they lose weight, so that by themselves the
best point may be the image, to the last."""


def number_labelled(target: Tensor) -> Tensor:
    """Number of labelled pixels of each target ``B x H x W``, at least 1: ``(B,)``."""
    return (target != IGNORE_INDEX).sum(dim=(1, 2)).clamp_min(1)


def mean_over_labelled(values: Tensor, number: Tensor) -> Tensor:
    """Mean of a map ``B x H x W`` over the labelled pixels of each image: ``(B,)``, 0 for an image without labels.

    Args:
        values: 0 where there is no label.
        number: ``(B,)``, how many pixels of each image are labelled (:func:`number_labelled`).
    """
    return values.sum(dim=(1, 2)) / number


def _size(values: Tensor) -> Tensor:
    """Euclidean norm over the classes, ``B x H x W``. (On the CPU torch's own takes ten times as long along them.)"""
    return values.square().sum(dim=1).clamp_min(torch.finfo(values.dtype).tiny).sqrt()


def _inverse_frequency(pixels: Pixels) -> Tensor:
    """``(B, K)`` weights of the classes of each image, 0 for absent ones."""
    batch, classes = pixels.logits.shape[:2]
    count = pixels.logits.new_zeros(batch, classes)
    count.scatter_add_(1, pixels.label.flatten(1), pixels.labelled.flatten(1).to(count.dtype))
    present = (count > 0).sum(dim=1, keepdim=True)
    return torch.where(count > 0, count.sum(dim=1, keepdim=True) / (present * count).clamp_min(1.0), 0.0)
