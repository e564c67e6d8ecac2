"""Training a denoiser: in front of a segmenter that stays as it is, or together with it."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from support.training_fakes import RECIPE, Bands, TinySegmenter, train_bands
from torch import nn

from certseg.errors import ConfigError
from certseg.models import Denoised, DnCNN
from certseg.training import CleanObjective, ConsistencyObjective, DenoiserObjective, NoiseObjective
from certseg.types import IGNORE_INDEX

SIGMA = 0.25
STEPS = dataclasses.replace(RECIPE, iterations=6, validations=1)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Weights of a segmenter that never saw noise."""
    recipe = dataclasses.replace(RECIPE, name="clean", objective=CleanObjective(), validations=0)
    return train_bands(tmp_path_factory.mktemp("clean"), recipe=recipe)[0].state_dict()


def pair(weights, seed=0):
    torch.manual_seed(seed)
    segmenter = TinySegmenter()
    segmenter.load_state_dict(weights)
    return Denoised(DnCNN(shrink=1, width=8), segmenter)


def copies(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(module, before):
    return {name: torch.equal(value, before[name]) for name, value in module.state_dict().items()}


def validation(sigma=SIGMA):
    """Images the training did not see, the same images under noise, and labels."""
    samples = [Bands(count=6, split="val", seed=1)[index] for index in range(6)]
    images = torch.stack([sample.image for sample in samples])
    noise = sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return images, images + noise, torch.stack([sample.target for sample in samples])


@pytest.mark.parametrize("loss", ["stability", "mse"])
def test_the_segmenter_is_the_same_to_the_bit_and_the_denoiser_is_not(clean, tmp_path, loss):
    network = pair(clean)
    before, first = copies(network.segmenter), copies(network.denoiser)
    recipe = dataclasses.replace(STEPS, objective=DenoiserObjective(SIGMA, loss=loss), weight_decay=0.1)
    _, report = train_bands(tmp_path, network, recipe)
    assert all(same(network.segmenter, before).values())  # batch statistics and their counters included
    assert not any(same(network.denoiser, first).values())
    assert set(report.figures) == {f"{v}/{m}/pooled" for v in ("clean", "noise") for m in ("pixel_accuracy", "miou")}
    assert f"loss_{loss}" in (tmp_path / "history.jsonl").read_text()


def test_noise_is_removed_from_images_the_training_did_not_see(clean, tmp_path):
    network, (images, noisy, _) = pair(clean), validation()
    before = F.mse_loss(network.eval().denoise(noisy), images).item()
    assert before == pytest.approx(F.mse_loss(noisy, images).item())  # it begins as the identity
    recipe = dataclasses.replace(RECIPE, objective=DenoiserObjective(SIGMA, loss="mse"), validations=0)
    train_bands(tmp_path, network, recipe)
    with torch.no_grad():
        after = F.mse_loss(network.denoise(noisy), images).item()
    assert after < 0.6 * before


def test_predictions_under_noise_come_closer_to_those_without(clean, tmp_path):
    network, sigma = pair(clean), 0.5
    images, noisy, _ = validation(sigma)

    def agreement():
        with torch.no_grad():
            return (network.eval()(noisy).argmax(1) == network.segmenter(images).argmax(1)).float().mean().item()

    before = agreement()
    recipe = dataclasses.replace(RECIPE, objective=DenoiserObjective(sigma), validations=0)
    train_bands(tmp_path, network, recipe)
    assert agreement() > before + 0.05


def test_stability_is_cross_entropy_with_the_class_predicted_without_noise(clean):
    network = pair(clean).double()
    images, _, labels = validation()
    images = images.double()
    nn.init.normal_(network.denoiser.body[-1].weight, std=0.1)
    objective = DenoiserObjective(SIGMA)
    objective.prepare(network)
    network.train()
    torch.manual_seed(0)
    loss = objective(network, images, labels)["loss_stability"]
    torch.manual_seed(0)
    denoised = network.denoiser(images + SIGMA * torch.randn_like(images))
    segmenter = network.segmenter.eval()
    log_probability = segmenter(denoised).log_softmax(1)
    classes = segmenter(images).argmax(1, keepdim=True)
    expected = -log_probability.gather(1, classes)[:, 0][labels != IGNORE_INDEX].mean()
    torch.testing.assert_close(loss, expected)


def test_a_batch_without_labels_costs_nothing(clean):
    network, (images, _, labels) = pair(clean), validation()
    objective = DenoiserObjective(SIGMA)
    objective.prepare(network)
    loss = objective(network, images, torch.full_like(labels, IGNORE_INDEX))["loss_stability"]
    assert loss.item() == 0
    loss.backward()
    assert not any(parameter.grad.any() for parameter in network.denoiser.parameters())


def test_a_resumed_training_ends_with_the_same_weights(clean, tmp_path):
    class Stop(Exception):
        """Ends a training in the middle."""

    class Interrupted(DnCNN):
        calls = 0

        def forward(self, images):
            self.calls += 1
            if self.calls > 9:
                raise Stop
            return super().forward(images)

    recipe = dataclasses.replace(STEPS, objective=DenoiserObjective(SIGMA, sampling="uniform"), iterations=12)
    whole, _ = train_bands(tmp_path / "whole", pair(clean), recipe)
    interrupted = pair(clean)
    interrupted.denoiser.__class__ = Interrupted
    with pytest.raises(Stop):
        train_bands(tmp_path / "cut", interrupted, recipe)
    resumed, report = train_bands(tmp_path / "cut", pair(clean, seed=5), recipe)
    assert report.resumed == 1
    assert all(same(resumed, whole.state_dict()).values())


@pytest.mark.parametrize("objective", [NoiseObjective(SIGMA), ConsistencyObjective(SIGMA)])
def test_denoiser_and_segmenter_are_trained_together(clean, tmp_path, objective):
    network = pair(clean)
    before = copies(network)
    train_bands(tmp_path, network, dataclasses.replace(STEPS, objective=objective))
    unchanged = {name for name, equal in same(network, before).items() if equal}
    assert unchanged <= {"segmenter.unused.weight", "segmenter.unused.bias"}


def test_without_a_denoiser_there_is_nothing_to_train(tmp_path):
    recipe = dataclasses.replace(STEPS, objective=DenoiserObjective(SIGMA))
    with pytest.raises(ConfigError, match=r"needs a denoiser.*model/denoiser=dncnn"):
        train_bands(tmp_path, recipe=recipe)
    with pytest.raises(ConfigError, match="no parameters to train"):
        train_bands(tmp_path, Denoised(nn.Identity(), TinySegmenter()), recipe)


@pytest.mark.parametrize("value", ["l1", None, ["mse"]])
def test_an_unknown_loss(value):
    with pytest.raises(ConfigError, match=r"^training\.objective\.loss must be stability or mse"):
        DenoiserObjective(loss=value)
