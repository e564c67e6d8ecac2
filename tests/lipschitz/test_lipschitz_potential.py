"""Convex potentials, the bound that holds almost orthogonal convolutions, and sorting that differentiates itself."""

import itertools

import pytest
import torch
from torch import nn

from certseg.errors import ConfigError, ModelError
from certseg.lipschitz import layers
from certseg.lipschitz.audit import audit, bake, local_norm
from certseg.lipschitz.operator_norms import convolution_norm, spread_bound
from certseg.models import LipDeepLabV3


@pytest.fixture(autouse=True)
def seeded(one_thread):
    torch.manual_seed(0)


def potential(norm, channels=4, hidden=6, translation=None, **settings):
    """A convex potential in float64 whose convolution has this norm but for 1e-4, and biases that matter."""
    settings = {"padding": 1, "bias": False, "dtype": torch.float64, **settings}
    inner = nn.Conv2d(channels, hidden, 3, **settings)
    inner.weight.data *= norm / convolution_norm(inner.weight, dilation=inner.dilation).upper
    centering = layers.BatchCentering(hidden).double()
    centering.bias.data.normal_()
    return layers.ConvexPotential(inner, translation or centering).eval()


def dense(module, image):
    """Jacobian at ``image`` ``1 x C x H x W``."""
    return torch.autograd.functional.jacobian(lambda x: module(x).flatten(), image).flatten(1)


@pytest.mark.parametrize("settings", [{}, {"padding": 0}, {"padding": 2, "dilation": 2}, {"padding": 3}], ids=str)
def test_jacobians_are_those_of_the_formula(settings):
    module = potential(0.9, **settings)
    image = torch.randn(1, 4, 6, 5, dtype=torch.float64)
    c = dense(module.convolution, image)
    active = (module.translation(module.convolution(image)) > 0).double().flatten()
    expected = torch.eye(c.shape[1], dtype=torch.float64) - 2 * c.T @ torch.diag(active) @ c
    assert torch.allclose(dense(module, image), expected, atol=1e-12)
    assert 0 < active.mean() < 1


@pytest.mark.parametrize("norm", [0.3, 1.0, 1.7])
def test_the_constant_is_above_all_that_is_seen(norm):
    module = potential(norm)
    network = nn.Sequential(module).eval()
    constant = audit(network, (6, 5), channels=4).constant
    assert constant == pytest.approx(max(1.0, 2 * norm**2 - 1), rel=1e-3)
    images = torch.randn(4, 1, 4, 6, 5, dtype=torch.float64)
    assert max(float(torch.linalg.matrix_norm(dense(module, image), ord=2)) for image in images) <= constant
    pairs = itertools.combinations(images, 2)
    with torch.no_grad():
        moved = [float((module(a) - module(b)).norm() / (a - b).norm()) for a, b in pairs]
    assert max(moved) <= constant


def test_the_constant_is_reached_where_all_units_are_active():
    inner = nn.Conv2d(2, 2, 1, bias=False, dtype=torch.float64)
    inner.weight.data = 1.5 * torch.eye(2, dtype=torch.float64)[:, :, None, None]
    network = nn.Sequential(layers.ConvexPotential(inner, nn.Identity())).eval()
    image = torch.rand(1, 2, 3, 3, dtype=torch.float64)
    assert torch.allclose(network(image), -3.5 * image)
    assert audit(network, (3, 3), channels=2).constant == pytest.approx(3.5)
    inner.weight.data /= 1.5  # a reflection
    assert torch.allclose(network(image), -image)
    assert audit(network, (3, 3), channels=2).constant == pytest.approx(1.0)


@pytest.mark.parametrize(
    "inner",
    [
        nn.Conv2d(2, 2, 2, stride=2, bias=False),
        nn.Conv2d(2, 2, 3, padding=1),
        nn.Conv2d(2, 2, 3, padding=1, bias=False, groups=2),
        nn.Conv2d(2, 2, 3, padding="same", bias=False),
        nn.Conv2d(2, 2, 3, padding=1, bias=False, padding_mode="circular"),
    ],
    ids=["stride", "bias", "groups", "same", "circular"],
)
def test_only_convolutions_that_their_transpose_leads_back_from(inner):
    with pytest.raises(ConfigError, match="transpose leads back"):
        layers.ConvexPotential(inner, nn.Identity())
    module = potential(0.5, channels=2, hidden=2)
    module.convolution = inner.double()
    with pytest.raises(ModelError, match="transpose leads back"):
        audit(nn.Sequential(module).eval(), (4, 4), channels=2)


@pytest.mark.parametrize("translation", [nn.ReLU(), layers.Scale(3.0), nn.BatchNorm2d(6)], ids=lambda m: str(m)[:5])
def test_what_is_no_translation_is_refused(translation):
    network = nn.Sequential(potential(0.5, translation=translation.double())).eval()
    with pytest.raises(ModelError, match="translation"):
        audit(network, (4, 4), channels=4)


def test_rounding_stays_within_what_the_audit_allows():
    blocks = [potential(1.0) for _ in range(4)]
    network = nn.Sequential(*blocks)
    single = bake(network, torch.float32)
    image = torch.rand(1, 4, 9, 7)
    certificate = audit(single, (9, 7), channels=4)
    exact = bake(single)(image.double())
    seen = float((single(image).double() - exact).norm())
    assert 0 < seen <= certificate.error
    assert float(exact.norm()) <= certificate.magnitude


def test_spread_bounds_hold_and_certify_almost_orthogonal_layers():
    for shape in [(3, 5, 3, 3), (6, 2, 3, 2), (4, 4, 1, 3)]:
        kernel = torch.randn(shape, dtype=torch.float64)
        matrix = dense(lambda x, k=kernel: torch.conv2d(x, k, padding=2), torch.zeros(1, shape[1], 7, 7).double())
        assert spread_bound(kernel) >= convolution_norm(kernel).lower
        assert spread_bound(kernel) >= float(torch.linalg.matrix_norm(matrix, ord=2))
    positive = torch.rand(4, 4, 3, 3, dtype=torch.float64)  # absolute values change nothing here
    assert spread_bound(positive) == pytest.approx(convolution_norm(positive).upper, rel=1e-3)
    network = LipDeepLabV3(num_classes=3, name="x", size=[[8, 2], [8, 2]], residual=True)
    layer = next(m.convolution for m in network.modules() if isinstance(m, layers.ConvexPotential))
    assert spread_bound(layer.weight.detach().double()) <= 1 + 1e-6


@pytest.mark.parametrize("convolution", ["orthogonal", "spectral"])
def test_residual_networks_are_audited_after_training_steps(convolution):
    network = LipDeepLabV3(
        num_classes=3, name="x", size=[[8, 2], [8, 2]], rates=[2], residual=True, convolution=convolution
    )
    optimiser = torch.optim.SGD(network.parameters(), lr=0.5)
    images, labels = torch.rand(2, 3, 12, 10), torch.randint(0, 3, (2, 12, 10))
    for _ in range(3):
        optimiser.zero_grad()
        network.loss(images, labels)["loss_ce"].backward()
        optimiser.step()
    network.eval()
    certificate = network.certificate((12, 10))
    assert 0.1 < certificate.constant <= 1.001
    assert {"ConvexPotential"} <= {layer.kind for layer in certificate.layers}
    norm = local_norm(lambda x: network.features(x[None]), images[0].double())
    assert 0 < norm <= certificate.constant


@pytest.mark.parametrize("module", [layers.MaxMin(), layers.GroupSort2()], ids=["maxmin", "groupsort2"])
def test_sorting_sends_gradients_where_values_came_from(module):
    x = torch.randn(2, 6, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, x)
    assert torch.autograd.gradgradcheck(module, x)  # Jacobians times vectors, as power iteration needs them
    assert torch.equal(module(x).sort(dim=1).values, x.sort(dim=1).values)
    same = torch.ones(1, 2, 1, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(same)[0, 0].sum(), same)
    assert sorted(gradient.flatten().tolist()) == [0.0, 1.0]


def test_sorting_works_under_function_transforms():
    x = torch.randn(2, 4, 2, 2, dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda one: layers.MaxMin()(one[None])[0]))(x)
    single = torch.autograd.functional.jacobian(layers.MaxMin(), x[1:])[0, :, :, :, 0]
    assert torch.equal(jacobian[1], single)


def test_rounding_of_many_blocks_adds_up_and_does_not_multiply():
    network = nn.Sequential(*[potential(1.0) for _ in range(40)]).eval()
    certificate = audit(network, (9, 7), channels=4)
    one = audit(network[:1].eval(), (9, 7), channels=4)
    assert certificate.constant == pytest.approx(1.0, abs=0.05)
    assert certificate.error < 40 * 40 * one.error
    assert certificate.magnitude < 41 * one.magnitude
    far = torch.rand(1, 4, 9, 7, dtype=torch.float64)
    assert float(network(far).detach().norm()) <= certificate.magnitude


def test_settings_that_the_weights_do_not_have_are_refused():
    conv = nn.Conv2d(4, 4, 3, padding=1, bias=False).double()
    conv.weight = nn.Parameter(torch.zeros(4, 4, 5, 5, dtype=torch.float64))
    with pytest.raises(ModelError, match="otherwise than its weights"):
        audit(nn.Sequential(conv, nn.AdaptiveAvgPool2d(1)).eval(), (6, 6), channels=4)
    module = potential(1.0)
    module.convolution.out_channels, module.translation = 1, layers.BatchCentering(1).double().eval()
    with pytest.raises(ModelError, match="otherwise than its weights"):
        audit(nn.Sequential(module).eval(), (6, 6), channels=4)
    conv = nn.Conv2d(4, 4, 3, padding=1, bias=False).double()
    conv.stride = 1
    with pytest.raises(ModelError, match="pair of integers"):
        audit(nn.Sequential(conv).eval(), (6, 6), channels=4)


@pytest.mark.parametrize("value", [float("nan"), 1e155])
def test_weights_without_a_norm_are_refused(value):
    module = potential(1.0)
    module.convolution.weight.data[0, 0, 0, 0] = value
    with pytest.raises(ModelError, match="NaN, infinite or huge"):
        audit(nn.Sequential(module).eval(), (6, 6), channels=4)
    module = potential(1.0)
    module.translation.mean.fill_(float("inf"))
    with pytest.raises(ModelError, match="not finite"):
        audit(nn.Sequential(module).eval(), (6, 6), channels=4)
