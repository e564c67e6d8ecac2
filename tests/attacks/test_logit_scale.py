"""Attacks on networks with small logits: the scale of the logits before the loss."""

import pytest
import torch
from torch import nn

from certseg.attacks import APGD, PGD, SEA
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError
from certseg.types import L2


class Tiny(nn.Module):
    """A random convolution to four classes whose logits are multiplied by ``factor``."""

    num_classes = 4

    def __init__(self, factor=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(4, 3, 3, 3, generator=generator) * factor

    def forward(self, images):
        return torch.conv2d(images, self.weight.to(images), padding=1)


def attacked(attack, network, radius=0.3):
    image = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(1))
    target = network(image[None])[0].argmax(dim=0)
    hardware = Hardware(device="cpu")
    stream = NoiseStream(0, "image")
    result = attack(network, image, target, L2(radius), stream=stream, hardware=hardware)
    return result, float((result.prediction == target).double().mean())


@pytest.mark.parametrize("kind", [lambda s: APGD(10, logit_scale=s), lambda s: PGD(10, logit_scale=s)])
def test_scaling_the_logits_undoes_a_scaled_network(kind):
    plain, _ = attacked(kind(1.0), Tiny())
    undone, _ = attacked(kind(1024.0), Tiny(1 / 1024))
    assert torch.equal(plain.adversarial, undone.adversarial)
    assert "stochastic_logits" not in undone.flags
    other, _ = attacked(kind(1.0), Tiny(1 / 1024))
    assert not torch.equal(plain.adversarial, other.adversarial)


def test_small_logits_are_attacked_better_at_a_scale():
    network = Tiny(1e-3)
    loss = "masked_cross_entropy"
    _, linear = attacked(APGD(20, loss=loss), network)
    _, scaled = attacked(APGD(20, loss=loss, logit_scale=1e4), network)
    assert scaled < linear


def test_every_member_of_the_ensemble_has_the_scale():
    members = SEA(iterations=5, logit_scale=7.0).members()
    assert len(members) == 5
    assert {member.logit_scale for member in members.values()} == {7.0}


@pytest.mark.parametrize("scale", [0, -1.0, float("inf"), float("nan"), True, "1"])
@pytest.mark.parametrize("attack", [APGD, PGD, SEA])
def test_scales_that_are_none(attack, scale):
    with pytest.raises(ConfigError, match="logit_scale"):
        attack(logit_scale=scale)
