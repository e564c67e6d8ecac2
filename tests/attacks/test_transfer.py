"""Transfer attacks: another network's gradients, and the flag of a network that hides its own."""

from dataclasses import replace

import pytest
import torch
from support.attacked import convolution
from support.linear_pixels import image_with_margins, two_classes

from certseg.attacks import PGD, SEA, Transfer
from certseg.attacks.sea import _Worst
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ModelError
from certseg.types import AttackResult, Linf, Passes

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


def test_nan_at_a_point_only_the_surrogate_knew_is_an_error():
    class Fragile(torch.nn.Module):
        """Gives NaN away from the image."""

        num_classes = 2

        def __init__(self):
            super().__init__()
            self.inner, self.image = two_classes(), scene()[0]

        def forward(self, images):
            return self.inner(images) + torch.where((images != self.image).any(), torch.nan, 0.0)

    with pytest.raises(ModelError, match="NaN"):
        run(Transfer(PGD(3), two_classes()), Fragile())


def test_a_surrogate_that_falls_at_once_is_climbed_on():
    """All its pixels fall at the first steps; the attacked network wants more than half of the radius."""
    brittle = two_classes()
    with torch.no_grad():
        brittle.bias += torch.tensor([-0.35, 0.35])
    stopped = run(Transfer(PGD(20), brittle), two_classes())
    result = run(Transfer(PGD(20, keep_last=True), brittle), two_classes())
    reach = THREAT.radius * 3**0.5
    within = torch.linspace(0.01, 0.1, 40).view(5, 8) < reach * 0.999
    assert (stopped.prediction == 1).sum() < within.sum()
    assert (result.prediction == 1)[within].all()
    assert result.zero_gradients == 0.0


def test_a_surrogate_that_is_the_network_itself_is_no_reason_for_mistrust():
    """Its steps are no more than a member has, and a pixel or two more is no evidence."""
    generator = torch.Generator().manual_seed(0)
    for seed in range(4):
        model, image = convolution(seed), torch.rand(3, 14, 15, generator=generator)
        target = model(image[None]).argmax(1)[0]
        sea = SEA(("balanced_cross_entropy", "jensen_shannon"), 20, reduce_radius=False, reference_steps=0)
        result = replace(sea, surrogate=model)(
            model, image, target, Linf(0.05), stream=NoiseStream(0, "x"), hardware=CPU
        )
        assert "transfer_beats_white_box" not in result.flags
        transfer = result.members[-1]
        assert transfer.passes.backward == 21


def test_both_reasons_for_mistrust_are_named():
    """The reference beats the losses, and the transfer beats both."""
    worst = _Worst(torch.zeros(2, 100, dtype=torch.int64))
    for name, left in (("cross_entropy", 150), ("reference", 140), ("transfer", 20)):
        prediction = torch.ones(200, dtype=torch.int64)
        prediction[:left] = 0
        worst.offer(name, AttackResult(torch.rand(3, 2, 100), prediction.view(2, 100), THREAT, "base", 0.0, Passes()))
    assert worst.result(is_exact=True).flags == ("transfer_beats_white_box", "weaker_beats_stronger")
    assert worst.result(is_exact=False).flags == ()
