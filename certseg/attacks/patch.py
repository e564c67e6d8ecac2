"""Patch attacks: any content in a few rectangles, found by gradient ascent inside them (seed 003, appendix D)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from certseg.attacks.budgeted import BudgetedAttack
from certseg.attacks.defence import Defence, DefendedObjective, PatchObjective
from certseg.attacks.losses import LOSSES
from certseg.attacks.objective import Evaluation, evaluate_together
from certseg.attacks.patch_result import PatchResult
from certseg.attacks.search import fired
from certseg.attacks.side_by_side import side_by_side
from certseg.checks import check_choice, check_count, check_number, is_count
from certseg.compute.hardware import Hardware, Stopwatch
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError, DataError
from certseg.patches.canvas import Corners, PatchCanvas, grid_corners, is_inside, random_corners
from certseg.types import (
    Patch,
    Segmenter,
    Sides,
    Threat,
    check_image,
    check_target,
    sides_of,
)

POSITIONS = ("random", "searched")
STARTS = ("random", "image")
_COMBINED = 16  # places of a search that several rectangles are combined from


class Asked(NamedTuple):
    """A point to evaluate: what is painted on, the image, how far the run is, whether a defence is to answer for it."""

    canvas: PatchCanvas
    point: Tensor
    progress: float
    is_judged: bool = True


class Found(NamedTuple):
    """The best point of a run and where it is painted."""

    evaluation: Evaluation
    canvas: PatchCanvas


Run = Generator[Asked, Evaluation, Found]
"""Yields points, is sent what the objective says there, returns the best."""


@dataclass(frozen=True)
class PatchPGD(BudgetedAttack):
    """Projected gradient ascent on the pixels of rectangles, keeping the point with the fewest correct pixels, of
    equals the one with the largest loss.

    A step adds ``step_size (1 + cos(pi t / steps)) / 2`` times the sign of a velocity to the content, which is cut to
    [0, 1]; the velocity is ``momentum`` times the last one plus the gradient over its mean absolute value (Dong et al.
    2018). No pixel outside the rectangles changes, to the bit. The image itself is the first point: the result never
    has more correct pixels. A run on the network judges every point, one on a defence those of
    :attr:`Defence.judge_every`.

    ``position=searched``: rectangles at ``grid`` x ``grid`` evenly spaced places are attacked alone for ``probe_steps``
    steps and ranked by the correct pixels left, then by loss; the best ``restarts`` of them are attacked in full, of
    several rectangles the combinations that add up to most (of the best 16 places). What a short run reached counts as
    well.

    Args:
        steps: gradient steps per restart.
        step_size: change of a pixel value in the first step, on the [0, 1] image scale.
        momentum: share of the last velocity that is kept, in [0, 1).
        loss: a key of :data:`certseg.attacks.losses.LOSSES`.
        position: ``random``, another one for each restart; ``searched``; or row and column of the upper left pixel (of
            several rectangles a list of them).
        start: content of the first restart: ``random``, uniform in [0, 1], or ``image``, its own. Further restarts at
            the same place begin at random.
        restarts: number of runs; the best result is kept.
        grid: number of places in each direction that ``searched`` looks at.
        probe_steps: number of steps that ``searched`` takes at each of these places.
        defence: the certifier against patches whose answer is attacked; None attacks the network itself.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    steps: int = 1000
    step_size: float = 0.01
    momentum: float = 0.9
    loss: str = "multi_margin"
    position: str | Sequence[int] | Sequence[Sequence[int]] = "random"
    start: str = "random"
    restarts: int = 1
    grid: int = 4
    probe_steps: int = 10
    defence: Defence | None = None
    norms = ("patch",)
    smoothing = None

    def __post_init__(self) -> None:
        for option in ("steps", "restarts", "grid", "probe_steps"):
            check_count(f"attack.{option}", getattr(self, option))
        check_choice("attack.loss", self.loss, LOSSES)
        check_number("attack.step_size", self.step_size, "(0, 1]")
        check_number("attack.momentum", self.momentum, "[0, 1)")
        check_choice("attack.start", self.start, STARTS)
        if self.defence is not None and not isinstance(self.defence, Defence):
            raise ConfigError("attack.defence must be null or a Defence", received=type(self.defence).__name__)
        self._fixed  # noqa: B018 - it checks the position

    def against(self, defence: Defence) -> PatchPGD:
        """The same attack on the answer of a certifier against patches."""
        return replace(self, defence=defence)

    @property
    def predictor(self) -> str:
        """The attacked model, in the words of the certificates it may be compared with."""
        return self.defence.predictor if self.defence else "base"

    @property
    def instead(self) -> str:
        """The choice that attacks the same model without gradient."""
        return (DefendedObjective if self.defence else PatchObjective).instead

    @property
    def _fixed(self) -> Corners | None:
        """The corners of a fixed position, None where places are drawn or searched."""
        position = self.position
        if isinstance(position, str) and position in POSITIONS:
            return None
        corners: Sequence[Any] = position if isinstance(position, (list, tuple)) and position else [None]
        corners = corners if isinstance(corners[0], (list, tuple)) else [corners]
        for corner in corners:
            are_numbers = isinstance(corner, (list, tuple)) and all(is_count(value, 0) for value in corner)
            if not are_numbers or len(corner) != 2:
                raise ConfigError(
                    "attack.position must say where the patch lies",
                    expected=f"{', '.join(POSITIONS)} or [row, column] of its upper left pixel",
                    received=position,
                )
        return tuple((corner[0], corner[1]) for corner in corners)

    def check_size(self, size: Sides, threat: Threat) -> None:
        """Raise :class:`ConfigError` if ``threat`` is none of patches, or these do not fit into an image of this height
        and width, or do not lie in it where their position is fixed."""
        patches, fixed = _patches(threat), self._fixed
        patch = patches.size(*size)
        if fixed is None:
            return
        if len(fixed) > patches.count:
            raise ConfigError(
                "attack.position has more places than there are patches",
                expected=f"at most {patches.count}",
                received=len(fixed),
            )
        if not is_inside(fixed, size, patch):
            raise ConfigError(
                f"At attack.position a patch of {patch[0]} x {patch[1]} pixels is not inside the image of {size[0]} x "
                f"{size[1]}",
                expected=f"rows up to {size[0] - patch[0]} and columns up to {size[1] - patch[1]}",
                received=self.position,
            )

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
    ) -> list[PatchResult]:
        """Attack images of one shape side by side. Where the network itself is attacked, up to ``hardware.noise_batch``
        images go through it at once.

        Args:
            segmenter: the network, differentiable with respect to its input, on the hardware's device.
            images: ``3 x H x W`` each, in [0, 1], all of one shape.
            targets: for each image its labels ``H x W`` int64, 255 ignored.
            threat: the patches.
            streams: for each image its own random numbers.
            hardware: device, and how many images or masked copies go through the network at once.
            starts: None, for a patch attack begins with :attr:`start`.

        Raises:
            ConfigError: the threat is none of patches, a patch does not fit, or its position is outside the image.
            DataError: an image is not in [0, 1], labels do not fit it or the model, or ``starts`` are given.
            ModelError: NaN or infinite logits.
        """
        threat = _patches(threat)
        if starts is not None:
            raise DataError("A patch attack begins with attack.start, not at given images")
        if len({tuple(image.shape) for image in images}) > 1:
            raise DataError("Images attacked together must have one shape")
        device = hardware.torch_device
        objectives, runs = [], []
        for image, target, stream in zip(images, targets, streams, strict=True):
            check_image(image, stream.name)
            check_target(target, tuple(image.shape[-2:]), segmenter.num_classes)
            self.check_size(sides_of(target), threat)
            common = (segmenter, target.to(device), self.loss)
            own = stream.for_purpose("attack")
            objectives.append(
                PatchObjective(*common, None, own, hardware)
                if self.defence is None
                else DefendedObjective(self.defence, *common, own, hardware)
            )
            runs.append(self._run(image.to(device, torch.float32), threat, stream.for_purpose("patch")))
        watch = Stopwatch(device)
        with watch("attack"):
            found = side_by_side(runs, objectives, _evaluate)
        seconds = {part: value / len(runs) for part, value in watch.seconds.items()}
        return [self._result(*one, threat, seconds) for one in zip(found, objectives)]

    def _run(self, image: Tensor, threat: Patch, stream: NoiseStream) -> Run:
        """All restarts on one image."""
        room = sides_of(image)
        size = threat.size(*room)
        places = [self._place(number, threat.count, room, size, stream) for number in range(self.restarts)]
        canvas = PatchCanvas(image, size, places[0])
        best = Found((yield Asked(canvas, image, 0.0)), canvas)
        if self.position == "searched":
            places, tried = yield from self._searched(best, threat.count, room, stream)
            best = _better(best, tried)
        for number, corners in enumerate(places):
            if best.evaluation.accuracy == 0.0:
                break
            own = self.start == "image" and corners not in places[:number]
            canvas = PatchCanvas(image, size, corners)
            found = yield from self._climb(canvas, self._content(canvas, own, number, stream), self.steps)
            best = _better(best, found)
        return best

    def _place(
        self, number: int, count: int, room: tuple[int, int], size: tuple[int, int], stream: NoiseStream
    ) -> Corners:
        """Where a restart paints; of a search the first place it looks at."""
        if self._fixed or self.position == "searched":
            return self._fixed or ((0, 0),)
        generator = stream.for_purpose("patch position").generator(number, torch.device("cpu"))
        return random_corners(count, room, size, generator)

    def _searched(
        self, clean: Found, count: int, room: tuple[int, int], stream: NoiseStream
    ) -> Generator[Asked, Evaluation, tuple[list[Corners], Found]]:
        """The places to attack in full, the most promising first, and the best point met on the way."""
        image, size = clean.canvas.image, clean.canvas.size
        tried = []
        for number, corner in enumerate(grid_corners(self.grid, room, size)):
            canvas = PatchCanvas(image, size, (corner,))
            content = self._content(canvas, self.start == "image", self.restarts + number, stream)
            tried.append((yield from self._climb(canvas, content, self.probe_steps)))
        tried.sort(key=lambda found: _order(found.evaluation))
        if count == 1:
            return [found.canvas.corners for found in tried[: self.restarts]], tried[0]
        pairs = combinations(tried[:_COMBINED], min(count, len(tried[:_COMBINED])))
        best = heapq.nsmallest(self.restarts, pairs, key=lambda group: sum(one.evaluation.accuracy for one in group))
        return [tuple(one.canvas.corners[0] for one in group) for group in best], tried[0]

    def _content(self, canvas: PatchCanvas, own: bool, number: int, stream: NoiseStream) -> Tensor:
        """What a run begins with, ``N x 3 x h' x w'``: the image's own pixels or random ones."""
        content = canvas.read(canvas.image)
        if own:
            return content
        generator = stream.for_purpose("patch content").generator(number, content.device)
        return torch.rand(content.shape, generator=generator, device=content.device)

    def _climb(self, canvas: PatchCanvas, content: Tensor, steps: int) -> Run:
        """One run from ``content``; the last point is evaluated too."""
        every = 1 if self.defence is None else self.defence.judge_every
        velocity = torch.zeros_like(content)
        best = here = yield Asked(canvas, canvas.paint(content), 0.0)
        for step in range(1, steps + 1):
            if best.accuracy == 0.0:
                break
            gradient = canvas.read(here.gradient)
            gradient = gradient / gradient.abs().mean().clamp_min(torch.finfo(gradient.dtype).tiny)
            velocity = velocity.mul_(self.momentum).add_(gradient)
            length = self.step_size * (1.0 + math.cos(math.pi * (step - 1) / steps)) / 2.0
            content = torch.add(content, velocity.sign(), alpha=length).clamp_(0.0, 1.0)
            is_judged = step % every == 0 or step == steps
            here = yield Asked(canvas, canvas.paint(content), step / steps, is_judged)
            if is_judged and _order(here) < _order(best):
                best = here
        return Found(best, canvas)

    def _result(self, found: Found, objective: PatchObjective, threat: Patch, seconds: dict[str, float]) -> PatchResult:
        best, canvas = found
        changed = (best.point != canvas.image).any(dim=0)
        if (changed & ~canvas.inside).any() or float(best.point.min()) < 0 or float(best.point.max()) > 1:
            raise AssertionError(f"the attack left its patches on {objective.name!r}")
        own, alerts, flags = Stopwatch(best.point.device), None, set()
        with own("evaluation"):
            if isinstance(objective, DefendedObjective):
                prediction, alerts, safe = objective.judge(best.point)
                flags |= {"stochastic_answer"} if safe != best.accuracy else set()
            else:
                prediction, _ = objective.predict(best.point, best.probe)
        flags |= fired(objective, best.accuracy, self.steps if self.defence is None else 0)
        return PatchResult(
            adversarial=best.point.cpu(),
            prediction=prediction.cpu().long(),
            threat=threat,
            predictor=self.predictor,
            norm=float(changed.double().mean()),
            passes=objective.passes,
            seconds=seconds | own.seconds,
            flags=tuple(sorted(flags)),
            zero_gradients=objective.zero_gradients,
            alerts=alerts,
            patch=canvas.size,
            corners=canvas.corners,
        )


def _patches(threat: Threat) -> Patch:
    """The threat itself, once it is known to be one of patches."""
    if not isinstance(threat, Patch):
        raise ConfigError("A patch attack needs a patch threat", received=str(threat))
    return threat


def _better(best: Found, other: Found) -> Found:
    """The better one, the first of equals."""
    return other if _order(other.evaluation) < _order(best.evaluation) else best


def _order(evaluation: Evaluation) -> tuple[float, float]:
    """Better is smaller: fewer correct pixels, then a larger loss, so that a certificate that holds is compared with
    more than the image itself."""
    return evaluation.accuracy, -evaluation.loss


def _evaluate(objectives: Sequence[PatchObjective], asked: Sequence[Asked]) -> list[Evaluation]:
    """What each objective says at its point."""
    for objective, question in zip(objectives, asked):
        objective.canvas = question.canvas
    defended = [objective for objective in objectives if isinstance(objective, DefendedObjective)]  # all or none
    if defended:
        return [o.at(q.point, q.progress, q.is_judged) for o, q in zip(defended, asked, strict=True)]
    points, progress = zip(*((question.point, question.progress) for question in asked))
    return evaluate_together(objectives, points, progress)
