"""What an objective must have and what it gets by default, and what it asks of a network."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from support.training_fakes import RECIPE, TinySegmenter, train_bands
from torch import nn

from certseg.errors import ConfigError, ModelError
from certseg.models import Denoised
from certseg.patches.inpainting import Telea
from certseg.training import (
    AdversarialObjective,
    CleanObjective,
    ConsistencyObjective,
    MaskedObjective,
    NoiseObjective,
    Objective,
    Recipe,
)
from certseg.types import IGNORE_INDEX
from certseg.types.trainable import explained, trainable

SHORT = dataclasses.replace(RECIPE, iterations=3, validations=1)


class Plain(nn.Module):
    """A network that predicts three classes and has no loss of its own."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 3, 1)

    def forward(self, images):
        return self.body(images)


class CrossEntropy(Objective):
    """A stranger's objective: a loss, and nothing else."""

    def __call__(self, network, images, labels):
        return {"loss_ce": F.cross_entropy(network(images), labels, ignore_index=IGNORE_INDEX)}


def test_an_objective_with_nothing_but_a_loss_trains_and_is_validated(tmp_path):
    segmenter, report = train_bands(tmp_path, Plain(), dataclasses.replace(SHORT, objective=CrossEntropy()))
    assert set(report.figures) == {"clean/pixel_accuracy/pooled", "clean/miou/pooled"}
    assert not torch.equal(segmenter.body.bias, Plain().body.bias)


def test_what_an_objective_measures_besides_is_added_up_over_the_images(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Brightness:
        total: float
        images: int = 1

        def __add__(self, other):
            return Brightness(self.total + other.total, self.images + other.images)

        def figures(self):
            return {"mean": self.total / self.images, "images": self.images}

    class Measuring(CrossEntropy):
        def measure(self, network, logits, target):
            assert logits.shape == (3, *target.shape)
            return {"labels": Brightness(float(target[target != IGNORE_INDEX].double().mean()))}

    _, report = train_bands(tmp_path, Plain(), dataclasses.replace(SHORT, objective=Measuring()))
    assert report.figures["labels/images"] == 3
    assert 0 < report.figures["labels/mean"] < 2
    assert "clean/miou/pooled" in report.figures


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: Denoised(nn.Identity(), s)], ids=["bare", "denoised"])
@pytest.mark.parametrize(
    "objective",
    [CleanObjective(), NoiseObjective(), AdversarialObjective(steps=1), MaskedObjective(Telea())],
    ids=lambda objective: type(objective).__name__,
)
def test_a_network_without_a_loss_is_refused_before_training(objective, wrap, tmp_path):
    with pytest.raises(ModelError, match=r"Plain has no loss of its own.*loss\(images, labels\)"):
        train_bands(tmp_path, wrap(Plain()), dataclasses.replace(SHORT, objective=objective))
    assert not (tmp_path / "history.jsonl").read_text()


def test_a_network_that_does_not_say_its_classes_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"Conv2d is no segmenter"):
        train_bands(tmp_path, nn.Conv2d(3, 3, 1), SHORT)
    with pytest.raises(ModelError, match=r"Conv2d is no segmenter.*num_classes"):
        Denoised(nn.Identity(), nn.Conv2d(3, 3, 1))


@pytest.mark.parametrize("value", [F.cross_entropy, CrossEntropy, None], ids=["function", "class", "none"])
def test_only_an_objective_can_be_minimised(value):
    with pytest.raises(ConfigError, match=r"^training\.objective must be a certseg\.training\.Objective"):
        Recipe(objective=value)


def test_a_denoised_segmenter_answers_for_the_one_behind_it():
    images, labels = torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.int64)
    pair = Denoised(nn.Identity(), Plain())
    with pytest.raises(ModelError, match=r"Plain has no loss"):
        pair.loss(images, labels)
    with pytest.raises(ModelError, match=r"Plain hides"):
        pair.loss_and_logits(images, labels)
    with pytest.raises(ModelError, match=r"Plain hides"):
        ConsistencyObjective().prepare(Denoised(nn.Identity(), pair))
    segmenter = TinySegmenter()
    assert trainable(segmenter) is explained(segmenter) is segmenter
