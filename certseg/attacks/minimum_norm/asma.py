"""Adaptive segmentation mask attack (Ozbulak et al. 2019), towards the smallest perturbation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from certseg.attacks.minimum_norm.attack import MinimumNormAttack
from certseg.attacks.minimum_norm.problem import Problem
from certseg.attacks.minimum_norm.steps import Stepper
from certseg.checks import check_number

_LEAST = 0.1  # of the step length, the paper's tau / beta = 1e-7 / 1e-6


@dataclass(frozen=True)
class ASMA(MinimumNormAttack):
    """Steps along the logit of one class at the pixels that do not meet the goal yet, longer the more pixels do.

    Untargeted, the logit of the class to leave falls; targeted, that of the wanted class rises. A step is
    ``step_size * (IoU + 0.1)`` long in l2, where the intersection over union is that of wanted and reached map,
    counted over pairs of pixel and class: ``s / (2 - s)`` where a share s of the pixels meet the goal. (The paper adds
    gradients with factors of 1e-6 * IoU + 1e-7; here they are normalised, so that the length does not depend on the
    scale of the logits.) Runs and ``step_size`` as of :class:`DAG`.

    Args:
        iterations: steps, over all runs together.
        success, away_from, line_search, goal: as of :class:`MinimumNormAttack`.
        step_size: l2 length on the [0, 1] image scale, for a single run; None for runs from coarse to fine.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    iterations: int = 500
    success: float = 0.99
    away_from: str = "labels"
    line_search: int = 10
    goal: int | Tensor | None = None
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("attack.step_size", self.step_size, "(0, inf)", optional=True)

    def search(self, problem: Problem) -> None:
        """One run, or runs from coarse to fine."""
        stepper = Stepper(problem, one_logit=True, multiplier=lambda share: share / (2.0 - share) + _LEAST)
        if self.step_size is None:
            stepper.coarse_to_fine(self.iterations)
        else:
            stepper.run(self.step_size, self.iterations)
