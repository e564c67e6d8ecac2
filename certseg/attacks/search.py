"""What attacks that climb a loss have in common: checks before and after, restarts, images searched side by side."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from torch import Tensor

from certseg.attacks.budgeted import BudgetedAttack
from certseg.attacks.geometry import norm_ball, perturbation_norm, random_start
from certseg.attacks.goals import check_goal, is_targeted, wanted_map
from certseg.attacks.losses import LOSSES
from certseg.attacks.objective import AttackObjective, Evaluation, evaluate_together
from certseg.attacks.side_by_side import side_by_side
from certseg.checks import check_choice, check_count, check_number
from certseg.compute.hardware import Hardware, Stopwatch
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError, DataError
from certseg.types import AttackResult, Goal, NormBall, Segmenter, Threat, check_image, check_target

MOSTLY = 0.5
"""Mean share of zeros in the gradients above which an attack is flagged as one that hardly sees where to go."""

GOAL_LOSSES = ("cross_entropy", "jensen_shannon")
"""The losses a targeted attack can lower: the others weigh pixels by whether they are still correct."""

Search = Generator[tuple[Tensor, float], Evaluation, Evaluation]
"""One run on one image: yields a point and its progress, is sent what the objective says there, returns its best."""


class GradientAttack(BudgetedAttack):
    """An attack that climbs a loss by its gradient and keeps the point of lowest pixel accuracy.

    Subclasses are frozen dataclasses with the fields below that say how one run goes, :meth:`search` and
    :attr:`last_leg`. The perturbation stays in the ball and the image in [0, 1], both checked in float64 at the end.

    Args:
        restarts: number of runs; the first begins at the image itself, further ones at random points of the ball.
        loss: a key of :data:`certseg.attacks.losses.LOSSES`.
        smoothing: how the smoothed model that is attacked is sampled; None attacks the network itself.
        logit_scale: multiplies the logits before the loss, which changes no prediction. Losses of very small logits are
            nearly linear and waste the budget on pixels that have long fallen: a network trained with CE(tau u, y) is
            attacked with its tau or more.
        goal: None for an untargeted attack; else the class that every pixel is to have, or a map ``H x W`` int64 of
            what is to be predicted, 255 where anything will do. The attack then lowers the loss of the goal and keeps
            the point at which most pixels have it, whatever their labels are. With
            :class:`certseg.types.Vanish` it raises the loss of the pixels of these classes alone, and keeps the point
            at which the fewest of them are right.
    """

    restarts: int
    loss: str
    logit_scale: float
    goal: Goal | None
    norms = ("l2", "linf", "l1")

    def __post_init__(self) -> None:
        check_count("attack.restarts", self.restarts)
        check_choice("attack.loss", self.loss, LOSSES)
        check_number("attack.logit_scale", self.logit_scale, "(0, inf)")
        check_goal(self.goal)
        if is_targeted(self.goal) and self.loss not in GOAL_LOSSES:
            raise ConfigError(
                "attack.loss cannot be lowered towards attack.goal",
                expected=" or ".join(GOAL_LOSSES),
                received=self.loss,
            )

    @property
    @abstractmethod
    def last_leg(self) -> int:
        """How many points a whole run visits last at the threat's own radius, after its start there."""

    @abstractmethod
    def search(self, start: Tensor, image: Tensor, threat: NormBall) -> Search:
        """One run from ``start`` (``3 x H x W``, inside the threat)."""

    @property
    def compare(self) -> str | None:
        """The loss by which points are compared, None for what suits the attacked one."""
        return None

    def together(
        self,
        segmenter: Segmenter,
        images: Sequence[Tensor],
        targets: Sequence[Tensor],
        threat: Threat,
        *,
        streams: Sequence[NoiseStream],
        hardware: Hardware,
        starts: Sequence[Tensor] | None = None,
    ) -> list[AttackResult]:
        """Attack images of one shape side by side, up to ``hardware.noise_batch`` per pass through the network.

        Each gets what it would get alone, up to the rounding of a batch. An image whose last labelled pixel has
        fallen leaves the batch. Seconds are an equal share of the batch's.

        Args:
            segmenter: the network, differentiable with respect to its input, on the hardware's device.
            images: ``3 x H x W`` each, in [0, 1], all of one shape.
            targets: for each image its labels ``H x W`` int64, 255 ignored.
            threat: the ball of the attacks, L1, L2 or Linf.
            streams: for each image its own random numbers.
            hardware: device, and how many images or noisy copies go through the network at once.
            starts: for each image the point of the ball where its first run begins; None for the images.

        Raises:
            ConfigError: the threat is none of the three balls.
            DataError: an image is not in [0, 1], labels do not fit it or the model, or a start is outside the ball.
            ModelError: NaN or infinite logits or gradients.
        """
        threat = norm_ball(threat)
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            raise DataError("Images attacked together must have one shape", received=sorted(shapes))
        device = hardware.torch_device
        watch = Stopwatch(device)
        tasks = []
        for number, (image, target, stream) in enumerate(zip(images, targets, streams, strict=True)):
            check_image(image, stream.name)
            check_target(target, tuple(image.shape[-2:]), segmenter.num_classes)
            objective = AttackObjective(
                segmenter,
                self._wanted(target, segmenter.num_classes).to(device),
                self.loss,
                self.smoothing,
                stream.for_purpose("attack"),
                hardware,
                self.compare,
                targeted=is_targeted(self.goal),
                scale=self.logit_scale,
            )
            start = image if starts is None else starts[number]
            tasks.append(_Task(image.to(device), checked_start(start, image, threat).to(device), stream, objective))
        with watch("attack"):
            for restart in range(self.restarts):
                waiting = [task for task in tasks if task.best is None or task.best.accuracy > 0.0]
                searches = [self.search(task.first(restart, threat), task.image, threat) for task in waiting]
                found = side_by_side(searches, [task.objective for task in waiting], _evaluate)
                for task, best in zip(waiting, found):
                    task.offer(best)
        return [self._result(task, threat, watch, len(tasks)) for task in tasks]

    def _wanted(self, target: Tensor, num_classes: int) -> Tensor:
        """The map the objective is about: the labels, or the goal in their place."""
        return target if self.goal is None else wanted_map(self.goal, target, num_classes)

    def _result(self, task: _Task, threat: NormBall, watch: Stopwatch, count: int) -> AttackResult:
        best, objective = task.found, task.objective
        norm = perturbation_norm(best.point, task.image, threat)
        if not norm <= threat.radius or float(best.point.min()) < 0 or float(best.point.max()) > 1:
            raise AssertionError(f"the attack left its budget on {task.stream.name!r}: norm {norm} of {threat}")
        own = Stopwatch(task.image.device)
        with own("evaluation"):
            prediction, votes = objective.predict(best.point, best.probe)
        seconds = {part: value / count for part, value in watch.seconds.items()} | own.seconds
        flags = fired(objective, best.accuracy, self.last_leg if self.smoothing is None else 0)
        return AttackResult(
            adversarial=best.point.cpu(),
            prediction=prediction.cpu(),
            threat=threat,
            predictor=self.predictor,
            norm=norm,
            votes=votes,
            num_votes=self.smoothing.votes if self.smoothing else 0,
            passes=objective.passes,
            seconds=seconds,
            flags=tuple(sorted(flags)),
            zero_gradients=objective.zero_gradients,
        )


@dataclass
class _Task:
    """An image, its objective, and the best point found so far."""

    image: Tensor
    start: Tensor
    stream: NoiseStream
    objective: AttackObjective
    best: Evaluation | None = None

    @property
    def found(self) -> Evaluation:
        """The best point, once a run has ended."""
        assert self.best is not None
        return self.best

    def first(self, restart: int, threat: NormBall) -> Tensor:
        """Where a restart begins."""
        if not restart:
            return self.start
        return random_start(
            self.image, threat, self.stream.for_purpose("restart").generator(restart, self.image.device)
        )

    def offer(self, candidate: Evaluation) -> None:
        """Keep the point of lowest accuracy."""
        if self.best is None or candidate.accuracy < self.best.accuracy:
            self.best = candidate


def _evaluate(objectives: Sequence[AttackObjective], asked: Sequence[tuple[Tensor, float]]) -> list[Evaluation]:
    """What each objective says at its point: in one batch, unless each draws noisy copies of its own."""
    points, progress = zip(*asked)
    if objectives[0].smoothing is None:
        return evaluate_together(objectives, points, progress)
    return [objective(*arguments) for objective, *arguments in zip(objectives, points, progress)]


def fired(objective: AttackObjective, accuracy: float, last: int) -> set[str]:
    """The self-checks that fired in an attack: those of its objective and, where pixels are still correct,
    ``accuracy_rising`` and ``vanishing_gradients``.

    Args:
        objective: the objective of the attack after its last point.
        accuracy: the accuracy at the best point.
        last: how many points the attack visited last, without a change of its rules; 0 where their accuracies say
            nothing about its steps.
    """
    flags = set(objective.flags)
    if accuracy > 0.0 and last and is_rising(objective.accuracies[-last:]):
        flags.add("accuracy_rising")
    if accuracy > 0.0 and objective.zero_gradients > MOSTLY:
        flags.add("vanishing_gradients")
    return flags


def is_rising(accuracies: Sequence[float]) -> bool:
    """Whether the last quarter of an attack's points is more than 0.01 more accurate than the first, on average: then
    more steps make it worse. Fewer than 8 points say nothing."""
    quarter = len(accuracies) // 4
    if quarter < 2:
        return False
    return sum(accuracies[-quarter:]) / quarter > sum(accuracies[:quarter]) / quarter + 0.01


def checked_start(start: Tensor, image: Tensor, threat: NormBall) -> Tensor:
    """A point to begin at.

    Raises:
        DataError: it is no image, or outside the threat around ``image``.
    """
    if start is image:
        return image
    check_image(start, "start")
    norm = perturbation_norm(start, image, threat)
    if not norm <= threat.radius:
        raise DataError(
            "An attack must start within its threat",
            expected=f"an {threat.norm} norm of at most {threat.radius}",
            received=norm,
        )
    return start
