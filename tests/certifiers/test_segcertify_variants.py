"""Corrections, kept samples, curtailed and anytime sampling."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import norm
from support.linear_pixels import image_with_margins, two_classes
from support.shared import SHARED, needs_shared

from certseg.certifiers import SegCertify
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError
from certseg.smoothing.stopping import AnytimeTest, FixedTest
from certseg.types import Promise

CPU = Hardware(device="cpu", noise_batch=16)
GOLDEN = SHARED / "golden" / "segcertify.npz"


def scene(probabilities, sigma=0.25):
    """The exact model and an image whose pixels show class 0 with the given probabilities."""
    model = two_classes()
    return model, image_with_margins(model, sigma * torch.from_numpy(norm.ppf(np.asarray(probabilities)[None])))


def mixed_scene(count=400):
    rng = np.random.default_rng(0)
    return scene(np.clip(rng.beta(6, 0.7, count), 0.01, 1 - 1e-6))


def certify(certifier, model, image, name="x"):
    return certifier.certify(model, image, stream=NoiseStream(0, name), hardware=CPU)


@needs_shared("golden", "segcertify.npz")
@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("case", ["mixed", "mixed300", "hightau", "ties", "kfsep", "noneabstain", "allabstain"])
def test_golden_kfwer_follows_the_theorem(case, k):
    golden = np.load(GOLDEN)
    meta = json.loads(str(golden["meta"]))["cases"][case]
    test = FixedTest(meta["tau"], meta["alpha"], meta["n"], "kfwer", k)
    guess, counts = golden[f"{case}/guess"], golden[f"{case}/count"]
    certified = test.decide(torch.from_numpy(counts)[None]).numpy()[0]
    assert np.array_equal(np.where(certified, guess, -1), golden[f"{case}/classes_kfwer{k}_lehmannromano"])


@needs_shared("golden", "segcertify.npz")
def test_the_official_kfwer_is_more_liberal_than_the_theorem():
    golden = np.load(GOLDEN)
    official, theorem = (golden[f"kfsep/classes_kfwer10{name}"] != -1 for name in ("", "_lehmannromano"))
    assert official.sum() > theorem.sum()
    assert not (theorem & ~official).any()


def test_corrections_certify_more_the_less_they_promise():
    model, image = mixed_scene()
    shares = {
        name: certify(SegCertify(sigma=0.25, tau=0.75, n=60, alpha=0.01, correction=name, k=k), model, image).certified
        for name, k in (("bonferroni", 1), ("holm", 1), ("kfwer", 20), ("benjamini_yekutieli", 1))
    }
    counts = {name: int(mask.sum()) for name, mask in shares.items()}
    assert counts["bonferroni"] <= counts["holm"] < counts["kfwer"]
    assert counts["holm"] < counts["benjamini_yekutieli"]


def test_what_is_claimed():
    usual = SegCertify(sigma=0.25).guarantee
    assert (usual.promise, usual.confidence, usual.tolerated) == (Promise.EVERY_PIXEL, 0.999, 0)
    relaxed = SegCertify(sigma=0.25, correction="kfwer", k=5).guarantee
    assert "all certified pixels but at most 4" in relaxed.statement()
    assert (relaxed.promise, relaxed.tolerated) == (Promise.ALL_BUT, 4)
    rate = SegCertify(sigma=0.25, correction="benjamini_yekutieli").guarantee
    assert "false discovery rate" in rate.statement()
    assert (rate.promise, rate.confidence, rate.covers_images) == (Promise.ERROR_SHARE, 0.0, False)


def test_kept_samples_give_the_same_certificates_at_every_tau():
    model, image = mixed_scene()
    kept = SegCertify(sigma=0.25, n=150).sample(model, image, stream=NoiseStream(0, "x"), hardware=CPU)
    for tau in (0.6, 0.75, 0.9):
        certifier = SegCertify(sigma=0.25, tau=tau, n=150)
        assert certifier.samples_identity == SegCertify(sigma=0.25, n=150, alpha=0.1).samples_identity
        direct, reused = certify(certifier, model, image), certifier.from_samples(kept)
        assert torch.equal(direct.certified, reused.certified)
        assert torch.equal(direct.classes, reused.classes)
        assert direct.passes == reused.passes
    for stopping in ("curtailed", "anytime"):
        certifier = SegCertify(sigma=0.25, stopping=stopping)
        assert certifier.sampling() is None
        with pytest.raises(ConfigError, match="fixed"):
            certifier.sample(model, image, stream=NoiseStream(0, "x"), hardware=CPU)


@pytest.mark.parametrize("correction", ["holm", "bonferroni", "kfwer", "benjamini_yekutieli"])
def test_curtailed_decides_as_the_fixed_test_does(correction):
    used = []
    k = 5 if correction == "kfwer" else 1
    for name, (model, image) in {
        "clear": scene([1 - 1e-7] * 30 + [0.01] * 30 + [0.5] * 10),
        "mixed": mixed_scene(100),
    }.items():
        options = {"sigma": 0.25, "tau": 0.75, "n": 200, "alpha": 0.01, "correction": correction, "k": k}
        fixed = certify(SegCertify(**options), model, image, name)
        early = certify(SegCertify(**options, stopping="curtailed", look_every=7), model, image, name)
        assert torch.equal(fixed.certified, early.certified)
        assert early.passes.forward == early.samples <= fixed.samples == 210
        used.append(early.samples)
    assert used[0] < 210  # clear pixels are settled early, uncertain ones need all


def test_anytime_certifies_clear_pixels_with_fewer_samples():
    model, image = scene([1 - 1e-7] * 90 + [0.6] * 10)
    result = certify(SegCertify(sigma=0.25, tau=0.75, n=1000, stopping="anytime"), model, image)
    assert result.certified[0, :90].all()
    assert not result.certified[0, 90:].any()
    assert result.samples < 200


def test_anytime_goes_on_while_it_pays():
    """Pixels at p=.9 need more samples than pixels at p=1: a small gain waits for them, a large one does not."""
    model, image = scene([1 - 1e-7] * 50 + [0.9] * 50)
    eager, patient = (
        certify(SegCertify(sigma=0.25, tau=0.75, n=1000, stopping="anytime", gain=gain), model, image)
        for gain in (0.2, 0.001)
    )
    assert eager.samples < patient.samples <= 1010
    assert eager.certified.sum() < patient.certified.sum()
    assert patient.certified.float().mean() > 0.95


def test_the_first_look_that_can_certify():
    """With n one below what the pre-flight check asks for nothing can be certified even if all samples agree."""
    for correction in ("holm", "bonferroni"):
        for make in (
            lambda n, c=correction: AnytimeTest(0.75, 0.001, n, c, 1, 0.0),
            lambda n, c=correction: FixedTest(0.75, 0.001, n, c),
        ):
            needed = make(1).samples_needed(5000)
            for n, possible in ((needed, True), (needed - 1, False)):
                counts = torch.full((1, 5000), n)
                test = make(n)
                decided = test.decide(counts, n) if isinstance(test, AnytimeTest) else test.decide(counts)
                assert bool(decided.any()) == possible


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stopping": "never"}, "stopping"),
        ({"look_every": 0}, "look_every"),
        ({"gain": 1.0}, "gain"),
        ({"correction": "hochberg"}, "multiple testing"),
        ({"k": 2}, "kfwer"),
        ({"correction": "kfwer", "k": 0}, "k must be"),
        ({"stopping": "anytime", "correction": "kfwer"}, "anytime"),
    ],
    ids=str,
)
def test_bad_settings(options, words):
    with pytest.raises(ConfigError, match=words):
        SegCertify(sigma=0.25, **options)


TAUS = [0.6, 0.9, 0.75]
RADII = [0.25 * norm.ppf(tau) for tau in sorted(TAUS)]


@pytest.mark.parametrize("stopping", ["fixed", "curtailed", "anytime"])
def test_every_pixel_has_a_radius_of_its_own(stopping):
    model, image = mixed_scene()
    certificate = certify(SegCertify(sigma=0.25, tau=TAUS, n=200, stopping=stopping), model, image)
    assert certificate.guarantee == SegCertify(sigma=0.25, tau=0.9, n=200).guarantee
    maps = [*(one.certified for one in certificate.at_smaller_radii()), certificate.certified]
    assert [one.threat.radius for one in certificate.at_smaller_radii()] == pytest.approx(RADII[:2])
    assert len(maps) == 3
    for inner, outer in zip(maps[1:], maps):
        assert not (inner & ~outer).any()
        assert inner.sum() < outer.sum()
    expected = sum(certified.double() * step for certified, step in zip(maps, np.diff([0.0, *RADII])))
    assert torch.allclose(certificate.radii, expected)
    assert (certificate.pictured_maps()["radii"] <= certificate.radii.numpy()).all()
    first = model.probability(image, 0.25)
    truth = torch.where(certificate.classes == 0, first, 1.0 - first)
    needed = torch.tensor([0.0, *sorted(TAUS)], dtype=torch.float64)[certificate.steps.long()]
    assert (truth > needed).all()


def test_at_the_largest_radius_the_others_take_nothing():
    model, image = mixed_scene()
    for stopping in ("fixed", "curtailed"):
        alone = certify(SegCertify(sigma=0.25, tau=0.9, n=200, stopping=stopping), model, image)
        joint = certify(SegCertify(sigma=0.25, tau=TAUS, n=200, stopping=stopping), model, image)
        assert torch.equal(joint.certified, alone.certified)
        assert alone.at_smaller_radii() == ()
        assert alone.pictured_maps() == alone.further_maps() == {}


def test_the_smallest_number_of_samples_is_that_of_the_largest_tau():
    SegCertify(sigma=0.25, tau=0.9, n=130).check(100)
    for tau in (0.9, TAUS):
        with pytest.raises(ConfigError, match=r"n=100 cannot certify .* tau=0\.9.*n >= 110"):
            SegCertify(sigma=0.25, tau=tau, n=100).check(100)


@pytest.mark.parametrize("tau", [[], [0.6, 0.6], [0.5, 0.75], [0.75, 1.0], [0.75, "0.8"], "0.75", [[0.6, 0.7]], [True]])
def test_lists_that_are_none_of_probabilities_are_refused(tau):
    with pytest.raises(ConfigError, match="tau"):
        SegCertify(sigma=0.25, tau=tau)
