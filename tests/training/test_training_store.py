"""The training folder: the finished marker and its model belong together; files are replaced as a whole."""

import dataclasses
import hashlib
import json

import pytest
import torch
from support.training_fakes import IDENTITY, RECIPE, TinySegmenter, train_bands

from certseg.compute.atomic import replacing
from certseg.errors import CheckpointError, ResultError
from certseg.models import save_checkpoint
from certseg.training.store import TrainingFolder

QUICK = dataclasses.replace(RECIPE, iterations=3, validations=0)


@pytest.fixture
def finished(tmp_path):
    """A folder in which a training ended."""
    folder = TrainingFolder(tmp_path / "train", IDENTITY)
    save_checkpoint(folder.model, TinySegmenter(), {})
    folder.write_finished({"iterations": 1})
    return folder


def test_a_report_has_the_digest_of_the_weights_also_when_reused(tmp_path):
    _, report = train_bands(tmp_path, recipe=QUICK)
    assert report.weights_sha256 == hashlib.sha256((tmp_path / "model.pt").read_bytes()).hexdigest()
    assert json.loads((tmp_path / "finished.json").read_text())["weights"] == report.weights_sha256
    _, again = train_bands(tmp_path, recipe=QUICK)
    assert again.reused
    assert again.weights_sha256 == report.weights_sha256


def test_another_model_under_the_marker_is_refused(tmp_path):
    segmenter, _ = train_bands(tmp_path, recipe=QUICK)
    with torch.no_grad():
        next(segmenter.parameters()).zero_()
    save_checkpoint(tmp_path / "model.pt", segmenter, {})
    with pytest.raises(CheckpointError, match=r"model\.pt is not the model .* Delete the folder to train again"):
        train_bands(tmp_path, recipe=QUICK)


def test_a_missing_model_is_named(finished):
    finished.model.unlink()
    with pytest.raises(CheckpointError, match=r"model\.pt cannot be read .* Delete the folder to train again"):
        finished.read_finished()


def test_a_marker_without_a_digest_gets_that_of_the_file(finished):
    marker = json.loads(finished.finished.read_text())
    digest = marker.pop("weights")
    finished.finished.write_text(json.dumps(marker))
    assert finished.read_finished()["weights"] == digest


def test_an_unreadable_marker_and_a_foreign_one(finished):
    with pytest.raises(ResultError, match=r"another training \(different: seed\)"):
        TrainingFolder(finished.directory, {**IDENTITY, "seed": 1}).read_finished()
    finished.finished.write_text("{")
    with pytest.raises(ResultError, match=r"unreadable .* Delete the folder to train again"):
        finished.read_finished()


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as file:
        file.write(b"old")

    def fail():
        with replacing(path) as file:
            file.write(b"new")
            assert path.read_bytes() == b"old"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_clear_error(finished, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResultError, match=r"Cannot write .*No space left.* Check the free space of the disk"):
        finished.write_state({"iteration": 1})
    assert not finished.state.exists()
