"""Identities of trainings on masked images: an inpainter's file is named by its content."""

import functools
from dataclasses import replace

import pytest
from support.pipeline_runs import configuration

from certseg.errors import CheckpointError
from certseg.pipeline.declarations import read
from certseg.pipeline.keys import key, training_identity
from certseg.pipeline.settings import parse
from certseg.pipeline.spec import TrainingSpec


@functools.cache
def composed():
    return parse(configuration("outputs", base=()))


def identity(inpainter):
    objective = {"_target_": "certseg.training.MaskedObjective", "inpainter": inpainter, "clean_share": 0.5}
    training = {"_target_": "certseg.training.Recipe", "name": "masked", "objective": objective, "lr": 0.1}
    return training_identity(replace(composed(), training=read(TrainingSpec, training, "training")), "data")


@pytest.mark.parametrize(("target", "setting"), [("Learned", "checkpoint"), ("TorchScript", "path")])
def test_an_inpainter_is_its_content_and_not_its_path(target, setting, tmp_path):
    files = {name: tmp_path / name for name in ("first.pt", "copy.pt", "other.pt")}
    for file, content in zip(files.values(), (b"first", b"first", b"other"), strict=True):
        file.write_bytes(content)

    def of(name, **more):
        return key(identity({"_target_": f"certseg.patches.inpainting.{target}", setting: str(files[name]), **more}))

    before = of("first.pt")
    assert before == of("copy.pt") != of("other.pt")
    assert of("first.pt", multiple=16) != before
    files["first.pt"].write_bytes(b"trained again")
    assert before == of("copy.pt") != of("first.pt")
    with pytest.raises(CheckpointError, match=rf"Cannot read training\.objective\.inpainter\.{setting}=.*nowhere\.pt"):
        identity({"_target_": f"certseg.patches.inpainting.{target}", setting: str(tmp_path / "nowhere.pt")})


@pytest.mark.parametrize(
    ("inpainter", "told"),
    [
        ({"_target_": "certseg.patches.inpainting.Telea", "radius": 3}, {"class": "telea", "radius": 3}),
        ({"_target_": "certseg.patches.inpainting.Learned", "checkpoint": None}, {"class": "learned"}),
        ({"_target_": "mine.Fill", "path": None, "speed": 2}, {"class": "mine.Fill", "speed": 2}),
    ],
    ids=str,
)
def test_without_a_file_settings_stay_as_they_are(inpainter, told):
    assert identity(inpainter)["training"]["objective"]["inpainter"] == told
