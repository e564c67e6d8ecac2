"""The own test of objects: claims against exact probabilities, error rates, and what it must not promise."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import binom, norm
from statsmodels.stats.multitest import multipletests
from support.linear_pixels import image_with_margins, two_classes

from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError
from certseg.metrics import ObjectRegions, pixels_needed
from certseg.smoothing.noise import NOISES
from certseg.smoothing.presence import TOO_MANY, PresenceTest
from certseg.smoothing.sampling import NoisySampler

CPU = Hardware(device="cpu", noise_batch=7)
SIGMA = 0.25

pytestmark = pytest.mark.usefixtures("one_thread")


def scene():
    """Objects of class 0 of 1, 4 and 6 pixels among class 1, at different distances from the boundary."""
    margins = torch.full((5, 8), -0.3)
    numbers = torch.zeros(5, 8, dtype=torch.int64)
    for number, (place, margin) in enumerate(
        [((slice(0, 1), slice(0, 1)), 0.4), ((slice(2, 4), slice(0, 2)), 0.1), ((slice(3, 5), slice(5, 8)), 0.02)], 1
    ):
        margins[place], numbers[place] = margin, number
    target = (margins < 0).long()
    return margins, target, ObjectRegions.of(target, 2, numbers)


def shown_probability(margin, area, share):
    """Exact, for pixels that noise moves independently of each other."""
    needed = int(pixels_needed(np.array([area]), share)[0])
    return float(binom.sf(needed - 1, area, norm.cdf(margin / SIGMA)))


def findings(samples, share, seed=0, tau=0.75, alpha=0.01, chosen=None):
    margins, _, regions = scene()
    model = two_classes()
    chosen = regions.classes == 0 if chosen is None else chosen
    test = PresenceTest(NOISES["gaussian"](SIGMA), tau, alpha, samples)
    tested = regions.tested(chosen, pixels_needed(regions.areas, share))
    image = image_with_margins(model, margins)
    return test.certify(model, image, tested, stream=NoiseStream(seed, "a"), hardware=CPU)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_copies_are_counted_as_their_probability_says(share):
    samples = 2000
    found = findings(samples, share)
    for hits, (margin, area) in zip(found.hits, [(0.4, 1), (0.1, 4), (0.02, 6)], strict=True):
        exact = shown_probability(margin, area, share)
        assert abs(hits / samples - exact) <= 4 * (exact * (1 - exact) / samples) ** 0.5 + 1e-9
    assert found.passes.forward == samples


def test_counts_are_those_of_the_maps_themselves():
    margins, _, regions = scene()
    model, share, samples = two_classes(), 0.5, 30
    stream = NoiseStream(0, "a").for_purpose("objects")
    sampler = NoisySampler(model, image_with_margins(model, margins), NOISES["gaussian"](SIGMA), stream, CPU)
    maps = torch.cat([part.clone() for part in sampler.maps(0, samples)])
    expected = [
        sum(int((one[regions.ids == index] == 0).sum()) >= share * regions.areas[index] for one in maps)
        for index in range(len(regions))
        if regions.classes[index] == 0
    ]
    assert findings(samples, share).hits.tolist() == expected


def test_the_correction_is_that_of_another_library():
    for seed in range(10):
        found = findings(60, 0.5, seed, alpha=0.05)
        p_values = binom.sf(found.hits - 1, 60, 0.75)
        assert found.certified.tolist() == multipletests(p_values, 0.05, "holm")[0].tolist()


def test_no_object_is_certified_more_often_by_chance_than_alpha_allows():
    """The third object is shown with a probability just below tau: its null hypothesis is true."""
    share, runs, alpha = 0.5, 400, 0.1
    probability = shown_probability(0.02, 6, share)
    wrong = sum(bool(findings(40, share, seed, tau=probability, alpha=alpha).certified[2]) for seed in range(runs))
    assert wrong <= runs * alpha + 4 * (runs * alpha * (1 - alpha)) ** 0.5
    assert wrong > 0, "a test that never rejects says nothing"


def test_a_certified_object_is_shown_by_most_copies_wherever_an_attacker_goes():
    """Each pixel of the object is moved straight to the boundary, evenly, which is the worst there is for equal pixels;
    exact probabilities of the moved image."""
    share, tau = 0.5, 0.75
    radius = SIGMA * norm.ppf(tau)
    for margin, area in [(0.4, 1), (0.1, 4), (0.3, 4)]:
        if shown_probability(margin, area, share) > tau:
            for pixels in range(1, area + 1):  # that share the budget
                moved = np.full(area, margin)
                moved[:pixels] -= radius / pixels**0.5
                assert poisson_binomial(norm.cdf(moved / SIGMA), int(np.ceil(share * area))) > 0.5


def poisson_binomial(probabilities, least):
    """The probability of at least so many successes."""
    counts = np.ones(1)
    for p in probabilities:
        counts = np.convolve(counts, [1 - p, p])
    return float(counts[least:].sum())


def test_an_object_is_certified_where_none_of_its_pixels_is():
    """Five pixels in six are seen in most copies, no matter which: single pixels pass no test with tau .75."""
    share, samples = 0.25, 500
    found = findings(samples, share)
    assert found.certified[1]
    assert norm.cdf(0.1 / SIGMA) < 0.75, "each of its pixels alone is below tau"


def test_tested_objects_alone_share_the_error_rate():
    few, all_ = (findings(200, 0.5, chosen=chosen) for chosen in (np.array([True, False, False, False]), None))
    assert len(few.hits) == 1
    assert len(all_.hits) == 3
    assert findings(200, 0.5, chosen=np.zeros(4, dtype=bool)).certified.tolist() == []


def test_what_is_promised_is_about_a_predictor_of_its_own():
    test = PresenceTest(NOISES["gaussian"](SIGMA), 0.75, 0.001, 100)
    guarantee = test.guarantee(0.5)
    assert guarantee.predictor == "presence(gaussian, sigma=0.25, share=0.5)"
    assert not guarantee.covers_pixels
    assert guarantee.threat.radius == pytest.approx(SIGMA * norm.ppf(0.75))
    assert "more than half of the noisy copies still show it" in guarantee.statement()


def test_too_few_samples_are_refused_or_flagged():
    noise = NOISES["gaussian"](SIGMA)
    with pytest.raises(ConfigError, match=r"at least 25.*35 for images with 20 objects"):
        PresenceTest(noise, 0.75, 0.001, 24)
    found = findings(17, 0.25, alpha=0.01)  # .75 ** 17 is below .01, not below .01 / 3
    assert TOO_MANY in found.flags
    assert not found.certified.any()
    assert TOO_MANY not in findings(20, 0.25, alpha=0.01).flags


def test_exact_noise_is_tested_at_the_probability_of_its_draws():
    """A level that tau itself just reaches is not reached by the slightly larger probability of exact draws."""
    level = float(stats.binom.sf(19, 20, 0.75))
    by_float, exact = (PresenceTest(NOISES["gaussian"](0.25, levels), 0.75, level, 25) for levels in (None, 255))
    assert by_float._needed(1) == 20
    assert exact._needed(1) == 21
    assert exact.guarantee(0.5).assuming
