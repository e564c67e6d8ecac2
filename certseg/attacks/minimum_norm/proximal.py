"""Forward-backward steps in a variable metric: down a gradient, then the proximity operator of the norm and the box."""

from __future__ import annotations

import torch
from torch import Tensor

from certseg.attacks.minimum_norm.problem import Gaps

_TINY = 1e-12


class VariableMetric:
    """The diagonal metric of a step: the root mean square of each entry of the gradient, as a running mean.

    Args:
        like: a tensor of the image's shape.
        memory: share of the mean that is kept at every step.
    """

    def __init__(self, like: Tensor, memory: float) -> None:
        self._squares, self._memory, self._weight = torch.zeros_like(like), memory, 0.0

    def __call__(self, gradient: Tensor) -> Tensor:
        """The metric after one more gradient, a tensor of its shape."""
        self._squares.mul_(self._memory).addcmul_(gradient, gradient, value=1.0 - self._memory)
        self._weight = self._memory * self._weight + 1.0 - self._memory
        return (self._squares / self._weight).sqrt_().add_(_TINY)


def forward_backward(
    point: Tensor, image: Tensor, gradient: Tensor, metric: Tensor, step: float, norm: float
) -> Tensor:
    """The next point of a descent on ``f(point) + ||point - image||_2`` within [0, 1].

    The norm is replaced by its quadratic majoriser ``(||d||^2 / norm + norm) / 2``, which touches it where the
    perturbation d has this norm. Its proximity operator in a diagonal metric, together with the box, is exact entry by
    entry: ``clip(image + v h / (h + step / norm))`` with ``v`` the forward step. A fixed point of the descent is one of
    the descent on the norm itself.

    Args:
        point: ``3 x H x W``, where the step begins.
        image: ``3 x H x W``, from which the norm is measured.
        gradient: the gradient of f at the point.
        metric: the metric ``h``, positive; a step is ``step * gradient / h``.
        step: length of the step.
        norm: l2 norm of the present perturbation, positive.
    """
    forward = torch.addcdiv(point - image, gradient, metric, value=-step)
    return forward.mul_(metric / (metric + step / norm)).add_(image).clamp_(0.0, 1.0)


def gap_scale(gaps: Gaps, counting: Tensor, logits: Tensor) -> Tensor:
    """What gaps are divided by in the difference of logits ratio, ``H x W``: the largest less the third largest logit;
    for two classes, or where the third is minus infinity, twice the mean gap. It carries no gradient: where a gap is 0
    the ratio's has none of it.

    Args:
        gaps: by how much each pixel misses the goal at a point.
        counting: ``H x W`` bool, the pixels of the mean.
        logits: ``1 x K x H x W``, those of the gaps.
    """
    usual = 2.0 * gaps.values[counting].abs().mean().clamp_min(1e-30)
    if logits.shape[1] < 3:
        return usual.expand(counting.shape)
    first = logits.amax(dim=1, keepdim=True)
    below = torch.where(logits >= first, -torch.inf, logits)
    below = torch.where(below >= below.amax(dim=1, keepdim=True), -torch.inf, below)
    ratio = (first[0, 0] - below.amax(dim=1)[0]).float()
    return torch.where(ratio.isfinite(), ratio.clamp_min(1e-6 * usual), usual)


def easiest(misses: Tensor, counting: Tensor, keep: int) -> Tensor:
    """The ``keep`` counting pixels that miss the goal least (ties: all of them), ``H x W`` bool.

    Args:
        misses: ``H x W``, by how much each pixel misses the goal.
        counting: ``H x W`` bool, the pixels that count.
        keep: how many of these to keep, at least 1.
    """
    values = misses[counting]
    if keep >= len(values):
        return counting
    return counting & (misses <= values.kthvalue(keep).values)
