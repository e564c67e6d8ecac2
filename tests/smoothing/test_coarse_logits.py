"""Sampling from logits at the network's own resolution decides as sampling from enlarged ones."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from support.linear_pixels import two_classes

from certseg.compute.decisions import enlarged_winner, winner
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ModelError
from certseg.pipeline.settings import parse
from certseg.pipeline.weights import build_segmenter
from certseg.smoothing.noise import Gaussian
from certseg.smoothing.sampling import NoisySampler
from certseg.types import CoarseLogits

ROOT = Path(__file__).resolve().parents[2]


def network(*overrides):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        settings = parse(compose("config", overrides=["model=upernet_tiny", *overrides]))
    torch.manual_seed(0)
    return Hardware(device="cpu").place(build_segmenter(settings.model, 5))


SETTINGS = {
    "half size": [],
    "full size": ["model.scales=[1.0]"],
    "aligned corners": ["+model.overrides.decode_head.align_corners=true"],
    "behind a denoiser": ["model/denoiser=dncnn"],
}


@pytest.mark.parametrize("size", [(64, 96), (50, 71)], ids=str)
@pytest.mark.parametrize("name", SETTINGS)
def test_the_enlarged_winner_is_that_of_the_logits(name, size):
    segmenter = network(*SETTINGS[name])
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        coarse, logits = segmenter.coarse_logits(images), segmenter(images)
    assert coarse.logits.shape[-1] < size[1] / 3
    assert coarse.align_corners == (name == "aligned corners")
    top = logits.topk(2, dim=1).values
    clear = top[:, 0] - top[:, 1] > 1e-5
    found, expected = enlarged_winner(coarse.logits, size, coarse.align_corners)[0], winner(logits)[0]
    assert clear.float().mean() > 0.99
    assert torch.equal(found[clear], expected[clear])
    assert len(found.unique()) > 1


def test_the_sampler_takes_the_short_way_and_counts_the_same():
    segmenter, hardware = network(), Hardware(device="cpu", noise_batch=4)
    image = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(2))
    enlargements = []
    segmenter.register_forward_hook(lambda *_: enlargements.append(1))

    def counts():
        return NoisySampler(segmenter, image, Gaussian(0.25), NoiseStream(0, "x"), hardware).class_counts(0, 10)

    short = counts()
    assert not enlargements
    segmenter.coarse_logits = lambda images: None
    long = counts()
    assert len(enlargements) == 3
    assert ((short - long).abs().sum(dim=0) == 0).float().mean() > 0.999  # ties by rounding aside
    assert int(short.sum()) == 10 * 48 * 64


@pytest.mark.parametrize(
    "overrides", [["model.scales=[0.5,1.0]"], ["model.flip=true"], ["model.inference=slide", "model.crop_size=[32,32]"]]
)
def test_what_does_more_than_enlarge_has_no_coarse_logits(overrides):
    assert network(*overrides).coarse_logits(torch.rand(1, 3, 40, 40)) is None


@pytest.mark.parametrize("shape", [(3, 7, 2, 2), (1, 2, 2, 2), (6, 2, 2, 2), (3, 2, 0, 2), (3, 2, 4)], ids=str)
def test_misshapen_coarse_logits_are_refused(shape):
    model = two_classes()
    model.coarse_logits = lambda images: CoarseLogits(torch.zeros(shape), False)
    sampler = NoisySampler(
        model, torch.rand(3, 4, 4), Gaussian(0.25), NoiseStream(0, "x"), Hardware(device="cpu", noise_batch=3)
    )
    with pytest.raises(ModelError, match="coarse_logits"):
        sampler.class_counts(0, 3)


def test_coarse_logits_that_are_not_finite_are_refused():
    model = two_classes()
    model.coarse_logits = lambda images: CoarseLogits(torch.full((len(images), 2, 2, 2), float("nan")), False)
    sampler = NoisySampler(
        model, torch.rand(3, 4, 4), Gaussian(0.25), NoiseStream(0, "x"), Hardware(device="cpu", noise_batch=3)
    )
    with pytest.raises(ModelError, match="NaN"):
        sampler.class_counts(0, 3)
