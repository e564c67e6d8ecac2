"""The losses of training=lipschitz against their formulas, and a training that resumes and certifies."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from support.training_fakes import RECIPE, TinySegmenter, train_bands
from torch import nn

from certseg.errors import ConfigError, ModelError
from certseg.models import LipDeepLabV3
from certseg.models.mmseg_library import quiet_import
from certseg.training import LipschitzObjective
from certseg.training.lipschitz import LOSSES


def drawn(void=True):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator)
    if void:
        labels[0, :2] = 255
    return logits, labels


def rows(logits, labels):
    keep = labels != 255
    return logits.permute(0, 2, 3, 1)[keep], labels[keep]


def test_tau_cross_entropy():
    logits, labels = drawn()
    values, classes = rows(logits, labels)
    expected = nn.functional.cross_entropy(5.0 * values, classes) / 5.0
    found = LOSSES["tau_cross_entropy"](LipschitzObjective(tau=5.0), logits, labels)
    assert float(found) == pytest.approx(float(expected), rel=1e-12)


def test_cosine():
    logits, labels = drawn()
    values, classes = rows(logits, labels)
    expected = [1 - float(row[c] / row.norm()) for row, c in zip(values, classes)]
    found = LOSSES["cosine"](LipschitzObjective(loss="cosine"), logits, labels)
    assert float(found) == pytest.approx(sum(expected) / len(expected), rel=1e-12)


def test_hkr():
    logits, labels = drawn()
    values, classes = rows(logits, labels)
    objective = LipschitzObjective(loss="hkr", margin=0.8, alpha=0.7)
    hinge = distance = 0.0
    for row, c in zip(values.tolist(), classes.tolist()):
        hinge += sum(max(0.0, 0.4 - (1 if k == c else -1) * row[k]) for k in range(3)) / len(values)
    for k in range(3):
        distance += float(values[classes != k, k].mean() - values[classes == k, k].mean()) / 3
    found = LOSSES["hkr"](objective, logits, labels)
    assert float(found) == pytest.approx(0.7 * hinge + 0.3 * distance, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_images_without_labels_and_absent_classes_give_numbers(loss):
    objective = LipschitzObjective(loss=loss)
    logits, labels = drawn(void=False)
    logits.requires_grad_()
    value = LOSSES[loss](objective, logits, torch.full_like(labels, 255))
    value.backward()
    assert not value.detach()
    assert not bool(logits.grad.any())
    one_class = LOSSES[loss](objective, logits, torch.zeros_like(labels))
    assert bool(torch.isfinite(one_class))


@pytest.mark.parametrize("bad", [{"loss": "mse"}, {"tau": 0}, {"margin": -1}, {"alpha": 2}, {"radii": [-1.0]}], ids=str)
def test_bad_settings(bad):
    with pytest.raises(ConfigError, match=f"objective.{next(iter(bad))}"):
        LipschitzObjective(**bad)


def test_a_network_without_a_constant_is_refused():
    with pytest.raises(ModelError, match="TinySegmenter"):
        LipschitzObjective().prepare(TinySegmenter())


def test_a_training_resumes_to_the_bit_and_its_network_is_certified(tmp_path):
    recipe = dataclasses.replace(
        RECIPE,
        name="lipschitz",
        objective=LipschitzObjective(tau=20.0),
        iterations=6,
        validations=1,
        checkpoint_interval=3,
        lr=0.02,
    )

    def network():
        torch.manual_seed(0)
        return LipDeepLabV3(num_classes=3, name="x", size=[[8, 1]], rates=[2])

    whole, done = train_bands(tmp_path / "whole", network(), recipe)
    at = [done.figures[f"certified/pixel_accuracy@{radius:g}/pooled"] for radius in recipe.objective.radii]
    assert done.figures["clean/pixel_accuracy/pooled"] >= at[0] >= at[1] >= at[2] >= 0
    assert at[0] > 0
    assert done.figures["certified/lipschitz_constant"] == whole.certified_bound((24, 32)).constant
    assert 0 < done.figures["certified/cost/pooled"] < math.inf

    class Killed(Exception):
        pass

    class Dying(LipDeepLabV3):
        steps = 0

        def forward(self, images):
            self.steps += self.training
            if self.steps == 5:
                raise Killed
            return super().forward(images)

    torch.manual_seed(0)
    with pytest.raises(Killed):
        train_bands(tmp_path / "killed", Dying(num_classes=3, name="x", size=[[8, 1]], rates=[2]), recipe)
    resumed, report = train_bands(tmp_path / "killed", network(), recipe)
    assert report.resumed == 1
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert 0.99 < resumed.certified_bound((24, 32)).constant < 1 + 1e-9


def test_the_average_that_a_training_ends_with_is_what_is_evaluated():
    """It is written through ``.data``, which counts as no change."""
    with quiet_import():
        from certseg.training.hooks import AverageHook
    torch.manual_seed(0)
    network, image = LipDeepLabV3(num_classes=3, name="x", size=[[8, 1]], rates=[2]), torch.rand(1, 3, 8, 8)
    hook = AverageHook(0.5)
    hook.before_run(SimpleNamespace(model=network))
    with torch.no_grad():
        network.head.weight.mul_(3)
    before = network.eval()(image)
    versions = [p._version for p in network.parameters()]
    hook.after_train(SimpleNamespace(model=network))
    assert versions == [p._version for p in network.parameters()]
    assert float(network(image).std()) == pytest.approx(float(before.std()) / 3, rel=0.1)
