"""Recipes and objectives: what is refused, what is drawn."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from support.training_fakes import TinySegmenter

from certseg.errors import ConfigError
from certseg.training import (
    Augmentation,
    CleanObjective,
    ConsistencyObjective,
    DenoiserObjective,
    NoiseObjective,
    Recipe,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a/b"),
        ("name", ""),
        ("objective", "noise"),
        ("augmentation", {"flip": 0.5}),
        ("from_checkpoint", "yes"),
        ("freeze_backbone", 1),
        ("ema", 1.0),
        ("ema", 0.0),
        ("iterations", 0),
        ("iterations", 2.5),
        ("batch_size", True),
        ("crop", [0, 10]),
        ("crop", [10]),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("weight_decay", -1.0),
        ("warmup", 1.0),
        ("power", -0.1),
        ("clip", 0.0),
        ("precision", "int8"),
        ("precision", ["float32"]),
        ("validations", -1),
        ("val_images", 0),
        ("checkpoint_interval", 0),
    ],
)
def test_recipe_refuses(field, value):
    with pytest.raises(ConfigError, match=rf"training\.{field}"):
        Recipe(**{field: value})


NUMBERS = [
    "iterations",
    "batch_size",
    "crop",
    "lr",
    "weight_decay",
    "warmup",
    "power",
    "clip",
    "validations",
    "val_images",
    "checkpoint_interval",
    "ema",
]


@pytest.mark.parametrize("value", ["fast", True, [1, "two"], {}, math.inf])
@pytest.mark.parametrize("field", NUMBERS)
def test_a_wrong_type_is_named_with_its_setting(field, value):
    with pytest.raises(ConfigError, match=rf"^training\.{field} must be .*Received: ") as caught:
        Recipe(**{field: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", ["fast", True, None, [1, 2], math.nan])
@pytest.mark.parametrize("field", ["cat_max_ratio", "flip", "sigma", "clean_share"])
def test_a_wrong_type_in_an_object_is_named_with_its_setting(field, value):
    kind, place = (NoiseObjective, "objective") if field in ("sigma", "clean_share") else (Augmentation, "augmentation")
    with pytest.raises(ConfigError, match=rf"^training\.{place}\.{field} must be "):
        kind(**{field: value})


@pytest.mark.parametrize("value", ["fast", 2.0, [1, "two"], [0.5, math.inf], True])
def test_a_wrong_scale_is_named(value):
    with pytest.raises(ConfigError, match=r"^training\.augmentation\.scale must be "):
        Augmentation(scale=value)


def test_photometric_is_true_or_false():
    with pytest.raises(ConfigError, match=r"^training\.augmentation\.photometric must be true or false"):
        Augmentation(photometric="strong")


@pytest.mark.parametrize(
    "bad", [{"scale": [2.0, 0.5]}, {"scale": [0, 1]}, {"scale": [1]}, {"flip": 1.5}, {"cat_max_ratio": 0}]
)
def test_augmentation_refuses(bad):
    with pytest.raises(ConfigError, match=rf"augmentation\.{next(iter(bad))}"):
        Augmentation(**bad)


def test_random_scale_needs_a_crop():
    with pytest.raises(ConfigError, match=r"training\.crop"):
        Recipe(augmentation=Augmentation(scale=[0.5, 2.0]))


def test_intervals():
    recipe = Recipe(iterations=100, validations=3, warmup=0.05)
    assert recipe.warmup_iterations == 5
    assert recipe.validation_interval == 34
    assert Recipe(iterations=100, validations=0).validation_interval > 100


def test_settings_hold_what_changes_the_weights_and_nothing_else():
    recipe = Recipe(name="noise", objective=NoiseObjective(0.5), crop=[16, 16])
    same = dataclasses.replace(recipe, validations=1, val_images=2, checkpoint_interval=7)
    assert recipe.settings() == same.settings()
    for change in (
        {"lr": 1e-3},
        {"ema": 0.9},
        {"freeze_backbone": True},
        {"objective": NoiseObjective(0.25)},
        {"crop": None},
        {"precision": "bfloat16"},
    ):
        assert dataclasses.replace(recipe, **change).settings() != recipe.settings()
    assert recipe.settings()["objective"] == {
        "kind": "NoiseObjective",
        "sigma": 0.5,
        "clean_share": 0.0,
        "sampling": "fixed",
    }


@pytest.mark.parametrize("bad", [{"sigma": 0.0}, {"sigma": math.inf}, {"clean_share": 1.0}, {"sampling": "some"}])
def test_noise_refuses(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        NoiseObjective(**bad)


KINDS = {
    "clean": CleanObjective,
    "noise": NoiseObjective,
    "consistency": ConsistencyObjective,
    "denoiser": DenoiserObjective,
}


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_configs_are_recipes(name, kind):
    path = Path(__file__).resolve().parents[2] / "configs" / "training" / f"{name}.yaml"
    recipe = instantiate(OmegaConf.load(path), _convert_="all")
    assert isinstance(recipe, Recipe)
    assert recipe.name == name
    assert type(recipe.objective) is kind
    assert recipe.from_checkpoint == (name == "denoiser")
    assert recipe.crop == (240, 320)
    assert (recipe.freeze_backbone, recipe.ema) == (False, None)


def test_noise_has_the_stated_deviation_and_is_not_clipped():
    torch.manual_seed(0)
    images = torch.full((4, 3, 64, 64), 0.9)
    noise = NoiseObjective(sigma=0.25).perturb(images) - images
    n = noise[0].numel()
    for one in noise:  # 5 standard errors of mean and deviation
        assert abs(float(one.mean())) < 5 * 0.25 / math.sqrt(n)
        assert abs(float(one.std()) - 0.25) < 5 * 0.25 / math.sqrt(2 * n)
    assert float((images + noise).max()) > 1.0
    assert not torch.equal(noise[0], noise[1])


def test_clean_share_leaves_that_share_of_images_alone():
    torch.manual_seed(1)
    images = torch.rand(2000, 3, 2, 2)
    untouched = (NoiseObjective(sigma=0.25, clean_share=0.3).perturb(images) == images).flatten(1).all(1)
    assert abs(float(untouched.float().mean()) - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 2000)


def test_uniform_sampling_spreads_the_deviations():
    torch.manual_seed(2)
    images = torch.zeros(400, 3, 32, 32)
    deviations = NoiseObjective(sigma=0.5, sampling="uniform").perturb(images).flatten(1).std(1)
    assert float(deviations.max()) < 0.55
    # mean and deviation of U[0, 0.5] are 0.25 and 0.144
    assert abs(float(deviations.mean()) - 0.25) < 5 * 0.144 / math.sqrt(400)
    assert float(deviations.min()) < 0.05


def test_views():
    images = torch.rand(1, 3, 8, 8)
    assert list(CleanObjective().views(images, torch.Generator())) == ["clean"]
    first, second = (NoiseObjective(0.25).views(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert list(first) == ["clean", "noise"]
    assert torch.equal(first["clean"], images)
    assert torch.equal(first["noise"], second["noise"])
    assert not torch.equal(first["noise"], images)


def test_objectives_call_the_segmenters_own_loss():
    segmenter = TinySegmenter().eval()
    images, labels = torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.int64)
    expected = segmenter.loss(images, labels)["loss_ce"]
    assert torch.equal(CleanObjective()(segmenter, images, labels)["loss_ce"], expected)
    torch.manual_seed(0)
    noisy = NoiseObjective(0.25)(segmenter, images, labels)["loss_ce"]
    torch.manual_seed(0)
    by_hand = segmenter.loss(images + 0.25 * torch.randn_like(images), labels)["loss_ce"]
    torch.testing.assert_close(noisy, by_hand)
