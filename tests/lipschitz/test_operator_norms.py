"""Bounds of operator norms against dense matrices, for every kind of layer after some optimiser steps."""

import copy
import math

import pytest
import torch
from torch import nn

from certseg.errors import ModelError
from certseg.lipschitz import layers
from certseg.lipschitz.audit import audit, bake
from certseg.lipschitz.networks.convolutions import Builder
from certseg.lipschitz.operator_norms import absolute_norm, convolution_norm, gram_bound, grid_bound, polyphase
from certseg.lipschitz.resampling import resize_norm


@pytest.fixture(autouse=True)
def seeded(one_thread):
    torch.manual_seed(0)


def dense(module, channels, size):
    """The matrix of the linear part of a float64 module on images of one size."""
    pixels = channels * math.prod(size)
    images = torch.eye(pixels, dtype=torch.float64).view(-1, channels, *size)
    with torch.no_grad():
        return (module(images) - module(torch.zeros_like(images[:1]))).flatten(1).T


def dense_norm(module, channels, size):
    return float(torch.linalg.matrix_norm(dense(module, channels, size), ord=2))


def stepped(module, channels, steps=3):
    """After some steps of an optimiser, so that weights are not those of the initialisation."""
    optimiser = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        (module(torch.rand(2, channels, 12, 12)) * torch.rand(1)).square().mean().backward()
        optimiser.step()
    return module


def convolution(ci, co, kernel, **settings):
    return nn.Conv2d(ci, co, kernel, **settings), ci


def transposed(ci, co, kernel, **settings):
    return nn.ConvTranspose2d(ci, co, kernel, **settings), ci


KINDS = {
    "plain": lambda: convolution(3, 4, 3, padding=1),
    "more padding": lambda: convolution(2, 3, 3, padding=3),
    "no padding": lambda: convolution(2, 3, 3),
    "five": lambda: convolution(2, 3, 5, padding=2),
    "seven": lambda: convolution(2, 2, 7, padding=3),
    "even": lambda: convolution(2, 3, 4, padding=2),
    "stride": lambda: convolution(3, 4, 3, stride=2, padding=1),
    "stride of the kernel": lambda: convolution(3, 5, 3, stride=3),
    "stride above the kernel": lambda: convolution(3, 4, 2, stride=3),
    "dilation": lambda: convolution(2, 3, 3, dilation=2, padding=2),
    "stride and dilation": lambda: convolution(2, 3, 3, stride=2, dilation=2, padding=2),
    "groups": lambda: convolution(4, 6, 3, groups=2, padding=1),
    "depthwise": lambda: convolution(3, 3, 3, groups=3, padding=1),
    "two strides": lambda: convolution(2, 3, (1, 3), stride=(1, 2), padding=(0, 1)),
    "1x1": lambda: convolution(3, 7, 1),
    "transposed": lambda: transposed(4, 3, 2, stride=2),
    "transposed overlap": lambda: transposed(3, 2, 4, stride=2, padding=1),
    "transposed odd": lambda: transposed(3, 2, 3, stride=2, padding=1, output_padding=1),
    "transposed groups": lambda: transposed(4, 4, 3, groups=2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_hold_on_every_size_and_are_tight(kind):
    module, channels = KINDS[kind]()
    module = stepped(module, channels).double()
    bound = convolution_norm(module.weight, module.stride, module.dilation, module.groups)
    assert bound.lower <= bound.upper * (1 + 1e-9)
    assert bound.upper <= bound.lower * (1 + 3e-4)
    sizes = [(7, 9), (8, 6), (10, 11)]
    norms = [dense_norm(module, channels, size) for size in sizes]
    assert max(norms) <= bound.upper
    assert max(norms) >= 0.7 * bound.upper  # zero padding costs little
    weight = module.weight.detach()
    module.weight.data = weight.abs()
    assert dense_norm(module, channels, (8, 6)) <= absolute_norm(weight, module.stride, module.dilation, module.groups)


CONSTRAINED = {
    "plain": (lambda make: make.convolution(4, 6), 4),
    "five": (lambda make: make.convolution(4, 4, 5), 4),
    "stride": (lambda make: make.convolution(4, 6, stride=2), 4),
    "dilation": (lambda make: make.convolution(4, 4, dilation=2), 4),
    "pixel": (lambda make: make.convolution(6, 4, 1), 6),
    "transposed": (lambda make: make.enlargement(6, 4), 6),
}


@pytest.mark.parametrize("layer", CONSTRAINED)
@pytest.mark.parametrize("kind", ["orthogonal", "spectral"])
def test_constrained_layers_are_baked_below_one_and_stay_themselves(kind, layer):
    build, channels = CONSTRAINED[layer]
    module = stepped(build(Builder(kind)), channels).eval()
    images = torch.rand(2, channels, 9, 8)
    for dtype in (torch.float64, torch.float32):
        baked = bake(module, dtype)
        bound = convolution_norm(baked.weight, baked.stride, baked.dilation)
        assert bound.upper <= 1.0
        assert dense_norm(copy.deepcopy(baked).double(), channels, (7, 9)) <= bound.upper
        if kind == "orthogonal":
            assert bound.lower > 1 - 2e-3
        assert torch.allclose(baked(images.to(dtype)).float(), module(images), atol=2e-3)


def test_the_gram_and_the_grid_agree_on_an_orthogonal_kernel():
    orthonormal = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    kernel = torch.zeros(6, 6, 2, 2, dtype=torch.float64)
    kernel[:3, :, 0, 1], kernel[3:, :, 1, 0] = orthonormal[:3], orthonormal[3:]  # a shift of half of the channels
    upper, lower = gram_bound(kernel)
    assert 1.0 <= upper < 1 + 1e-12
    assert lower == pytest.approx(1.0, abs=1e-12)
    assert 1.0 <= grid_bound(kernel)[0] < 1 + 1e-3  # every frequency is a peak: refinement stops early
    assert polyphase(kernel, (2, 2), (1, 1)).shape == (6, 24, 1, 1)


def test_a_narrow_peak_between_the_frequencies_of_the_first_grid_is_found():
    taps = torch.arange(7, dtype=torch.float64)
    row = torch.cos(0.55 * taps)  # its symbol peaks near frequency 0.55, which no coarse grid holds
    kernel = (row[:, None] * row).view(1, 1, 7, 7)
    fine = torch.fft.fft2(kernel, s=(1024, 1024)).abs().max()
    upper, lower = grid_bound(kernel)
    assert float(fine) <= upper <= float(fine) * (1 + 2e-4)
    assert lower <= upper


def test_weights_that_are_not_numbers_are_refused():
    with pytest.raises(ModelError, match="NaN"):
        convolution_norm(torch.full((1, 1, 3, 3), math.nan))


RESIZING = {
    "pool 3": (layers.nn.AdaptiveAvgPool2d(3), lambda size: resize_norm("pool", size, (3, 3))),
    "pool of blocks": (nn.AvgPool2d(2), lambda size: 0.5),
    "overlapping pool": (nn.AvgPool2d(3, 2, 1), None),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), None),
    "nearest": (nn.Upsample(scale_factor=2), lambda size: 2.0),
    "shuffle": (nn.PixelShuffle(2), lambda size: 1.0),
    "enlarge": (layers.Enlarge(2), lambda size: 1.0),
    "pooled": (layers.Pooled(nn.Identity(), 2), None),
    "cut": (layers.SameSize(nn.Upsample(scale_factor=2)), None),
    "sum": (layers.WeightedSum([nn.Identity(), layers.Scale(3.0)], [0.25, -0.75]), None),
    "concat": (layers.Concat([nn.Identity(), layers.Scale(-1.0), nn.Identity()]), lambda size: 1.0),
    "split": (layers.ChannelSplit([nn.Identity(), layers.Scale(0.5)], [1, 3]), lambda size: 1.0),
    "scales": (layers.Normalise([0.1] * 4, [0.5, 0.25, 0.2, 0.8]), lambda size: 5.0),
    "batch norm": (nn.BatchNorm2d(4), None),
}


@pytest.mark.parametrize("kind", RESIZING)
@pytest.mark.parametrize("size", [(7, 9), (6, 8), (5, 5)])
def test_every_other_module_against_its_matrix(kind, size):
    module, exact = RESIZING[kind]
    if isinstance(module, nn.BatchNorm2d):
        module.running_var.uniform_(0.5, 2.0)
        module.weight.data.uniform_(-2.0, 2.0)
    network = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), module).double().eval()
    network[0].weight.data[:] = torch.eye(4)[:, :, None, None]
    certificate = audit(network, size, channels=4)
    norm = dense_norm(network, 4, size)
    assert norm <= certificate.constant * (1 + 1e-12)
    if exact is not None:
        assert certificate.constant == pytest.approx(exact(size), rel=1e-7)
        assert norm == pytest.approx(exact(size), rel=1e-6)


@pytest.mark.parametrize(("pool", "constant"), [(nn.MaxPool2d(2), 1.0), (nn.MaxPool2d(3, 2, 1), 2.0)])
def test_max_pooling_holds_for_random_pairs(pool, constant):
    network = nn.Sequential(layers.Normalise([0.0] * 3, [1.0] * 3), pool).eval()
    assert audit(network, (8, 8)).constant == pytest.approx(constant)
    first, second = torch.rand(64, 3, 8, 8), torch.rand(64, 3, 8, 8)
    moved = (pool(first) - pool(second)).flatten(1).norm(dim=1)
    assert bool((moved <= constant * (first - second).flatten(1).norm(dim=1)).all())


@pytest.mark.parametrize("activation", [layers.MaxMin(), layers.GroupSort2(), nn.ReLU()])
def test_activations_are_1_lipschitz(activation):
    first, second = torch.randn(256, 6, 2, 2), torch.randn(256, 6, 2, 2)
    moved = (activation(first) - activation(second)).flatten(1).norm(dim=1)
    assert bool((moved <= (first - second).flatten(1).norm(dim=1) * (1 + 1e-6)).all())
    jacobian = torch.autograd.functional.jacobian(activation, torch.randn(1, 6, 1, 1)).view(6, 6)
    if not isinstance(activation, nn.ReLU):
        assert torch.equal(jacobian.sum(0), torch.ones(6))
        assert torch.equal(jacobian @ jacobian.T, torch.eye(6))
