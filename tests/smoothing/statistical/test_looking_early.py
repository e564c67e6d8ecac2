"""Error rates of the rules that look at samples on the way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.simulations import Images, MiscountedSamples, Peeking, ReusedSamples, limit

from certseg.smoothing.statistics import CORRECTIONS
from certseg.smoothing.stopping import AnytimeTest, FixedTest

TRIALS = 300
# A null is certified if all n samples agree, with probability tau^n, and this makes its wealth tau^-n: where that is
# NULLS / alpha Ville's inequality is an equality, and a broken rule cannot hide behind its slack.
TIGHT = Images(classes=3, nulls=20, n=5)
ALPHA = TIGHT.nulls * TIGHT.tau**TIGHT.n * (1 + 1e-9)  # .082
# Few pixels, for the harmonic sum of Benjamini and Yekutieli hides much, and many looks.
LOOKS = Images(classes=4, nulls=2, n=80)


@pytest.mark.parametrize(("correction", "sure"), [("bonferroni", 0), ("holm", 6)])
def test_errors_are_as_rare_as_claimed_and_broken_rules_exceed_that(correction, sure):
    images = replace(TIGHT, sure=sure)

    def errors(factor=1, **broken):
        test = AnytimeTest(images.tau, factor * ALPHA, images.n, correction, look_every=2, gain=0.0)
        return images.errors(test, TRIALS, **broken)

    most = limit(ALPHA, TRIALS)
    assert errors() <= most
    assert errors(factor=12) > most  # nearly 1 for alpha
    assert errors(samples=ReusedSamples) > most
    assert errors(samples=MiscountedSamples) > most


@pytest.mark.parametrize("correction", ["holm", "bonferroni"])
def test_looking_after_every_batch_keeps_the_family_wise_error(correction):
    test = AnytimeTest(LOOKS.tau, 0.1, LOOKS.n, correction, look_every=8, gain=0.0)
    assert LOOKS.errors(test, 200) <= limit(0.1, 200)


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_a_fixed_test_looked_at_after_every_batch_does_not(correction):
    k = 2 if correction == "kfwer" else 1
    images, options = replace(LOOKS, block=k, k=k), (LOOKS.tau, 0.1, LOOKS.n, correction, k)
    assert images.errors(FixedTest(*options), TRIALS) <= limit(0.1, TRIALS)
    assert images.errors(Peeking(*options, look_every=4), TRIALS) > limit(0.1, TRIALS)


def test_e_holm_gains_on_the_plain_union_bound():
    """Where few hypotheses are true the closed test certifies sooner."""
    rng = np.random.default_rng(4)
    counts = torch.from_numpy(rng.binomial(70, np.where(np.arange(5000) < 4900, 0.99, 0.6)))
    shares = [AnytimeTest(0.75, 0.001, 70, rule).decide(counts, 70).float().mean() for rule in ("bonferroni", "holm")]
    assert shares[1] > shares[0] + 0.1
