"""The whole of AdaptiveCertify on planted class probabilities: false certificates of groups are as rare as claimed."""

import pytest
import torch
from support.planted_classes import row
from support.simulations import MiscountedSamples, Peeking, PlantedSamples, ReusedSamples, limit, mean

from certseg.certifiers import AdaptiveCertify
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.smoothing.statistics import upper_tail

CLASSES = ("road", "car", "truck", "pole")
LEVELS = ({"vehicle": ["car", "truck"]}, {"obstacle": ["vehicle", "pole"]})
CPU, TRIALS, TAU = Hardware(device="cpu"), 400, 0.5 + 1e-9
# Road or what is joined on some level, 1/2 each: no choice has a higher probability. Then pixels sure of a road, of a
# vehicle and of an obstacle.
NULLS = [(0.5, 0.5, 0, 0)] * 10 + [(0.5, 0.25, 0.25, 0)] * 10 + [(0.5, 0.2, 0.2, 0.1)] * 5
SURE = [(1, 0, 0, 0), (0, 0.5, 0.5, 0), (0, 0.3, 0.3, 0.4)]
PROBABILITIES = row(*NULLS, *SURE)[:, 0]
# n, the samples between two looks, and an alpha that the test reaches (at 16 of 20 and at 7 of 7 samples), so that
# nothing of it is lost.
DESIGNS = {
    "fixed": (20, 20, len(NULLS) * upper_tail(20, TAU)[16] * (1 + 1e-9)),
    "curtailed": (20, 10, len(NULLS) * upper_tail(20, TAU)[16] * (1 + 1e-9)),
    "anytime": (7, 3, len(NULLS) * TAU**7 * (1 + 1e-9)),
}


def adaptive(stopping, factor=1):
    """Its level is finer than the coarsest where nearly all samples agree: else the choice follows the samples less,
    and reusing them does less harm."""
    n, look_every, alpha = DESIGNS[stopping]
    return AdaptiveCertify(
        hierarchy=LEVELS,
        class_names=CLASSES,
        sigma=0.25,
        tau=TAU,
        n0=n,
        n=n,
        alpha=factor * alpha,
        stopping=stopping,
        look_every=look_every,
        gain=0.0,
        lead=0.9,
    )


@pytest.fixture
def certify(monkeypatch):
    """Certifies a planted image and says whether a group of probability tau or less is among the certified."""
    image, samplers = torch.full((3, 1, PROBABILITIES.shape[1]), 0.5), []
    monkeypatch.setattr("certseg.certifiers.segcertify.NoisySampler", lambda *_: samplers.pop())

    def certify(certifier, rng, samples=PlantedSamples):
        sampler = samples(PROBABILITIES, 3 * certifier.n, rng)
        samplers.append(sampler)
        result = certifier.certify(None, image, stream=NoiseStream(0, "x"), hardware=CPU)
        ids = certifier.hierarchy.ids(result.classes, result.levels)
        return bool((result.certified & (sampler.probability(ids, certifier.hierarchy.members) <= TAU)).any())

    return certify


@pytest.mark.parametrize("stopping", DESIGNS)
def test_groups_at_the_threshold_are_as_rarely_certified_as_claimed(stopping, certify):
    def errors(factor=1, **broken):
        certifier = adaptive(stopping, factor)
        return mean(lambda rng: certify(certifier, rng, **broken), TRIALS)

    most = limit(adaptive(stopping).alpha, TRIALS)
    assert errors() <= most
    assert errors(factor=5) > most
    assert errors(samples=ReusedSamples) > most  # the level is chosen by the tested samples
    assert errors(samples=MiscountedSamples) > most


def test_a_fixed_test_looked_at_after_every_batch_certifies_more_of_them(certify):
    certifier = adaptive("curtailed")
    certifier.test = Peeking(TAU, certifier.alpha, 2 * certifier.n, "holm", look_every=4)
    assert mean(lambda rng: certify(certifier, rng), TRIALS) > limit(certifier.alpha, TRIALS)
