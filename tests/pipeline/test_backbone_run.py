"""Trainings that begin with the backbone of another checkpoint, and may keep it."""

from dataclasses import replace

import pytest
import torch
from support.pipeline_runs import SMALL, configuration

from certseg.errors import CheckpointError, ConfigError
from certseg.models import save_checkpoint
from certseg.pipeline import earlier_keys
from certseg.pipeline.keys import training_identity
from certseg.pipeline.settings import build, parse
from certseg.pipeline.spec import RunSpec
from certseg.pipeline.weights import build_segmenter, legend_of, obtain

QUICK = (*SMALL, "training=clean", "dataset.count=2", "training.iterations=2", "training.validations=0")


def settings_of(*overrides, base=QUICK):
    return parse(configuration("outputs", *overrides, base=base))


def network_of(output, *overrides):
    settings = settings_of(*overrides)
    return obtain(settings, legend_of(settings), build("hardware", settings.hardware), output / "streets")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A segmenter of another number of classes, and its file."""
    path = tmp_path_factory.mktemp("source") / "model.pt"
    torch.manual_seed(7)
    segmenter = build_segmenter(settings_of().model, 3).train()
    segmenter(torch.rand(2, 3, 48, 64))  # batch statistics of its own
    save_checkpoint(path, segmenter, {})
    return path, segmenter.backbone.state_dict()


def test_a_training_keeps_the_backbone_it_was_given(source, tmp_path):
    path, weights = source
    network = network_of(
        tmp_path,
        "training=adversarial",
        "training.freeze_backbone=true",
        "training.ema=0.5",
        f"model.backbone_checkpoint={path}",
    )
    after = network.segmenter.backbone.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in weights.items())
    assert network.segmenter.num_classes == 8
    assert network.label == "upernet_tiny-adversarial"
    assert "backbone_start" in network.identity


def test_a_training_starts_from_the_backbone_it_was_given(source, tmp_path):
    path, weights = source
    after = network_of(tmp_path, "training.lr=1e-12", f"model.backbone_checkpoint={path}").segmenter.backbone
    for name, value in after.named_parameters():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-9)


def test_files_that_contradict_each_other_or_are_missing(source, tmp_path):
    given = f"model.backbone_checkpoint={source[0]}"
    with pytest.raises(ConfigError, match=r"model\.checkpoint has a backbone already.*Give one of the two"):
        network_of(tmp_path, given, f"model.checkpoint={source[0]}")
    with pytest.raises(ConfigError, match=r"keep the backbone's random weights.*model\.backbone_checkpoint"):
        network_of(tmp_path, "training.freeze_backbone=true")
    with pytest.raises(CheckpointError, match=r"Cannot read model\.backbone_checkpoint=nowhere\.pt"):
        network_of(tmp_path, "model.backbone_checkpoint=nowhere.pt")
    with pytest.raises(CheckpointError, match=r"does not fit the backbone.*missing \(layer"):
        network_of(tmp_path, given, "model.config.backbone.depth=34")


def test_identities_follow_the_content_and_not_the_path(tmp_path):
    files = [tmp_path / name for name in ("a.pt", "b.pt", "copy.pt")]
    for file, content in zip(files, (b"a", b"b", b"a")):
        file.write_bytes(content)
    composed = settings_of(base=())

    def identity(model=(), training=()):
        parts = {"model": replace(composed.model, **dict(model))}
        parts["training"] = replace(composed.training, **dict(training))
        return training_identity(replace(composed, **parts), "data")

    a, b, copy = (identity({"backbone_checkpoint": str(file), "trust_backbone_checkpoint": True}) for file in files)
    assert a == copy
    assert identity() != a != b
    assert len({str(identity((), {key: value})) for key, value in (("ema", 0.9), ("freeze_backbone", True))}) == 2


def test_switched_off_they_change_no_identity():
    """Results of before there were these settings are found again."""
    settings = settings_of(base=())
    later = ("backbone_checkpoint", "trust_backbone_checkpoint", "freeze_backbone", "ema")
    earlier = {**settings.composed}
    for group in ("model", "training"):
        earlier[group] = {name: value for name, value in earlier[group].items() if name not in later}
    identity = training_identity(settings, "data")
    assert identity == training_identity(RunSpec.of(earlier), "data")
    assert not {*later, "backbone_start"} & {*identity, *identity["model"], *identity["training"]}
    assert earlier_keys.training_identity(settings.composed, "data", {}) == earlier_keys.training_identity(
        earlier, "data", {}
    )
