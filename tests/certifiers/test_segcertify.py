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
from certseg.errors import ConfigError, DataError
from certseg.smoothing.noise import Noise
from certseg.smoothing.statistics import upper_tail

CPU = Hardware(device="cpu", noise_batch=16)
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


@needs_shared("golden", "segcertify.npz")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("correction", ["holm", "bonferroni"])
def test_golden_decisions_of_the_official_implementation(case, correction):
    golden = np.load(GOLDEN)
    meta = json.loads(str(golden["meta"]))["cases"][case]
    certifier = SegCertify(
        sigma=meta["sigma"], tau=meta["tau"], n0=meta["n0"], n=meta["n"], alpha=meta["alpha"], correction=correction
    )
    guess, counts = golden[f"{case}/guess"], golden[f"{case}/count"]
    assert np.allclose(upper_tail(certifier.n, certifier.tau)[counts], golden[f"{case}/pvalue"], rtol=1e-9, atol=0)
    certified = certifier.decide(torch.from_numpy(counts)[None]).numpy()[0]
    expected = golden[f"{case}/classes_{correction}"]
    assert np.array_equal(np.where(certified, guess, -1), expected)
    assert certifier.radius == pytest.approx(float(golden[f"{case}/radius"]), rel=1e-12)


@needs_shared("golden", "segcertify.npz")
def test_golden_samples_lead_to_the_golden_guess_and_count():
    """The whole algorithm on recorded class maps: a model that ignores its input and plays them back."""
    golden = np.load(GOLDEN)
    sample = torch.from_numpy(golden["mixed/sample"].astype(np.int64))

    class Playback(torch.nn.Module):
        num_classes = 7
        position = 0

        def forward(self, images):
            maps = sample[self.position : self.position + len(images)]
            self.position += len(images)
            return torch.nn.functional.one_hot(maps, 7).permute(0, 2, 1)[:, :, None].float()

    certifier = SegCertify(sigma=0.25, tau=0.75, n0=10, n=100, alpha=0.001)
    image = torch.full((3, 1, sample.shape[1]), 0.5)
    result = certifier.certify(Playback(), image, stream=NoiseStream(0, "x"), hardware=CPU)
    expected = golden["mixed/classes_holm"]
    assert np.array_equal(np.where(result.certified[0], result.classes[0], -1), expected)


def test_certifies_exactly_the_pixels_that_are_clearly_above_tau():
    model, sigma = two_classes(), 0.25
    probabilities = torch.tensor([[0.999, 0.99, 0.70, 0.5, 0.30, 0.01, 0.001, 0.60]])
    image = image_with_margins(model, sigma * torch.from_numpy(norm.ppf(probabilities)))
    certifier = SegCertify(sigma=sigma, tau=0.75, n0=50, n=400)
    result = certifier.certify(model, image, stream=NoiseStream(0, "x"), hardware=CPU)
    assert result.certified.tolist() == [[True, True, False, False, False, True, True, False]]
    assert result.classes[result.certified].tolist() == [0, 0, 1, 1]
    assert result.threat.radius == pytest.approx(0.25 * norm.ppf(0.75))
    assert result.passes.forward == 450
    assert result.confidence == 0.999
    assert set(result.seconds) == {"sampling", "statistics"}


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_every_sample_is_drawn_once_so_that_testing_never_reuses_a_guess(batch, monkeypatch):
    drawn, copies = [], Noise.copies

    def recorded(self, image, stream, first, out):
        drawn.extend((stream, index) for index in range(first, first + len(out)))
        copies(self, image, stream, first, out)

    monkeypatch.setattr(Noise, "copies", recorded)
    stream = NoiseStream(0, "x")
    hardware = Hardware(device="cpu", noise_batch=batch)
    certifier = SegCertify(sigma=0.25, n0=12, n=45)
    certifier.certify(two_classes(), torch.rand(3, 2, 3), stream=stream, hardware=hardware)
    assert drawn == [(stream, index) for index in range(12 + 45)]


def test_the_radius_is_tight_on_a_linear_model():
    """At a pixel whose probability is just above tau the class flips just beyond the radius and not before."""
    model, sigma, tau = two_classes(), 0.25, 0.75
    radius = SegCertify(sigma=sigma, tau=tau).radius
    image = image_with_margins(model, torch.full((1, 1), sigma * norm.ppf(tau) + 1e-4))
    away = -(model.weight[0] - model.weight[1]).detach()
    step = (away / away.norm())[:, None, None]
    assert float(model.probability(image + radius * step, sigma)) > 0.5
    assert float(model.probability(image + (radius + 2e-4) * step, sigma)) < 0.5


@pytest.mark.parametrize(
    "bad",
    [
        {"sigma": 0.0},
        {"sigma": -1.0},
        {"sigma": float("nan")},
        {"sigma": "wide"},
        {"tau": 0.4},
        {"tau": 1.0},
        {"tau": float("nan")},
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"alpha": -0.1},
        {"n": 0},
        {"n": 10.5},
        {"n0": 0},
        {"n": True},
        {"correction": "sidak"},
    ],
    ids=str,
)
def test_bad_arguments_are_refused_with_the_option_named(bad):
    (option,) = bad
    with pytest.raises(ConfigError, match=option):
        SegCertify(**{"sigma": 0.25, **bad})


def test_too_few_samples_are_refused_with_the_number_that_would_do():
    certifier = SegCertify(sigma=0.25, tau=0.75, n=60)
    with pytest.raises(ConfigError, match=r"n >= 75"):
        certifier.check(1024 * 2048)
    SegCertify(sigma=0.25, tau=0.75, n=75).check(1024 * 2048)
    with pytest.raises(ConfigError, match="n >= "):
        certifier.certify(two_classes(), torch.rand(3, 400, 400), stream=NoiseStream(0, "x"), hardware=CPU)


def test_a_radius_of_zero_is_no_certificate():
    with pytest.raises(ConfigError, match=r"tau=0\.5"):
        SegCertify(sigma=0.25, tau=0.5).certify(
            two_classes(), torch.rand(3, 2, 2), stream=NoiseStream(0, "x"), hardware=CPU
        )


@pytest.mark.parametrize("image", [torch.rand(3, 4, 4) * 255 + 2, torch.full((3, 2, 2), float("nan"))])
def test_images_outside_the_unit_range_are_refused(image):
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        SegCertify(sigma=0.25).certify(two_classes(), image, stream=NoiseStream(0, "x"), hardware=CPU)


@pytest.mark.parametrize("shape", [(1, 1), (7, 3)])
def test_small_and_odd_sizes(shape):
    model = two_classes()
    image = image_with_margins(model, torch.full(shape, 0.8))
    result = SegCertify(sigma=0.25).certify(model, image, stream=NoiseStream(0, "x"), hardware=CPU)
    assert result.certified.all()
    assert not result.classes.any()
