"""One image under a minimum-norm attack: the pixels that are to change, and the smallest perturbation found."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from certseg.attacks.objective import checked_logits, probe
from certseg.compute.decisions import decide
from certseg.errors import ModelError
from certseg.types import IGNORE_INDEX, Passes, Segmenter

_ROUNDING = 1e-3  # share of the largest logit by which two forward passes of one image may differ


@dataclass(frozen=True)
class Look:
    """What the network says at a point.

    Args:
        point: ``3 x H x W``.
        leaf: the point as ``1 x 3 x H x W``, which gradients are taken with respect to.
        logits: ``1 x K x H x W``, attached to ``leaf`` where a gradient was asked for.
        unmet: ``H x W`` bool, the pixels that count and do not meet the goal.
        share: share of the pixels that count which meet the goal.
        met: whether these are enough.
        norm: l2 norm of the perturbation.
    """

    point: Tensor
    leaf: Tensor
    logits: Tensor
    unmet: Tensor
    share: float
    met: bool
    norm: float


@dataclass(frozen=True)
class Gaps:
    """By how much each pixel misses the goal.

    Args:
        values: ``H x W`` float32, the logit of the class to leave less the largest other one, or the other way round
            for a class to reach; negative where the goal is met.
        others: ``1 x K x H x W`` logits, minus infinity for the class to leave or to reach.
        largest: ``1 x 1 x H x W``, the largest of them.
    """

    values: Tensor
    others: Tensor
    largest: Tensor


class Problem:
    """The goal on one image and what has been found.

    Args:
        segmenter: the network that is attacked.
        image: ``3 x H x W`` float32 on the device.
        wanted: ``H x W`` int64 on the device, 255 where a pixel does not count: the classes to leave, or to reach.
        targeted: whether the wanted classes are to be reached.
        success: share of the counting pixels that must meet the goal, in (0, 1].
        name: name of the image, for messages.
    """

    def __init__(
        self, segmenter: Segmenter, image: Tensor, wanted: Tensor, targeted: bool, success: float, name: str
    ) -> None:
        self.image = image
        self.counting = wanted != IGNORE_INDEX
        self.number = int(self.counting.sum())
        self.needed = math.ceil(success * self.number)
        self.root = math.sqrt(image.numel())
        """Norm of a perturbation of 1 everywhere."""
        self.best: Tensor | None = None
        self.best_norm = math.inf
        self.passes = Passes()
        self.flags: set[str] = set()
        self._segmenter, self._name, self._targeted = segmenter, name, targeted
        self._wanted, self._label = wanted, torch.where(self.counting, wanted, 0)[None, None]
        self._closest, self._closest_share = image, -1.0
        self._probe: Tensor | None = None

    @property
    def result(self) -> Tensor:
        """The best point, or without one the point at which most pixels met the goal."""
        return self._closest if self.best is None else self.best

    @property
    def reach(self) -> float:
        """A length to scale steps by: the norm of :attr:`result`'s perturbation."""
        return self.best_norm if self.best is not None else float((self._closest - self.image).norm())

    def look(self, point: Tensor, gradient: bool = True) -> Look:
        """The network at ``point``, which becomes the best one if it meets the goal with the smallest perturbation.

        Raises:
            ModelError: NaN or infinite logits.
        """
        leaf = point[None].detach().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            logits = checked_logits(self._segmenter, leaf)
        self.passes += Passes(1)
        with torch.no_grad():
            decision, check = decide(logits.detach())
            hits = decision[0] == self._wanted
            unmet = (~hits if self._targeted else hits) & self.counting
            norm = torch.linalg.vector_norm(point - self.image, dtype=torch.float64)
            finite = check[0].double().to(norm.device) * 0.0
            left, norm, finite = torch.stack([unmet.sum().double(), norm, finite]).tolist()
        if finite != 0.0:  # NaN
            raise ModelError(
                f"The model gave NaN or infinite logits under attack on image {self._name!r}",
                remedy="Check the checkpoint",
            )
        share, met = 1.0 - left / max(1, self.number), self.number - left >= self.needed
        if met and norm < self.best_norm:
            self.best, self.best_norm, self._probe = point.detach().clone(), norm, probe(logits[0])
        if self.best is None and share > self._closest_share:
            self._closest, self._closest_share, self._probe = point.detach().clone(), share, probe(logits[0])
        return Look(point, leaf, logits, unmet, share, met, norm)

    def gaps(self, look: Look) -> Gaps:
        """By how much each pixel misses the goal."""
        logits = look.logits.detach()
        others = logits.scatter(1, self._label, -torch.inf)
        largest = others.amax(dim=1, keepdim=True)
        values = (logits.gather(1, self._label) - largest)[0, 0].float()
        return Gaps(-values if self._targeted else values, others, largest)

    def gradient(self, look: Look, weights: Tensor, gaps: Gaps | None) -> tuple[Tensor, float]:
        """Gradient of the sum of the look's gaps, weighted by ``H x W``, or without ``gaps`` of the logits of the
        classes to leave (less those of the classes to reach): ``3 x H x W``, and its norm. Flags one that vanishes
        where the goal is not met.

        Raises:
            ModelError: it is not finite.
        """
        # by hand: autograd would take as long for the gaps as for a small network
        weights = weights.to(look.logits.dtype)[None, None] * (-1.0 if self._targeted else 1.0)
        if gaps is None:
            slopes = torch.zeros_like(look.logits)
        else:
            slopes = torch.where(gaps.others == gaps.largest, -weights, 0.0)
        slopes.scatter_(1, self._label, weights)
        (gradient,) = torch.autograd.grad(look.logits, look.leaf, slopes)
        self.passes += Passes(0, 1)
        size = float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
        if not math.isfinite(size):
            raise ModelError(
                f"The model gave NaN or infinite gradients under attack on image {self._name!r}",
                remedy="Check the checkpoint",
            )
        if size == 0.0 and not look.met:
            self.flags.add("zero_gradient")
        return gradient[0], size

    def shrink(self, passes: int) -> None:
        """A line search between the image and the best point, forward passes only: ever smaller parts of the
        perturbation are left out as long as the goal is met."""
        part = 0.2
        for _ in range(passes if self.best is not None and self.best_norm > 0 else 0):
            shorter = torch.lerp(self.image, self.result, 1.0 - part)
            if not self.look(shorter, gradient=False).met:
                part /= 2.0

    def confirm(self) -> Look:
        """The network at the result once more. Flags one that does not give the logits it gave there before."""
        before = self._probe
        look = self.look(self.result, gradient=False)
        again = probe(look.logits[0])
        if before is not None and not (again - before).abs().amax() <= _ROUNDING * before.abs().amax():
            self.flags.add("stochastic_logits")
        return look
