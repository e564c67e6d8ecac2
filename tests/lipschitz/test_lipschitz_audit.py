"""The audit: above what images show, exact where it can be, and closed to networks it knows too little about."""

import json
import math

import numpy as np
import pytest
import torch
from support.shared import SHARED, needs_shared
from torch import nn

from certseg.errors import ModelError
from certseg.lipschitz import layers
from certseg.lipschitz.audit import Audit, audit, bake, local_norm
from certseg.lipschitz.audit.rules import RULES


@pytest.fixture(autouse=True)
def seeded(one_thread):
    torch.manual_seed(0)


def orthonormal(rows, columns):
    """A 1x1 convolution of norm 1 in float64."""
    conv = nn.Conv2d(columns, rows, 1, bias=False, dtype=torch.float64)
    nn.init.orthogonal_(conv.weight)
    return conv


def example():
    """A network with most kinds of modules, biases that matter, odd sizes inside."""
    branch = nn.Sequential(nn.Conv2d(6, 6, 3, stride=2, padding=1), layers.MaxMin(), nn.ConvTranspose2d(6, 6, 2, 2))
    return nn.Sequential(
        layers.Normalise([0.4, 0.5, 0.6], [0.5, 0.5, 0.25]),
        nn.Conv2d(3, 12, 3, stride=2, padding=1),
        nn.BatchNorm2d(12),
        layers.GroupSort2(),
        layers.PositionBias(12, (2, 3)),
        layers.ChannelSplit([nn.Identity(), layers.SameSize(branch)], [6, 6]),
        layers.Concat([nn.Identity(), layers.Pooled(nn.Conv2d(12, 4, 1), 2)], [0.6, 0.8]),
        nn.Conv2d(16, 8, 3, padding=2, dilation=2),
        layers.BatchCentering(8),
        nn.ReLU(),
        layers.WeightedSum([nn.Identity(), nn.Conv2d(8, 8, 3, padding=1)], [0.3, -0.7]),
        layers.Enlarge(2),
        layers.Scale(-0.5),
    )


@pytest.mark.parametrize("size", [(13, 9), (10, 16)])
def test_the_constant_is_above_the_local_norms_of_random_images(size):
    network = example()
    network.train()
    for _ in range(3):
        network(torch.rand(4, 3, *size))  # statistics
    network = bake(network)
    certificate = audit(network, size)
    images = torch.rand(3, 1, 3, *size, dtype=torch.float64)
    norms = [local_norm(network, image) for image in images]
    assert 0 < max(norms) <= certificate.constant
    assert {layer.kind for layer in certificate.layers} >= {"Conv2d", "ConvTranspose2d", "Concat", "BatchNorm2d"}
    first, second = images[0], images[1]
    moved = float((network(first) - network(second)).norm())
    assert moved <= certificate.constant * float((first - second).norm())
    assert float(network(first).norm()) <= certificate.magnitude


def test_float32_stays_within_the_a_priori_error_of_float64():
    network = bake(example(), torch.float32)
    certificate = audit(network, (12, 12))
    image = torch.rand(1, 3, 12, 12)
    seen = float((network(image).double() - bake(network)(image.double())).norm())
    assert 0 < seen <= certificate.error < 1.0
    assert audit(bake(network), (12, 12)).error < 1e-8


def test_isometries_and_a_split_skip_have_constant_one():
    split = layers.ChannelSplit([nn.Identity(), nn.Sequential(orthonormal(4, 4), layers.MaxMin())], [4, 4])
    network = nn.Sequential(orthonormal(8, 3), split, orthonormal(8, 8)).eval()
    assert audit(network, (5, 7), claimed=1.0).constant == pytest.approx(1.0, abs=1e-9)
    assert local_norm(network, torch.rand(1, 3, 5, 7, dtype=torch.float64)) == pytest.approx(1.0, abs=1e-6)


@needs_shared("golden", "lip_checkpoint.npz")
def test_constants_are_composed_as_in_the_official_network():
    meta = json.loads(str(np.load(SHARED / "golden" / "lip_checkpoint.npz")["meta"]))
    norms = {name: entry["opnorm_exact"] * entry["coeff"] for name, entry in meta["layers64"].items()}
    branches = [norms.pop(f"aspp.convs.module_list.{index}") for index in range(4)]
    project = norms.pop("aspp.project.0") / 0.5  # the factor of the concatenation
    parts = [layers.Concat([layers.Scale(norm) for norm in branches]), layers.Scale(project)]
    parts += [layers.Scale(norm) for norm in norms.values()]
    network = nn.Sequential(layers.Normalise([0.0] * 3, [1.0] * 3), *parts).eval()
    expected = meta["L_from_exact_layer_norms_64"]
    assert audit(network, (64, 64)).constant == pytest.approx(expected, rel=1e-6)


def test_a_module_that_occurs_twice_counts_twice():
    conv, activation = orthonormal(3, 3), nn.ReLU()
    conv.weight.data *= 3
    conv.limit = 2.0
    network = nn.Sequential(conv, activation, conv, activation).eval()
    assert audit(network, (4, 4)).constant == pytest.approx(9.0)
    baked = bake(network)
    assert baked[0] is baked[2]
    assert audit(baked, (4, 4)).constant == pytest.approx(4.0)
    assert dense_norm(nn.Sequential(baked[0], baked[2]), 3, (2, 2)) == pytest.approx(4.0)


@pytest.mark.parametrize(
    "settings", [{"dilation": 2, "padding": 2}, {"stride": 3, "padding": 1}, {"padding": "same"}], ids=str
)
def test_circular_convolutions_where_they_are_whole(settings):
    conv = nn.Conv2d(2, 3, 3, bias=False, padding_mode="circular", dtype=torch.float64, **settings)
    assert dense_norm(conv, 2, (6, 9)) <= audit(nn.Sequential(conv).eval(), (6, 9), channels=2).constant


# --- planted faults: each is refused, or its constant is found to be above the claimed one


def shift(stride=1, **settings):
    """A convolution of norm 1 under zero padding whose windows overlap: every tap an orthonormal block."""
    conv = nn.Conv2d(2, 8, 3, stride=stride, padding=1, bias=False, dtype=torch.float64, **settings)
    basis = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    with torch.no_grad():
        conv.weight.zero_()
        for index, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
            conv.weight[:, :, row, column] = basis[:, 2 * index : 2 * index + 2]
    return nn.Sequential(conv).eval()


def dense_norm(module, channels, size):
    images = torch.eye(channels * math.prod(size), dtype=torch.float64).view(-1, channels, *size)
    return float(torch.linalg.matrix_norm(module(images).flatten(1).detach(), ord=2))


def test_circular_padding_is_refused_where_the_stride_does_not_divide_the_side():
    zeros, circular = shift(2), shift(2, padding_mode="circular")
    assert audit(zeros, (7, 7), channels=2, claimed=1.0).constant == pytest.approx(1.0)
    assert dense_norm(zeros, 2, (7, 7)) <= 1 + 1e-12
    assert dense_norm(circular, 2, (7, 7)) > 1.2  # so refusing is right
    with pytest.raises(ModelError, match="circular"):
        audit(circular, (7, 7), channels=2)
    with pytest.raises(ModelError, match="circular"):
        audit(circular, (8, 7), channels=2)
    assert dense_norm(circular, 2, (8, 8)) <= audit(circular, (8, 8), channels=2, claimed=1.0).constant
    wrong = nn.Sequential(nn.Conv2d(2, 8, 3, padding=2, padding_mode="circular")).eval()
    with pytest.raises(ModelError, match="circular"):
        audit(wrong, (8, 8), channels=2)


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_paddings_that_repeat_pixels_are_refused(mode):
    network = shift(padding_mode=mode)
    with pytest.raises(ModelError, match=mode):
        audit(network, (8, 8), channels=2)


def test_a_forgotten_normalisation_is_above_the_claim():
    branches = [orthonormal(3, 3), orthonormal(3, 3)]
    audit(nn.Sequential(layers.Concat(branches)).eval(), (6, 6), claimed=1.0)
    faults = [
        layers.Concat(branches, [1.0, 1.0]),
        layers.WeightedSum(branches, [1.0, 1.0]),
        nn.Sequential(orthonormal(3, 3), nn.Upsample(scale_factor=2, mode="bilinear")),
        nn.Sequential(orthonormal(3, 3), nn.MaxPool2d(3, 2, 1)),
    ]
    for fault in faults:
        with pytest.raises(ModelError, match="above the one"):
            audit(nn.Sequential(fault).eval(), (6, 6), claimed=1.0)


def test_dividing_by_the_smallest_deviation_twice_is_above_the_claim():
    std = [0.2, 0.25, 0.3]
    normalise = layers.Normalise([0.5] * 3, std)
    right = nn.Sequential(normalise, layers.Scale(min(std))).eval()
    wrong = nn.Sequential(normalise, layers.Scale(1 / min(std))).eval()
    audit(right, (4, 4), claimed=1.0)
    with pytest.raises(ModelError, match=r"24\.99|25"):
        audit(wrong, (4, 4), claimed=1.0)


# --- refusals


def test_train_mode_autocast_and_reduced_precision_are_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ModelError, match="training mode"):
        audit(network, (8, 8))
    network.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ModelError, match="autocast"):
        audit(network, (8, 8))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with pytest.raises(ModelError, match="TF32"):
            audit(network, (8, 8))
        audit(network.double(), (8, 8))
    finally:
        torch.set_float32_matmul_precision(before)
    with pytest.raises(ModelError, match="arithmetic"):
        audit(network.to(torch.bfloat16), (8, 8))


def test_what_it_does_not_know_is_refused():
    class Own(nn.Conv2d):
        def forward(self, x):
            return 3 * super().forward(x)

    hooked = nn.Sequential(nn.Conv2d(3, 4, 1))
    hooked[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    replaced = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    replaced[1].forward = lambda x: 2 * x
    inside = nn.Sequential(nn.Conv2d(3, 4, 1))
    inside[0]._conv_forward = lambda x, weight, bias: 2 * x
    parametrized = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 1)))
    cases = {
        "GELU": nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU()),
        "Own": nn.Sequential(Own(3, 4, 1)),
        "hooks": hooked,
        "is replaced": replaced,
        "of it is replaced": inside,
        "parametrized": parametrized,
        "channels": nn.Sequential(nn.Conv2d(4, 4, 1)),
        "even": nn.Sequential(nn.Conv2d(3, 5, 1), layers.MaxMin()),
        "too small": nn.Sequential(nn.Conv2d(3, 5, 9)),
        "NaN": nn.Sequential(nn.Conv2d(3, 5, 1)),
    }
    cases["NaN"][0].weight.data[0] = math.nan
    for words, network in cases.items():
        with pytest.raises(ModelError, match=words):
            audit(network.eval(), (8, 8))
    assert Own not in RULES


def test_weights_that_change_during_an_audit_are_noticed():
    network = nn.Sequential(nn.Conv2d(3, 4, 3)).double().eval()
    work = Audit(network)
    first = work.certificate((8, 8))
    assert work.certificate((9, 8)).constant == first.constant
    network[0].weight.data *= 2
    with pytest.raises(ModelError, match="changed"):
        work.certificate((8, 8))
    again = audit(network, (8, 8))
    assert again.constant == pytest.approx(2 * first.constant)
    assert again.weights != first.weights


def test_the_certificate_is_plain():
    content = audit(bake(example()), (12, 12)).plain()
    assert content["size"] == (12, 12)
    assert content["dtype"] == "float64"
    assert all(layer["lower"] <= layer["constant"] * (1 + 1e-9) for layer in content["layers"])
