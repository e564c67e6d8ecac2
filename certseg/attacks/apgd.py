"""Auto-PGD (Croce and Hein 2020): projected ascent with momentum and a step size that follows the loss.

The radius is constant, or reduced in stages (seed 002, section 3.3). For l1 the steps are the sparse ones of "Mind the
box" (Croce and Hein 2021): how many entries a step changes follows how many the best perturbation has changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from certseg.attacks.geometry import Ball, sparse_direction
from certseg.attacks.losses import LOSSES
from certseg.attacks.objective import Evaluation, Smoothing
from certseg.attacks.search import GradientAttack, Search
from certseg.checks import check_choice, check_count, check_flag
from certseg.types import L1, Goal, NormBall

MOMENTUM = 0.75
"""Share of the new step; the rest is what is left of the one before."""
_CONSTANT, _REDUCED = (10,), (3, 3, 4)  # tenths of the iterations


@dataclass(frozen=True)
class APGD(GradientAttack):
    """Auto-PGD, keeping the point with the lowest pixel accuracy.

    Args:
        iterations: gradient steps per restart, over all stages together.
        restarts: number of runs; the first begins at the image itself, further ones at random points of the ball.
        loss: a key of :data:`certseg.attacks.losses.LOSSES`.
        compare: the loss by which points are compared, for the step size and for the point a run returns to; None for
            what suits ``loss`` (:data:`certseg.attacks.losses.COMPARED_BY`).
        reduce_radius: spend 3/10 of the iterations in twice the radius, 3/10 in 1.5 times the radius (for l1 in three
            times and twice the radius) and 4/10 in the threat itself, each stage a run of its own from the projection
            of the lowest point of the one before.
        smoothing: how the smoothed model that is attacked is sampled; None attacks the network itself.
        logit_scale: multiplies the logits before the loss (:class:`certseg.attacks.search.GradientAttack`).
        goal: the class that every pixel is to have, a map of what is to be predicted, or which objects are to vanish;
            None for an untargeted attack.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    iterations: int = 100
    restarts: int = 1
    loss: str = "cross_entropy"
    compare: str | None = None
    reduce_radius: bool = False
    smoothing: Smoothing | None = None
    goal: Goal | None = None
    logit_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("attack.iterations", self.iterations)
        check_choice("attack.compare", self.compare, LOSSES, optional=True)
        check_flag("attack.reduce_radius", self.reduce_radius)

    @property
    def last_leg(self) -> int:
        """The iterations of the last stage."""
        return self._iterations()[-1]

    def search(self, start: Tensor, image: Tensor, threat: NormBall) -> Search:
        """The point of lowest accuracy among the start and those of the last stage: all lie within the threat."""
        first = here = lowest = yield start, 0.0
        for stage, (radius, iterations) in enumerate(self.stages(threat)):
            ball = Ball(image, replace(threat, radius=radius * threat.radius))
            if stage:
                here = yield ball.project(lowest.point), 0.0
            rule = SparseSteps(ball, iterations, here, stage) if isinstance(threat, L1) else None
            lowest = yield from _climb(here, rule or MomentumSteps(ball, iterations, here), iterations)
        return lowest if lowest.accuracy <= first.accuracy else first

    def stages(self, threat: NormBall) -> list[tuple[float, int]]:
        """Radius, as a multiple of the threat's, and iterations of each stage."""
        radii = (3.0, 2.0, 1.0) if isinstance(threat, L1) else (2.0, 1.5, 1.0)
        counts = self._iterations()
        return [(radius, count) for radius, count in zip(radii[-len(counts) :], counts) if count]

    def _iterations(self) -> list[int]:
        tenths = _REDUCED if self.reduce_radius else _CONSTANT
        counts = [self.iterations * share // 10 for share in tenths[:-1]]
        return [*counts, self.iterations - sum(counts)]


def _climb(here: Evaluation, rule: MomentumSteps | SparseSteps, iterations: int) -> Search:
    """The loop of both papers within one ball, from a point that is evaluated already. Of points of equal accuracy the
    last one is the lowest."""
    lowest = highest = here
    for step in range(iterations):
        if lowest.accuracy == 0.0:
            break
        before, here = here.loss, (yield rule.next(here), (step + 1) / iterations)
        if here.accuracy <= lowest.accuracy:
            lowest = here
        if here.loss > highest.loss:
            highest = here
        if rule.must_return(before, here.loss, highest):
            here = highest
    return lowest


class MomentumSteps:
    """How APGD goes on from a point in l-inf and l2: a projected step along the gradient, then 3/4 of it plus 1/4 of
    the last move (Algorithm 1 of the paper).

    Args:
        ball: the ball that no point of the run leaves.
        iterations: number of steps of the run.
        start: the objective at the point where the run begins.
    """

    def __init__(self, ball: Ball, iterations: int, start: Evaluation) -> None:
        self._ball, self._schedule = ball, StepSchedule(iterations, start.loss)
        self._previous: Tensor | None = None

    def next(self, here: Evaluation) -> Tensor:
        """The point to go to from ``here``."""
        ball, previous, self._previous = self._ball, self._previous, here.point
        length = self._schedule.step * ball.threat.radius
        return ball.ascend(here.point, here.gradient, length, previous, 1.0 - MOMENTUM)

    def must_return(self, before: float, now: float, highest: Evaluation) -> bool:
        """Count a step, and say whether to go on from ``highest`` (:meth:`StepSchedule.must_return`)."""
        return self._schedule.must_return(before, now, highest.loss)


class SparseSteps:
    """How APGD goes on from a point in l1: a projected step along the signs of the largest entries of the gradient,
    without momentum ("Mind the box").

    Args:
        ball: the ball that no point of the run leaves.
        iterations: number of steps of the run.
        start: the objective at the point where the run begins.
        stage: number of this stage of the reduction of the radius, from 0 on. After the first stage the start is the
            result of the stage before it, whose sparsity says how sparse steps should be.
    """

    def __init__(self, ball: Ball, iterations: int, start: Evaluation, stage: int) -> None:
        moved = self._moved(start, ball) if stage else 0
        self._ball, self._schedule = ball, SparsitySchedule(iterations, ball.image.numel(), moved)

    def next(self, here: Evaluation) -> Tensor:
        """The point to go to from ``here``."""
        ball, schedule = self._ball, self._schedule
        step = sparse_direction(here.gradient, here.point, schedule.entries)
        return ball.enter(torch.add(here.point, step, alpha=schedule.step * ball.threat.radius))

    def must_return(self, before: float, now: float, highest: Evaluation) -> bool:
        """Count a step, and say whether to go on from ``highest`` (:meth:`SparsitySchedule.must_return`)."""
        if not self._schedule.is_checkpoint():
            return False
        return self._schedule.must_return(self._moved(highest, self._ball))

    @staticmethod
    def _moved(evaluation: Evaluation, ball: Ball) -> int:
        point = evaluation.point
        return int(torch.count_nonzero((point != ball.image) & (point > 0.0) & (point < 1.0)))


class SparsitySchedule:
    """Length and number of entries of the steps of l1-APGD in "Mind the box" (Croce and Hein 2021).

    Every 4 % of the run the number becomes 2/3 of the number of entries the best perturbation has. As long as that
    falls by more than 5 % from one checkpoint to the next, steps are as long as the radius and the run returns to its
    best point; else they are shortened by a third, down to a tenth of the radius.

    Unlike the paper's, the number leaves out entries that lie on a side of [0, 1], as the steps do
    (:func:`certseg.attacks.geometry.sparse_direction`). The best perturbations of a linear loss have at most one other
    entry: with all entries counted, steps lift and the projection shortens the same entries alike, and the run stops
    short.

    Args:
        iterations: number of steps of the run.
        size: number of entries of the image.
        moved: number of entries of the image that the start has changed; 0 where that says nothing, and steps then
            begin with a fifth of all entries.
    """

    def __init__(self, iterations: int, size: int, moved: int = 0) -> None:
        self.step = 1.0
        """Length of a step, in radii."""
        self.entries = max(1, round(moved / 1.5) if moved else size // 5)
        """How many entries a step changes."""
        self._period = max(1, iterations * 4 // 100)
        self._moved = moved or size  # at the last checkpoint
        self._taken = 0

    def is_checkpoint(self) -> bool:
        """Count a step, and say whether :meth:`must_return` is to be asked after it."""
        self._taken += 1
        return self._taken % self._period == 0

    def must_return(self, moved: int) -> bool:
        """Adapt the steps to ``moved``, the number of entries the best point has changed. Where it is none (the best
        point is still the image, or all are on the sides of the box) the number of entries of a step stays as it is.
        """
        falls = 0 < moved < 0.95 * self._moved
        self.step = 1.0 if falls else max(self.step / 1.5, 0.1)
        if moved:
            self.entries, self._moved = max(1, round(moved / 1.5)), moved
        return falls


class StepSchedule:
    """When APGD halves its step and returns to its best point (section 3 of the paper).

    At a checkpoint, if fewer than 75 % of the steps since the last one raised the loss (condition 1), or if neither the
    step size nor the best loss has changed since then (condition 2).

    Args:
        iterations: number of steps of the run.
        loss: the loss at the point where the run starts.
    """

    def __init__(self, iterations: int, loss: float) -> None:
        self.step = 2.0
        """Length of a step, in radii."""
        self._checkpoints = set(checkpoints(iterations))
        self._best = loss  # at the last checkpoint, as is all that follows
        self._halved = False
        self._taken = 0
        self._rises = 0
        self._steps = 0

    def must_return(self, before: float, now: float, best: float) -> bool:
        """Count a step, and say whether to return to the best point.

        Args:
            before: the loss of the point it left.
            now: the loss of the point it reached.
            best: the highest loss of the run so far.
        """
        self._taken += 1
        self._steps += 1
        self._rises += now > before
        if self._taken not in self._checkpoints:
            return False
        self._halved = 4 * self._rises < 3 * self._steps or (not self._halved and best <= self._best)
        if self._halved:
            self.step /= 2.0
        self._best, self._rises, self._steps = best, 0, 0
        return self._halved


def checkpoints(iterations: int) -> list[int]:
    """Steps after which the step size is checked: ``ceil(p_j N)`` with ``p_0 = 0``, ``p_1 = 0.22`` and
    ``p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)``, in exact hundredths."""
    before, share, found = 0, 22, []
    while share <= 100:
        found.append(-(-share * iterations // 100))
        before, share = share, share + max(share - before - 3, 6)
    return sorted(set(found))
