"""A frozen backbone keeps every bit; a moving average of the weights is exact, validated, saved and resumed."""

import dataclasses
import math

import pytest
import torch
from support.training_fakes import RECIPE, Bands, TinySegmenter, train_bands
from torch import nn

from certseg.compute.hardware import Hardware
from certseg.errors import CheckpointError, ConfigError
from certseg.models.mmseg_library import quiet_import
from certseg.training import AdversarialObjective, CleanObjective

with quiet_import():
    from certseg.training.training_model import TrainingModel

SHORT = dataclasses.replace(RECIPE, iterations=9, validations=3, checkpoint_interval=4)


class WithBackbone(TinySegmenter):
    """Its first convolution and batch normalisation are the backbone."""

    def __init__(self, seed=0):
        super().__init__(seed=seed)
        self.backbone, self.head = self.body[:2], self.body[2:]
        del self.body

    def forward(self, images):
        return self.head(self.backbone(images))


class Stop(Exception):
    """Ends a training in the middle."""


class Recorded(WithBackbone):
    """Remembers its weights at every step, after ``stop`` steps it stops."""

    def __init__(self, stop=None):
        super().__init__()
        self.stop, self.seen, self.modes = stop, [], set()

    def loss(self, images, labels):
        if len(self.seen) == self.stop:
            raise Stop
        self.seen.append({name: value.clone() for name, value in self.state_dict().items()})
        self.modes.add((self.backbone[1].training, self.head[1].training))
        return super().loss(images, labels)


def differences(first, second):
    return {name for name, value in first.items() if not torch.equal(value, second[name])}


# --- a frozen backbone


@pytest.mark.parametrize("objective", [CleanObjective(), AdversarialObjective(steps=1)], ids=["clean", "adversarial"])
def test_a_frozen_backbone_keeps_every_bit_and_the_rest_learns(tmp_path, objective):
    segmenter = Recorded()
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    recipe = dataclasses.replace(SHORT, freeze_backbone=True, ema=0.9, objective=objective)
    _, report = train_bands(tmp_path, segmenter, recipe)
    assert differences(before, segmenter.state_dict()) == {"head.4.weight", "head.4.bias"}
    assert segmenter.modes == {(False, True)}  # its normalisation is in eval mode, dropout is not
    assert not any(parameter.requires_grad for parameter in segmenter.backbone.parameters())
    assert report.figures["clean/pixel_accuracy/pooled"] > 0


def test_only_batch_normalisation_of_the_backbone_stays_in_eval_mode():
    segmenter = WithBackbone()
    segmenter.backbone.append(nn.Dropout(0.5))
    segmenter.head.append(nn.BatchNorm2d(3))
    model = TrainingModel(segmenter, CleanObjective(), 0, frozen=[segmenter.backbone[1]])
    assert [module.training for module in (*model.train().segmenter.backbone, segmenter.head[-1])] == [
        True,
        False,
        True,
        True,
    ]
    assert not any(module.training for module in model.eval().modules())


def test_a_network_without_a_backbone_cannot_freeze_it(tmp_path):
    with pytest.raises(ConfigError, match=r"TinySegmenter has no part that it calls its backbone"):
        train_bands(tmp_path, recipe=dataclasses.replace(SHORT, freeze_backbone=True))
    assert not list(tmp_path.iterdir())


# --- the moving average


def test_the_average_follows_its_definition(tmp_path):
    """Against the weights recorded at every step, by hand; the last step's come from a training without average."""
    last, _ = train_bands(tmp_path / "last", WithBackbone(), SHORT)
    segmenter = Recorded()
    train_bands(tmp_path / "average", segmenter, dataclasses.replace(SHORT, ema=0.75))
    steps = [*segmenter.seen[1:], last.state_dict()]
    assert len(steps) == 9
    for name, value in segmenter.state_dict().items():
        if value.is_floating_point():
            average = steps[0][name].double()
            for weights in steps[1:]:
                average = 0.75 * average + 0.25 * weights[name].double()
            torch.testing.assert_close(value.double(), average, rtol=1e-5, atol=1e-6)
    moved = differences(segmenter.state_dict(), last.state_dict())
    assert {"backbone.0.weight", "backbone.1.running_mean", "head.4.bias"} <= moved


def test_the_average_is_what_is_validated_and_saved(tmp_path):
    recipe = dataclasses.replace(SHORT, ema=0.75, validations=1)
    segmenter, report = train_bands(tmp_path / "average", WithBackbone(), recipe)
    _, last = train_bands(tmp_path / "last", WithBackbone(), dataclasses.replace(recipe, ema=None))
    assert last.figures != report.figures
    saved = torch.load(report.checkpoint, weights_only=True)["state_dict"]
    assert not differences(saved, segmenter.state_dict())
    model = TrainingModel(Hardware(device="cpu", threads=1).place(segmenter), recipe.objective, 0)
    hits = labelled = 0
    for index, sample in enumerate(Bands(count=3, split="val", seed=1)[i] for i in range(3)):
        (counts,) = model(sample.image[None], sample.target[None], torch.tensor([index]), mode="predict")
        labelled += int((sample.target != 255).sum())
        hits += counts["clean"].counts.accuracy() * int((sample.target != 255).sum())
    assert math.isclose(report.figures["clean/pixel_accuracy/pooled"], hits / labelled, rel_tol=1e-12)


def test_an_interrupted_average_is_resumed_to_the_bit(tmp_path):
    recipe = dataclasses.replace(SHORT, ema=0.75)
    whole, report = train_bands(tmp_path / "whole", WithBackbone(), recipe)
    with pytest.raises(Stop):
        train_bands(tmp_path / "parts", Recorded(stop=7), recipe)  # after a validation at 6 and a state at 4
    resumed, again = train_bands(tmp_path / "parts", WithBackbone(seed=5), recipe)
    assert again.resumed == 1
    assert not differences(whole.state_dict(), resumed.state_dict())
    assert again.figures == report.figures
    assert (tmp_path / "parts/history.jsonl").read_text() == (tmp_path / "whole/history.jsonl").read_text()


def test_a_state_without_the_average_is_refused(tmp_path):
    with pytest.raises(Stop):
        train_bands(tmp_path, Recorded(stop=7), SHORT)
    with pytest.raises(CheckpointError, match=r"state\.pt does not fit.*average"):
        train_bands(tmp_path, WithBackbone(), dataclasses.replace(SHORT, ema=0.75))


def test_a_report_tells_what_a_step_costs(tmp_path):
    _, report = train_bands(tmp_path, recipe=dataclasses.replace(SHORT, validations=0))
    assert report.seconds_per_iteration == report.seconds / 9 > 0
