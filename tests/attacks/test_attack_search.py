"""What attacks that climb a loss have in common: labels, batches, starts and self-checks."""

import pytest
import torch
from support.attacked import CPU, STREAM, Counted, attack, convolution, images_and_targets
from support.linear_pixels import image_with_margins, two_classes

from certseg.attacks import APGD, PGD
from certseg.attacks.search import is_rising
from certseg.compute.streams import NoiseStream
from certseg.errors import DataError, ModelError
from certseg.types import L2, Linf

pytestmark = pytest.mark.usefixtures("one_thread")


def test_mostly_void_labels_do_not_hide_the_attack():
    """The official code counts ignored pixels as wrong at the start and as right later: with many of them the best
    "adversarial" image is the clean one."""
    model, (image,), (target,) = convolution(), *images_and_targets(1, size=(16, 16))
    target = model(image[None]).argmax(1)[0]
    target[:, 2:] = 255
    result = attack(model, image, target, Linf(0.1), iterations=20)
    labelled = target != 255
    assert ((result.prediction == target) & labelled).sum() < 0.7 * labelled.sum()
    assert not torch.equal(result.adversarial, image)
    assert torch.equal(result.adversarial[:, :, 5:], image[:, :, 5:])  # beyond the reach of labelled pixels
    void = attack(model, image, torch.full_like(target, 255), Linf(0.1), iterations=5)
    assert torch.equal(void.adversarial, image)
    assert void.flags == ()


def test_confident_float32_logits_are_attacked_through_jensen_shannon():
    """Logits times a hundred underflow the softmax; the official loss is then NaN and the model looks robust."""
    plain = convolution()

    class Confident(torch.nn.Module):
        num_classes = 3

        def forward(self, images):
            return 100 * plain(images)

    (image,), _ = images_and_targets(1)
    target = plain(image[None]).argmax(1)[0]
    result = attack(Confident(), image, target, Linf(0.2), iterations=30, loss="jensen_shannon")
    assert (result.prediction == target).float().mean() < 0.8
    assert result.flags == ()


@pytest.mark.parametrize("threat", [L2(0.4), Linf(0.03)])
def test_images_attacked_together_get_what_they_get_alone(threat):
    images, targets = images_and_targets(3)
    model, method = Counted(convolution()), APGD(iterations=10, restarts=2, reduce_radius=True)
    streams = [NoiseStream(0, f"image/{i}") for i in range(3)]
    together = method.together(model, images, targets, threat, streams=streams, hardware=CPU)
    assert model.batches[0] == 3
    for image, target, stream, result in zip(images, targets, streams, together):
        alone = method(model, image, target, threat, stream=stream, hardware=CPU)
        assert torch.allclose(alone.adversarial, result.adversarial, atol=1e-5)
        assert torch.equal(alone.prediction, result.prediction)
        assert alone.passes == result.passes


def test_an_image_that_falls_at_a_larger_radius_goes_ahead_of_the_others():
    """Two dark images of the linear model; one falls within twice the radius only, at its first step there."""
    model, streams = two_classes(), [NoiseStream(0, name) for name in "ab"]
    images = [image_with_margins(model, torch.full((4, 4), margin)) for margin in (0.03, 0.4)]
    images[0][:, 0] = image_with_margins(model, torch.full((4, 4), 0.5))[:, 0]
    targets = [torch.zeros(4, 4).long() for _ in images]
    targets[0][0] = 255
    counted = Counted(model)
    method = APGD(20, loss="balanced_cross_entropy", reduce_radius=True)
    together = method.together(counted, images, targets, Linf(0.012), streams=streams, hardware=CPU)
    assert together[0].passes.backward < together[1].passes.backward == 23
    for image, target, stream, result in zip(images, targets, streams, together):
        alone = method(model, image, target, Linf(0.012), stream=stream, hardware=CPU)
        assert torch.allclose(alone.adversarial, result.adversarial, atol=1e-6)
        assert alone.passes == result.passes


def test_images_of_several_shapes_are_refused():
    (small,), (target,) = images_and_targets(1)
    with pytest.raises(DataError, match="one shape"):
        APGD(2).together(
            convolution(), [small, small[:, 1:]], [target, target[1:]], Linf(0.1), streams=[STREAM] * 2, hardware=CPU
        )


def test_finished_images_leave_the_batch():
    images, targets = images_and_targets(2)
    model = convolution()
    targets[0] = (model(images[0][None]).argmax(1)[0] + 1) % 3  # wrong everywhere before the attack begins
    counted = Counted(model)
    first, second = APGD(iterations=6).together(
        counted, images, targets, Linf(0.03), streams=[STREAM, STREAM], hardware=CPU
    )
    assert counted.batches == [2] + [1] * 6 + [1, 1]
    assert first.passes.backward == 1
    assert second.passes.backward == 7
    assert torch.equal(first.adversarial, images[0])


def test_a_batch_that_does_not_fit_is_halved():
    class Hungry(Counted):
        def forward(self, images):
            if len(images) > 2:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(images)

    images, targets = images_and_targets(4)
    streams = [NoiseStream(0, str(i)) for i in range(4)]
    small, whole = (
        APGD(iterations=3).together(model, images, targets, L2(0.4), streams=streams, hardware=CPU)
        for model in (Hungry(convolution()), convolution())
    )
    for one, other in zip(small, whole):
        assert torch.allclose(one.adversarial, other.adversarial, atol=1e-5)
        assert one.flags == ("noise_batch_reduced_to_2",)
        assert one.passes == other.passes


@pytest.mark.parametrize("reduce_radius", [False, True])
def test_the_result_is_never_weaker_than_its_start(reduce_radius):
    (image,), (target,) = images_and_targets(1)
    model = convolution()
    small = attack(model, image, target, L2(0.2), iterations=20)
    large = attack(model, image, target, L2(0.21), iterations=2, start=small.adversarial, reduce_radius=reduce_radius)
    assert (large.prediction == target).sum() <= (small.prediction == target).sum()
    with pytest.raises(DataError, match="start"):
        attack(model, image, target, L2(0.1), iterations=2, start=small.adversarial)


def test_random_logits_are_flagged():
    class Random(torch.nn.Module):
        num_classes = 3

        def __init__(self, size):
            super().__init__()
            self.inner, self.size = convolution(), size

        def forward(self, images):
            logits = self.inner(images)
            return logits + self.size * torch.randn_like(logits)

    (image,), (target,) = images_and_targets(1)
    torch.manual_seed(0)
    assert "stochastic_logits" in attack(Random(0.3), image, target, Linf(0.01), iterations=3).flags
    assert attack(Random(0.0), image, target, Linf(0.01), iterations=3).flags == ()


def test_an_accuracy_that_rises_is_flagged():
    """A model that tells the attacker the wrong direction, but only once it has been asked a few times."""

    class Misleading(torch.nn.Module):
        num_classes = 2

        def __init__(self, patience):
            super().__init__()
            self.inner, self.calls, self.patience = two_classes(), 0, patience

        def forward(self, images):
            self.calls += 1
            logits = self.inner(images)
            return logits if self.calls < self.patience else 2 * logits.detach() - logits

    margins = torch.linspace(0.01, 0.4, 40).reshape(5, 8)
    image, target = image_with_margins(two_classes(), margins), torch.zeros(5, 8).long()
    for patience, flags in ((10, ("accuracy_rising",)), (1000, ())):
        result = PGD(40)(Misleading(patience), image, target, Linf(0.1), stream=STREAM, hardware=CPU)
        assert result.flags == flags
    assert not is_rising([0.5] * 7)
    assert not is_rising([0.5, 0.5, 0.3, 0.4, 0.5, 0.4, 0.5, 0.51])
    assert is_rising([0.5, 0.5, 0.3, 0.4, 0.5, 0.4, 0.52, 0.51])


def test_zero_gradients_are_counted():
    class Rounded(torch.nn.Module):
        num_classes = 2

        def forward(self, images):
            grey = images[:, :1].mean(dim=(2, 3), keepdim=True).expand(-1, -1, *images.shape[-2:])
            return torch.cat([grey, 1 - grey], dim=1)  # two of three channels have no gradient

    result = attack(Rounded(), torch.full((3, 4, 4), 0.6), torch.zeros(4, 4).long(), Linf(0.01), iterations=4)
    assert result.zero_gradients == pytest.approx(2 / 3)
    assert result.flags == ("vanishing_gradients",)


def test_a_model_without_derivative_is_refused():
    class Steps(torch.nn.Module):
        num_classes = 2

        def forward(self, images):
            grey = (images.mean(1, keepdim=True) > 0.5).float()
            return torch.cat([grey, 1 - grey], dim=1)

    with pytest.raises(ModelError, match="gradient"):
        attack(Steps(), torch.rand(3, 4, 4), torch.zeros(4, 4).long(), Linf(0.01))
