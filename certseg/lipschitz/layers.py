"""Building blocks with a known Lipschitz constant, and containers that say how their parts are joined.

What a network does is the tree of its modules: a container's type fixes its forward pass, so the audit can walk the
tree instead of the code (:mod:`certseg.lipschitz.audit.rules`). ``L`` below is the constant of a part; all norms are l2
over channels and pixels together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, FunctionCtx

from certseg.errors import ConfigError
from certseg.lipschitz.resampling import resize_norm


class _Sorted(torch.autograd.Function):
    """Maxima and minima of two tensors. Their gradients are sent where they came from (the first of two equal values
    counts as the maximum), more cheaply than through ``maximum`` and ``minimum``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Maxima and minima of two tensors of the same shape, entry by entry."""
        return torch.maximum(first, second), torch.minimum(first, second)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        """Keep which of the two was the larger."""
        ctx.save_for_backward(inputs[0] >= inputs[1])

    @staticmethod
    def backward(ctx: BackwardCFunction, maxima: Tensor, minima: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of both tensors from those of the maxima and minima; differentiable again, for Jacobians times
        vectors."""
        (in_order,) = ctx.saved_tensors
        return torch.where(in_order, maxima, minima), torch.where(in_order, minima, maxima)


def _sorted(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    if torch.compiler.is_compiling():  # which makes one kernel of it anyway
        return torch.maximum(first, second), torch.minimum(first, second)
    apply: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = _Sorted.apply
    return apply(first, second)


class MaxMin(nn.Module):
    """Sorts channel c of the first half with channel c of the second (Anil et al. 2019): 1-Lipschitz and, where it is
    differentiable, a permutation, so that it keeps the norm of gradients. Needs an even number of channels."""

    def forward(self, x: Tensor) -> Tensor:
        """`B x C x H x W` to the same shape: all maxima, then all minima.

        >>> MaxMin()(torch.tensor([1.0, 5.0, 3.0, 4.0]).view(1, 4, 1, 1)).flatten().tolist()
        [3.0, 5.0, 1.0, 4.0]
        """
        return torch.cat(_sorted(*x.chunk(2, dim=1)), dim=1)


class GroupSort2(nn.Module):
    """Sorts neighbouring channels 2c and 2c + 1 (Anil et al. 2019): 1-Lipschitz as :class:`MaxMin`."""

    def forward(self, x: Tensor) -> Tensor:
        """`B x C x H x W` to the same shape, each pair in rising order."""
        maxima, minima = _sorted(*x.unflatten(1, (-1, 2)).unbind(dim=2))
        return torch.stack([minima, maxima], dim=2).flatten(1, 2)


class BatchCentering(nn.Module):
    """Subtracts the mean of each channel and adds a bias: a translation in eval mode, hence 1-Lipschitz.

    In training mode the mean is that of the batch, which couples its images, so no constant holds there; a running mean
    is kept for eval mode.

    Args:
        channels: number of channels of the input.
        momentum: weight of a new batch in the running mean, in [0, 1].
    """

    mean: Tensor

    def __init__(self, channels: int, momentum: float = 0.05):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """`B x C x H x W` to the same shape."""
        mean = self.mean
        if self.training:
            mean = x.mean(dim=(0, 2, 3))
            with torch.no_grad():
                self.mean.lerp_(mean.to(self.mean.dtype), self.momentum)
        return x - (mean - self.bias)[:, None, None]


class PositionBias(nn.Module):
    """Adds a learned map, stretched bilinearly over the image: a translation, so it costs no Lipschitz constant.

    Args:
        channels: number of channels of the input.
        grid: height and width at which the map is learned.
    """

    def __init__(self, channels: int, grid: Sequence[int] = (12, 16)):
        super().__init__()
        self.map = nn.Parameter(torch.zeros(1, channels, *grid))

    def forward(self, x: Tensor) -> Tensor:
        """`B x C x H x W` to the same shape."""
        return x + self.stretched(x.shape[-2:])

    def stretched(self, size: Sequence[int]) -> Tensor:
        """The map stretched to ``size`` (height, width), `1 x C x H x W`."""
        return F.interpolate(self.map, size=tuple(size), mode="bilinear", align_corners=False)


class Scale(nn.Module):
    """Multiplies by a fixed factor: Lipschitz with the factor's absolute value."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = float(factor)

    def forward(self, x: Tensor) -> Tensor:
        """A tensor of the same shape."""
        return x * self.factor


class Normalise(nn.Module):
    """Subtracts a mean and divides by a standard deviation, per channel: Lipschitz with 1 / min(std).

    Args:
        mean: the mean of each channel, on the [0, 1] image scale.
        std: the positive standard deviation of each channel, on the same scale. If all are equal, the constant is
            exact.

    Raises:
        ConfigError: the lengths differ, or a standard deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ConfigError(
                "Normalisation needs one mean and one positive standard deviation per channel",
                received=f"mean {list(mean)}, std {list(std)}",
            )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`B x C x H x W` to the same shape."""
        return (x - self.mean[:, None, None]) / self.std[:, None, None]


class Concat(nn.Module):
    """``cat(a_1 f_1(x), ..., a_n f_n(x))`` along channels: Lipschitz with ``sqrt(sum (a_i L_i)^2)``.

    Args:
        branches: modules ``f_i`` whose outputs have the same height and width.
        weights: the numbers ``a_i``, one for each branch. None is ``1 / sqrt(n)`` for all, with which 1-Lipschitz
            branches give a 1-Lipschitz whole.

    Raises:
        ConfigError: there is no branch, or another number of weights.
    """

    def __init__(self, branches: Sequence[nn.Module], weights: Sequence[float] | None = None):
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.weights = _weights(weights, len(branches), len(branches) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """`B x C x H x W` to `B x (C_1 + ... + C_n) x h x w`."""
        return torch.cat([branch(x) * weight for branch, weight in zip(self.branches, self.weights)], dim=1)


class WeightedSum(nn.Module):
    """``a_1 f_1(x) + ... + a_n f_n(x)``: Lipschitz with ``sum |a_i| L_i``.

    Args:
        branches: modules ``f_i`` whose outputs have the same shape.
        weights: the numbers ``a_i``, one for each branch. None is ``1 / n`` for all, which makes the sum convex.

    Raises:
        ConfigError: there is no branch, or another number of weights.
    """

    def __init__(self, branches: Sequence[nn.Module], weights: Sequence[float] | None = None):
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.weights = _weights(weights, len(branches), 1.0 / len(branches))

    def forward(self, x: Tensor) -> Tensor:
        """`B x C x H x W` to the common shape of the branches."""
        total: Tensor = self.branches[0](x) * self.weights[0]
        for branch, weight in zip(self.branches[1:], self.weights[1:]):
            total = total + branch(x) * weight
        return total


class ChannelSplit(nn.Module):
    """``cat(f_1(x_1), ..., f_n(x_n))`` with ``x = (x_1, ..., x_n)`` split along channels: Lipschitz with max L_i.

    With an identity among the branches it is a skip connection that loses no gradient norm.

    Args:
        branches: modules ``f_i`` whose outputs have the same height and width.
        channels: how many channels each branch takes, at least 1.

    Raises:
        ConfigError: a branch has no such number.
    """

    def __init__(self, branches: Sequence[nn.Module], channels: Sequence[int]):
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.channels = tuple(int(c) for c in channels)
        if len(self.channels) != len(self.branches) or min(self.channels) < 1:
            raise ConfigError("Every branch of a channel split needs its number of channels", received=channels)

    def forward(self, x: Tensor) -> Tensor:
        """`B x C x H x W` to `B x (C_1 + ... + C_n) x h x w`."""
        parts = x.split(self.channels, dim=1)
        return torch.cat([branch(part) for branch, part in zip(self.branches, parts)], dim=1)


class ConvexPotential(nn.Module):
    """``x - 2 C^T relu(translation(C x))``, a step down the gradient of a convex function (Meunier et al. 2022,
    "A dynamical system perspective for Lipschitz neural networks"): 1-Lipschitz where the norm of C is at most 1.

    With two images, ``relu`` turns the difference of its inputs into D times it, D diagonal with entries in [0, 1], so
    the difference of the outputs is ``(I - 2 C^T D C)`` times that of the inputs: a symmetric matrix with eigenvalues
    in ``[1 - 2 ||C||^2, 1]``. With orthonormal rows in C it is nearly a reflection and keeps the norm.

    Args:
        convolution: the convolution C, of stride 1, one group and zero padding, without bias.
        translation: a module that adds what does not depend on the image (:class:`BatchCentering`, in eval mode).

    Raises:
        ConfigError: ``convolution`` has another stride, padding or number of groups, or a bias.
    """

    def __init__(self, convolution: nn.Conv2d, translation: nn.Module):
        super().__init__()
        self.convolution, self.translation = convolution, translation
        if not self.is_symmetric:
            raise ConfigError(
                "The convolution of a convex potential must be one that its transpose leads back from",
                expected="stride 1, one group, zero padding, no bias",
                received=convolution,
            )

    @property
    def is_symmetric(self) -> bool:
        """Whether the forward pass goes back by the transpose of the convolution."""
        c = self.convolution
        plain = c.stride == (1, 1) and c.groups == 1 and c.bias is None and c.padding_mode == "zeros"
        return plain and not isinstance(c.padding, str)

    def forward(self, x: Tensor) -> Tensor:
        """`B x C x H x W` to the same shape."""
        c = self.convolution
        assert not isinstance(c.padding, str)  # is_symmetric
        weight = c.weight  # computed once where it is parametrized
        inner = self.translation(F.conv2d(x, weight, padding=c.padding, dilation=c.dilation))
        return x - 2.0 * F.conv_transpose2d(F.relu(inner), weight, padding=c.padding, dilation=c.dilation)


class SameSize(nn.Module):
    """``body(x)`` cut at the bottom and right to the height and width of x, or filled up there with zeros. It has the
    Lipschitz constant of the body, for neither leaving entries out nor adding zeros increases a norm."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """`B x C x H x W` to `B x C' x H x W`."""
        y = self.body(x)
        bottom, right = x.shape[-2] - y.shape[-2], x.shape[-1] - y.shape[-1]
        return y if bottom == right == 0 else F.pad(y, (0, right, 0, bottom))


class Pooled(nn.Module):
    """Averages the image in ``bins x bins`` cells, applies the body there and stretches the result bilinearly over the
    image again. Each of the two resizings is divided by its norm, so that the whole has the body's constant.

    Args:
        body: a module that keeps height and width.
        bins: number of cells along each axis.
    """

    def __init__(self, body: nn.Module, bins: int):
        super().__init__()
        self.body, self.bins = body, bins

    def forward(self, x: Tensor) -> Tensor:
        """`B x C x H x W` to `B x C' x H x W`."""
        size = x.shape[-2:]
        down, up = self.factors(size)
        y = self.body(F.adaptive_avg_pool2d(x, self.bins) * down)
        return F.interpolate(y, size=tuple(size), mode="bilinear", align_corners=False) * up

    def factors(self, size: Sequence[int]) -> tuple[float, float]:
        """What pooling and stretching are multiplied by for images of ``size`` (height, width)."""
        small = (self.bins, self.bins)
        return 1.0 / resize_norm("pool", size, small), 1.0 / resize_norm("bilinear", small, size)


class Enlarge(nn.Module):
    """Bilinear enlargement by an integer factor, divided by its exact norm: 1-Lipschitz."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = int(factor)

    def forward(self, x: Tensor) -> Tensor:
        """`B x C x H x W` to `B x C x fH x fW`."""
        size = [side * self.factor for side in x.shape[-2:]]
        y = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return y * (1.0 / resize_norm("bilinear", x.shape[-2:], size))


def _weights(weights: Sequence[float] | None, number: int, default: float) -> tuple[float, ...]:
    found = [default] * number if weights is None else [float(weight) for weight in weights]
    if len(found) != number or number == 0:
        raise ConfigError("Every branch needs one weight", expected=number, received=found)
    return tuple(found)
