"""Dense adversary generation (Xie et al. 2017), towards the smallest perturbation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from certseg.attacks.minimum_norm.attack import MinimumNormAttack
from certseg.attacks.minimum_norm.problem import Problem
from certseg.attacks.minimum_norm.steps import Stepper
from certseg.checks import check_number


@dataclass(frozen=True)
class DAG(MinimumNormAttack):
    """Steps of fixed l2 length down the sum of logit gaps over the pixels that do not meet the goal yet.

    The gap is that between the class to leave and the strongest other one, where the paper fixes an adversarial class
    for each pixel beforehand; a step has a given l2 norm, in the paper a given largest entry. Runs end at the first
    point that meets the goal. Its norm depends on the step, so without a ``step_size`` runs of ever smaller steps are
    made and the smallest result kept; the step with which a run ends is bisected (a few forward passes).

    Args:
        iterations: steps, over all runs together.
        success, away_from, line_search, goal: as of :class:`MinimumNormAttack`.
        step_size: l2 length of a step on the [0, 1] image scale, for a single run; None for runs from coarse to fine.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    iterations: int = 200
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
        stepper = Stepper(problem)
        if self.step_size is None:
            stepper.coarse_to_fine(self.iterations)
        else:
            stepper.run(self.step_size, self.iterations)
