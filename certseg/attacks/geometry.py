"""Norm balls in image space: projections that hold exactly in float64, and steepest-ascent steps."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from certseg.errors import ConfigError
from certseg.types import L1, L2, Linf, NormBall, Threat

_KNOWN = "L1, L2 or Linf"
_MOST_ROUNDINGS = 50
_SHORT = 1.0 - 5e-5  # a float32 norm of millions of entries is that far off at most


def perturbation_norm(adversarial: Tensor, image: Tensor, threat: Threat) -> float:
    """Norm of ``adversarial - image`` (any equal shapes) in the threat's norm, computed in float64."""
    delta = adversarial.double() - image.double()
    if isinstance(threat, L2):
        return float(delta.norm())
    if isinstance(threat, Linf):
        return float(delta.abs().amax())
    if isinstance(threat, L1):
        return float(delta.abs().sum())
    raise ConfigError("No perturbation norm for this threat", expected=_KNOWN, received=threat)


def norm_ball(threat: Threat) -> NormBall:
    """The threat itself, once it is known to be a ball whose geometry stands here.

    Raises:
        ConfigError: it is neither L1 nor L2 nor Linf.
    """
    if not isinstance(threat, (L1, L2, Linf)):
        raise ConfigError("Perturbations cannot be kept within this threat", expected=_KNOWN, received=threat)
    return threat


def project(candidate: Tensor, image: Tensor, threat: Threat) -> Tensor:
    """:meth:`Ball.project` for one candidate."""
    return Ball(image, threat).project(candidate)


class Ball:
    """The points within a threat of one image and within [0, 1]; what depends on the image alone is computed once.

    Args:
        image: ``3 x H x W`` in [0, 1].
        threat: L1, L2 or Linf.

    Raises:
        ConfigError: the threat is of another kind.
    """

    def __init__(self, image: Tensor, threat: Threat) -> None:
        self.image, self.threat = image, norm_ball(threat)
        self._bounds = _linf_bounds(image, threat.radius) if isinstance(threat, Linf) else None

    def project(self, candidate: Tensor) -> Tensor:
        """A point inside the ball and inside [0, 1], both exactly when checked in float64.

        For l-inf and l1 it is the nearest such point up to rounding. For l2 the candidate is clipped to the box first
        and then pulled towards the image, which stays in the box; this is feasible but not always the nearest point. A
        candidate outside an l1 or l2 ball ends within 1e-6 of its radius, or as near as one float32 step of one entry
        allows.

        Args:
            candidate: any tensor of the image's shape and type.
        """
        if self._bounds is not None:
            return candidate.clamp(*self._bounds)
        point = candidate.clamp(0.0, 1.0)
        size = perturbation_norm(point, self.image, self.threat)
        if size <= self.threat.radius:
            return point
        exact = self.image.double()
        if isinstance(self.threat, L1):
            return self._rounded(_nearest_l1(candidate.double(), exact, self.threat.radius * (1.0 - 1e-7)), exact)
        scale = self.threat.radius / size * (1.0 - 1e-7)
        return self._rounded((exact + (point.double() - exact) * scale).clamp(0.0, 1.0), exact)

    def _rounded(self, target: Tensor, image: Tensor) -> Tensor:
        """Float32 neighbours of the entries of ``target``, chosen so that they lie in the l1 or l2 ball of ``image`` as
        it does; both float64."""
        radius, threat = self.threat.radius, self.threat
        if isinstance(threat, L1):
            size = perturbation_norm(target, image, threat)
            if size > radius:  # by the cancellation of a candidate far away
                target = image + (target - image) * (radius / size * (1.0 - 1e-12))
        point = target.to(self.image.dtype)
        size = perturbation_norm(point, image, threat)
        shortest = radius * (1.0 - 1e-6)
        power = 1 if isinstance(threat, L1) else 2
        for _ in range(_MOST_ROUNDINGS):
            if shortest <= size <= radius:
                return point
            wanted = (radius - size) * (radius + size if power == 2 else 1.0)
            point = _round_otherwise(point, target, image, wanted, power)
            size = perturbation_norm(point, image, threat)
            shortest = 0.0
        return self.image.clone()  # the one point of a ball that small which is surely inside

    def enter(self, candidate: Tensor) -> Tensor:
        """:meth:`project` for the many points of a search: as feasible, in a fraction of the time.

        For l2 a candidate outside the ball may end 1e-4 of the radius short of it. Overwrites ``candidate``, for l1
        excepted.
        """
        if isinstance(self.threat, L1):
            return self.project(candidate)
        point = self._approach(candidate)
        if self._bounds is not None:
            return point
        size = float(torch.linalg.vector_norm(point - self.image, dtype=torch.float64))
        if size * (1.0 + 1e-7) <= self.threat.radius:  # each float32 difference is right to 2^-24 of itself
            return point
        return self.project(point)

    def _approach(self, candidate: Tensor) -> Tensor:
        """:meth:`enter` without its check, for l-inf and l2: for l2 the point may lie outside by rounding. Overwrites
        ``candidate``."""
        if self._bounds is not None:
            return torch.clamp(candidate, *self._bounds, out=candidate)
        delta = candidate.clamp_(0.0, 1.0).sub_(self.image)
        scale = (self.threat.radius * _SHORT / delta.norm().clamp_min(1e-30)).clamp_max(1.0)
        return delta.mul_(scale).add_(self.image).clamp_(0.0, 1.0)

    def ascend(
        self, point: Tensor, gradient: Tensor, length: float, previous: Tensor | None = None, inertia: float = 0.0
    ) -> Tensor:
        """A step of ``length`` along the :func:`ascent_direction`, brought into the ball as :meth:`enter` does. The
        share ``inertia`` of the step is then exchanged for as much of the last move, and the result is brought into the
        ball again. For l-inf and l2. On the CPU float32 takes compiled loops, which round otherwise.

        Args:
            point: the point where the step begins, in the ball.
            gradient: the gradient of the loss there, finite.
            length: length of the step, in the norm of the threat.
            previous: the point before this one; None takes a plain step.
            inertia: share of the step that is exchanged for the last move, in [0, 1).
        """
        if point.device.type == "cpu" and point.dtype == torch.float32:
            return self._ascend_compiled(point, gradient, length, previous, inertia)
        return self._ascend(point, gradient, length, previous, inertia)

    def _ascend(
        self, point: Tensor, gradient: Tensor, length: float, previous: Tensor | None, inertia: float
    ) -> Tensor:
        target = self._approach(torch.add(point, ascent_direction(gradient, self.threat), alpha=length))
        if previous is not None:
            target.lerp_(point, inertia).add_(point - previous, alpha=inertia)
        return self.enter(target)

    def _ascend_compiled(
        self, point: Tensor, gradient: Tensor, length: float, previous: Tensor | None, inertia: float
    ) -> Tensor:
        from certseg.compute.kernels import perturbations as kernels  # the compiler takes half a second to import

        inertia = 0.0 if previous is None else inertia
        result = torch.empty(point.shape)
        out, here, slope, last, image = map(
            _flat, (result, point, gradient, point if previous is None else previous, self.image)
        )
        if self._bounds is not None:
            low, high = self._bounds
            kernels.step_in_box(here, slope, last, _flat(low), _flat(high), length, inertia, out)
            return result
        size, reach = math.sqrt(kernels.squared_norm(slope)), self.threat.radius * _SHORT
        if 0.0 < size < 1e-30:  # its inverse is no float32
            slope = slope / np.float32(size)
            size = 1.0
        size = math.sqrt(kernels.stepped(here, slope, image, length / size if size else 0.0, out))
        size = math.sqrt(kernels.carried_on(out, min(1.0, reach / max(size, 1e-30)), here, last, image, inertia))
        size = math.sqrt(kernels.applied(out, min(1.0, reach / max(size, 1e-30)), image))
        return result if size <= self.threat.radius * (1.0 - 1e-9) else self.project(result)


def _flat(tensor: Tensor) -> np.ndarray:
    """All entries, in one order for all tensors of a shape; a copy only where the tensor is laid out in another one."""
    return tensor.detach().reshape(-1).numpy()


def _nearest_l1(candidate: Tensor, image: Tensor, radius: float) -> Tensor:
    """The nearest point to ``candidate`` with l1 distance ``radius`` from ``image`` and within [0, 1] (Croce and Hein
    2021, "Mind the box"), for a candidate that is further away even when clipped to [0, 1]. All float64.

    Every entry of the perturbation is shortened by one and the same amount and then cut to the room the box leaves it.
    The length that is left falls piecewise linearly in that amount, with kinks where an entry leaves the side of the
    box and where it reaches zero: sorted, they give the amount exactly.
    """
    delta = candidate - image
    length, room = delta.abs(), torch.where(delta > 0.0, 1.0 - image, image)
    moving = torch.minimum(length, room) > 0.0
    end = length[moving]
    start = (end - room[moving]).clamp_min(0.0)
    kinks, order = torch.cat([start, end]).sort()
    slopes = torch.where(order < len(start), -1.0, 1.0).double().cumsum(0)
    left = (end - start).sum() + torch.cat([kinks.new_zeros(1), (slopes[:-1] * kinks.diff()).cumsum(0)])
    last = (left > radius).sum() - 1  # the kink before the amount
    amount = kinks[last] - (left[last] - radius) / slopes[last]
    return image + delta.sign() * (length - amount).clamp_min(0.0).minimum(room)


def _round_otherwise(point: Tensor, target: Tensor, image: Tensor, wanted: float, power: int) -> Tensor:
    """Change the sum of the ``power``-th powers of the entries of ``|point - image|`` by ``wanted``, by rounding some
    entries of ``target`` the other way.

    A short perturbation spans few float32 steps, so rounding changes its norm (by 1e-4 of a radius of 0.001 over 360 x
    480 pixels) and so many entries round alike that no factor on ``target`` hits the norm; single entries do.

    Args:
        point: float32, each entry a neighbour of the entry of ``target``.
        target: float64 in [0, 1], inside the ball.
        image: float64, the centre of the ball.
        wanted: the change of the sum, not zero. A negative one is reached or passed, a positive one is not exceeded.
        power: 1 for the l1 norm, 2 for the l2 norm.
    """
    away = torch.where(target > point, torch.inf, -torch.inf).to(point.dtype)
    other = torch.where(target == point, point, torch.nextafter(point, away))
    before, after = (point.double() - image).abs(), (other.double() - image).abs()
    change = (after.pow(power) - before.pow(power)).flatten() / wanted
    one = 2**36  # the wanted change, in integers: their running sum is the same on every device and in every run
    shares = change.clamp(0.0, 2.0) * one
    shares = (shares.ceil() if wanted > 0 else shares).long()
    reached = shares.cumsum(0)
    moved = (reached <= one if wanted > 0 else reached - shares < one) & (change > 0)
    return torch.where(moved.view(point.shape), other, point)


def _linf_bounds(image: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Largest float32 box inside ``[image - radius, image + radius]`` and [0, 1]."""
    exact = image.double()
    low, high = (exact - radius).to(image.dtype), (exact + radius).to(image.dtype)
    infinity = torch.full_like(image, torch.inf)
    low = torch.where(exact - low.double() > radius, torch.nextafter(low, infinity), low)
    high = torch.where(high.double() - exact > radius, torch.nextafter(high, -infinity), high)
    return low.clamp_min(0.0), high.clamp_max(1.0)


def ascent_direction(gradient: Tensor, threat: Threat) -> Tensor:
    """The unit step that raises a linear function most: the sign for l-inf, the normalised gradient for l2. For l1 see
    :func:`sparse_direction`.

    A zero gradient gives a zero step.
    """
    if isinstance(threat, Linf):
        return gradient.sign()
    if isinstance(threat, L2):
        smallest, largest = gradient.aminmax()
        extent = torch.maximum(largest, -smallest).clamp_min(torch.finfo(gradient.dtype).tiny)
        scaled = gradient / extent  # so that no square vanishes
        return scaled.div_(scaled.norm().clamp_min(1.0))
    raise ConfigError("No ascent direction for this threat", expected="L2 or Linf", received=threat)


def sparse_direction(gradient: Tensor, point: Tensor, number: int) -> Tensor:
    """A step of l1 norm 1 within the box: the signs of the ``number`` largest entries of the gradient among those that
    can still move, equally long (Tramer and Boneh 2019; Croce and Hein 2021). One entry would raise a linear function
    most, but its side of the box is soon met.

    Args:
        gradient: the gradient of the loss, of the point's shape.
        point: the point where the step begins, in [0, 1]. An entry that lies on the side of [0, 1] it is drawn to
            cannot move and is not counted, but if its gradient is among the largest it goes along: the projection,
            which shortens all entries alike, then leaves it where it is.
        number: how many entries change, at least 1; of equally large ones the first are taken, and none that is zero.
    """
    size = gradient.abs()
    free = torch.where(torch.where(gradient > 0.0, point < 1.0, point > 0.0), size, 0.0)
    least = free.flatten().kthvalue(max(1, size.numel() - number + 1)).values
    least = least.clamp_min(torch.finfo(size.dtype).tiny)
    larger, tied = torch.count_nonzero(free > least), free == least
    tied &= tied.flatten().cumsum(0).view_as(tied) <= number - larger
    step = torch.where((size > least) | tied, gradient.sign(), 0.0)
    return step.div_((larger + torch.count_nonzero(tied)).clamp_min(1))


def random_start(image: Tensor, threat: Threat, generator: torch.Generator) -> Tensor:
    """A random point of the threat's ball, projected: uniform in the cube for l-inf, on the sphere for l2, normal for
    l1 (few entries are left of it)."""
    if isinstance(threat, Linf):
        delta = torch.empty_like(image).uniform_(-threat.radius, threat.radius, generator=generator)
    else:
        delta = torch.empty_like(image).normal_(generator=generator)
        if isinstance(threat, L2):
            delta *= threat.radius / delta.norm()
    return project(image + delta, image, threat)
