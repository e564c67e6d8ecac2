"""Primal-dual proximal gradient descent (Matyasko and Chau 2021) with a multiplier for each pixel, for l2."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from certseg.attacks.minimum_norm.minimum_norm_attack import MinimumNormAttack
from certseg.attacks.minimum_norm.problem import Problem
from certseg.attacks.minimum_norm.proximal import VariableMetric, easiest, forward_backward
from certseg.attacks.minimum_norm.steps import Retreat, Stepper, Weight
from certseg.checks import check_number

_FIRST_SHARE = 0.2  # of the iterations, spent on a first point that sets the scale of steps
_MEMORY = 0.99  # of the metric
_LAST_STEP, _LAST_DUAL_STEP = 0.05, 0.1  # of the first ones
_SMOOTHING = 0.9  # of the constraints' signs
_RELIEF = 0.2  # by how much less a multiplier falls where the goal is met than it rises where it is not
_HINGE, _LAST_HINGE = 0.1, 0.05  # width of the hinge, as a share of the mean gap at the start; what is left of it
_LOG_RANGE = 15.0  # multipliers lie within exp(+-15) of the first ones
_SHORTEST = 1e-3  # of the first point's norm: below it the majoriser of the norm is not taken


@dataclass(frozen=True)
class PDPGD(MinimumNormAttack):
    """A game of two players: proximal gradient descent on ``||d||_2 + sum_i lambda_i hinge(gap_i)`` within [0, 1], and
    multiplicative ascent on the multipliers lambda.

    As in the paper the second player does not follow the hinge but whether the pixel meets the goal (a proxy
    constraint): ``log lambda_i`` rises at every iteration while it does not and falls, by a fifth of that, while it
    does, in steps that shrink. The hinge's slope falls from 1 to 0 over a narrow range on the side where the goal is
    met, which narrows with time; without that range pixels would leave the goal in turns. The multipliers are per
    pixel, as in the attack's use for segmentation by Rony et al. (2023), each against a weight of 1 for the norm, which
    is what a softmax over all of them amounts to, and times a common one that rises while the goal is not met. Steps
    are proximal ones in a variable metric (:mod:`certseg.attacks.minimum_norm.proximal`). The first point, the measure
    of steps and the return to the best point are those of :class:`certseg.attacks.ALMAProx`; the pixels that miss the
    goal most are left alone from the start.

    Args:
        iterations: forward-backward passes of the whole search.
        success: share of the pixels that count which must meet the goal, in (0, 1].
        away_from: the class that pixels are to leave: their label (``labels``) or the one that is predicted at the
            image (``prediction``).
        line_search: number of forward passes spent at the end on a smaller multiple of the perturbation; 0 for none.
        goal: None for an untargeted attack; else the class that every pixel is to have, or a map ``H x W`` int64 of
            classes, 255 where anything will do.
        step_size: root mean square of the first steps, as a share of the root mean square of the best perturbation.
        dual_step_size: length of the first steps of ``log lambda``, which shrink to a tenth of it.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    iterations: int = 500
    step_size: float = 0.03
    dual_step_size: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("attack.step_size", self.step_size, "(0, inf)")
        check_number("attack.dual_step_size", self.dual_step_size, "(0, inf)")

    def search(self, problem: Problem) -> None:
        """A first point, then the game."""
        Stepper(problem).coarse_to_fine(max(1, int(_FIRST_SHARE * self.iterations)))
        iterations = self.iterations - problem.passes.backward
        metric = VariableMetric(problem.image, _MEMORY)
        retreat = Retreat(problem, iterations)
        point, first, scale = problem.image, None, None
        shortest = max(_SHORTEST * problem.reach, 1e-9)
        weight = Weight()
        log = torch.zeros_like(problem.image[0])
        drift = torch.zeros_like(log)
        for iteration in range(iterations):
            look = retreat.look(point)
            gaps = problem.gaps(look)
            progress = iteration / iterations
            misses = gaps.values
            active = easiest(misses, problem.counting, problem.needed)
            sign = torch.where(look.unmet, 1.0, -_RELIEF)
            drift = torch.lerp(sign, drift, _SMOOTHING) if iteration else sign
            ascent = self.dual_step_size * _LAST_DUAL_STEP**progress
            log = torch.where(active, log + ascent * drift, log).clamp_(-_LOG_RANGE, _LOG_RANGE)
            if scale is None:
                scale = misses[problem.counting].abs().mean().clamp_min(1e-30)
            width = _HINGE * _LAST_HINGE**progress * scale
            multiplier = log.exp() * active * (1.0 + misses / width).clamp_(0.0, 1.0)
            gradient, size = problem.gradient(look, multiplier, gaps)
            if size == 0.0 and not look.met:
                break
            first = first or size
            gradient = gradient * (weight.update(look.met) / (first or 1.0))
            step = self.step_size * _LAST_STEP**progress * problem.reach / problem.root
            point = forward_backward(
                look.point, problem.image, gradient, metric(gradient), step, max(look.norm, shortest)
            )
        problem.look(point, gradient=False)
