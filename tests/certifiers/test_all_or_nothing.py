import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm
from statsmodels.stats.proportion import proportion_confint
from support.linear_pixels import LinearPixels, image_with_margins, two_classes
from support.shared import SHARED, needs_shared

import certseg
from certseg.certifiers import IndivClass, JointClass, SegCertify
from certseg.certifiers.all_or_nothing import most_frequent_map
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError, DataError
from certseg.evaluation import CertificationStage
from certseg.reporting.rows import RowStore
from certseg.smoothing.noise import Gaussian
from certseg.smoothing.sampling import NoisySampler
from certseg.smoothing.statistics import upper_tail
from certseg.smoothing.statistics.confidence import clopper_pearson_lower
from certseg.types import L1, Sample

CPU = Hardware(device="cpu", noise_batch=16)
RUN = {"stream": NoiseStream(0, "x"), "hardware": CPU}
BOTH = (JointClass, IndivClass)
GOLDEN = SHARED / "golden" / "segcertify.npz"
CASES = (
    "mixed",
    "mixed300",
    "hightau",
    "tauhalf",
    "allabstain",
    "noneabstain",
    "one_easy",
    "one_hard",
    "ties",
    "kfsep",
    "joint",
)


class Playback(torch.nn.Module):
    """Ignores its input and plays recorded class maps (``samples x pixels``) back, as images of one row."""

    def __init__(self, maps, num_classes):
        super().__init__()
        self.maps, self.num_classes, self.position = torch.as_tensor(maps, dtype=torch.int64), num_classes, 0

    def forward(self, images):
        maps = self.maps[self.position : self.position + len(images)]
        self.position += len(images)
        return torch.nn.functional.one_hot(maps, self.num_classes).permute(0, 2, 1)[:, :, None].float()


def grey(pixels):
    return torch.full((3, 1, pixels), 0.5)


def golden_case(case, kind):
    golden = np.load(GOLDEN)
    meta = json.loads(str(golden["meta"]))["cases"][case]
    certifier = kind(**{name: meta[name] for name in ("sigma", "tau", "n0", "n", "alpha")})
    return {key.split("/")[1]: golden[key] for key in golden.files if key.startswith(f"{case}/")}, meta, certifier


def radius_of(value):
    return None if np.isnan(value) else pytest.approx(float(value), rel=1e-9)


# the exact statistic


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.floats(0, 1), st.floats(1e-9, 0.45))
def test_clopper_pearson_is_statsmodels(n, share, level):
    count = round(share * n)
    bound = float(clopper_pearson_lower(count, n, level))
    assert bound == pytest.approx(proportion_confint(count, n, alpha=2 * level, method="beta")[0], rel=1e-9, abs=0)
    if count:
        assert binom.sf(count - 1, n, bound) == pytest.approx(level, rel=1e-6)


@pytest.mark.parametrize(("n", "level"), [(100, 0.001), (1000, 0.001 / 2**21), (100_000, 1e-12 / 2**21), (7, 0.9)])
def test_clopper_pearson_inverts_the_binomial_tail_down_to_the_levels_of_large_images(n, level):
    counts = np.unique(np.linspace(0, n, 300).astype(int)).reshape(-1, 1)
    bounds = clopper_pearson_lower(counts, n, level)
    assert bounds.shape == counts.shape
    assert bounds[0] == 0
    assert (np.diff(bounds[:, 0]) > 0).all()
    assert np.allclose(binom.sf(counts[1:] - 1, n, bounds[1:]), level, rtol=1e-6, atol=0)
    assert bounds[-1, 0] == pytest.approx(level ** (1 / n), rel=1e-12)


@pytest.mark.parametrize(("tau", "level"), [(0.75, 0.001), (0.75, 0.001 / 2**21), (0.95, 1e-6), (0.5, 0.05)])
def test_the_bound_exceeds_tau_exactly_where_the_binomial_test_rejects(tau, level):
    n = 500
    assert np.array_equal(clopper_pearson_lower(np.arange(n + 1), n, level) > tau, upper_tail(n, tau) < level)


@pytest.mark.parametrize(
    "bad", [(1, 0, 0.1), (1, 10, 0.0), (1, 10, 1.0), (1, 10, float("nan")), (11, 10, 0.1), ([3, -1], 10, 0.1)], ids=str
)
def test_impossible_counts_and_levels_are_refused(bad):
    with pytest.raises(ConfigError):
        clopper_pearson_lower(*bad)


# golden vectors of the official implementation


@needs_shared("golden", "segcertify.npz")
@pytest.mark.parametrize("case", CASES)
def test_golden_indiv_class(case):
    golden, meta, certifier = golden_case(case, IndivClass)
    bounds = clopper_pearson_lower(golden["count"], meta["n"], meta["alpha"] / meta["N"])
    assert np.allclose(bounds, golden["indiv_pa_lower"], rtol=1e-9, atol=0)
    counts = torch.from_numpy(golden["count"])[None]
    assert certifier.lower_bound(counts) == pytest.approx(golden["indiv_pa_lower"].min(), rel=1e-9)
    assert certifier.untied_radius(counts) == radius_of(golden["indiv_notau_radius"])
    # the official code abstains pixel by pixel at a fixed tau; here one abstention is that of all
    assert certifier.decide(counts) == bool((golden["indiv_tau_classes"] >= 0).all())
    assert certifier.radius == pytest.approx(float(golden["indiv_tau_radius"]), rel=1e-12)


@needs_shared("golden", "segcertify.npz")
@pytest.mark.parametrize("case", [case for case in CASES if case not in ("tauhalf", "kfsep")])  # tau = 0.5: no sampling
@pytest.mark.parametrize("kind", BOTH)
def test_golden_samples_lead_to_the_golden_classes_and_radius(case, kind):
    golden, meta, certifier = golden_case(case, kind)
    model = Playback(golden["sample"], meta["num_classes"])
    samples = certifier.sample(model, grey(meta["N"]), **RUN)
    name = "joint" if kind is JointClass else "indiv_notau"
    radius = certifier.untied_radius(samples.counts)
    assert radius == radius_of(golden[f"{name}_radius"])
    if radius is not None:
        assert np.array_equal(samples.classes[0].numpy(), golden[f"{name}_classes"])
    assert samples.passes.forward == len(golden["sample"])


# counting


def test_the_most_frequent_map_wins_and_of_equals_the_first():
    a, b, c = [0, 1, 2], [0, 1, 1], [2, 2, 2]
    for maps, expected in (([a, b, c, b, a, b], b), ([c, a, a, c], a), ([b, a, c], b), ([a], a)):
        sampler = NoisySampler(Playback(maps, 3), grey(3), Gaussian(0.1), NoiseStream(0, "x"), CPU)
        assert most_frequent_map(sampler, len(maps)).tolist() == [expected]
        assert sampler.passes.forward == len(maps)


def test_a_whole_map_agrees_only_where_every_pixel_does():
    maps = np.random.default_rng(0).integers(0, 2, size=(4 + 60, 3))
    maps[:4] = [1, 0, 1]
    samples = JointClass(sigma=0.1, n0=4, n=60).sample(Playback(maps, 2), grey(3), **RUN)
    expected = int((maps[4:] == [1, 0, 1]).all(axis=1).sum())
    assert 0 < expected < 60
    assert samples.classes.tolist() == [[1, 0, 1]]
    assert samples.counts.shape == ()
    assert int(samples.counts) == expected


@pytest.mark.parametrize("kind", BOTH)
def test_a_tie_of_the_logits_is_no_agreement(kind):
    tied = LinearPixels(torch.zeros(2, 3), torch.zeros(2))
    certifier = kind(sigma=0.25)
    samples = certifier.sample(tied, torch.rand(3, 2, 2), **RUN)
    assert not samples.counts.any()
    assert not certifier.from_samples(samples).certified.any()


# decisions


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(80, 100), min_size=1, max_size=40), st.sampled_from([0.001, 0.05]))
def test_indiv_class_certifies_where_bonferroni_abstains_nowhere(counts, alpha):
    counts = torch.tensor([counts])
    options = {"sigma": 0.25, "tau": 0.75, "n": 100, "alpha": alpha}
    reference = SegCertify(correction="bonferroni", **options).decide(counts).all()
    assert IndivClass(**options).decide(counts) == bool(reference)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7)])
def test_clear_pixels_are_certified_all_together(kind, shape):
    model = two_classes()
    margins = torch.full(shape, 0.8)
    margins[0, 0] = -0.8
    certifier = kind(sigma=0.2, tau=0.75)
    result = certseg.certify(model, image_with_margins(model, margins), certifier, hardware=CPU)
    assert result.certified.all()
    assert result.certified.shape == shape
    assert int(result.classes.sum()) == result.classes[0, 0] == 1
    assert result.threat.radius == pytest.approx(0.2 * norm.ppf(0.75))
    assert result.confidence == 0.999
    assert result.passes.forward == result.samples == 110
    assert set(result.seconds) == {"sampling", "statistics"}
    assert (result.threat, result.predictor) == (SegCertify(sigma=0.2).threat, SegCertify(sigma=0.2).predictor)


@pytest.mark.parametrize("kind", BOTH)
def test_one_bad_pixel_leaves_everything_uncertified(kind):
    model = two_classes()
    margins = torch.full((4, 5), 0.8)
    margins[2, 3] = 0.0
    image = image_with_margins(model, margins)
    assert not certseg.certify(model, image, kind(sigma=0.2), hardware=CPU).certified.any()
    assert certseg.certify(model, image, SegCertify(sigma=0.2), hardware=CPU).certified.sum() == 19


def test_many_pixels_that_are_each_clear_enough_fail_jointly_only():
    """Each keeps its class with probability .98, all 60 together with .98^60 = .30."""
    model = two_classes()
    image = image_with_margins(model, torch.full((6, 10), float(0.2 * norm.ppf(0.98))))
    options = {"sigma": 0.2, "tau": 0.75, "n": 300}
    assert IndivClass(**options).certify(model, image, **RUN).certified.all()
    joint = JointClass(**options)
    samples = joint.sample(model, image, **RUN)
    assert not joint.from_samples(samples).certified.any()
    probability = 0.98**60
    assert abs(int(samples.counts) / 300 - probability) <= 5 * (probability * (1 - probability) / 300) ** 0.5


def test_the_untied_radius_is_that_of_the_smallest_bound():
    certifier = IndivClass(sigma=0.5, n=100, alpha=0.01)
    bound = float(clopper_pearson_lower(90, 100, 0.01 / 4))
    assert certifier.untied_radius(torch.tensor([[100, 90], [95, 99]])) == pytest.approx(0.5 * norm.ppf(bound))
    assert certifier.untied_radius(torch.tensor([[100, 60], [95, 99]])) is None
    joint = JointClass(sigma=0.5, n=100, alpha=0.01)
    assert joint.untied_radius(torch.tensor(100)) == pytest.approx(0.5 * norm.ppf(0.01**0.01))
    assert joint.untied_radius(torch.tensor(0)) is None


@pytest.mark.parametrize(("kind", "shape"), [(JointClass, ()), (IndivClass, (30,))])
def test_a_false_certificate_is_as_rare_as_alpha_says(kind, shape):
    """The worst case: one probability exactly at tau, all others 1."""
    alpha, trials, n = 0.05, 4000, 100
    certifier = kind(sigma=0.25, tau=0.75, n=n, alpha=alpha)
    rng = np.random.default_rng(0)
    wrong = 0
    for bad in rng.binomial(n, 0.75, size=trials):
        counts = torch.full(shape, n)
        counts.view(-1)[0] = int(bad)
        wrong += certifier.decide(counts)
    table = upper_tail(n, 0.75)
    exact = table[table < alpha / max(1, int(np.prod(shape)))].max()
    assert abs(wrong / trials - exact) <= 4 * (exact * (1 - exact) / trials) ** 0.5
    assert wrong / trials <= alpha + 4 * (alpha * (1 - alpha) / trials) ** 0.5
    if kind is JointClass:
        assert wrong > 0


# errors and the pipeline's side


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("bad", [{"sigma": 0.0}, {"tau": 0.4}, {"alpha": 1.0}, {"n": 0}, {"n0": 1.5}], ids=str)
def test_bad_arguments_are_refused_with_the_option_named(kind, bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        kind(**{"sigma": 0.25, **bad})


@pytest.mark.parametrize(("kind", "needed"), [(JointClass, 25), (IndivClass, 75)])
def test_too_few_samples_are_refused_with_the_number_that_would_do(kind, needed):
    with pytest.raises(ConfigError, match=f"n >= {needed}"):
        kind(sigma=0.25, n=needed - 1).check(1024 * 2048)
    kind(sigma=0.25, n=needed).check(1024 * 2048)
    with pytest.raises(ConfigError, match="n >= "):
        kind(sigma=0.25, n=10).certify(two_classes(), torch.rand(3, 4, 4), **RUN)


@pytest.mark.parametrize("kind", BOTH)
def test_a_radius_of_zero_and_bad_images_are_refused(kind):
    with pytest.raises(ConfigError, match=r"tau=0\.5"):
        kind(sigma=0.25, tau=0.5).certify(two_classes(), torch.rand(3, 2, 2), **RUN)
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        kind(sigma=0.25).certify(two_classes(), torch.full((3, 2, 2), 3.0), **RUN)


@pytest.mark.parametrize("kind", BOTH)
def test_rows_and_kept_samples(kind, tmp_path):
    """The stage of the pipeline keeps the samples; another tau then needs no forward pass."""
    model = two_classes()
    image = image_with_margins(model, torch.full((3, 4), 0.45))
    sample = Sample("a", image, torch.zeros(3, 4, dtype=torch.int64))
    forward = []
    model.register_forward_hook(lambda *_: forward.append(1))
    for tau, share in ((0.6, 1.0), (0.9, 0.0)):
        certifier = kind(sigma=0.2, tau=tau)
        store = RowStore(tmp_path, identity={"samples": certifier.samples_identity})
        stage = CertificationStage(certifier, model, ("a", "b"), seed=0, hardware=CPU, samples=store)
        forward.clear()
        row, maps = stage.run(sample)
        assert bool(forward) == (tau == 0.6)
        assert row["figures"]["certified_accuracy"] == share
        assert stage.summarise([row])["figures"]["certified_accuracy/pooled"] == share
        plain = certifier.certify(model, image, stream=NoiseStream(0, "a"), hardware=CPU)
        assert np.array_equal(plain.certified.numpy(), maps["certified"])


def test_samples_are_shared_with_segcertify_only_where_they_are_counted_alike():
    reference = SegCertify(sigma=0.25).samples_identity
    assert IndivClass(sigma=0.25).samples_identity == reference
    assert JointClass(sigma=0.25).samples_identity != reference
    assert IndivClass(sigma=0.25, n=200).samples_identity != reference


@pytest.mark.parametrize("kind", BOTH)
def test_other_noise_certifies_l1_balls_and_is_part_of_the_identity(kind):
    certifier = kind(sigma=0.25, noise="laplace")
    assert certifier.threat == L1(SegCertify(sigma=0.25, noise="laplace").radius)
    assert certifier.settings == {**kind(sigma=0.25).settings, "noise": "laplace"}
    assert certifier.samples_identity != kind(sigma=0.25).samples_identity
    model = two_classes()
    image = image_with_margins(model, torch.full((2, 3), 3.0))
    certificate = certifier.certify(model, image, stream=NoiseStream(0, "x"), hardware=Hardware(device="cpu"))
    assert certificate.certified.all()
