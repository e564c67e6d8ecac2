"""Losses an attack maximises: functions of class log-probabilities and labels, averaged over labelled pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from certseg.types import IGNORE_INDEX


def _nll(log_probabilities: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-probability of the label per pixel (0 where ignored), and the mask of labelled pixels."""
    mask = target != IGNORE_INDEX
    label = torch.where(mask, target, 0)
    picked = log_probabilities.gather(1, label[:, None])[:, 0]
    return torch.where(mask, -picked, 0.0), mask


def cross_entropy(log_probabilities: Tensor, target: Tensor) -> Tensor:
    """``-log p_y``, mean over labelled pixels (seed 002, L_CE).

    Args:
        log_probabilities: ``B x K x H x W``.
        target: ``B x H x W`` int64, 255 ignored.

    Returns:
        Scalar; 0 without labelled pixels.
    """
    loss, mask = _nll(log_probabilities, target)
    return loss.sum() / mask.sum().clamp_min(1)


def masked_cross_entropy(log_probabilities: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy on the pixels still classified correctly, divided by all labelled pixels (seed 002, L_Mask-CE).

    Args and returns as :func:`cross_entropy`; 0 once every pixel is wrong.
    """
    loss, mask = _nll(log_probabilities, target)
    still_correct = (log_probabilities.argmax(dim=1) == target) & mask
    return (loss * still_correct).sum() / mask.sum().clamp_min(1)
