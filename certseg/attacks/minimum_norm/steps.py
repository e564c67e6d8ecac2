"""Runs of steps of known length along a normalised gradient, from coarse to fine: all of DAG and ASMA, and the first
point of the other attacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from certseg.attacks.minimum_norm.minimum_norm_attack import MinimumNormAttack
from certseg.attacks.minimum_norm.problem import Look, Problem
from certseg.checks import check_number

_FIRST = 0.25 / 255  # root mean square of the first step where none is given
_GROWTH = 1.15  # from step to step of the first run, more in a short one: every distance is to come into reach
_LONGEST = 1.0  # root mean square of a step
_PARTS = 8  # at least so many steps lead to where the last run ended
_PATIENCE = 20  # iterations without use before a search returns to the best point
_WEIGHT_STEP = 1.02  # factor of the weight
_WEIGHT_HURRY, _MOST_HURRY = 25, 4.0  # that many iterations in a row add 1 to its exponent, up to 4
_BISECTIONS = 3  # of the step with which a run met the goal


@dataclass(frozen=True)
class Stepper:
    """Walks from the image until enough pixels meet the goal, down the gaps of those that do not.

    Args:
        problem: the image, its goal, and what has been found so far.
        one_logit: whether only the logit of the class to leave goes down (or that of the class to reach goes up), in
            the place of the gap to the strongest other class.
        multiplier: what a step's length is multiplied by, given the share of the pixels that meet the goal.
    """

    problem: Problem
    one_logit: bool = False
    multiplier: Callable[[float], float] = lambda share: 1.0

    def run(self, length: float, most: int, growth: float = 1.0) -> int:
        """Steps of ``length`` until the goal is met, the perturbation outgrows the best one, the gradient vanishes or
        ``most`` are taken. The last step is then bisected. Returns their number."""
        problem, look, taken = self.problem, None, 0
        point = problem.image
        while taken < most:
            before, look = look, problem.look(point)
            if look.met or look.norm > problem.best_norm:
                break
            gaps = None if self.one_logit else problem.gaps(look)
            direction, size = problem.gradient(look, look.unmet, gaps)
            if size == 0.0:
                break
            step = min(length * self.multiplier(look.share), _LONGEST * problem.root)
            point = torch.add(look.point, direction, alpha=-step / size).clamp_(0.0, 1.0)
            length *= growth
            taken += 1
        else:
            before, look = look, problem.look(point, gradient=False)
        if before is not None and look is not None and look.met:
            self._bisect(before.point, look.point)
        return taken

    def _bisect(self, short: Tensor, far: Tensor) -> None:
        for _ in range(_BISECTIONS):
            middle = torch.lerp(short, far, 0.5)
            short, far = (short, middle) if self.problem.look(middle, gradient=False).met else (middle, far)

    def coarse_to_fine(self, iterations: int) -> None:
        """A run with growing steps finds any point; then runs of ever smaller steps, each about twice as many as the
        last, find nearer ones until ``iterations`` steps are spent."""
        problem = self.problem
        length, growth = _FIRST * problem.root, max(_GROWTH, (_LONGEST / _FIRST) ** (1.0 / iterations))
        left = iterations - self.run(length, iterations, growth)
        length = math.inf
        while problem.best is not None and left > 0 and problem.best_norm <= left * length:
            length = max(min(length, problem.best_norm / _PARTS) / 2.0, problem.best_norm / left)
            growth = (1.0 + growth) / 2.0
            left -= max(1, self.run(length, left, growth))


@dataclass(frozen=True)
class SteppingAttack(MinimumNormAttack):
    """An attack that does nothing but walk. DAG and ASMA are two: they tell their :class:`Stepper` different things.

    Args:
        iterations: steps, over all runs together.
        success: share of the pixels that count which must meet the goal, in (0, 1].
        away_from: the class that pixels are to leave: their label (``labels``) or the one that is predicted at the
            image (``prediction``).
        line_search: number of forward passes spent at the end on a smaller multiple of the perturbation; 0 for none.
        goal: None for an untargeted attack; else the class that every pixel is to have, or a map ``H x W`` int64 of
            classes, 255 where anything will do.
        step_size: l2 length of a step on the [0, 1] image scale, for a single run, before the multiplier of the
            stepper; None for runs from coarse to fine.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("attack.step_size", self.step_size, "(0, inf)", optional=True)

    def stepper(self, problem: Problem) -> Stepper:
        """What the attack goes down, and how far at a time."""
        return Stepper(problem)

    def search(self, problem: Problem) -> None:
        """One run, or runs from coarse to fine."""
        stepper = self.stepper(problem)
        if self.step_size is None:
            stepper.coarse_to_fine(self.iterations)
        else:
            stepper.run(self.step_size, self.iterations)


class Weight:
    """The weight of all constraints together against the norm: it rises at every iteration that does not meet the goal,
    the faster the more of them there were in a row, and falls at every other one."""

    def __init__(self) -> None:
        self.value, self._misses = 1.0, 0

    def update(self, met: bool) -> float:
        """The weight after one more iteration."""
        self._misses = 0 if met else self._misses + 1
        hurry = min(1.0 + self._misses / _WEIGHT_HURRY, _MOST_HURRY)
        self.value *= 1.0 / _WEIGHT_STEP if met else _WEIGHT_STEP**hurry
        return self.value


class Retreat:
    """When a search that went astray returns to the best point: after 20 iterations further from the image than that
    point without meeting the goal, and at half time if it has not found a better one.

    Args:
        problem: the goal; a first point may have been found.
        iterations: number of iterations of the search.
    """

    def __init__(self, problem: Problem, iterations: int) -> None:
        self._problem, self._first, self._half = problem, problem.best_norm, iterations // 2
        self._useless = self._iteration = 0

    def look(self, point: Tensor) -> Look:
        """The next look: at ``point``, or at the best point instead."""
        look = self._problem.look(point)
        self._useless = self._useless + 1 if not look.met and look.norm >= self._problem.best_norm else 0
        self._iteration += 1
        is_late = self._iteration == self._half and self._problem.best_norm == self._first
        if self._problem.best is None or not (self._useless == _PATIENCE or is_late):
            return look
        self._useless = 0
        return self._problem.look(self._problem.best)
