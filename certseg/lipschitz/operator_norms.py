"""Upper bounds of the l2 operator norm of convolutions, rigorous and in float64.

A convolution on an image with zero padding (of any amount) is R T E: extension by zeros, the convolution T of square
summable sequences on the whole grid, restriction. E and R have norm 1, so the norm of T bounds it for every image size.
T has norm sup_w ||K(w)||_2 with the symbol K(w) = sum_t K_t exp(-i w.t), a matrix at every frequency. Stride s is a
stride-1 convolution of the s x s phases of the image, dilation splits the grid into independent copies, a transposed
convolution is the adjoint: :func:`polyphase` reduces all of them to one kernel.

Every bound includes what rounding can do to its own computation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from certseg.errors import ModelError

UNIT = 2.0**-53  # unit roundoff of float64
_LARGEST = 1e100  # weight
_TIGHT = 1e-4  # relative distance from a lower bound at which no better bound is looked for
_LARGEST_SVD = 256  # channels; above, Frobenius norms replace spectral norms of residuals
_CELLS = 1 << 12  # frequencies evaluated at most in one refinement,
_WORK = 1 << 33  # and at most this over the cube of the channels
_ENTRIES = 1 << 22  # complex numbers in memory at a time


@dataclass(frozen=True)
class NormBound:
    """Bounds of an operator norm.

    Args:
        upper: a number that is never below the norm.
        lower: a number that is not above the norm, up to rounding; it shows how tight the upper bound is.
        method: how the upper bound was found: ``matrix``, ``reshaped``, ``spread``, ``gram`` or ``grid``.
    """

    upper: float
    lower: float
    method: str


def convolution_norm(
    weight: Tensor,
    stride: Sequence[int] = (1, 1),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    enough: float = 0.0,
) -> NormBound:
    """Bound the norm of a convolution with zero padding on images of any size; its transpose has the same norm.

    Kernels that do not overlap are matrices, whose norm is computed. For all others three bounds are tried in turn: the
    Gram residual, which is tight for orthogonal convolutions; where it is not tight, absolute Gram kernels, which show
    that almost orthogonal convolutions are below 1; and where these do not suffice, the frequency grid, whose width
    grows for very many channels.

    Args:
        weight: ``co x ci/groups x kh x kw``, the weight of an ``nn.Conv2d``, or that of an ``nn.ConvTranspose2d`` as
            torch stores it.
        stride: step of the convolution along both axes.
        dilation: distance of the kernel's taps along both axes.
        groups: number of groups of channels; the largest norm of a group is that of the whole.
        enough: stop at the first bound that is not above this number; cheap ones come first. 0 looks for a tight bound.

    Raises:
        ModelError: a weight is NaN, infinite or above 1e100.

    >>> bound = convolution_norm(torch.full((1, 1, 1, 1), -3.0))
    >>> round(bound.upper, 6), bound.method
    (3.0, 'matrix')
    """
    if not bool((weight.detach().double().abs() < _LARGEST).all()):
        raise ModelError("A convolution has weights that are NaN, infinite or huge", remedy="Check the checkpoint")
    bounds = [_one_group(part, stride, dilation, enough) for part in weight.detach().double().chunk(groups)]
    largest = max(bounds, key=lambda bound: bound.upper)
    return NormBound(largest.upper, max(bound.lower for bound in bounds), largest.method)


def matrix_norm(matrix: Tensor) -> float:
    """Upper bound of the spectral norm of a real matrix: the computed norm, raised by the backward error of its SVD."""
    value = float(torch.linalg.matrix_norm(matrix.detach().double(), ord=2))
    return value * (1.0 + 16 * max(matrix.shape) * UNIT)


def polyphase(weight: Tensor, stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """The kernel ``co x (ci sh sw) x ceil(kh/sh) x ceil(kw/sw)`` of the stride-1 convolution of equal norm.

    With stride s, ``y_i = sum_t K_t x_{s i + t}`` and ``t = s q + r`` give the phases ``x_r`` their own kernels
    ``K_{s q + r}``. A dilation is written out where there is a stride, and changes no norm where there is none.
    """
    for axis, (step, spread) in enumerate(zip(stride, dilation), start=2):
        if step == 1:
            continue
        if spread > 1:
            taps = list(weight.shape)
            taps[axis] = spread * (weight.shape[axis] - 1) + 1
            wide = weight.new_zeros(taps)
            wide.index_copy_(axis, torch.arange(0, taps[axis], spread, device=weight.device), weight)
            weight = wide
        missing = -weight.shape[axis] % step
        weight = F.pad(weight, (0, 0, 0, missing) if axis == 2 else (0, missing))
        weight = weight.unflatten(axis, (-1, step)).movedim(axis + 1, 2).flatten(1, 2)
    return weight


def reshaped_bound(kernel: Tensor) -> float:
    """Upper bound from the kernel as a matrix ``co x (ci kh kw)``: no pixel is in more than ``kh kw`` windows."""
    return matrix_norm(kernel.flatten(1)) * math.sqrt(kernel[0, 0].numel()) * (1.0 + 4 * UNIT)


def spread_bound(kernel: Tensor) -> float:
    """Upper bound from the absolute Gram kernels, for kernels of stride 1: at most 1 for almost orthogonal layers.

    ``||T||^2 = ||T* T|| <= ||sum_o |G_o| ||`` with ``G_o`` the taps of T* T (or of T T*): absolute values only add to
    what it makes of a sequence, and the symbol of a kernel that is not negative is largest at frequency 0. Prach and
    Lampert (2022) bound the norm of that symmetric matrix by its weighted row sums.
    """
    bounds = []
    for part in (kernel, kernel.transpose(0, 1).flip(2, 3)):
        gram = F.conv2d(part, part, padding=[side - 1 for side in part.shape[2:]])
        bounds.append(matrix_norm(gram.abs().sum(dim=(2, 3))))
    taps = float(torch.linalg.matrix_norm(kernel.permute(2, 3, 0, 1)).sum())
    rounding = 4 * (max(kernel.shape[:2]) + 16) * kernel[0, 0].numel() * UNIT * taps**2
    return math.sqrt(min(bounds) + rounding) * (1.0 + 4 * UNIT)


def gram_bound(kernel: Tensor) -> tuple[float, float]:
    """Upper and lower bound from the Gram kernel, for kernels of stride 1.

    ``||T||^2 = ||T T*|| <= c + sum_o ||G_o - c I [o = 0]||`` with ``G_o = sum_t K_t K_{t+o}^T`` and c the mean of the
    diagonal of G_0: exact but for rounding where T T* = c I. Of T T* and T* T the smaller is taken. The lower bound is
    the norm of the longest row.
    """
    if kernel.shape[0] > kernel.shape[1]:
        kernel = kernel.transpose(0, 1).flip(2, 3)
    rows, columns, height, width = kernel.shape
    gram = F.conv2d(kernel, kernel, padding=(height - 1, width - 1))  # rows x rows x (2 kh - 1) x (2 kw - 1)
    centre = gram[:, :, height - 1, width - 1].diagonal()
    mean = float(centre.mean())
    longest = math.sqrt(max(float(centre.max()), 0.0))
    gram = gram.permute(2, 3, 0, 1).flatten(0, 1)
    gram[len(gram) // 2] -= mean * torch.eye(rows, dtype=gram.dtype, device=gram.device)
    half = gram[: len(gram) // 2 + 1]  # G_{-o} is the transpose of G_o
    norms = torch.linalg.matrix_norm(half, ord=2 if rows <= _LARGEST_SVD else "fro")
    residual = 2.0 * float(norms[:-1].sum()) + float(norms[-1])
    taps = float(torch.linalg.matrix_norm(kernel.permute(2, 3, 0, 1)).sum())
    terms = columns * height * width
    rounding = 4 * (terms + 16 * rows) * UNIT * taps**2  # of the sums in G, of the norms and of their sum
    return math.sqrt(mean + residual + rounding) * (1.0 + 4 * UNIT), longest


def grid_bound(kernel: Tensor, accuracy: float = _TIGHT) -> tuple[float, float]:
    """Upper and lower bound from the symbol at chosen frequencies, for kernels of stride 1.

    Let M be the supremum of ||K(w)||, attained at w0 with unit vectors u, v and a phase a. Along a line through w0,
    ``Re(e^{ia} u* K v)``, centred, is a real function of exponential type ``n.d`` (n half of the kernel's size less
    one, per axis; d the direction) bounded by M on the whole line, so it stays above ``M cos(n.d t)`` until that
    reaches -M (M. Riesz; Duffin and Schaeffer 1938). In a square of half-width h around a frequency c, the one that
    holds w0, ``||K(c)|| >= M cos((n1 + n2) h)``. Squares below that are dropped, the others quartered. While none is
    dropped the squares are a whole grid, and the bound of Ehlich and Zeller (1964), a cosine per axis, is tighter.

    Args:
        kernel: ``co x ci x kh x kw`` float64, of stride 1.
        accuracy: relative distance of the two bounds at which refinement stops.

    Returns:
        The upper and the lower bound.
    """
    degrees = [(taps - 1) / 2 for taps in kernel.shape[2:]]
    total = sum(degrees)
    if total == 0:
        norm = matrix_norm(kernel[:, :, 0, 0])
        return norm, norm
    points = 8 * math.ceil(total)
    axes = [torch.arange(points if n else 1, dtype=torch.float64) * (2 * math.pi / points) for n in degrees]
    half = axes[0][: points // 2 + 1] if degrees[0] else axes[0]  # ||K(-w)|| = ||K(w)||
    if not degrees[0]:
        axes[1] = axes[1][: points // 2 + 1]
    cells = torch.cartesian_prod(half, axes[1]).to(kernel.device)
    width = math.pi / points
    values = _symbol_norms(kernel, cells)
    best, upper, is_whole = float(values.max()), math.inf, True
    most = min(_CELLS, _WORK // min(kernel.shape[:2]) ** 3)
    while True:
        slack = math.prod(math.cos(n * width) for n in degrees) if is_whole else math.cos(total * width)
        upper = min(upper, float(values.max()) / slack)
        kept = values >= best * math.cos(total * width) * (1 - 1e-9)
        cells, is_whole = cells[kept], is_whole and bool(kept.all())
        if upper <= best * (1.0 + accuracy) or 4 * len(cells) > most:
            break
        width /= 2
        cells = (cells[:, None] + width * _corners(degrees).to(cells)).flatten(0, 1)
        values = _symbol_norms(kernel, cells)
        best = max(best, float(values.max()))
    taps = float(torch.linalg.matrix_norm(kernel.permute(2, 3, 0, 1)).sum())
    rounding = 64 * (kernel[0, 0].numel() + sum(kernel.shape[:2])) * UNIT * taps
    return upper * (1.0 + 8 * UNIT) + rounding, best


def absolute_norm(weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int = 1) -> float:
    """Upper bound of the norm of the convolution with the absolute values of ``weight``: what rounding errors grow
    by. The symbol of a kernel that is not negative is largest at frequency 0."""
    parts = weight.detach().double().abs().chunk(groups)
    return max(matrix_norm(polyphase(part, stride, dilation).sum(dim=(2, 3))) for part in parts)


def _one_group(weight: Tensor, stride: Sequence[int], dilation: Sequence[int], enough: float) -> NormBound:
    kernel = polyphase(weight, stride, dilation)
    if kernel.shape[2:] == (1, 1):
        norm = matrix_norm(kernel[:, :, 0, 0])
        return NormBound(norm, norm, "matrix")
    if enough and (reshaped := reshaped_bound(kernel)) <= enough:
        return NormBound(reshaped, 0.0, "reshaped")
    gram, lower = gram_bound(kernel)
    if gram <= max(lower * (1.0 + _TIGHT), enough):
        return NormBound(gram, lower, "gram")
    uppers = {"gram": gram, "spread": spread_bound(kernel)}
    if uppers["spread"] > max(lower * (1.0 + _TIGHT), enough):
        uppers["grid"], seen = grid_bound(kernel)
        lower = max(lower, seen)
    method = min(uppers, key=lambda name: uppers[name])
    return NormBound(uppers[method], lower, method)


def _symbol_norms(kernel: Tensor, frequencies: Tensor) -> Tensor:
    """Spectral norms ``(n,)`` of the symbol at ``n x 2`` frequencies."""
    if kernel.shape[0] > kernel.shape[1]:
        kernel = kernel.transpose(0, 1)
    rows, columns, height, width = kernel.shape
    taps = torch.cartesian_prod(torch.arange(height), torch.arange(width)).to(kernel).view(-1, 2)
    flat = kernel.flatten(2).to(torch.complex128)
    norms = []
    for part in frequencies.split(max(1, _ENTRIES // (rows * columns))):
        waves = torch.exp(-1j * (part @ taps.T))  # n x taps
        symbol = torch.einsum("nt,oct->noc", waves, flat)
        squares = torch.linalg.eigvalsh(symbol @ symbol.mH)[:, -1]
        norms.append(squares.clamp_min(0).sqrt())
    return torch.cat(norms)


def _corners(degrees: list[float]) -> Tensor:
    """Where the quarters of a square lie; an axis along which the symbol is constant is not split."""
    sides = [torch.tensor([-1.0, 1.0] if n else [0.0], dtype=torch.float64) for n in degrees]
    return torch.cartesian_prod(*sides)
