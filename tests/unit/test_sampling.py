import pytest
import torch
from linear_pixels import LinearPixels, image_with_margins, two_classes

from certseg.errors import ModelError
from certseg.hardware import Hardware
from certseg.noise import Gaussian, NoiseStream
from certseg.sampling import NoisySampler

CPU = Hardware(device="cpu")


def sampler(model, image, batch=8, sigma=0.3, name="a", seed=0, purpose="certify"):
    hardware = Hardware(device="cpu", noise_batch=batch)
    return NoisySampler(model, image, Gaussian(sigma), NoiseStream(seed, name, purpose), hardware)


def test_noise_depends_on_seed_name_purpose_and_index_only():
    def draw(seed, name, purpose, first, size=1):
        out = torch.empty(size, 3, 4, 5)
        NoiseStream(seed, name, purpose).fill(out, Gaussian(1.0), first)
        return out

    reference = draw(0, "a", "certify", 0, 6)
    assert torch.equal(reference[3:], draw(0, "a", "certify", 3, 3))
    for other in (draw(1, "a", "certify", 0), draw(0, "b", "certify", 0), draw(0, "a", "x", 0)):
        assert not torch.equal(reference[:1], other)
    assert len({tuple(sample.flatten().tolist()) for sample in reference}) == 6


def test_noise_has_the_stated_distribution():
    out = torch.empty(40, 3, 50, 50)
    NoiseStream(0, "a").fill(out, Gaussian(0.25), 0)
    count = out.numel()
    assert abs(float(out.mean())) < 5 * 0.25 / count**0.5
    assert float(out.std()) == pytest.approx(0.25, rel=5 / (2 * count) ** 0.5)
    correlation = torch.corrcoef(out.flatten(1))
    off = correlation[~torch.eye(40, dtype=torch.bool)]
    assert float(off.abs().max()) < 6 / (3 * 50 * 50) ** 0.5


@pytest.mark.parametrize("batch", [1, 3, 7, 64])
def test_counts_do_not_depend_on_the_batch(batch):
    model = two_classes()
    image = image_with_margins(model, torch.linspace(-0.5, 0.5, 30).reshape(5, 6))
    reference, other = sampler(model, image, 10), sampler(model, image, batch)
    assert torch.equal(reference.class_counts(0, 23), other.class_counts(0, 23))
    classes = torch.zeros(5, 6, dtype=torch.int64)
    assert torch.equal(reference.agreement(classes, 23, 40), other.agreement(classes, 23, 40))
    assert other.passes.forward == 63


def test_agreement_is_the_class_count_of_the_class():
    torch.manual_seed(0)
    model = LinearPixels(torch.randn(5, 3), torch.randn(5))
    image = torch.rand(3, 6, 7)
    draw = sampler(model, image)
    counts = draw.class_counts(0, 50)
    assert (counts.sum(0) == 50).all()
    for k in range(5):
        classes = torch.full((6, 7), k)
        assert torch.equal(draw.agreement(classes, 0, 50), counts[k])


def test_counts_follow_the_exact_probability():
    model = two_classes()
    image = image_with_margins(model, torch.linspace(-0.6, 0.6, 64).reshape(8, 8))
    exact = model.probability(image, 0.3)
    share = sampler(model, image, 50).agreement(torch.zeros(8, 8, dtype=torch.int64), 0, 4000) / 4000
    error = (exact * (1 - exact) / 4000).sqrt()
    assert ((share - exact).abs() <= 5 * error + 1e-9).all()


@pytest.mark.parametrize("classes", [3, 300])
def test_a_tie_never_counts(classes):
    model = LinearPixels(torch.zeros(classes, 3), torch.tensor([0.0] + [1.0] * (classes - 1)))
    draw = sampler(model, torch.rand(3, 2, 2))
    assert not draw.class_counts(0, 5).any()
    for k in (0, 1, classes - 1):
        assert not draw.agreement(torch.full((2, 2), k), 0, 5).any()


def test_more_copies_in_a_batch_than_a_byte_counts():
    draw = sampler(LinearPixels(torch.zeros(2, 3), torch.tensor([1.0, 0.0])), torch.rand(3, 2, 2), batch=300)
    assert (draw.class_counts(0, 300)[0] == 300).all()
    assert (draw.agreement(torch.zeros(2, 2, dtype=torch.int64), 0, 300) == 300).all()


def test_the_order_of_memory_changes_no_noise_and_no_count():
    model = two_classes()
    image = image_with_margins(model, torch.linspace(-0.5, 0.5, 30).reshape(5, 6))
    plain, pixels = torch.empty(3, 3, 4, 5), torch.empty(3, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    for out in (plain, pixels):
        NoiseStream(0, "a").fill(out, Gaussian(1.0), 0)
    assert torch.equal(plain, pixels)
    counts = [
        NoisySampler(
            model, image, Gaussian(0.3), NoiseStream(0, "a"), Hardware(device="cpu", channels_last=order)
        ).class_counts(0, 20)
        for order in (False, True)
    ]
    assert torch.equal(*counts)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_logits_are_an_error_that_names_the_image(bad):
    model = LinearPixels(torch.zeros(2, 3), torch.tensor([bad, 0.0]))
    draw = sampler(model, torch.rand(3, 2, 2), name="street/7")
    with pytest.raises(ModelError, match="street/7"):
        draw.class_counts(0, 4)
    with pytest.raises(ModelError, match="NaN or infinite"):
        sampler(model, torch.rand(3, 2, 2)).agreement(torch.zeros(2, 2).long(), 0, 4)


def test_misshapen_logits_are_an_error():
    model = two_classes()
    model.num_classes = 5
    with pytest.raises(ModelError, match="resolution"):
        sampler(model, torch.rand(3, 2, 2)).class_counts(0, 1)


class Hungry(LinearPixels):
    """Runs out of memory on more than two images at once."""

    def forward(self, images):
        if len(images) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(images)


def test_the_batch_backs_off_when_memory_runs_out():
    plain, hungry = two_classes(), Hungry(two_classes().weight.detach(), two_classes().bias.detach())
    image = image_with_margins(plain, torch.linspace(-0.5, 0.5, 12).reshape(3, 4))
    draw = sampler(hungry, image, batch=16)
    assert torch.equal(draw.class_counts(0, 21), sampler(plain, image).class_counts(0, 21))
    assert draw.flags == {"noise_batch_reduced_to_2"}
    assert draw.passes.forward == 21


def test_other_runtime_errors_are_not_swallowed():
    class Broken(LinearPixels):
        def forward(self, images):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        sampler(Broken(torch.zeros(2, 3)), torch.rand(3, 2, 2)).class_counts(0, 4)
