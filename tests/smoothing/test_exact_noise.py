"""Noise that is exact on grey levels: probabilities by another arithmetic, draws by their moments, and the network that
looks at the spacing of floating point numbers."""

import math
from fractions import Fraction
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from support.linear_pixels import image_with_margins, two_classes

import certseg
from certseg.certifiers import IndivClass, SegCertify
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.compute.table_draws import MOST_VALUES, RANDOM_BITS
from certseg.errors import ConfigError
from certseg.smoothing.lattice import TAIL, Lattice
from certseg.smoothing.noise import FLOAT_NOISE, ROUNDED_IMAGE, Gaussian, Laplace, Noise, Uniform
from certseg.smoothing.sampling import NoisySampler

CPU = Hardware(device="cpu")
NOISES = [
    Gaussian(0.25, 255),
    Gaussian(0.005, 255),
    Gaussian(3 / 255, 255),
    Gaussian(0.001, 65535),
    Laplace(0.05, 255),
    Laplace(0.002, 255),
    Uniform(0.25, 255),
    Uniform(0.001, 255),
]


def below(noise: Noise, x) -> mpmath.mpf:
    """P[noise < x steps], to 60 digits; for x <= 0."""
    sigma = mpmath.mpf(noise.sigma) * noise.lattice.steps
    if isinstance(noise, Gaussian):
        return mpmath.ncdf(x / sigma)
    if isinstance(noise, Laplace):
        return mpmath.exp(x * mpmath.sqrt(2) / sigma) / 2
    half = mpmath.sqrt(3) * sigma
    return max((x + half) / (2 * half), mpmath.mpf(0))


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_the_law_lies_within_the_stated_total_variation_of_rounded_noise(noise):
    """The ideal probabilities by mpmath's error function instead of a series."""
    weights = noise.weights()
    last = len(weights) // 2
    assert sum(weights) == 2**RANDOM_BITS
    assert weights == weights[::-1]
    with mpmath.workdps(60):
        edges = [below(noise, mpmath.mpf(k) - mpmath.mpf("0.5")) for k in range(-last, 1)]
        ideal = [upper - lower for lower, upper in pairwise(edges)]
        distance = sum(abs(p - mpmath.mpf(weight) / 2**RANDOM_BITS) for p, weight in zip(ideal, weights))
        middle = 1 - 2 * edges[-1]
        distance += abs(middle - mpmath.mpf(weights[last]) / 2**RANDOM_BITS) / 2 + edges[0]
        assert 2 * edges[0] <= TAIL
        assert distance * MOST_VALUES <= noise.total_variation
        assert distance * MOST_VALUES >= noise.total_variation / 100  # the bound is no wild guess
    assert noise.tested(0.75) >= Fraction(0.75) + Fraction(noise.total_variation)
    assert noise.tested(0.75) < 0.75 + 1e-13


def test_a_tau_that_leaves_no_room_is_refused():
    with pytest.raises(ConfigError, match="tau"):
        SegCertify(sigma=0.25, tau=math.nextafter(1.0, 0.0))


@pytest.mark.parametrize("noise", [noise for noise in NOISES if noise.grey_levels == 255], ids=str)
def test_draws_have_the_moments_of_rounded_noise(noise):
    """Mean and variance within 5 standard errors, which follow from the table's own moments; the law by chi-square on
    cells of at least 10 expected draws."""
    image = torch.randint(0, 256, (3, 100, 100), generator=torch.Generator().manual_seed(0)) / torch.tensor(255.0)
    out = torch.empty(12, *image.shape)
    noise.copies(image, NoiseStream(0, "a"), 0, out)
    steps = noise.lattice.steps
    draws = (out.double() * steps).round() - (image.double() * steps).round()
    assert torch.equal(out, ((image.double() * steps).round() + draws).float() / torch.tensor(float(steps)))
    weights = np.array([float(weight) for weight in noise.weights()]) / 2.0**RANDOM_BITS
    values = np.arange(len(weights)) - len(weights) // 2
    variance, fourth = (weights * values**2.0).sum(), (weights * values**4.0).sum()
    assert variance == pytest.approx((noise.sigma * steps) ** 2 + 1 / 12, rel=0.02)  # Sheppard
    count = draws.numel()
    assert abs(float(draws.mean())) < 5 * math.sqrt(variance / count)
    assert abs(float((draws**2).mean()) - variance) < 5 * math.sqrt((fourth - variance**2) / count)
    seen = np.bincount((draws.flatten().numpy() + len(weights) // 2).astype(int), minlength=len(weights))
    many = weights * count >= 10
    observed, expected = np.append(seen[many], seen[~many].sum()), np.append(weights[many], weights[~many].sum())
    kept = expected > 0
    assert observed[~kept].sum() == 0
    assert stats.chisquare(observed[kept], expected[kept] * count).pvalue > 1e-4


@pytest.mark.parametrize(("grey_levels", "sigma"), [(255, 0.25), (65535, 0.01), (255, 0.004)])
def test_a_clean_copy_is_the_image_itself(grey_levels, sigma):
    """What the network sees of grey level k without noise is the float32 number that reading the image gives."""
    lattice = Gaussian(sigma, grey_levels).lattice
    levels = np.arange(grey_levels + 1)
    image = torch.from_numpy((levels.astype(np.float32) / np.float32(grey_levels)).reshape(1, 1, -1))
    assert torch.equal(lattice.integers(image).flatten(), torch.from_numpy(levels * lattice.refinement).int())
    assert lattice.holds(image)
    assert torch.allclose(lattice.rounded(image), image, rtol=1e-7, atol=0)
    assert torch.equal(lattice.seen(image), lattice.rounded(image))
    if lattice.refinement == 1:
        assert torch.equal(lattice.rounded(image), image)


def test_small_noise_gets_a_finer_lattice_and_impossible_noise_is_refused():
    assert Gaussian(3 / 255, 255).lattice.refinement == 1
    assert Gaussian(2.9 / 255, 255).lattice.refinement == 2
    assert str(Gaussian(0.005, 255)) == "gaussian, sigma=0.005, grey levels of 1/255, steps of 1/1020"
    for bad in ((1e-8, 255), (1000.0, 255), (300.0, 65535)):
        with pytest.raises(ConfigError, match="grey_levels=null"):
            Gaussian(*bad)
    for bad in (0, 2.5, "8", True):
        with pytest.raises(ConfigError, match="grey_levels"):
            SegCertify(sigma=0.25, grey_levels=bad)


class Spacing(torch.nn.Module):
    """Class 1 where some number below 1/2048 in size is no multiple of 2^-36, as sums of noise and a larger number
    always are; else class 0. One answer for the whole image."""

    num_classes = 2

    def forward(self, images):
        small = (images.abs() < 1 / 2048) & (images != (images * 2.0**36).round() * 2.0**-36)
        says = small.flatten(1).any(dim=1).float()[:, None, None].expand(-1, *images.shape[-2:])
        return torch.stack([1 - says, says], dim=1)


def certificates_of_black(grey_levels):
    """Of a black image, and of that image plus 0.1684 / sqrt(d) everywhere: l2 distance .1684, certified .1686."""
    black = torch.zeros(3, 64, 64)
    shifted = black + 0.1684 / math.sqrt(black.numel())
    certifier = SegCertify(sigma=0.25, tau=0.75, grey_levels=grey_levels)
    assert float((shifted - black).double().norm()) < certifier.radius
    return [certseg.certify(Spacing(), image, certifier, hardware=CPU) for image in (black, shifted)]


def test_a_network_that_looks_at_the_spacing_of_floats_gets_no_contradicting_certificates():
    one, other = certificates_of_black(255)
    assert one.certified.all()
    assert other.certified.all()
    assert torch.equal(one.classes, other.classes)
    assert not one.flags
    assert other.flags == (ROUNDED_IMAGE,)


def test_floating_point_noise_is_refuted_by_it_and_flagged():
    """Both certificates promise what the other one breaks."""
    one, other = certificates_of_black(None)
    assert one.certified.all()
    assert other.certified.all()
    assert (one.classes != other.classes).all()
    assert FLOAT_NOISE in one.flags
    assert FLOAT_NOISE in other.flags
    assert "refute" in one.guarantee.assuming


def test_certified_classes_are_drawn_with_the_probability_of_the_ideal_noise():
    """A pixel of exact probability: the sum of three rounded values, by convolution of the table, against counts."""
    noise = Gaussian(0.25, 255)
    weights = np.array([float(weight) for weight in noise.weights()]) / 2.0**RANDOM_BITS
    law = np.convolve(np.convolve(weights, weights), weights)
    levels = torch.tensor([[100, 120], [126, 140]])
    image = (levels / torch.tensor(255.0)).expand(3, -1, -1)
    sums = 3 * levels.numpy()[..., None] + np.arange(len(law)) - len(law) // 2
    exact = (law * (sums < 382.5)).sum(axis=-1)  # class 0 is the darker one
    counts = NoisySampler(two_classes(), image, noise, NoiseStream(0, "a"), Hardware(device="cpu", noise_batch=64))
    share = counts.agreement(torch.zeros(2, 2, dtype=torch.int64), 0, 4000) / 4000
    error = np.sqrt(exact * (1 - exact) / 4000)
    assert (np.abs(share.numpy() - exact) <= 5 * error).all()


@pytest.mark.parametrize("batch", [1, 3, 16])
@pytest.mark.parametrize("threads", [1, 2])
def test_samples_are_equal_in_every_batch_and_with_every_number_of_threads(batch, threads):
    seen, before = [], torch.get_num_threads()

    class Recording(type(two_classes())):
        def forward(self, images):
            seen.append(images.clone())
            return super().forward(images)

    linear = two_classes()
    model = Recording(linear.weight.detach(), linear.bias.detach())
    image = torch.randint(0, 256, (3, 7, 5), generator=torch.Generator().manual_seed(0)) / torch.tensor(255.0)
    noise = Gaussian(0.25, 255)
    expected = torch.empty(16, *image.shape)
    noise.copies(image, NoiseStream(0, "a"), 0, expected)
    try:
        torch.set_num_threads(threads)
        hardware = Hardware(device="cpu", noise_batch=batch)
        NoisySampler(model, image, noise, NoiseStream(0, "a"), hardware).class_counts(0, 16)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.cat(seen), expected)


def test_the_whole_map_is_tested_at_the_probability_of_draws(monkeypatch):
    """A lower bound of exactly tau plus the total variation proves nothing about the ideal noise."""
    certifier = IndivClass(sigma=0.25, tau=0.75)
    for bound, proven in ((certifier.noise.tested(0.75), False), (0.75 + 1e-12, True)):
        monkeypatch.setattr(certifier, "lower_bound", lambda counts, bound=bound: bound)
        assert certifier.decide(torch.tensor([100])) == proven
        assert certifier.untied_radius(torch.tensor([100])) <= certifier.noise.radius(bound)


def test_points_between_grey_levels_are_not_rounded_before_their_noise():
    """A point .4 levels above black is seen as level 0 or 1 as the noise has it, in the mean at .4."""
    noise, point = Gaussian(0.25, 255), torch.full((3, 64, 64), 0.4 / 255)
    out = torch.empty(16, 3, 64, 64)
    noise.copies_around(point, NoiseStream(0, "a"), 0, out)
    assert torch.equal(noise.lattice.seen(out), out)
    assert float(out.mean()) == pytest.approx(0.4 / 255, abs=5 * 0.25 / out.numel() ** 0.5)
    assert Lattice(255).rounded(point).eq(0).all()


@pytest.mark.parametrize("grey_levels", [255, None])
def test_exact_noise_certifies_what_floating_point_noise_does(grey_levels):
    """Of pixels of known probabilities as many as the binomial distribution says, within 5 standard errors: a pixel is
    certified if its count reaches Bonferroni's threshold, which is the same for both."""
    model = two_classes()
    image = Lattice(255).rounded(image_with_margins(model, torch.linspace(0.1, 0.6, 3000).reshape(50, 60)))
    certifier = SegCertify(sigma=0.25, n=100, correction="bonferroni", grey_levels=grey_levels)
    found = certseg.certify(model, image, certifier, hardware=Hardware(device="cpu", noise_batch=50))
    levels = np.flatnonzero(stats.binom.sf(np.arange(101) - 1, 100, 0.75) <= 0.001 / 3000)
    chance = stats.binom.sf(levels[0] - 1, 100, model.probability(image, 0.25).numpy())
    assert 0.2 < chance.mean() < 0.8
    error = math.sqrt((chance * (1 - chance)).sum())
    assert abs(int(found.certified.sum()) - chance.sum()) <= 5 * error


@pytest.mark.parametrize("stopping", ["fixed", "curtailed", "anytime"])
def test_pixels_are_tested_at_the_probability_of_draws(stopping):
    """A level that the test of tau itself just reaches is not reached by the slightly larger one of exact draws."""
    level = float(stats.binom.sf(19, 20, 0.75))
    by_float, exact = (
        SegCertify(sigma=0.25, tau=0.75, n=20, alpha=level, stopping=stopping, grey_levels=grey_levels).test
        for grey_levels in (None, 255)
    )
    assert by_float.taus == (0.75,)
    assert exact.taus[0] == Gaussian(0.25, 255).tested(0.75) > 0.75
    if stopping != "anytime":
        assert by_float.decide(torch.tensor([[20]])).all()
        assert not exact.decide(torch.tensor([[20]])).any()
