import math

import pytest
import torch
from support.training_fakes import RECIPE, Bands, TinySegmenter, train_bands
from torch import nn

from certseg.errors import ConfigError
from certseg.training import AdversarialObjective, CleanObjective
from certseg.types import IGNORE_INDEX


def batch(size=3):
    samples = [Bands()[index] for index in range(size)]
    return torch.stack([s.image for s in samples]), torch.stack([s.target for s in samples])


def loss_of(segmenter, images, labels):
    with torch.no_grad():
        values = nn.functional.cross_entropy(
            segmenter.eval()(images), labels, ignore_index=IGNORE_INDEX, reduction="none"
        )
    return values.sum(dim=(1, 2))


@pytest.mark.parametrize("loss", ["cross_entropy", "balanced_cross_entropy", "masked_cross_entropy"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_attack_stays_in_its_budget_and_does_harm(norm, loss):
    images, labels = batch()
    radius = 0.05 if norm == "linf" else 1.0
    objective = AdversarialObjective(radius=radius, norm=norm, steps=4, step_size=radius / 2, loss=loss)
    segmenter = train_bands_once()
    attacked = objective.attack(segmenter, images, labels)
    change = (attacked - images).flatten(1)
    lengths = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert (lengths <= radius * (1 + 1e-5)).all()
    assert (lengths > 0.5 * radius).all()
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    harmless = images + objective._start(images)  # as far away, without looking at the network
    assert (loss_of(segmenter, attacked, labels) > loss_of(segmenter, harmless.clamp(0, 1), labels)).all()


def train_bands_once(cache={}):  # noqa: B006 - one training for all tests
    if not cache:
        segmenter, optimiser = TinySegmenter(), None
        optimiser = torch.optim.AdamW(segmenter.parameters(), 1e-2)
        images, labels = batch(6)
        for _ in range(60):
            optimiser.zero_grad()
            segmenter.loss(images, labels)["loss_ce"].backward()
            optimiser.step()
        cache["segmenter"] = segmenter
    return cache["segmenter"]


def test_the_attack_leaves_the_segmenter_alone():
    segmenter = TinySegmenter().train()
    segmenter.body[1].eval()  # a part frozen by its owner
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    images, labels = batch()
    AdversarialObjective(steps=2).attack(segmenter, images, labels)
    assert [module.training for module in segmenter.body] == [True, False, True, True, True]
    assert all(parameter.grad is None for parameter in segmenter.parameters())
    assert all(torch.equal(value, before[name]) for name, value in segmenter.state_dict().items())


def test_void_pixels_and_untouched_shares():
    images, labels = batch()
    segmenter = TinySegmenter()
    void = torch.full_like(labels, IGNORE_INDEX)
    attacked = AdversarialObjective(radius=0.1, steps=1).attack(segmenter, images, void)
    assert torch.isfinite(attacked).all()
    torch.manual_seed(0)
    many, targets = images.repeat(40, 1, 1, 1), labels.repeat(40, 1, 1)
    attacked = AdversarialObjective(radius=0.1, steps=1, clean_share=0.5).attack(segmenter, many, targets)
    untouched = int((attacked == many).flatten(1).all(1).sum())
    assert abs(untouched - 60) < 4 * math.sqrt(120 / 4)


def test_training_with_it_makes_the_network_harder_to_attack(tmp_path):
    images, labels = batch(6)
    attack = AdversarialObjective(radius=0.15, steps=5, step_size=0.06)
    accuracy = {}
    for name, objective in (("clean", CleanObjective()), ("adversarial", attack)):
        recipe = RECIPE.__class__(
            name=name, objective=objective, iterations=100, batch_size=4, crop=(16, 24), validations=0
        )
        segmenter, _ = train_bands(tmp_path / name, recipe=recipe)
        torch.manual_seed(1)
        hit = segmenter.eval()(attack.attack(segmenter, images, labels)).argmax(1) == labels
        accuracy[name] = float(hit[labels != IGNORE_INDEX].float().mean())
    assert accuracy["adversarial"] > accuracy["clean"] + 0.05


def test_it_is_resumed_exactly(tmp_path):
    """Its random start comes from the generators that the trainer reseeds before every step."""
    recipe = RECIPE.__class__(
        name="at", objective=AdversarialObjective(steps=1), iterations=12, batch_size=2, crop=(16, 24), validations=0
    )
    first, _ = train_bands(tmp_path / "a", recipe=recipe)
    second, _ = train_bands(tmp_path / "b", recipe=recipe)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


@pytest.mark.parametrize(
    "bad",
    [{"radius": 0}, {"norm": "l7"}, {"steps": 0}, {"step_size": -1.0}, {"loss": "hinge"}, {"clean_share": 1.0}],
    ids=str,
)
def test_bad_arguments(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        AdversarialObjective(**bad)
