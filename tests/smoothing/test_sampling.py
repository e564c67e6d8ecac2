import weakref

import pytest
import torch
from scipy import stats
from support.linear_pixels import LinearPixels, image_with_margins, two_classes

from certseg.certifiers import DemaskedRecovery, SegCertify
from certseg.compute.forward import WorkingBatch, halving
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ModelError
from certseg.smoothing import sampling
from certseg.smoothing.lattice import Lattice
from certseg.smoothing.noise import Gaussian, Laplace, Uniform
from certseg.smoothing.sampling import NoisySampler
from certseg.types import Patch

CPU = Hardware(device="cpu")


def sampler(model, image, batch=8, sigma=0.3, name="a", seed=0, purpose="certify"):
    """Of the image rounded to grey levels, which hardly changes it."""
    hardware, noise = Hardware(device="cpu", noise_batch=batch), Gaussian(sigma, 255)
    return NoisySampler(model, noise.lattice.rounded(image), noise, NoiseStream(seed, name, purpose), hardware)


def test_noise_depends_on_seed_name_purpose_and_index_only():
    def draw(seed, name, purpose, first, size=1):
        out = torch.empty(size, 3, 4, 5)
        NoiseStream(seed, name, purpose).fill(out, Gaussian(1.0).fill, first)
        return out

    reference = draw(0, "a", "certify", 0, 6)
    assert torch.equal(reference[3:], draw(0, "a", "certify", 3, 3))
    for other in (draw(1, "a", "certify", 0), draw(0, "b", "certify", 0), draw(0, "a", "x", 0)):
        assert not torch.equal(reference[:1], other)
    assert len({tuple(sample.flatten().tolist()) for sample in reference}) == 6


@pytest.mark.parametrize("purpose", ["certify", "attack"])
def test_the_seeds_of_a_stream_differ_in_the_bits_the_cpu_keeps(purpose):
    for name in ("a", "b", "street/7"):
        stream = NoiseStream(0, name, purpose)
        seeds = [stream.generator(i, torch.device("cpu")).initial_seed() % 2**32 for i in range(2000)]
        assert [(seed - seeds[0]) % 2**32 for seed in seeds] == list(range(2000))


def test_noise_has_the_stated_distribution():
    out = torch.empty(40, 3, 50, 50)
    NoiseStream(0, "a").fill(out, Gaussian(0.25).fill, 0)
    count = out.numel()
    assert abs(float(out.mean())) < 5 * 0.25 / count**0.5
    assert float(out.std()) == pytest.approx(0.25, rel=5 / (2 * count) ** 0.5)
    correlation = torch.corrcoef(out.flatten(1))
    off = correlation[~torch.eye(40, dtype=torch.bool)]
    assert float(off.abs().max()) < 6 / (3 * 50 * 50) ** 0.5


@pytest.mark.parametrize(
    ("noise", "law"),
    [
        (Laplace(0.25), stats.laplace(scale=0.25 / 2**0.5)),
        (Uniform(0.25), stats.uniform(-0.25 * 3**0.5, 0.5 * 3**0.5)),
        (Gaussian(0.25), stats.norm(scale=0.25)),
    ],
    ids=["laplace", "uniform", "gaussian"],
)
def test_every_noise_has_its_law_and_the_radius_that_follows_from_it(noise, law):
    """On the half space along one axis, the worst case of all three theorems: within the radius, and no further, a
    class of probability tau keeps more than one half."""
    out = torch.empty(20, 3, 40, 40)
    NoiseStream(0, "a").fill(out, noise.fill, 0)
    assert stats.kstest(out.flatten().numpy(), law.cdf).pvalue > 1e-4
    assert float(out.std()) == pytest.approx(0.25, rel=0.02)
    for tau in (0.6, 0.75, 0.9):
        distance = law.ppf(tau)  # the axis value is below `distance` with probability tau
        assert law.cdf(distance - noise.radius(tau)) == pytest.approx(0.5, abs=1e-12)
    assert noise.radius(0.5) == 0.0
    assert noise.threat(0.1).norm == ("l2" if noise.name == "gaussian" else "l1")


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
    image = Lattice(255).rounded(image_with_margins(model, torch.linspace(-0.6, 0.6, 64).reshape(8, 8)))
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
        NoiseStream(0, "a").fill(out, Gaussian(1.0).fill, 0)
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
    """Runs out of memory on more than two images at once, and keeps the sizes it was asked for."""

    def __init__(self):
        super().__init__(two_classes().weight.detach(), two_classes().bias.detach())
        self.sizes = []

    def forward(self, images):
        self.sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(images)


def test_the_batch_backs_off_when_memory_runs_out():
    plain, hungry = two_classes(), Hungry()
    image = image_with_margins(plain, torch.linspace(-0.5, 0.5, 12).reshape(3, 4))
    draw = sampler(hungry, image, batch=16)
    assert torch.equal(draw.class_counts(0, 21), sampler(plain, image).class_counts(0, 21))
    assert draw.flags == {"noise_batch_reduced_to_2"}
    assert draw.passes.forward == 21


def test_the_batch_that_works_is_remembered_for_images_of_the_same_shape():
    hungry = Hungry()
    sampler(hungry, torch.rand(3, 3, 4), batch=16).class_counts(0, 16)
    hungry.sizes.clear()
    later = sampler(hungry, torch.rand(3, 3, 4), batch=16, name="b")
    later.class_counts(0, 5)
    assert hungry.sizes == [2, 2, 1]
    assert later.flags == {"noise_batch_reduced_to_2"}
    hungry.sizes.clear()
    larger = sampler(hungry, torch.rand(3, 4, 4), batch=16)
    assert not larger.flags
    larger.class_counts(0, 16)
    assert hungry.sizes[:4] == [16, 8, 4, 2]
    assert not sampler(two_classes(), torch.rand(3, 3, 4), batch=16).flags


def test_a_short_run_does_not_reduce_the_batch():
    batch = WorkingBatch(two_classes(), (3, 2, 2), Hardware(device="cpu", noise_batch=8))
    assert batch.run(lambda size: "done", 3) == ("done", 3)
    assert batch.size == 8


def test_gradients_and_samples_remember_their_own_batch():
    model, hardware = two_classes(), Hardware(device="cpu", noise_batch=8)
    WorkingBatch(model, (3, 2, 2), hardware, "gradient").run(Fits(1))
    assert WorkingBatch(model, (3, 2, 2), hardware, "gradient").size == 1
    assert WorkingBatch(model, (3, 2, 2), hardware).size == 8


@pytest.mark.parametrize("counted", ["class_counts", "agreement"])
def test_counting_that_runs_out_of_memory_backs_off_too(counted, monkeypatch):
    model = two_classes()
    image = image_with_margins(model, torch.linspace(-0.5, 0.5, 12).reshape(3, 4))
    arguments = (0, 21) if counted == "class_counts" else (torch.zeros(3, 4, dtype=torch.int64), 0, 21)
    expected = getattr(sampler(model, image), counted)(*arguments)
    winner = sampling.winner

    def hungry_winner(logits):
        if logits.shape[0] > 3:
            raise torch.OutOfMemoryError("out of memory")
        return winner(logits)

    monkeypatch.setattr(sampling, "winner", hungry_winner)
    draw = sampler(two_classes(), image, batch=16)
    assert torch.equal(getattr(draw, counted)(*arguments), expected)
    assert draw.flags == {"noise_batch_reduced_to_2"}
    assert draw.passes.forward == 21


@pytest.mark.parametrize("counted", ["class_counts", "agreement"])
def test_the_logits_of_a_batch_are_gone_before_the_next_pass(counted):
    class Watched(LinearPixels):
        alive = None

        def forward(self, images):
            assert self.alive is None or self.alive() is None
            logits = super().forward(images)
            self.alive = weakref.ref(logits)
            return logits

    draw = sampler(Watched(torch.randn(2, 3)), torch.rand(3, 2, 2), batch=2)
    arguments = (0, 7) if counted == "class_counts" else (torch.zeros(2, 2, dtype=torch.int64), 0, 7)
    getattr(draw, counted)(*arguments)
    assert draw.passes.forward == 7


class Fits:
    """Work that fits up to a number of images and holds a tensor while it runs."""

    def __init__(self, most, error="CUDA out of memory"):
        self.most, self.error, self.sizes, self.held = most, error, [], None

    def __call__(self, size):
        assert self.held is None or self.held() is None, "the failed attempt still holds its memory"
        self.sizes.append(size)
        activations = torch.ones(size)
        self.held = weakref.ref(activations)
        if size > self.most:
            raise RuntimeError(self.error)
        return float(activations.sum())


@pytest.mark.parametrize(
    "error", ["CUDA out of memory", "DefaultCPUAllocator: can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED"]
)
def test_halving_frees_a_failed_attempt_and_returns_the_batch_that_worked(error):
    work = Fits(3, error)
    assert halving(13, work) == (3.0, 3)
    assert work.sizes == [13, 6, 3]


def test_halving_gives_up_at_one_image():
    work = Fits(0)
    with pytest.raises(RuntimeError, match="out of memory"):
        halving(4, work)
    assert work.sizes == [4, 2, 1]


def test_other_runtime_errors_are_not_swallowed():
    class Broken(LinearPixels):
        def forward(self, images):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        sampler(Broken(torch.zeros(2, 3)), torch.rand(3, 2, 2)).class_counts(0, 4)


class PixelConv(torch.nn.Module):
    """The logits of ``two_classes`` by a convolution, which autocast rounds; keeps the types it returned."""

    num_classes = 2

    def __init__(self):
        super().__init__()
        linear = two_classes()
        self.conv = torch.nn.Conv2d(3, 2, 1)
        self.conv.weight.data, self.conv.bias.data = linear.weight.data[..., None, None], linear.bias.data
        self.returned = set()

    def forward(self, images):
        logits = self.conv(images)
        self.returned.add(logits.dtype)
        return logits


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_sampling_runs_at_the_precision_asked_for(precision):
    model, dtype = PixelConv(), getattr(torch, precision)
    hardware = Hardware(device="cpu", precision=precision)
    image = image_with_margins(two_classes(), torch.linspace(-0.5, 0.5, 30).reshape(5, 6))
    counts = NoisySampler(model, image, Gaussian(0.3), NoiseStream(0, "a"), hardware).class_counts(0, 40)
    assert model.returned == {dtype}
    noise = torch.empty(40, 3, 5, 6)
    NoiseStream(0, "a").fill(noise, Gaussian(0.3).fill, 0)
    with torch.no_grad():
        logits = torch.nn.functional.conv2d(
            (image + noise).to(dtype), model.conv.weight.to(dtype), model.conv.bias.to(dtype)
        )
    assert torch.equal(counts[0], (logits[:, 0] > logits[:, 1]).sum(0).int())
    assert torch.equal(counts[1], (logits[:, 1] > logits[:, 0]).sum(0).int())


def test_certify_at_bfloat16():
    model = PixelConv()
    image = image_with_margins(two_classes(), torch.tensor([[0.8, -0.8, 0.0]]))
    hardware = Hardware(device="cpu", precision="bfloat16", noise_batch=16)
    result = SegCertify(sigma=0.25).certify(model, image, stream=NoiseStream(0, "x"), hardware=hardware)
    assert model.returned == {torch.bfloat16}
    assert result.certified.tolist() == [[True, True, False]]
    assert result.classes[result.certified].tolist() == [0, 1]


@pytest.mark.parametrize("height", [5.0, 60000.0])
def test_float16_logits_are_neither_summed_nor_subtracted_in_float16(height):
    """65504 is the largest float16: 128 x 128 pixels of 5 sum to more, and so does a margin of 2 x 60000."""

    class Half(torch.nn.Module):
        num_classes = 2

        def forward(self, images):
            sign = torch.ones_like(images[:, :1])
            return (height * torch.cat([sign, -sign], dim=1)).half()

    draw = sampler(Half(), torch.rand(3, 128, 128), batch=4)
    assert (draw.class_counts(0, 6)[0] == 6).all()
    assert (draw.agreement(torch.zeros(128, 128, dtype=torch.int64), 0, 6) == 6).all()


def test_float16_logits_that_are_not_finite_are_still_an_error():
    class Overflown(torch.nn.Module):
        num_classes = 2

        def forward(self, images):
            return (1e6 * images[:, :2].abs()).half()

    with pytest.raises(ModelError, match="NaN or infinite"):
        sampler(Overflown(), torch.rand(3, 4, 4)).class_counts(0, 2)


def test_batch_normalisation_without_running_statistics_is_refused():
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3, track_running_stats=False)).eval()
    model.num_classes = 3
    with pytest.raises(ModelError, match="statistics of its batch"):
        sampler(model, torch.rand(3, 4, 4))


@pytest.mark.parametrize(
    "layer", [torch.nn.BatchNorm2d(2), torch.nn.Dropout2d(0.5)], ids=lambda layer: type(layer).__name__
)
def test_a_network_in_training_mode_is_refused(layer):
    class Moving(torch.nn.Module):
        num_classes = 2

        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, images):
            return self.layer(images[:, :2])

    image, stream, model = torch.rand(3, 8, 8), NoiseStream(0, "a"), Moving().train()
    certifiers = SegCertify(sigma=0.1, n0=2, n=100), DemaskedRecovery(patch=Patch(height=1, width=1), inpainter=None)
    for certifier in certifiers:
        with pytest.raises(ModelError, match=r"training mode.*eval\(\)"):
            certifier.certify(model, image, stream=stream, hardware=CPU)
        certifier.certify(model.eval(), image, stream=stream, hardware=CPU)
        model.train()
