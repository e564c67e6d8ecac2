"""Rounding: the analysis by hand, against arithmetic of more digits, and what it makes of costs at a boundary."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from certseg.certifiers import Lipschitz
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ModelError
from certseg.evaluation import CertificationStage
from certseg.lipschitz import layers
from certseg.lipschitz.audit import Audit
from certseg.lipschitz.worst_case import (
    ClassGeometry,
    FlippableImage,
    RadiusFigures,
    class_attacks,
    entry_costs,
    flip_costs,
)
from certseg.lipschitz.worst_case.changes import changes_within
from certseg.models import LipschitzNetwork
from certseg.types import Guarantee, LipschitzBound, Sample

UNIT = 2.0**-53


@pytest.fixture(autouse=True)
def seeded(one_thread):
    torch.manual_seed(0)


def pixelwise(weight, bias=None):
    """A 1x1 convolution in float64."""
    weight = torch.as_tensor(weight, dtype=torch.float64)
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None, dtype=torch.float64)
    with torch.no_grad():
        conv.weight.copy_(weight[:, :, None, None])
        if bias is not None:
            conv.bias.copy_(torch.as_tensor(bias))
    return conv.eval()


def test_magnitude_and_error_by_hand():
    """Sixteen times the textbook bound of each sum, carried through the norms that follow."""
    size, pixels = (2, 3), 6
    position = layers.PositionBias(2, size).double()
    position.map.data.fill_(5.0)
    network = nn.Sequential(pixelwise([[3.0, 0.0], [0.0, 4.0]], [5.0, 12.0]), position, pixelwise([[1.0, 1.0]])).eval()
    found = Audit(network, channels=2).certificate(size)

    gamma = 16 * 3 * UNIT / (1 - 3 * UNIT)
    image = 2 * math.sqrt(2 * pixels)  # an image in [0, 1], moved by a perturbation no larger than the largest one
    first = 4 * image + 13 * math.sqrt(pixels)
    error = gamma * (4 * image + 13 * math.sqrt(pixels))
    added = 5 * math.sqrt(2 * pixels)
    error += 4 * UNIT * (first + error + added)
    second = first + added
    error = math.sqrt(2) * error + gamma * math.sqrt(2) * (second + error)
    assert found.magnitude == pytest.approx(math.sqrt(2) * second, rel=1e-9)
    assert found.error == pytest.approx(error, rel=1e-9)
    assert found.constant == pytest.approx(4 * math.sqrt(2), rel=1e-9)
    assert found.output == (1, *size)


def exact(network, images):
    """``network`` of 1x1 convolutions and position biases in extended precision, without its own rounding."""
    values = images.numpy().astype(np.longdouble)
    for module in network:
        if isinstance(module, nn.Conv2d):
            weight, bias = (part.detach().numpy().astype(np.longdouble) for part in (module.weight, module.bias))
            values = np.einsum("kc,bchw->bkhw", weight[:, :, 0, 0], values) + bias[:, None, None]
        else:
            values = values + module.map.detach().numpy().astype(np.longdouble)
    return values


@pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="no arithmetic of more digits")
def test_float64_stays_within_its_error_where_biases_are_large():
    """Most of the rounding comes from the biases; a bound that forgot them would be far too small."""
    size = (6, 7)
    position = layers.PositionBias(5, size).double()
    position.map.data.normal_(std=1e5)
    first = pixelwise(torch.randn(8, 3), 1e6 * torch.randn(8).double())
    network = nn.Sequential(first, pixelwise(torch.randn(5, 8), torch.randn(5).double()), position).eval()
    found = Audit(network).certificate(size)
    images = torch.rand(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        seen = float(np.linalg.norm((network(images).numpy() - exact(network, images)).astype(np.float64)))
    assert 1e4 * UNIT * found.constant * float(images.norm()) < seen <= found.error < 2000 * seen
    assert float(network(images).detach().norm()) <= found.magnitude


@pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="no arithmetic of more digits")
def test_the_slack_of_a_logit_in_float64():
    size, classes = (6, 7), 4
    body = pixelwise(torch.randn(8, 3), 1e6 * torch.randn(8))
    network = LipschitzNetwork(body, 8, num_classes=classes, name="x", convolution="free").double().eval()
    with torch.no_grad():
        network.head.bias.normal_(std=1e7)
        network.offset.map.normal_(std=1e7)
    images = torch.rand(1, 3, *size, dtype=torch.float64)
    bound, certificate = network.certified_bound(size), network.certificate(size)
    rows = network.head.weight.detach()[:, :, 0, 0]
    longest = float(rows.norm(dim=1).max())
    offsets = float(network.head.bias.detach().abs().max() + network.offset.map.detach().abs().max())
    features = certificate.magnitude + certificate.error
    sums = 16 * (8 + 8) * UNIT * (longest * features + offsets)
    assert bound.slack == pytest.approx(longest * certificate.error + sums, rel=1e-5)
    network.offset.map.data = network.offset.stretched(size).detach()
    bound = network.certified_bound(size)
    with torch.no_grad():
        wanted = exact(nn.Sequential(body, network.head, network.offset), images - 0.5)
        seen = float(np.abs(network(images).numpy() - wanted).max())
    assert 1e6 * UNIT < seen <= bound.slack


def test_the_measured_slack_is_a_hundredfold():
    body = pixelwise(torch.randn(8, 3)).float()
    network = LipschitzNetwork(
        body, 8, num_classes=4, name="x", convolution="free", position_bias=False, arithmetic="float32"
    ).eval()
    bound, images = network.certified_bound((20, 20)), torch.rand(4, 3, 20, 20)
    assert bound.flags == ("calibrated",)
    with torch.no_grad():
        features = network._held.frozen.body.double()(images.double())
        wanted = network._held.frozen.head.double()(features)
    network = network.train().eval()
    seen = float((network(images).double() - wanted).abs().max())
    assert 30 * seen < bound.slack < 300 * seen


def idle_at_first():
    """A network of one pixel in float32 whose rounding shows where channel 0 is above .8 alone: adding 2^20 and taking
    it off again then rounds to multiples of 1/8."""
    raised, lowered = layers.BatchCentering(1), layers.BatchCentering(1)
    raised.bias.data.fill_(2.0**20)
    lowered.bias.data.fill_(-(2.0**20))
    body = nn.Sequential(pixelwise([[1.0, 0.0, 0.0]], [-0.3]), nn.ReLU(), raised, lowered).float()
    network = LipschitzNetwork(
        body, 1, num_classes=2, name="x", convolution="free", position_bias=False, arithmetic="float32"
    ).eval()
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
        network.head.bias.copy_(torch.tensor([0.1, 0.0]))
    return network


def test_rounding_that_the_measured_images_do_not_show():
    network, images = idle_at_first(), torch.zeros(2, 3, 1, 1)
    images[:, 0] = torch.tensor([0.8624, 0.8626]).view(2, 1, 1)
    with torch.no_grad():
        assert network(images).argmax(dim=1).flatten().tolist() == [0, 1]  # closer than 3e-4
    bound = network.certified_bound((1, 1))
    assert bound.slack > 0.1
    certificate = Lipschitz(radius=0.04, radii=(0.04,)).certify(
        network, images[0], stream=NoiseStream(0, "x"), hardware=Hardware(device="cpu")
    )
    assert not certificate.certified.any()
    assert "rounds no logit" in certificate.guarantee.assumption
    stage = CertificationStage(
        Lipschitz(radius=0.04, radii=(0.04,)), network, ("a", "b"), seed=0, hardware=Hardware(device="cpu")
    )
    row, _ = stage.run(Sample("x", images[0], torch.zeros(1, 1, dtype=torch.int64)))
    told = Guarantee.from_json(stage.summarise([row])["guarantee"])
    assert told == certificate.guarantee != stage.guarantee
    exact = LipschitzNetwork(pixelwise(torch.randn(2, 3)), 2, num_classes=2, name="x", convolution="free").eval()
    assert exact.certified_bound((2, 2)).assumption == ""


def test_the_slack_that_was_measured_is_never_nothing():
    """Of weights that float32 multiplies exactly nothing is seen on the images measured; one rounding stays."""
    body = pixelwise([[1.0, 0.0, 0.0]]).float()
    network = LipschitzNetwork(
        body, 1, num_classes=2, name="x", convolution="free", position_bias=False, arithmetic="float32"
    ).eval()
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
    bound, certificate = network.certified_bound((2, 3)), network.certificate((2, 3))
    assert bound.slack >= 2.0**-24 * certificate.magnitude > 0


def test_a_constant_above_the_claim_is_flagged_and_used():
    weight = torch.eye(3) * 1.0005
    network = LipschitzNetwork(pixelwise(weight), 3, num_classes=4, name="x", convolution="orthogonal").double().eval()
    bound = network.certified_bound((4, 4))
    assert bound.flags == ("constant_above_claim",)
    assert bound.constant == pytest.approx(1.0005, rel=1e-6)
    network.body[2].weight.data /= 1.0005
    assert network.certified_bound((4, 4)).flags == ()


# --- costs


def image_of(slack, dtype=torch.float32, head=None):
    logits = (torch.randn(5, 40, 50, generator=torch.Generator().manual_seed(4)) * 0.1).to(dtype)
    target = torch.randint(0, 5, (40, 50), generator=torch.Generator().manual_seed(5))
    bound = LipschitzBound(1.0, slack=slack, head=head)
    image = FlippableImage.of(logits, target, bound)
    pixels = torch.arange(2000)
    costs = [entry_costs(image.planes, pixels, k, image.geometry) for k in range(5)]
    return image, torch.stack(costs, dim=1)


@pytest.mark.parametrize("with_head", [False, True])
def test_no_cheap_entry_is_missed_where_logits_are_rounded(with_head):
    head = torch.randn(5, 3, generator=torch.Generator().manual_seed(6)) if with_head else None
    image, every = image_of(0.01, head=head)
    for limit in (1e-3, 0.05):
        for k, attack in enumerate(class_attacks(image, limit)):
            open_ = (image.target != k) & (image.classes != k)
            for part, mask in ((attack.entered_correct, image.correct), (attack.entered_wrong, ~image.correct)):
                costs = every[open_ & mask, k].sort().values
                expected = costs[costs.cumsum(0) <= limit * (1 + 1e-9)]
                assert part.numpy() == pytest.approx(expected.numpy(), rel=1e-12)
                assert len(part) > 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_threshold_at_the_cost_itself_finds_the_change(dtype):
    """The quick search rounds; what it leaves out must cost more than the threshold all the same."""
    image, every = image_of(0.003, dtype)
    rows = image.classes + 5 * (~image.correct)
    for pixel in range(0, 2000, 5):
        for k in {0, 1, 2, 3, 4} - {int(image.classes[pixel]), int(image.target[pixel])}:
            thresholds = torch.full((10, 5), -1.0, dtype=torch.float64)
            thresholds[rows[pixel], k] = every[pixel, k]
            pixels, into = changes_within(image, thresholds)
            assert bool(((pixels == pixel) & (into == k)).any())


def test_rows_that_hardly_differ():
    """Squares of tiny distances vanish in floating point; equal rows alone can never be told apart."""
    rows = torch.tensor([[0.0], [1e-170], [1e-170]], dtype=torch.float64)
    geometry = ClassGeometry.of(LipschitzBound(1.0, head=rows), 3, torch.device("cpu"))
    assert float(geometry.squared[0, 1]) > 0
    assert float(geometry.squared[1, 2]) == 0
    logits = torch.tensor([1e-30, 0.0, 0.0], dtype=torch.float64)[:, None, None]
    assert math.isfinite(float(flip_costs(logits, LipschitzBound(1.0, head=rows))[1]))
    head = torch.tensor([[0.0], [1e-20], [5.0]], dtype=torch.float64)
    planes = torch.tensor([[1e-20], [0.0], [-9.0]])[:, None]
    image = FlippableImage.of(planes, torch.zeros(1, 1, dtype=torch.int64), LipschitzBound(1.0, head=head))
    assert len(class_attacks(image, 2.0)[1].entered_correct) == 1  # it costs 1


def at_the_boundary(excess, classes=3):
    """One pixel whose cost is above the budget of radius 1/4 by a relative ``excess``."""
    gap = math.sqrt(2 * LipschitzBound(1.0).budget(0.25) * (1 + excess))
    logits = torch.zeros(classes, 4, 4, dtype=torch.float64)
    logits[0] = 1.0
    logits[0, 1, 1] = gap
    return logits


class Fixed(nn.Module):
    """Gives the same logits for every image."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.num_classes = logits, len(logits)

    def forward(self, images):
        return self.logits[None]

    def certified_bound(self, size):
        return LipschitzBound(1.0)


@pytest.mark.parametrize(("excess", "safe"), [(-1e-13, False), (5e-14, False), (1e-12, True)])
def test_a_pixel_at_the_boundary_is_certified_by_more_than_rounding_only(excess, safe):
    logits = at_the_boundary(excess)
    certificate = Lipschitz(radius=0.25).certify(
        Fixed(logits), torch.rand(3, 4, 4), stream=NoiseStream(0, "x"), hardware=Hardware(device="cpu")
    )
    assert bool(certificate.certified[1, 1]) == safe
    assert int(certificate.certified.sum()) == 15 + safe
    bound, target = LipschitzBound(1.0), torch.zeros(4, 4, dtype=torch.int64)
    figures = RadiusFigures.of(
        FlippableImage.of(logits, target, bound), bound, (4, 4), [0.25], false_negative_rate=0.5, worst_case_iou=False
    )
    assert figures.individual == [15 + safe]


def test_heads_and_logits_whose_squares_are_infinite_are_refused():
    """Their costs would be infinite, which no budget pays: certified at every radius."""
    with pytest.raises(ModelError, match="whose squares float64 can hold"):
        LipschitzBound(1.0, head=torch.tensor([[1e156], [-1e156]], dtype=torch.float64))
    logits = torch.tensor([1e156, -1e156], dtype=torch.float64).view(2, 1, 1)
    with pytest.raises(ModelError, match="too large to compute with"):
        flip_costs(logits, LipschitzBound(1.0))
    _, costs = flip_costs(logits * 1e-60, LipschitzBound(1.0))
    assert costs.item() == pytest.approx(2e192)
