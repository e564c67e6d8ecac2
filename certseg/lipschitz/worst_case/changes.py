"""What an attacker can do to each class of one image, and at what cost.

He may *break* true positives of a class, which leave its intersection but stay in its union, and make other pixels
*enter* it: a pixel that is neither labelled nor predicted as the class joins its union. Undoing errors only helps the
defender.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certseg.lipschitz.worst_case.collective import allowed, prefix_sums
from certseg.lipschitz.worst_case.costs import ClassGeometry, ascending, entry_costs, flip_costs, planes_of
from certseg.types import IGNORE_INDEX, LipschitzBound, check_target

_STRIDE = 61  # of the pixels that tell roughly how cheap the cheapest ones are
_PIXELS = 1 << 15  # at a time on the CPU
_ROUNDING = 2.0**-20  # more than float32 arithmetic of a few steps


@dataclass(frozen=True)
class FlippableImage:
    """One image with what it costs to change each pixel.

    Args:
        planes: ``K x N`` logits of the N pixels.
        classes: ``(N,)`` int64, the class predicted at each pixel.
        costs: ``(N,)`` float64, what it costs to change that class into any other one
            (:func:`certseg.lipschitz.worst_case.flip_costs`).
        target: ``(N,)`` int64 labels, 255 ignored.
        geometry: distances between the classes.
    """

    planes: Tensor
    classes: Tensor
    costs: Tensor
    target: Tensor
    geometry: ClassGeometry

    @classmethod
    def of(
        cls, logits: Tensor, target: Tensor, bound: LipschitzBound, found: tuple[Tensor, Tensor] | None = None
    ) -> FlippableImage:
        """An image from its logits and labels.

        Args:
            logits: ``K x H x W`` floating point.
            target: ``H x W`` int64 labels, 255 ignored.
            bound: what is proven about the network that computed the logits.
            found: what :func:`certseg.lipschitz.worst_case.flip_costs` returned for the logits, if it was asked before.

        Raises:
            DataError: the labels have another shape, or values that are no class.
            ModelError: a logit is NaN or infinite, or the head of the bound has another number of classes.
        """
        check_target(target, tuple(logits.shape[1:]), len(logits))
        classes, costs = (part.to(logits.device) for part in found or flip_costs(logits, bound))
        geometry = ClassGeometry.of(bound, len(logits), logits.device)
        target = target.to(logits.device).flatten()
        return cls(planes_of(logits), classes.flatten(), costs.flatten(), target, geometry)

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return len(self.planes)

    @property
    def labelled(self) -> Tensor:
        """``(N,)`` bool, the pixels that carry a label."""
        return self.target != IGNORE_INDEX

    @property
    def correct(self) -> Tensor:
        """``(N,)`` bool, labelled and predicted as labelled."""
        return self.labelled & (self.target == self.classes)


@dataclass(frozen=True)
class ClassAttack:
    """The costs of attacking one class of one image, as far as a largest budget ``limit`` goes.

    Args:
        hit: number t of true positives.
        target: number G of pixels labelled as the class.
        wrong_as: number of pixels predicted as the class but labelled otherwise.
        limit: the largest budget, a squared feature distance.
        broken: float64, rising: the lowest costs of breaking true positives, as many as fit into the limit together.
        entered_correct: float64, rising: the lowest costs at which pixels that are predicted correctly, as another
            class, enter, as many as fit into the limit together.
        entered_wrong: float64, rising: the lowest costs at which pixels that are predicted wrongly, as a third class,
            enter, as many as fit into the limit together.
    """

    hit: int
    target: int
    wrong_as: int
    limit: float
    broken: Tensor
    entered_correct: Tensor
    entered_wrong: Tensor

    @property
    def union(self) -> int:
        """The number U of pixels labelled or predicted as the class."""
        return self.target + self.wrong_as

    def frontier(self, budget: float) -> tuple[Tensor, Tensor]:
        """For each affordable number m of broken pixels, 0, 1, ..., the largest n that can enter with what is left.

        The cheapest m and the cheapest n cost least, so (m, n) is feasible exactly if their sums fit together.

        Args:
            budget: squared feature distance that the attacker has, up to the limit.

        Returns:
            All affordable m, and for each the largest n; both int64.
        """
        if budget <= 0:
            nothing = torch.zeros(1, dtype=torch.int64, device=self.broken.device)
            return nothing, nothing.clone()
        broken = prefix_sums(self.broken, budget)
        entered = prefix_sums(torch.cat([self.entered_correct, self.entered_wrong]), budget)
        whole = float(allowed(torch.tensor(budget, dtype=torch.float64), len(broken) + len(entered)))
        left = whole - broken[: int(torch.searchsorted(broken, whole, right=True))]
        numbers = torch.arange(len(left), device=left.device)
        return numbers, torch.searchsorted(entered, left, right=True) - 1


def class_attacks(image: FlippableImage, limit: float) -> list[ClassAttack]:
    """What attacks on every class of an image cost, for budgets (squared feature distances) up to ``limit``. Every set
    of changes of one of the three kinds that fits into the limit consists of listed ones, or may be exchanged for
    listed ones that cost no more."""
    correct = image.correct
    wrong = image.labelled & ~correct
    number = image.num_classes
    hits, wrong_as = (torch.bincount(image.classes[part], minlength=number).tolist() for part in (correct, wrong))
    named = torch.bincount(image.target[image.labelled], minlength=number).tolist()
    own = torch.where(correct & torch.isfinite(image.costs), image.classes.short(), -1)
    broken = [_affordable(image.costs[own == k], limit) for k in range(number)]
    entered = _cheapest_entries(image, limit)
    return [ClassAttack(hits[k], named[k], wrong_as[k], limit, broken[k], *entered[k]) for k in range(number)]


def _affordable(costs: Tensor, limit: float) -> Tensor:
    """The cheapest costs, rising, as many as fit into ``limit``."""
    kept = ascending(costs[costs <= allowed(torch.tensor(limit, dtype=torch.float64), costs.numel()).item()])
    return kept[: len(prefix_sums(kept, limit)) - 1]


def _cheapest_entries(image: FlippableImage, limit: float) -> list[tuple[Tensor, Tensor]]:
    """For each class the lowest costs of entering it, rising, as many as fit into ``limit``: those of pixels predicted
    correctly, and those of pixels predicted wrongly.

    Costs are computed where they are below a threshold. If those of a kind together cost more than the limit, no other
    of that kind can be among the affordable ones. The first thresholds are read off a sample of the pixels.
    """
    number = image.num_classes
    most = allowed(torch.tensor(limit, dtype=torch.float64), image.target.numel()).item()
    thresholds = _first_thresholds(image, most)
    found: dict[tuple[int, int], Tensor] = {}
    while len(found) < 2 * number:
        pixels, into = changes_within(image, thresholds.repeat_interleave(number, dim=0))
        costs = entry_costs(image.planes, pixels, into, image.geometry)
        kinds = into + number * (~image.correct[pixels])
        costs, kinds = (part[costs <= thresholds.flatten()[kinds]] for part in (costs, kinds))
        parts = costs[_order(kinds)].split(torch.bincount(kinds, minlength=2 * number).tolist())
        for index, part in enumerate(parts):
            kind, k = divmod(index, number)
            threshold = float(thresholds[kind, k])
            if (kind, k) not in found and (threshold >= most or float(part.sum()) > most):
                found[kind, k] = _affordable(part, limit)
            done = (kind, k) in found
            thresholds[kind, k] = -1.0 if done else min(4.0 * threshold + 1e-300, most)
    return [(found[0, k], found[1, k]) for k in range(number)]


def _first_thresholds(image: FlippableImage, most: float) -> Tensor:
    """``2 x K`` float64, for pixels predicted correctly and wrongly: about twice the cost at which the cheapest entries
    have used up ``most``."""
    part = slice(0, None, _STRIDE)
    near = _nearness(image, image.planes[:, part], image.classes[part], image.target[part])
    is_correct, is_labelled = image.correct[part], image.labelled[part]
    thresholds = []
    for counts in (is_correct, is_labelled & ~is_correct):
        costs = ascending(near[:, counts].double())
        crossing = (costs.cumsum(dim=1) * _STRIDE <= most).sum(dim=1, keepdim=True) + 2
        padded = torch.nn.functional.pad(costs, (0, 1), value=torch.inf)
        thresholds.append(2.0 * padded.gather(1, crossing.clamp_max(costs.shape[1])).squeeze(1))
    return torch.stack(thresholds).clamp_max(most)


def changes_within(image: FlippableImage, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """All single changes whose cost may be at or below a threshold.

    Args:
        image: the image, with what it costs to change each of its pixels.
        thresholds: ``2K x K`` float64. Row c holds those of pixels predicted correctly as class c, row K + c those of
            pixels predicted wrongly as class c; the column is the class entered. Negative where changes are not of
            interest.

    Returns:
        Pixels and the classes they enter, int64: every change of a labelled pixel into a class that it is neither
        predicted nor labelled as, whose cost is at most its threshold, and some more.
    """
    number = image.num_classes
    rows = image.classes + number * (~image.correct)
    highest = thresholds.amax(dim=1)
    table = thresholds.to(torch.promote_types(image.planes.dtype, torch.float32)).T.contiguous()
    table = torch.where(table > 0, table * (1.0 + _ROUNDING), table).clamp_max(torch.finfo(table.dtype).max)
    kept = torch.nonzero(image.labelled & (image.costs <= (1.0 + _ROUNDING) * highest[rows])).flatten()
    found = []
    step = _PIXELS if kept.device.type == "cpu" else max(1, len(kept))
    for pixels in kept.split(step):
        classes, target = image.classes[pixels], image.target[pixels]
        near = _nearness(image, image.planes[:, pixels], classes, target)
        into, index = torch.nonzero(near <= table[:, rows[pixels]], as_tuple=True)
        found.append((pixels[index], into))
    empty = torch.zeros(0, dtype=torch.int64, device=kept.device)
    return torch.cat([empty, *(part[0] for part in found)]), torch.cat([empty, *(part[1] for part in found)])


def _order(groups: Tensor) -> Tensor:
    """Positions of all members of group 0, then of group 1 and so on; fewer than 2^15 groups."""
    if groups.device.type == "cpu":
        return torch.from_numpy(np.argsort(groups.numpy().astype(np.int16), kind="stable"))  # linear, unlike torch's
    return groups.argsort(stable=True)


def _nearness(image: FlippableImage, planes: Tensor, classes: Tensor, target: Tensor) -> Tensor:
    """``K x n`` lower bounds on the costs of entering each class, from the gap to the predicted class alone, less more
    than their rounding in float32; infinite for the predicted class and the true one.

    Args:
        image: the image that the pixels belong to.
        planes: ``K x n`` logits of n of its pixels.
        classes: ``(n,)`` int64, the class predicted at each of them.
        target: ``(n,)`` int64, the label of each of them.
    """
    planes = planes.to(torch.promote_types(planes.dtype, torch.float32))
    gap = planes.gather(0, classes[None]) - planes
    gap.mul_(1.0 - _ROUNDING).sub_(4.0 * image.geometry.slack * (1.0 + _ROUNDING))
    near = gap.clamp_min_(0.0).square_()
    if image.geometry.is_joint:
        near.mul_(0.5 * (1.0 - _ROUNDING))
    else:
        inverse = ((1.0 - _ROUNDING) / image.geometry.squared).to(near.dtype)
        near.mul_(inverse.clamp_max(torch.finfo(near.dtype).max)[:, classes])
    near.clamp_max_(torch.finfo(near.dtype).max)
    near.scatter_(0, classes[None], torch.inf)
    return near.scatter_(0, target.clamp_max(len(planes) - 1)[None], torch.inf)
