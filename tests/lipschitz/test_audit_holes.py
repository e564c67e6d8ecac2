"""Modules that were changed after they were made compute something else than they say: they are refused, or noticed."""

import numpy as np
import pytest
import torch
from torch import nn

from certseg.errors import ModelError
from certseg.lipschitz import layers
from certseg.lipschitz.audit import Audit, audit, fingerprint, local_norm, state_of
from certseg.models import LipDeepLabV3

SIZE = (8, 8)


@pytest.fixture(autouse=True)
def seeded(one_thread):
    torch.manual_seed(0)


def identity():
    conv = nn.Conv2d(3, 3, 1, bias=False)
    nn.init.dirac_(conv.weight)
    return conv


def measured(network):
    """The norm of a network around an image: what no audit may fall short of."""
    dtype = next(network.parameters()).dtype
    return local_norm(network, torch.rand(1, 3, *SIZE, dtype=dtype))


def compiled_by_hand(network):
    network[0]._compiled_call_impl = lambda images: 10 * images


def function_put_on(network):
    network[1].activation = torch.tanh


def convolution_with_rules(network):
    class Louder(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            found = super().__torch_function__(func, types, args, kwargs or {})
            return 10 * found.as_subclass(torch.Tensor) if func is torch.conv2d else found

    network[0].weight = nn.Parameter(network[0].weight.detach().as_subclass(Louder))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (compiled_by_hand, "a method of it is replaced"),
        (function_put_on, "a method of it is replaced"),
        (convolution_with_rules, "a class of their own"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_whatever_can_be_called_is_refused(change, words):
    network = nn.Sequential(identity(), nn.ReLU()).double().eval()
    assert audit(network, SIZE).constant == pytest.approx(1.0)
    change(network)
    with pytest.raises(ModelError, match=words):
        audit(network, SIZE)


def test_the_compiled_call_of_the_whole_network_is_refused():
    network = LipDeepLabV3(num_classes=4, name="x", size=[[8, 1]], rates=[2]).eval()
    assert network.certified_bound((12, 14)).constant <= 1 + 1e-9
    network._compiled_call_impl = lambda images: 10 * network.forward(images)
    with pytest.raises(ModelError, match="a method of it is replaced"):
        network.certified_bound((12, 14))


def test_padding_that_was_changed_under_circular_mode():
    """The forward pass pads by what the constructor derived from the padding."""
    conv = nn.Conv2d(3, 3, 3, padding=8, padding_mode="circular", bias=False, dtype=torch.float64)
    nn.init.dirac_(conv.weight)
    network = nn.Sequential(conv).eval()
    conv.padding = (1, 1)  # of which the rule would say that it makes a circular convolution
    assert measured(network) > 2.9
    with pytest.raises(ModelError, match=r"changed after it was built.*8, 8"):
        audit(network, SIZE)


def test_an_output_of_another_size_than_audited(monkeypatch):
    network = nn.Sequential(identity(), nn.AvgPool2d(2)).double().eval()
    assert audit(network, SIZE).output == (3, 4, 4)
    monkeypatch.setattr(nn.AvgPool2d, "forward", lambda self, images: images)
    with pytest.raises(ModelError, match=r"(?s)another shape.*3x4x4.*3x8x8"):
        audit(network, SIZE)


def plain_weight(network):
    weight = network[0].weight.detach().clone()
    del network[0].weight
    network[0].weight = weight


def test_a_weight_that_is_a_plain_tensor_is_part_of_the_network():
    """Pruning and older normalisations leave such tensors."""
    network = nn.Sequential(identity(), layers.BatchCentering(3)).double().eval()
    plain_weight(network)
    begun, state, digest = Audit(network), state_of(network), fingerprint(network)
    assert begun.certificate(SIZE).constant == pytest.approx(1.0)
    network[0].weight.mul_(10)
    assert measured(network) == pytest.approx(10.0, rel=1e-3)
    assert state_of(network) != state
    assert fingerprint(network) != digest
    with pytest.raises(ModelError, match="changed during its audit"):
        begun.certificate(SIZE)


@pytest.mark.parametrize(
    "kind", [lambda value: torch.tensor(value), np.asarray, np.float64], ids=["torch", "np", "np0"]
)
def test_numbers_kept_in_lists_and_arrays_are_part_of_the_network(kind):
    network = nn.Sequential(layers.WeightedSum([identity(), nn.Identity()])).double().eval()
    network[0].weights = [kind(0.5), kind(0.5)]
    state, digest = state_of(network), fingerprint(network)
    assert state_of(network) == state
    assert fingerprint(network) == digest
    if isinstance(network[0].weights[0], np.float64):
        network[0].weights[0] = kind(0.5 + 1e-12)
    else:
        network[0].weights[0] += 1e-6
    assert state_of(network) != state
    assert fingerprint(network) != digest


def test_a_weight_of_another_precision_that_is_a_plain_tensor():
    network = nn.Sequential(identity(), identity()).double().eval()
    plain_weight(network)
    network[0].weight = network[0].weight.float()
    with pytest.raises(ModelError, match="one arithmetic"):
        Audit(network)


def test_a_negative_variance_is_refused():
    """eps less almost as much: rounding to float32 decides what is left, and the norm is its inverse root."""
    norm = nn.BatchNorm2d(3, affine=False)
    norm.running_var.fill_(-1e-5 * (1 - 2**-20))
    network = nn.Sequential(identity(), norm).eval()
    with pytest.raises(ModelError, match="variances that no images have"):
        audit(network, SIZE)
    norm.running_var.fill_(0.0)
    assert audit(network, SIZE).constant == pytest.approx(1e5**0.5, rel=1e-6)
    norm.eps = 0.0
    with pytest.raises(ModelError, match="variances that no images have"):
        audit(network, SIZE)


@pytest.mark.parametrize("value", [0.0, -0.1, float("nan")])
def test_a_normalisation_by_what_is_not_positive_is_refused(value):
    network = nn.Sequential(layers.Normalise([0.5] * 3, [1.0] * 3)).double().eval()
    network[0].std[1] = value
    with pytest.raises(ModelError, match="not positive"):
        audit(network, SIZE)
