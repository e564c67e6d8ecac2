"""Projected gradient descent (Madry et al. 2018) on every pixel of a segmentation, plain or through noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from certseg.attacks.geometry import Ball, ascent_direction, sparse_direction
from certseg.attacks.objective import Evaluation, Smoothing
from certseg.attacks.search import GradientAttack, Search
from certseg.checks import check_count, check_number
from certseg.types import L1, Goal, NormBall


@dataclass(frozen=True)
class PGD(GradientAttack):
    """Projected steepest ascent, keeping the iterate with the lowest pixel accuracy.

    The first restart begins at the image itself, further ones at random points of the ball. For l2 the step is the
    normalised gradient, for l-inf its sign, for l1 the signs of its largest entries, one of a hundred, equally long
    (SLIDE, Tramer and Boneh 2019). The perturbation stays in the ball and the image in [0, 1], both checked
    in float64 at the end.

    Args:
        steps: gradient steps per restart.
        step_size: length of a step as a share of the radius; shrinks linearly to a tenth over the steps.
        restarts: number of runs; the best result is kept.
        loss: a key of :data:`certseg.attacks.losses.LOSSES`.
        smoothing: how the smoothed model that is attacked is sampled; None attacks the network itself.
        logit_scale: multiplies the logits before the loss (:class:`certseg.attacks.search.GradientAttack`).
        goal: the class that every pixel is to have, a map of what is to be predicted, or which objects are to vanish;
            None for an untargeted attack.
        keep_last: take all steps, whatever has fallen, and keep the last point: for an image that is to be shown to
            another network than the one that is climbed.

    Raises:
        ConfigError: an argument is outside its domain.

    >>> import certseg, torch
    >>> from certseg.types import Linf
    >>> model = torch.nn.Conv2d(3, 2, 1)
    >>> model.num_classes = 2
    >>> image, labels = torch.full((3, 4, 4), 0.5), torch.zeros(4, 4, dtype=torch.int64)
    >>> result = certseg.attack(model, image, labels, Linf(4 / 255), PGD(steps=5))
    >>> result.prediction.shape, result.norm <= 4 / 255
    (torch.Size([4, 4]), True)
    """

    steps: int = 20
    step_size: float = 0.2
    restarts: int = 1
    loss: str = "cross_entropy"
    smoothing: Smoothing | None = None
    goal: Goal | None = None
    keep_last: bool = False
    logit_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("attack.steps", self.steps)
        check_number("attack.step_size", self.step_size, "(0, 2]", what="a share of the radius")

    @property
    def last_leg(self) -> int:
        """All steps."""
        return self.steps

    def search(self, start: Tensor, image: Tensor, threat: NormBall) -> Search:
        """The visited point of lowest accuracy, or the last one. The last point is evaluated too."""
        ball = Ball(image, threat)
        best = here = yield start, 0.0
        for step in range(self.steps):
            if best.accuracy == 0.0 and not self.keep_last:
                break
            length = threat.radius * self.step_size * (1.0 - 0.9 * step / self.steps)
            point = ball.project(here.point + length * _direction(here, threat, length))
            here = yield point, (step + 1) / self.steps
            if here.accuracy < best.accuracy:
                best = here
        return here if self.keep_last else best


def _direction(here: Evaluation, threat: NormBall, length: float) -> Tensor:
    """The unit step; for l1 of at least so many entries that ``length`` could fit into [0, 1]."""
    if isinstance(threat, L1):
        number = max(here.point.numel() // 100, math.ceil(length))
        return sparse_direction(here.gradient, here.point, number)
    return ascent_direction(here.gradient, threat)
