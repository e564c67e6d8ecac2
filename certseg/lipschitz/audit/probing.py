"""Lower bounds of Lipschitz constants, to hold an audit against: they prove nothing themselves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def local_norm(function: Callable[[Tensor], Tensor], image: Tensor, steps: int = 30, seed: int = 0) -> float:
    """Power iteration on the Jacobian of ``function`` at ``image``: but for rounding not above the Lipschitz constant.

    Args:
        function: a function that is differentiable almost everywhere.
        image: where its Jacobian is taken, of any shape that ``function`` accepts.
        steps: number of iterations; more of them find a larger norm.
        seed: seed of the random direction that the iteration begins with.

    >>> round(local_norm(lambda image: 2.0 * image, torch.zeros(3)), 4)
    2.0
    """
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(image.shape, generator=generator).to(image)
    image = image.detach().clone().requires_grad_()
    output = function(image)
    weights = torch.zeros_like(output, requires_grad=True)
    (gradient,) = torch.autograd.grad(output, image, weights, create_graph=True)  # J^T weights, linear in them
    norm = 0.0
    for _ in range(steps):
        length = float(direction.double().norm())
        if length == 0.0:
            break
        (forward,) = torch.autograd.grad(gradient, weights, direction / length, retain_graph=True)  # J direction
        norm = max(norm, float(forward.double().norm()))
        (direction,) = torch.autograd.grad(output, image, forward, retain_graph=True)
    return norm
