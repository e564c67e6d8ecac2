"""Simulated pixels of known probability: the share of images with any false certificate stays at alpha."""

import numpy as np
import pytest
import torch
from linear_pixels import image_with_margins, two_classes

from certseg.certifiers import SegCertify
from certseg.hardware import Hardware
from certseg.noise import NoiseStream
from certseg.sampling import NoisySampler
from certseg.stats import upper_tail

TRIALS = 3000
ALPHA = 0.05


def false_certificate_rate(certifier, probabilities, decide, rng, correlated=False):
    """Share of simulated images in which a pixel with p <= tau is certified.

    Args:
        certifier: gives n, n0 and tau.
        probabilities: of the top class of each pixel.
        decide: from ``(pixels,)`` counts of the n samples and of the n0 samples to a bool mask.
        rng: of the simulation.
        correlated: one uniform per sample shared by all pixels, the strongest positive dependence.
    """
    wrong = 0
    for _ in range(TRIALS):
        if correlated:
            uniform = rng.random((certifier.n, 1))
            counts = (uniform < probabilities[None]).sum(0)
        else:
            counts = rng.binomial(certifier.n, probabilities)
        guesses = rng.binomial(certifier.n0, probabilities)
        wrong += bool((decide(counts, guesses) & (probabilities <= certifier.tau)).any())
    return wrong / TRIALS


def honest(certifier):
    return lambda counts, _: certifier.decide(torch.from_numpy(counts)).numpy()


@pytest.mark.parametrize("correction", ["holm", "bonferroni"])
@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize("share_true", [1.0, 0.3])
def test_family_wise_error_is_controlled(correction, correlated, share_true):
    certifier = SegCertify(sigma=0.25, tau=0.75, n0=10, n=100, alpha=ALPHA, correction=correction)
    rng = np.random.default_rng(1)
    probabilities = np.where(np.arange(200) < 200 * share_true, 0.75, 0.999)  # the worst case sits exactly at tau
    rate = false_certificate_rate(certifier, probabilities, honest(certifier), rng, correlated)
    assert rate <= ALPHA + 4 * np.sqrt(ALPHA * (1 - ALPHA) / TRIALS)


def test_the_simulation_notices_a_broken_rule():
    """No correction, reused guessing samples and miscounted trials all exceed alpha by far."""
    rng = np.random.default_rng(2)
    certifier = SegCertify(sigma=0.25, tau=0.75, n0=60, n=100, alpha=ALPHA)
    probabilities = np.full(200, 0.75)
    limit = ALPHA + 4 * np.sqrt(ALPHA * (1 - ALPHA) / TRIALS)

    def uncorrected(counts, _):
        return upper_tail(certifier.n, certifier.tau)[counts] <= ALPHA

    def miscounted(counts, guesses):
        return certifier.decide(torch.from_numpy(np.minimum(counts + guesses, certifier.n))).numpy()

    for broken in (uncorrected, miscounted):
        assert false_certificate_rate(certifier, probabilities, broken, rng) > 2 * limit


def test_reusing_the_guessing_samples_breaks_the_test():
    """Choosing the class and testing it on the same samples certifies wrongly, fresh samples do not."""
    rng = np.random.default_rng(3)
    certifier = SegCertify(sigma=0.25, tau=0.5 + 1e-9, n0=20, n=20, alpha=ALPHA)
    wrong_reused = wrong_fresh = 0
    for _ in range(TRIALS):
        first = rng.binomial(20, 0.5, 50)  # two classes, both of probability 1/2: nothing may be certified
        top = first >= 10
        reused = np.where(top, first, 20 - first)
        second = rng.binomial(20, 0.5, 50)
        fresh = np.where(top, second, 20 - second)
        wrong_reused += bool(certifier.decide(torch.from_numpy(reused)).any())
        wrong_fresh += bool(certifier.decide(torch.from_numpy(fresh)).any())
    limit = ALPHA + 4 * np.sqrt(ALPHA * (1 - ALPHA) / TRIALS)
    assert wrong_fresh / TRIALS <= limit
    assert wrong_reused > 1.5 * max(wrong_fresh, 1)


def rate_of_certified_coin_flips(certifier, images):
    """Share of images, every pixel of which flips a fair coin between two classes, with any pixel certified."""
    model, hardware = two_classes(), Hardware(device="cpu", noise_batch=certifier.n)
    image = image_with_margins(model, torch.zeros(5, 10))
    assert (model.probability(image, certifier.noise.sigma) == 0.5).all()
    wrong = 0
    for name in range(images):
        result = certifier.certify(model, image, stream=NoiseStream(0, str(name)), hardware=hardware)
        wrong += bool(result.certified.any())
    return wrong / images


def test_certify_itself_draws_fresh_samples(monkeypatch):
    """The whole of ``certify`` on a model of exact probability 1/2 keeps alpha; testing on the guessing samples, which
    doubles the chance that a pixel passes, does not. (alpha puts the first threshold just above P[Bin(20, 1/2) >= 16],
    so that the discrete test loses little of it.)"""
    images = 800
    certifier = SegCertify(sigma=0.25, tau=0.5 + 1e-9, n0=20, n=20, alpha=0.296)
    limit = certifier.alpha + 4 * np.sqrt(certifier.alpha * (1 - certifier.alpha) / images)
    assert rate_of_certified_coin_flips(certifier, images) <= limit
    agreement = NoisySampler.agreement
    monkeypatch.setattr(
        NoisySampler, "agreement", lambda self, classes, first, number: agreement(self, classes, 0, number)
    )
    assert rate_of_certified_coin_flips(certifier, images) > limit


def test_no_power_is_thrown_away():
    """With every pixel at tau and one test, the rate comes close to alpha: the test is exact, not merely valid."""
    certifier = SegCertify(sigma=0.25, tau=0.75, n=100, alpha=ALPHA)
    rate = false_certificate_rate(certifier, np.array([0.75]), honest(certifier), np.random.default_rng(4))
    table = upper_tail(certifier.n, certifier.tau)
    exact = table[table <= ALPHA].max()
    assert abs(rate - exact) <= 4 * np.sqrt(exact * (1 - exact) / TRIALS)
