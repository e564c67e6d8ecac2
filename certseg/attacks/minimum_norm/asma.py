"""Adaptive segmentation mask attack (Ozbulak et al. 2019), towards the smallest perturbation."""

from __future__ import annotations

from dataclasses import dataclass

from certseg.attacks.minimum_norm.problem import Problem
from certseg.attacks.minimum_norm.steps import Stepper, SteppingAttack

_LEAST = 0.1  # of the step length, the paper's tau / beta = 1e-7 / 1e-6


@dataclass(frozen=True)
class ASMA(SteppingAttack):
    """Steps along the logit of one class at the pixels that do not meet the goal yet, longer the more pixels do.

    Untargeted, the logit of the class to leave falls; targeted, that of the wanted class rises. A step is
    ``step_size * (IoU + 0.1)`` long in l2, where the intersection over union is that of wanted and reached map,
    counted over pairs of pixel and class: ``s / (2 - s)`` where a share s of the pixels meet the goal. (The paper adds
    gradients with factors of 1e-6 * IoU + 1e-7; here they are normalised, so that the length does not depend on the
    scale of the logits.) Runs are those of :class:`certseg.attacks.DAG`.

    Arguments and errors are those of :class:`certseg.attacks.minimum_norm.steps.SteppingAttack`.
    """

    iterations: int = 500

    def stepper(self, problem: Problem) -> Stepper:
        """Down or up one logit, with steps that grow with the intersection over union."""
        return Stepper(problem, one_logit=True, multiplier=lambda share: share / (2.0 - share) + _LEAST)
