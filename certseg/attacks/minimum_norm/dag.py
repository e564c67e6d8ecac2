"""Dense adversary generation (Xie et al. 2017), towards the smallest perturbation."""

from __future__ import annotations

from dataclasses import dataclass

from certseg.attacks.minimum_norm.steps import SteppingAttack


@dataclass(frozen=True)
class DAG(SteppingAttack):
    """Steps of fixed l2 length down the sum of logit gaps over the pixels that do not meet the goal yet.

    The gap is that between the class to leave and the strongest other one, where the paper fixes an adversarial class
    for each pixel beforehand; a step has a given l2 norm, in the paper a given largest entry. Runs end at the first
    point that meets the goal. Its norm depends on the step, so without a ``step_size`` runs of ever smaller steps are
    made and the smallest result kept; the step with which a run ends is bisected (a few forward passes).

    Arguments and errors are those of :class:`certseg.attacks.minimum_norm.steps.SteppingAttack`.
    """

    iterations: int = 200
