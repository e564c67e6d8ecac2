"""Simulated pixels of known probability: errors are as rare as the correction says, and broken rules exceed that."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.linear_pixels import image_with_margins, two_classes
from support.simulations import Images, MiscountedSamples, ReusedSamples, limit

from certseg.certifiers import SegCertify
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.smoothing.sampling import NoisySampler
from certseg.smoothing.statistics import upper_tail
from certseg.smoothing.stopping import FixedTest

TRIALS = 300
NULLS = Images(classes=8, nulls=9, n=36)
ALPHA = 9 * upper_tail(NULLS.n, NULLS.tau)[10]  # .097: a level of the discrete test, so that nothing of it is lost
CASES = {
    "bonferroni": NULLS,
    "holm": replace(NULLS, sure=6),  # these are rejected first and raise the level of the nulls
    "holm, blocks": replace(NULLS, sure=6, block=3),
    "kfwer, k=3": replace(NULLS, block=3, k=3),  # blocks that fall together: the worst case
    "kfwer, k=9": replace(NULLS, block=9, k=9),
    "benjamini_yekutieli": NULLS,  # a wrong pixel among nulls alone is a false discovery rate of 1
}


@pytest.mark.parametrize("look_every", [None, 18], ids=["fixed", "curtailed"])
@pytest.mark.parametrize("case", CASES)
def test_errors_are_as_rare_as_claimed_and_broken_rules_exceed_that(case, look_every):
    images, correction = CASES[case], case.split(",")[0]

    def errors(factor=1, **broken):
        test = FixedTest(images.tau, factor * ALPHA, images.n, correction, images.k, look_every)
        return images.errors(test, TRIALS, **broken)

    most = limit(ALPHA, TRIALS)
    assert errors() <= most
    assert errors(factor=images.nulls) > most  # each null tested as if it were the only one
    assert errors(samples=ReusedSamples) > most
    assert errors(samples=MiscountedSamples) > most


def test_no_power_is_thrown_away():
    """With every pixel at tau and one test, the rate comes close to alpha: the test is exact, not merely valid."""
    images = replace(NULLS, nulls=1)
    rate = images.errors(FixedTest(images.tau, 0.15, images.n, "holm"), 1000)
    table = upper_tail(images.n, images.tau)
    exact = table[table <= 0.15].max()
    assert abs(rate - exact) <= 4 * np.sqrt(exact * (1 - exact) / 1000)


def test_the_false_discovery_rate_is_controlled_and_the_family_wise_error_is_not():
    """Many pixels, a few of which are no nulls."""
    alpha, trials, rng = 0.05, 300, np.random.default_rng(6)
    null = np.arange(2000) < 1900
    counts = torch.from_numpy(rng.binomial(100, np.where(null, 0.75, 0.999), (trials, 2000)))

    def shares(level):
        decided = [FixedTest(0.75, level, 100, "benjamini_yekutieli").decide(image).numpy() for image in counts]
        return np.array([(image & null).sum() / max(1, image.sum()) for image in decided])

    honest = shares(alpha)
    most = alpha + 4 * honest.std() / np.sqrt(trials)
    assert honest.mean() <= most
    assert (honest > 0).mean() > 2 * alpha
    assert shares(16 * alpha).mean() > most


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
    images = 400
    certifier = SegCertify(sigma=0.25, tau=0.5 + 1e-9, n0=20, n=20, alpha=0.296, grey_levels=None)  # 0.5 is no level
    most = limit(certifier.alpha, images)
    assert rate_of_certified_coin_flips(certifier, images) <= most
    agreement = NoisySampler.agreement
    monkeypatch.setattr(
        NoisySampler,
        "agreement",
        lambda self, choice, first, number, groups=None: agreement(self, choice, 0, number, groups),
    )
    assert rate_of_certified_coin_flips(certifier, images) > most
