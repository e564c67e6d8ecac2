"""What minimum-norm attacks have in common: their goal, checks before and after, the result."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from certseg.attacks.geometry import perturbation_norm
from certseg.attacks.goals import check_goal, is_targeted, wanted_map
from certseg.attacks.minimum_norm.problem import Problem
from certseg.attacks.objective import checked_logits
from certseg.checks import check_choice, check_count, check_number
from certseg.compute.decisions import decide
from certseg.compute.hardware import Hardware, Stopwatch
from certseg.compute.streams import NoiseStream
from certseg.errors import ModelError
from certseg.types import (
    IGNORE_INDEX,
    L2,
    Goal,
    MinimumNormResult,
    Passes,
    Segmenter,
    SmallestAttack,
    check_image,
    check_target,
)

AWAY_FROM = ("labels", "prediction")


@dataclass(frozen=True)
class MinimumNormAttack(SmallestAttack):
    """Looks for the smallest l2 perturbation that meets a goal, within [0, 1].

    The goal is met where at least ``ceil(success * N)`` of the N labelled pixels have another class than

    - their label (``away_from="labels"``, the pixel success rate of Rony et al. 2023): pixels that are wrong without
      any attack count as changed, so this is what accuracy ``1 - success`` costs; or
    - the class predicted at the image (``away_from="prediction"``): so many pixels have *changed*, which is word by
      word what ``robustness@share`` excludes (:func:`certseg.lipschitz.worst_case.share_radii`). At equal shares the
      norm of a point that meets this goal is never below the certified radius.

    A tie counts as the class the network answers (:func:`certseg.compute.decisions.decide`), not as a change.

    Subclasses are frozen dataclasses that give ``iterations`` a default, add fields of their own, and have
    :meth:`search`.

    Args:
        iterations: forward-backward passes of the search; those that lie beyond are forward passes.
        success: share of the labelled pixels, in (0, 1].
        away_from: the class that pixels are to leave, ``labels`` or ``prediction`` as above.
        line_search: forward passes spent at the end on a smaller multiple of the perturbation found; 0 for none.
        goal: None for an untargeted attack; else the class that every pixel is to have, or a map ``H x W`` int64 of
            what is to be predicted, 255 where anything will do. Then ``success`` is the share of the pixels of this map
            that must have it, whatever their labels are.
    """

    iterations: int
    success: float = 0.99
    away_from: str = "labels"
    line_search: int = 10
    goal: Goal | None = None
    norms = ("l2",)
    needs_gradient = True

    @abstractmethod
    def search(self, problem: Problem) -> None:
        """Look at points; the problem keeps the best one."""

    def __post_init__(self) -> None:
        check_count("attack.iterations", self.iterations)
        check_count("attack.line_search", self.line_search, 0)
        check_number("attack.success", self.success, "(0, 1]", what="a share of the pixels")
        check_choice("attack.away_from", self.away_from, AWAY_FROM)
        check_goal(self.goal)

    def __call__(
        self, segmenter: Segmenter, image: Tensor, target: Tensor, *, stream: NoiseStream, hardware: Hardware
    ) -> MinimumNormResult:
        """Attack one image.

        Args:
            segmenter: the network, differentiable with respect to its input, on the hardware's device.
            image: ``3 x H x W`` in [0, 1].
            target: ``H x W`` int64 labels, 255 ignored.
            stream: names the image; nothing is drawn from it.
            hardware: the device that is computed on.

        Raises:
            DataError: the image is not in [0, 1], or the target or goal does not fit it or the model.
            ModelError: NaN or infinite logits or gradients.
        """
        check_image(image, stream.name)
        check_target(target, tuple(image.shape[-2:]), segmenter.num_classes)
        device = hardware.torch_device
        watch = Stopwatch(device)
        image = image.float().to(device)
        with watch("attack"):
            clean = _predict(segmenter, image, stream.name)
            wanted = self._wanted(target, clean.cpu(), segmenter.num_classes).to(device)
            problem = Problem(segmenter, image, wanted, is_targeted(self.goal), self.success, stream.name)
            problem.passes += Passes(1)
            if problem.number:
                problem.look(image, gradient=False)
                if problem.best is None:
                    self.search(problem)
                    problem.shrink(self.line_search)
        with watch("evaluation"):
            return self._result(problem, target, clean, watch)

    def _wanted(self, target: Tensor, clean: Tensor, num_classes: int) -> Tensor:
        """The classes to leave, or to reach; 255 where a pixel does not count."""
        if self.goal is None:
            return target if self.away_from == "labels" else torch.where(target == IGNORE_INDEX, target, clean)
        return wanted_map(self.goal, target, num_classes)

    def _result(self, problem: Problem, target: Tensor, clean: Tensor, watch: Stopwatch) -> MinimumNormResult:
        look = problem.confirm()
        point = look.point
        distance = perturbation_norm(point, problem.image, L2(1.0))
        if float(point.min()) < 0 or float(point.max()) > 1:
            raise AssertionError("the attack left the box [0, 1]")
        prediction = decide(look.logits)[0][0].long()
        labelled = target.to(prediction.device) != IGNORE_INDEX
        number = int(labelled.sum())
        correct = int(((prediction == target.to(prediction.device)) & labelled).sum())
        reached = look.met and problem.number > 0
        norm = math.nan if not problem.number else distance if reached else math.inf
        return MinimumNormResult(
            adversarial=point.cpu(),
            prediction=prediction.cpu(),
            norm=norm,
            reached=reached,
            accuracy=correct / number if number else math.nan,
            distance=distance,
            changed=int(((prediction != clean) & labelled).sum()),
            labelled=number,
            passes=problem.passes,
            seconds=watch.seconds,
            flags=tuple(sorted(problem.flags)),
        )


def _predict(segmenter: Segmenter, image: Tensor, name: str) -> Tensor:
    """The network's classes at the image, ``H x W`` int64."""
    with torch.inference_mode():
        classes, check = decide(checked_logits(segmenter, image[None]))
    if not bool(torch.isfinite(check).all()):
        raise ModelError(f"The model gave NaN or infinite logits on image {name!r}", remedy="Check the checkpoint")
    return classes[0].long().clone()
