"""Transfer attacks: another network's gradients, and the flag of a network that hides its own."""

import pytest
import torch
from linear_pixels import image_with_margins, two_classes

from certseg.attacks import PGD, SEA, Transfer
from certseg.errors import ModelError
from certseg.hardware import Hardware
from certseg.noise import NoiseStream
from certseg.types import Linf

CPU = Hardware(device="cpu", noise_batch=4)
THREAT = Linf(0.04)

pytestmark = pytest.mark.usefixtures("one_thread")


class Masked(torch.nn.Module):
    """Predicts as :func:`two_classes` does and gives gradients that point the wrong way."""

    num_classes = 2

    def __init__(self):
        super().__init__()
        self.inner = two_classes()

    def forward(self, images):
        logits = self.inner(images)
        return 2 * logits.detach() - logits


def scene():
    model = two_classes()
    image = image_with_margins(model, torch.linspace(0.01, 0.1, 40).view(5, 8))
    return image, torch.zeros(5, 8, dtype=torch.int64)


def run(attack, model):
    image, target = scene()
    return attack(model, image, target, THREAT, stream=NoiseStream(0, "x"), hardware=CPU)


def test_a_transfer_predicts_with_the_attacked_network():
    """The surrogate alone would call every pixel class 1 after the attack; the network is another one."""
    surrogate = two_classes()
    with torch.no_grad():
        surrogate.bias += torch.tensor([-0.1, 0.1])
    direct = run(PGD(10), surrogate)
    result = run(Transfer(PGD(10), surrogate), two_classes())
    assert torch.equal(result.adversarial, direct.adversarial)
    assert torch.equal(result.prediction, two_classes()(result.adversarial[None]).argmax(1)[0])
    assert not torch.equal(result.prediction, direct.prediction)
    assert result.passes.forward == direct.passes.forward + 1


def test_gradients_that_mislead_are_flagged():
    sea = SEA(("cross_entropy",), iterations=10, reference_steps=5)
    assert (run(sea, Masked()).prediction == 0).all(), "its own gradients do not break it"
    result = run(SEA(("cross_entropy",), iterations=10, reference_steps=5, surrogate=two_classes()), Masked())
    assert result.winner == "transfer"
    assert "transfer_beats_white_box" in result.flags
    assert (result.prediction == 1).sum() > 10


def test_an_honest_network_is_not_flagged():
    result = run(SEA(("cross_entropy",), iterations=20, reduce_radius=False, surrogate=two_classes()), two_classes())
    assert result.winner == "cross_entropy"
    assert not result.flags
    assert [member.name for member in result.members] == ["cross_entropy", "reference", "transfer"]


def test_a_surrogate_must_know_the_same_classes():
    other = two_classes()
    other.num_classes = 3
    with pytest.raises(ModelError, match="surrogate"):
        run(Transfer(PGD(2), other), two_classes())
