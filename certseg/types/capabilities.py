"""What a network says of itself: logits at its own resolution, and an audited Lipschitz constant."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from certseg.errors import ModelError

LARGEST = 1e100
"""Constants, rows of heads and logits stay below it: their squares are then numbers that float64 can hold."""


@dataclass(frozen=True)
class CoarseLogits:
    """Logits at a network's own resolution. A segmenter may have a method ``coarse_logits(images)`` that returns them
    where its logits are their bilinear enlargement, else None; sampling on the CPU then spares the enlargement.

    Args:
        logits: ``B x num_classes x h x w``, smaller than the images.
        align_corners: whether the enlargement aligns the corner pixels of both grids, an argument of
            :func:`torch.nn.functional.interpolate`.
    """

    logits: Tensor
    align_corners: bool


@dataclass(frozen=True)
class LipschitzBound:
    """What an audit proved about a network in eval mode: its logits are ``head @ features + offset`` at every pixel,
    and ||features(x) - features(y)||_2 <= ``constant`` * ||x - y||_2 for any two images, over all pixels and channels
    together. The offset may depend on class and position.

    Args:
        constant: joint l2 constant of the features, on the [0, 1] image scale; finite and positive.
        head: ``K x D``, the rows w_k of the last linear map, numbers below :data:`LARGEST`; None where the logits
            themselves are the features.
        slack: no computed logit, at any image, is further than this from the exact one, as far as that is proven
            (``assumption``). 0 where logits are computed exactly enough to be taken as they are.
        flags: what a reader of the certificates should know, for example ``calibrated`` where the slack was measured.
        assumption: what was not proven and must hold, as a clause that follows "provided that"; empty for nothing.

    Raises:
        ModelError: a number is not as stated.
    """

    constant: float
    head: Tensor | None = None
    slack: float = 0.0
    flags: tuple[str, ...] = ()
    assumption: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.constant) and self.constant > 0):
            raise ModelError("A Lipschitz constant must be finite and positive", received=self.constant)
        if not (math.isfinite(self.slack) and self.slack >= 0):
            raise ModelError("The rounding slack of logits must be finite and not negative", received=self.slack)
        if self.head is not None and (self.head.ndim != 2 or not (self.head.double().abs() < LARGEST).all()):
            raise ModelError(
                "The head of a Lipschitz bound must be a matrix of finite numbers, one row for each class",
                expected=f"numbers below {LARGEST:g}, whose squares float64 can hold",
                received=f"shape {tuple(self.head.shape)}",
            )

    def budget(self, radius: float) -> float:
        """The squared feature distance that a perturbation of l2 norm ``radius`` can cover, rounded up."""
        reach = math.nextafter(self.constant * radius, math.inf) if radius > 0 else 0.0
        return math.nextafter(reach * reach, math.inf) if radius > 0 else 0.0
