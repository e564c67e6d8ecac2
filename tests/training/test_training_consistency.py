"""Consistency regularisation against the paper's formulas, and the logits it takes from mmsegmentation's networks."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.training_fakes import RECIPE, Bands, TinySegmenter, train_bands
from torch import nn

from certseg.errors import ConfigError, ModelError
from certseg.models import Denoised, MMSegSegmenter
from certseg.models.training_output import recorded_logits
from certseg.training import ConsistencyObjective, NoiseObjective
from certseg.training.consistency import consistency
from certseg.types import IGNORE_INDEX

PRESET = Path(__file__).resolve().parents[2] / "configs" / "model" / "upernet_tiny.yaml"
TINY = yaml.safe_load(PRESET.read_text())["config"]


def drawn(*shape, seed=0, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels_of(count=2, size=(4, 5), copies=1, void=0.3):
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 3, (count, *size))
    labels[generator.random(labels.shape) < void] = IGNORE_INDEX
    return torch.from_numpy(labels).repeat(copies, 1, 1)


def by_hand(logits, labels, copies):
    """The two terms in float64, pixel by pixel, with probabilities instead of their logarithms."""
    logits = logits.double().numpy()
    count = len(logits) // copies
    divergences, entropies = [], []
    for image in range(count):
        for row, column in zip(*np.nonzero(labels[image].numpy() != IGNORE_INDEX)):
            each = [np.exp(logits[copy * count + image, :, row, column]) for copy in range(copies)]
            each = [values / values.sum() for values in each]
            mean = sum(each) / copies
            divergences.append(np.mean([(mean * np.log(mean / one)).sum() for one in each]))
            entropies.append(-(mean * np.log(mean)).sum())
    return np.mean(divergences), np.mean(entropies)


@pytest.mark.parametrize("copies", [2, 3])
def test_the_terms_are_those_of_the_paper(copies):
    logits, labels = drawn(copies * 2, 3, 4, 5), labels_of(copies=copies)
    divergence, entropy = consistency(logits, labels, copies)
    expected = by_hand(logits, labels, copies)
    assert expected[0] > 0.1
    assert (divergence.item(), entropy.item()) == pytest.approx(expected, rel=1e-12)
    single = consistency(logits.float(), labels, copies)
    assert (single[0].item(), single[1].item()) == pytest.approx(expected, rel=1e-5)


def test_half_precision_is_computed_in_single():
    logits, labels = drawn(4, 3, 4, 5).bfloat16(), labels_of(copies=2)
    divergence, entropy = consistency(logits, labels, 2)
    assert divergence.dtype == torch.float32
    assert (divergence.item(), entropy.item()) == pytest.approx(by_hand(logits, labels, 2), rel=1e-5)


def test_the_gradient_is_the_derivative():
    labels = labels_of(copies=2, size=(2, 2))
    logits = drawn(4, 3, 2, 2, scale=1.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sum(consistency(x, labels, 2)), logits)


def test_equal_copies_agree():
    one = drawn(2, 3, 4, 5)
    divergence, entropy = consistency(torch.cat([one, one]), labels_of(copies=2), 2)
    assert divergence.item() == pytest.approx(0, abs=1e-12)
    assert entropy.item() == pytest.approx(by_hand(torch.cat([one, one]), labels_of(), 2)[1])


def test_opposite_certain_copies_are_finite():
    logits = torch.zeros(2, 3, 1, 1)
    logits[0, 0] = logits[1, 1] = 1e4
    logits.requires_grad_()
    divergence, entropy = consistency(logits, torch.zeros(2, 1, 1, dtype=torch.int64), 2)
    assert entropy.item() == pytest.approx(math.log(2))
    assert divergence.item() == pytest.approx(5000 - math.log(2))  # mean of log 1 and -1e4, against log 1/2
    (gradient,) = torch.autograd.grad(divergence + entropy, logits)
    assert bool(gradient.isfinite().all())


def test_void_pixels_do_not_count():
    logits, labels = drawn(4, 3, 4, 5), labels_of(copies=2)
    changed = torch.where((labels == IGNORE_INDEX)[:, None], -logits, logits)
    assert consistency(logits, labels, 2) == consistency(changed, labels, 2)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(sum(consistency(logits, labels, 2)), logits)
    assert bool((gradient.abs().sum(1) > 0).eq(labels != IGNORE_INDEX).all())


def test_a_batch_without_labels_costs_nothing():
    logits = drawn(4, 3, 4, 5).requires_grad_()
    terms = consistency(logits, torch.full((4, 4, 5), IGNORE_INDEX), 2)
    assert [term.item() for term in terms] == [0, 0]
    (gradient,) = torch.autograd.grad(sum(terms), logits)
    assert not gradient.any()


def test_a_step_is_the_segmenters_loss_and_the_two_terms():
    segmenter = TinySegmenter().eval().double()
    images, labels = drawn(2, 3, 8, 6, seed=1, scale=0.3), labels_of(size=(8, 6))
    objective = ConsistencyObjective(sigma=0.25, copies=3, weight=7.0, entropy=0.4)
    torch.manual_seed(0)
    losses = objective(segmenter, images, labels)
    torch.manual_seed(0)
    noisy = torch.cat([images] * 3) + 0.25 * torch.randn(6, 3, 8, 6, dtype=torch.float64)
    with torch.no_grad():
        logits = torch.cat([segmenter(copy) for copy in noisy.split(2)])
        own = [segmenter.loss(copy, labels)["loss_ce"].item() for copy in noisy.split(2)]
    divergence, entropy = by_hand(logits, labels, 3)
    assert set(losses) == {"loss_ce", "acc", "loss_consistency", "loss_entropy"}
    assert losses["loss_ce"].item() == pytest.approx(np.mean(own))
    assert losses["loss_consistency"].item() == pytest.approx(7 * divergence)
    assert losses["loss_entropy"].item() == pytest.approx(0.4 * entropy)


@pytest.mark.parametrize("term", ["loss_consistency", "loss_entropy"])
def test_each_term_trains_every_parameter_of_the_network(term):
    segmenter = TinySegmenter().train()
    losses = ConsistencyObjective()(segmenter, torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.int64))
    losses[term].backward()
    # the bias before batch normalisation has no effect at all
    gradients = {name: p.grad for name, p in segmenter.body.named_parameters() if name != "0.bias"}
    assert all(bool(gradient.abs().max() > 1e-8) for gradient in gradients.values()), gradients


class Recording(TinySegmenter):
    """Keeps the images it is trained on."""

    def loss_and_logits(self, images, labels):
        self.seen = images
        return super().loss_and_logits(images, labels)


def test_copies_of_an_image_share_its_deviation_and_nothing_else():
    segmenter, labels = Recording(), torch.zeros(3, 64, 64, dtype=torch.int64)
    torch.manual_seed(0)
    ConsistencyObjective(sigma=0.5, sampling="uniform")(segmenter, torch.zeros(3, 3, 64, 64), labels)
    first, second = segmenter.seen.split(3)
    deviations = first.flatten(1).std(1)
    torch.testing.assert_close(deviations, second.flatten(1).std(1), rtol=0.05, atol=0)
    assert float(deviations.max() / deviations.min()) > 1.5
    assert abs(float((first * second).mean() / (first.std() * second.std()))) < 0.05


def test_images_without_noise_have_equal_copies():
    segmenter, images = Recording(), torch.rand(40, 3, 4, 4)
    torch.manual_seed(0)
    ConsistencyObjective(clean_share=0.5)(segmenter, images, torch.zeros(40, 4, 4, dtype=torch.int64))
    first, second = ((copy == images).flatten(1).all(1) for copy in segmenter.seen.split(40))
    assert torch.equal(first, second)
    assert 5 < int(first.sum()) < 35


@pytest.mark.parametrize("value", ["two", True, None, 1, 2.0])
def test_copies_are_at_least_two(value):
    with pytest.raises(ConfigError, match=r"^training\.objective\.copies must be an integer of at least 2"):
        ConsistencyObjective(copies=value)


@pytest.mark.parametrize("value", ["fast", True, None, -0.1, math.nan])
@pytest.mark.parametrize("field", ["weight", "entropy"])
def test_factors_are_not_negative(field, value):
    with pytest.raises(ConfigError, match=rf"^training\.objective\.{field} must be a number >= 0"):
        ConsistencyObjective(**{field: value})


def test_noise_settings_are_checked_too():
    with pytest.raises(ConfigError, match=r"training\.objective\.sigma"):
        ConsistencyObjective(sigma=0.0)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: Denoised(nn.Identity(), s)], ids=["bare", "denoised"])
def test_a_segmenter_that_hides_its_logits_is_refused_before_training(wrap, tmp_path):
    class Hiding(TinySegmenter):
        loss_and_logits = None

    recipe = dataclasses.replace(RECIPE, objective=ConsistencyObjective())
    with pytest.raises(ModelError, match=r"Hiding hides.*TrainingOutput.*training=noise"):
        train_bands(tmp_path, wrap(Hiding()), recipe)
    assert not (tmp_path / "history.jsonl").read_text()


# --- training


def disagreement(segmenter, copies=8):
    """Divergence between noisy copies of validation images."""
    images = torch.stack([sample.image for sample in (Bands(count=6, split="val", seed=1)[k] for k in range(6))])
    noise = 0.25 * torch.randn(copies * 6, *images.shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = segmenter(images.repeat(copies, 1, 1, 1) + noise)
    return consistency(logits, torch.zeros(copies * 6, *images.shape[-2:], dtype=torch.int64), copies)[0].item()


def test_predictions_change_less_with_the_noise_than_after_noise_training(tmp_path):
    recipe = dataclasses.replace(RECIPE, objective=NoiseObjective(0.25), validations=0)
    noise, _ = train_bands(tmp_path / "noise", recipe=recipe)
    recipe = dataclasses.replace(recipe, objective=ConsistencyObjective(0.25))
    consistent, _ = train_bands(tmp_path / "consistency", recipe=recipe)
    assert disagreement(consistent) < 0.7 * disagreement(noise)
    history = (tmp_path / "consistency" / "history.jsonl").read_text()
    assert "loss_consistency" in history
    assert "loss_entropy" in history


def test_a_resumed_training_ends_with_the_same_weights(tmp_path):
    class Stop(Exception):
        """Ends a training in the middle."""

    class Interrupted(TinySegmenter):
        calls = 0

        def loss_and_logits(self, images, labels):
            self.calls += 1
            if self.calls > 9:
                raise Stop
            return super().loss_and_logits(images, labels)

    objective = ConsistencyObjective(0.1, sampling="uniform", clean_share=0.2)
    recipe = dataclasses.replace(RECIPE, objective=objective, iterations=14, validations=1)
    whole, _ = train_bands(tmp_path / "whole", recipe=recipe)
    with pytest.raises(Stop):
        train_bands(tmp_path / "cut", Interrupted(), recipe)
    resumed, report = train_bands(tmp_path / "cut", TinySegmenter(seed=5), recipe)
    assert report.resumed == 1
    wanted = whole.state_dict()
    assert all(torch.equal(wanted[name], value) for name, value in resumed.state_dict().items())


# --- logits of mmsegmentation's networks

SMALL_UNET = {
    "backbone.base_channels": 4,
    "decode_head": {"in_channels": 4, "channels": 8},
    "auxiliary_head": {"in_channels": 8, "channels": 8},
}
NETWORKS = [
    ("upernet_tiny", TINY, {}),
    ("align_corners", "pspnet/pspnet_r18b-d8_4xb2-80k_cityscapes-769x769", {}),
    ("two outputs", "ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024", {}),
    ("three outputs", "pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes", {}),
    ("cascade", "ocrnet/ocrnet_hr18s_4xb2-40k_cityscapes-512x1024", {}),
    ("padded", "unet/unet-s5-d16_deeplabv3_4xb4-40k_drive-64x64", SMALL_UNET),
]


@pytest.mark.parametrize(("config", "overrides"), [n[1:] for n in NETWORKS], ids=[n[0] for n in NETWORKS])
def test_one_pass_gives_the_losses_and_the_logits_they_come_from(config, overrides):
    torch.manual_seed(0)
    segmenter = MMSegSegmenter(num_classes=3, config=config, name="test", overrides=overrides)
    for module in segmenter.train().modules():  # training mode, yet the same logits in every pass
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            module.eval()
    passes = []
    segmenter.network.backbone.register_forward_hook(lambda *_: passes.append(1))
    images, labels = torch.rand(2, 3, 56, 64), labels_of(size=(56, 64))
    with torch.no_grad():
        expected = segmenter.loss(images, labels)
        passes.clear()
        output = segmenter.loss_and_logits(images, labels)
        assert len(passes) == 1
        logits = segmenter.eval()(images)
    assert output.losses.keys() == expected.keys()
    assert all(torch.equal(output.losses[name], value) for name, value in expected.items())
    height, width = output.logits.shape[-2:]  # 64 x 64 for the network that is padded
    assert output.labels.shape == (2, height, width)
    assert bool((output.labels[:, 56:] == IGNORE_INDEX).all())
    torch.testing.assert_close(output.logits[..., :56, :64], logits, rtol=1e-4, atol=1e-5)


def test_logits_and_labels_are_at_the_scale_of_the_loss():
    torch.manual_seed(0)
    segmenter = MMSegSegmenter(num_classes=3, config=TINY, name="test", scales=[0.5])
    output = segmenter.loss_and_logits(torch.rand(2, 3, 32, 48), labels_of(size=(32, 48)))
    assert output.logits.shape == (2, 3, 16, 24)
    assert output.labels.shape == (2, 16, 24)


class Head(nn.Module):
    """A decode head of a kind certseg does not know."""

    num_classes = 3

    def __init__(self, logits):
        super().__init__()
        self._logits = logits

    def loss(self):
        return self.loss_by_feat(self._logits)

    def loss_by_feat(self, logits):
        return logits


@pytest.mark.parametrize("logits", [[torch.zeros(1, 3, 2, 2)] * 2, torch.zeros(1, 5, 2, 2), torch.zeros(1, 3)])
def test_an_unknown_form_of_logits_is_one_clear_error(logits):
    network = nn.Module()
    network.decode_head = Head(logits)
    with (
        pytest.raises(ModelError, match=r"which training output of Head is the prediction.*training=noise"),
        recorded_logits(network),
    ):
        network.decode_head.loss()
    assert network.decode_head.loss() is logits  # the head's own method is back


def test_a_head_without_logits_is_one_clear_error():
    network = nn.Module()
    network.decode_head = Head(None)
    with pytest.raises(ModelError, match="which training output of Head"), recorded_logits(network):
        pass
