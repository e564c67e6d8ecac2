"""What it costs an attacker to change the class of a pixel, in squared distance of features.

Features are what the Lipschitz constant is about (:class:`certseg.types.LipschitzBound`): the logits themselves, or the
input of a last linear map with rows w_k. A perturbation of norm eps moves the features of all pixels together by at
most ``bound.budget(eps)``, the sum over pixels of squared distances; every cost below is a lower bound on the squared
distance that the features of one pixel must move. All costs of an image may thus be added up against one budget.

Costs are computed in float64 from logits of any floating point type. A cost may be off by some units in the last place
of float64; whoever compares sums of costs with a budget adds that to the budget
(:func:`certseg.lipschitz.worst_case.collective.allowed`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certseg.errors import ModelError
from certseg.types import LipschitzBound
from certseg.types.capabilities import LARGEST

_ROWS = 1 << 20  # at a time on other devices
_SMALLEST = 1e-290  # squared distance between rows that differ


@dataclass(frozen=True)
class ClassGeometry:
    """Distances between the rows of a head, and how far computed gaps between logits may be trusted.

    If every computed logit is within ``slack`` of the exact one, at the image and at the attacked image, the exact gap
    between two logits must close by at least the computed one less ``4 * slack`` before computed classes change.

    Args:
        squared: ``K x K`` float64, ||w_k - w_l||^2 of each pair of rows, never below the exact value; 2 for all pairs
            where there is no head.
        slack: bound of the rounding error of one logit.
        is_joint: whether the logits themselves are the features.
    """

    squared: Tensor
    slack: float
    is_joint: bool

    @classmethod
    def of(cls, bound: LipschitzBound, num_classes: int, device: torch.device) -> ClassGeometry:
        """The geometry of ``num_classes`` classes under the bound of a network, on ``device``.

        Raises:
            ModelError: the head has another number of rows.
        """
        if bound.head is None:
            squared = torch.full((num_classes, num_classes), 2.0, dtype=torch.float64, device=device)
            return cls(squared, bound.slack, True)
        if len(bound.head) != num_classes:
            raise ModelError(
                "The head of the Lipschitz bound does not fit the logits",
                expected=f"{num_classes} rows",
                received=f"{len(bound.head)} rows",
            )
        head = bound.head.detach().to(device, torch.float64)
        apart = head[:, None] - head[None]
        squared = apart.square().sum(dim=-1) * (1.0 + (head.shape[1] + 4) * 2.0**-52)
        floor = (apart != 0).any(dim=-1).double() * _SMALLEST  # squares of tiny numbers vanish
        return cls(torch.maximum(squared, floor), bound.slack, False)

    def squared_distance(self, gap: Tensor, from_class: Tensor, to_class: Tensor | int) -> Tensor:
        """Squared distance to where a gap between two logits has closed: ``gap^2 / ||w_k - w_l||^2``.

        |(w_k - w_l) . D| <= ||w_k - w_l|| ||D||, so features that close the gap have moved by at least that. Equal
        rows never close one.

        Args:
            gap: float64, of any shape, not negative: the computed logit of ``from_class`` less that of ``to_class``.
            from_class: int64 of the shape of ``gap``, the class that has the larger logit.
            to_class: int64 of the shape of ``gap``, the class that has the smaller logit; a number is that class
                everywhere.

        Returns:
            float64 of the shape of ``gap``.
        """
        squared = self.squared[from_class, to_class]
        left = (gap - 4.0 * self.slack).clamp_min(0.0)
        return torch.where(left > 0, left.square() / squared, 0.0)  # x / 0 is infinite


def planes_of(logits: Tensor) -> Tensor:
    """``K x N`` view of logits ``K x H x W``.

    Raises:
        ModelError: the shape is another, or the values are not floating point.
    """
    if logits.ndim != 3 or not logits.is_floating_point():
        raise ModelError(
            "Costs need the floating point logits of one image, K x H x W",
            received=f"{logits.dtype} of shape {tuple(logits.shape)}",
        )
    return logits.detach().flatten(1).contiguous()


def flip_costs(logits: Tensor, bound: LipschitzBound) -> tuple[Tensor, Tensor]:
    """The class of each pixel, and what it costs to change it into any other one.

    Claim: with c the class and m_j the gap between the logits of c and j, the features of a pixel whose class changes
    have moved by a squared distance of at least min_j m_j^2 / ||w_c - w_j||^2, without a head min_j m_j^2 / 2. So a
    pixel keeps its class under every perturbation of l2 norm below sqrt(cost) / constant, for all pixels at once,
    each for its own perturbation. The pairwise form is never below the other with ||W|| times the constant, for
    ||w_c - w_j|| <= sqrt(2) ||W||.

    Args:
        logits: ``K x H x W`` floating point.
        bound: what is proven about the network that computed them.

    Returns:
        ``H x W`` int64 classes (of tied ones the first) and ``H x W`` float64 costs, 0 where the maximum is tied,
        infinite where no other class can be reached.

    Raises:
        ModelError: a logit is NaN, infinite or so large that its square is, or the head has another number of classes.

    >>> logits = torch.tensor([3.0, 1.0, 0.0]).view(3, 1, 1)
    >>> classes, costs = flip_costs(logits, LipschitzBound(constant=1.0))
    >>> classes.item(), costs.item()  # the gap of 2 to the second class, squared, over 2
    (0, 2.0)
    """
    planes = planes_of(logits)
    _require_squares(planes)
    geometry = ClassGeometry.of(bound, len(planes), planes.device)
    classes, gaps = _compiled_gaps(planes) if _is_compiled_for(planes) else _gaps(planes)
    if geometry.is_joint:
        costs = gaps.sub_(4.0 * geometry.slack).clamp_min_(0.0).square_().mul_(0.5)
    else:
        costs = _smallest_pairwise(planes, classes, geometry)
    return classes.view(logits.shape[1:]), costs.view(logits.shape[1:])


def _is_compiled_for(planes: Tensor) -> bool:
    return planes.device.type == "cpu" and planes.dtype in (torch.float32, torch.float64)


def _compiled_gaps(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Class of each pixel, ``(N,)`` int64, and the gap to the next one, ``(N,)`` float64.

    Raises:
        ModelError: a logit is NaN or infinite.
    """
    from certseg.compute.kernels.distances import largest_and_gap  # the compiler takes half a second to import

    classes, gaps = np.empty(planes.shape[1], np.int64), np.empty(planes.shape[1])
    check = np.empty(1)
    largest_and_gap(planes.numpy(), classes, gaps, check)
    _require_finite(check[0] == 0.0)
    return torch.from_numpy(classes), torch.from_numpy(gaps)


def _gaps(planes: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`_compiled_gaps` returns, on any device."""
    _require_finite(bool(torch.isfinite(planes).all()))
    top, classes = planes.max(dim=0)
    others = planes.scatter(0, classes[None], -torch.inf)
    return classes, top.double() - others.amax(dim=0).double()


def _require_finite(is_finite: bool) -> None:
    if not is_finite:
        raise ModelError("The model returned NaN or infinite logits", remedy="Check the checkpoint")


def _require_squares(planes: Tensor) -> None:
    """Raise ModelError if a finite logit is so large that the square of a gap would be infinite, a cost that no budget
    pays."""
    largest = float(planes.abs().amax()) if planes.numel() else 0.0
    if LARGEST <= largest < torch.inf:
        raise ModelError(
            "The model returned logits that are too large to compute with",
            expected=f"below {LARGEST:g}",
            received=largest,
        )


def _smallest_pairwise(planes: Tensor, classes: Tensor, geometry: ClassGeometry) -> Tensor:
    """``(N,)`` float64: the squared distance to the nearest other class, pair by pair."""
    if _is_compiled_for(planes):
        from certseg.compute.kernels.distances import flip_distances  # the compiler takes half a second to import

        out = np.empty(planes.shape[1])
        flip_distances(planes.numpy(), classes.numpy(), 4.0 * geometry.slack, geometry.squared.numpy(), out)
        return torch.from_numpy(out)
    own = planes.gather(0, classes[None])[0].double()
    cost = torch.full_like(own, torch.inf)
    for k in range(len(planes)):
        pair = geometry.squared_distance(own - planes[k].double(), classes, k)
        torch.minimum(cost, pair.masked_fill_(classes == k, torch.inf), out=cost)
    return cost


def entry_costs(planes: Tensor, pixels: Tensor, into: Tensor | int, geometry: ClassGeometry) -> Tensor:
    """What it costs to make the class of each given pixel the given one.

    To be predicted as k a pixel must close its gap u_l = z_l - z_k to *every* class l. Without a head that is the
    distance to a cone, min ||D||^2 with z_k + D_k >= z_l + D_l for all l: raise z_k by t and lower every logit above
    to the same level, t^2 + sum_l max(u_l - t, 0)^2 with t the minimiser of that. With u sorted in falling order and
    S_r the sum of the first r, t = max_r S_r / (r + 1), for S_r / (r + 1) grows exactly as long as the next u is
    above it. Never below u_top^2 / 2. With a head it is a distance to a polyhedron, of which the largest distance
    to one of its half-spaces, max_l u_l^2 / ||w_k - w_l||^2, is the lower bound returned.

    Args:
        planes: ``K x N`` logits.
        pixels: ``(M,)`` int64, positions among the N.
        into: ``(M,)`` int64, the class that each pixel shall get; a number is the class for all of them.
        geometry: distances between the classes.

    Returns:
        ``(M,)`` float64 costs, 0 where the pixel has the class already.
    """
    if isinstance(into, int):
        into = torch.full_like(pixels, into)
    if _is_compiled_for(planes):
        return _compiled_entry_costs(planes, pixels, into, geometry)
    costs = torch.empty(len(pixels), dtype=torch.float64, device=planes.device)
    for start in range(0, len(pixels), _ROWS):
        rows = planes.index_select(1, pixels[start : start + _ROWS]).T.double()
        wanted = into[start : start + _ROWS]
        costs[start : start + _ROWS] = _closing(rows - rows.gather(1, wanted[:, None]), wanted, geometry)
    return costs


def _compiled_entry_costs(planes: Tensor, pixels: Tensor, into: Tensor, geometry: ClassGeometry) -> Tensor:
    from certseg.compute.kernels.distances import (  # the compiler takes half a second to import
        cone_distances,
        half_space_distances,
    )

    out = np.empty(len(pixels))
    arrays = planes.numpy(), pixels.numpy(), into.numpy(), 4.0 * geometry.slack
    if geometry.is_joint:
        cone_distances(*arrays, out)
    else:
        half_space_distances(*arrays, geometry.squared.numpy(), out)
    return torch.from_numpy(out)


def _closing(gaps: Tensor, into: Tensor, geometry: ClassGeometry) -> Tensor:
    """Cost of closing all positive ``M x K`` gaps of the other classes to ``into``."""
    if not geometry.is_joint:
        every = torch.arange(gaps.shape[1], device=gaps.device)
        return geometry.squared_distance(gaps.clamp_min(0.0), every.expand_as(gaps), into[:, None]).amax(dim=1)
    gaps = (gaps - 4.0 * geometry.slack).clamp_min_(0.0)
    parts = torch.arange(2, gaps.shape[1] + 2, dtype=torch.float64, device=gaps.device)
    level = (gaps.sort(dim=1, descending=True).values.cumsum(dim=1) / parts).amax(dim=1)
    return level.square() + (gaps - level[:, None]).clamp_min_(0.0).square().sum(dim=1)


def ascending(values: Tensor) -> Tensor:
    """``values`` sorted along their last dimension; on the CPU by numpy, ten times faster than torch there."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(dim=-1).values
