"""ALMA-prox (Rony, Pesquet and Ben Ayed, CVPR 2023) for the l2 norm."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certseg.attacks.minimum_norm.minimum_norm_attack import MinimumNormAttack
from certseg.attacks.minimum_norm.problem import Problem
from certseg.attacks.minimum_norm.proximal import VariableMetric, easiest, forward_backward, gap_scale
from certseg.attacks.minimum_norm.steps import Retreat, Stepper, Weight
from certseg.checks import check_number

_FIRST_SHARE = 0.2  # of the iterations, spent on a first point that sets the scale of steps
_PENALTY, _LARGEST_PENALTY = 0.3, 10.0
_PENALTY_GROWTH, _ENOUGH, _EVERY = 2.0, 0.95, 10  # where a constraint has not fallen to 95 % in 10 iterations
_SMOOTHING = 0.8  # of the multipliers
_MULTIPLIERS = (1e-8, 1e2)
_MEMORY = 0.99  # of the metric
_LAST_STEP = 0.1  # of the first one
_SHORTEST = 1e-3  # of the first point's norm: below it the majoriser of the norm is not taken


class Constraints:
    """The augmented Lagrangian of one constraint for each pixel, "the scaled gap d is negative".

    The penalty of a pixel with multiplier mu and penalty parameter rho is ``mu (d + rho d^2 + rho^2 d^3 / 6)`` where d
    is positive and ``mu d / (1 - rho d)`` elsewhere (function P2 of Birgin et al. 2005, its quadratic terms scaled by
    the multiplier); its slope becomes, smoothed, the next multiplier.

    Args:
        counting: ``H x W`` bool.
    """

    def __init__(self, counting: Tensor) -> None:
        self._multiplier = counting.float()
        self._penalty = torch.full_like(self._multiplier, _PENALTY)
        self._before: Tensor | None = None
        self._count = 0

    def slopes(self, gaps: Tensor, active: Tensor) -> Tensor:
        """Slopes of the penalties at the scaled gaps ``H x W``, 0 where a constraint is not active, after an update of
        the multipliers of active ones. Other multipliers rest."""
        if self._count:
            risen = torch.lerp(self._slope(gaps), self._multiplier, _SMOOTHING).clamp_(*_MULTIPLIERS)
            self._multiplier = torch.where(active, risen, self._multiplier)
        slopes = self._slope(gaps) * active
        self._count += 1
        if self._count % _EVERY == 0:
            if self._before is not None:
                stuck = active & (gaps > 0) & (gaps > _ENOUGH * self._before)
                grown = (self._penalty * _PENALTY_GROWTH).clamp_(max=_LARGEST_PENALTY)
                self._penalty = torch.where(stuck, grown, self._penalty)
            self._before = gaps
        return slopes

    def _slope(self, gaps: Tensor) -> Tensor:
        scaled = self._penalty * gaps
        rising = 1.0 + scaled * (2.0 + 0.5 * scaled)
        return self._multiplier * torch.where(gaps > 0, rising, (1.0 - scaled.clamp(max=0.0)).square().reciprocal())


@dataclass(frozen=True)
class ALMAProx(MinimumNormAttack):
    """An augmented Lagrangian with a multiplier and a penalty parameter for each pixel, minimised by proximal steps.

    Minimises ``||d||_2`` subject to a negative difference of logits ratio at each pixel (the gap to the strongest other
    class over the difference of the largest and the third largest logit, taken every 10 iterations), within [0, 1]. As
    in the paper: penalties per pixel (:class:`Constraints`), forward-backward steps in a variable metric
    (:mod:`certseg.attacks.minimum_norm.proximal`), steps that shrink exponentially, a weight of all constraints
    together that rises while the goal is not met, and constraint masking: the pixels that miss the goal most are left
    alone, as many as may be. Otherwise than there: l2 in place of l-inf; a fifth of the iterations looks for a first
    point along the gradient, and steps are measured by the norm of the best point, so that no length needs setting; a
    search that is further from the image than the best point for 20 iterations, without meeting the goal, returns to
    it, as does one that found nothing better by half time.

    Args:
        iterations: forward-backward passes of the whole search.
        success: share of the pixels that count which must meet the goal, in (0, 1].
        away_from: the class that pixels are to leave: their label (``labels``) or the one that is predicted at the
            image (``prediction``).
        line_search: number of forward passes spent at the end on a smaller multiple of the perturbation; 0 for none.
        goal: None for an untargeted attack; else the class that every pixel is to have, or a map ``H x W`` int64 of
            classes, 255 where anything will do.
        step_size: root mean square of the first steps, as a share of the root mean square of the best perturbation.
        masking: share of the iterations over which the share of pixels that are worked on falls from 1 to ``success``.
            Early masking leaves the pixels alone that are furthest from a boundary at the image.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    iterations: int = 500
    step_size: float = 0.1
    masking: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("attack.step_size", self.step_size, "(0, inf)")
        check_number("attack.masking", self.masking, "[0, 1]", what="a share of the iterations")

    def search(self, problem: Problem) -> None:
        """A first point, then the descent."""
        Stepper(problem).coarse_to_fine(max(1, int(_FIRST_SHARE * self.iterations)))
        iterations = self.iterations - problem.passes.backward
        constraints, metric = Constraints(problem.counting), VariableMetric(problem.image, _MEMORY)
        retreat = Retreat(problem, iterations)
        point, first, weight = problem.image, None, Weight()
        shortest = max(_SHORTEST * problem.reach, 1e-9)
        for iteration in range(iterations):
            look = retreat.look(point)
            gaps = problem.gaps(look)
            if iteration % _EVERY == 0:
                scale = gap_scale(gaps, problem.counting, look.logits.detach())
            scaled = gaps.values / scale
            active = easiest(scaled, problem.counting, self._keep(problem, iteration / iterations))
            gradient, size = problem.gradient(look, constraints.slopes(scaled, active) / scale, gaps)
            if size == 0.0:
                break
            first = first or size
            gradient = gradient * (weight.update(look.met) / first)
            step = self.step_size * _LAST_STEP ** (iteration / iterations) * problem.reach / problem.root
            point = forward_backward(
                look.point, problem.image, gradient, metric(gradient), step, max(look.norm, shortest)
            )
        problem.look(point, gradient=False)

    def _keep(self, problem: Problem, progress: float) -> int:
        """How many pixels are worked on."""
        done = min(1.0, progress / self.masking) if self.masking else 1.0
        return max(1, round(problem.number + done * (problem.needed - problem.number)))
