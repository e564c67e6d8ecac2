"""Whole trainings of a tiny network: finished, reused, killed and resumed, shared out over processes."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from support.training_fakes import IDENTITY, RECIPE, Bands, TinySegmenter, train_bands

import certseg
from certseg.datasets import Streets
from certseg.errors import CheckpointError, ConfigError, ModelError, ResultError
from certseg.models import MMSegSegmenter
from certseg.training import CleanObjective, Recipe
from certseg.training.store import TrainingFolder

TESTS = Path(__file__).resolve().parents[1]
QUICK = dataclasses.replace(RECIPE, iterations=6, validations=1)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole") / "train"
    return directory, *train_bands(directory)


def history(directory):
    return [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]


def child(*arguments, processes=1):
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    launcher = torchrun if processes > 1 else []
    paths = os.pathsep.join([str(TESTS), str(Path(certseg.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(TESTS / "support" / "training_fakes.py"), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def equal(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_training_learns_and_leaves_its_files(uninterrupted):
    directory, segmenter, report = uninterrupted
    assert {"model.pt", "train.log", "history.jsonl", "finished.json"} <= {path.name for path in directory.iterdir()}
    assert not (directory / "state.pt").exists()
    assert not (directory / ".runner").exists()
    assert not segmenter.training
    assert (report.iterations, report.resumed, report.reused) == (60, 0, False)
    assert set(report.figures) == {f"{v}/{m}/pooled" for v in ("clean", "noise") for m in ("pixel_accuracy", "miou")}
    assert report.figures["clean/pixel_accuracy/pooled"] > 0.8  # three classes; chance is a third
    meta = torch.load(report.checkpoint, weights_only=True)["meta"]
    assert meta["classes"] == ["dark", "middle", "bright"]
    assert meta["identity"] == IDENTITY
    assert meta["figures"] == report.figures
    assert "Iter(train)" in (directory / "train.log").read_text()


def test_history_shows_schedule_losses_and_validations(uninterrupted):
    directory, _, report = uninterrupted
    entries = history(directory)
    steps = [entry for entry in entries if "loss" in entry]
    validations = [entry for entry in entries if "validation" in entry]
    assert [entry["iteration"] for entry in steps] == [20, 40, 60]
    assert [entry["iteration"] for entry in validations] == [15, 30, 45, 60]
    assert validations[-1]["validation"] == report.figures
    rates = [entry["lr"] for entry in steps]
    assert RECIPE.lr > rates[0] > rates[1] > rates[2] > 0


def test_a_finished_training_is_loaded_not_repeated(uninterrupted):
    directory, segmenter, report = uninterrupted
    source = Bands()
    other = TinySegmenter(seed=9)
    _, again = train_bands(directory, other, train_set=source)
    assert again == dataclasses.replace(report, reused=True)
    assert source.reads == 0
    assert equal(other.state_dict(), segmenter.state_dict())


def test_a_folder_never_holds_two_trainings(uninterrupted):
    with pytest.raises(ResultError, match=r"another training \(different: seed\)"):
        train_bands(uninterrupted[0], identity={**IDENTITY, "seed": 1})


def test_a_killed_training_ends_with_the_same_weights(uninterrupted, tmp_path):
    whole, segmenter, report = uninterrupted
    directory = tmp_path / "train"
    process = child(directory)
    deadline = time.monotonic() + 60
    while not (directory / "state.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    assert not (directory / "finished.json").exists()
    with (directory / "history.jsonl").open("a") as file:  # what a run killed later would have left
        file.write('{"iteration": 59, "loss": 0}\n{"iteration": 60, "lo')

    resumed, again = train_bands(directory, TinySegmenter(seed=5))
    assert again.resumed == 1
    assert equal(resumed.state_dict(), segmenter.state_dict())
    assert again.figures == report.figures
    assert history(directory) == history(whole)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda path, state: path.write_bytes(path.read_bytes()[:500]), CheckpointError, "cannot be read"),
        (lambda path, state: torch.save([1, 2], path), CheckpointError, "not the state of a training"),
        (lambda path, state: torch.save({**state, "identity": {}}, path), ResultError, "another training"),
        (lambda path, state: torch.save({**state, "segmenter": {}}, path), CheckpointError, "does not fit the model"),
    ],
    ids=["truncated", "foreign", "other identity", "other model"],
)
def test_an_unusable_state_is_named(tmp_path, damage, error, message):
    class Stop(Exception):
        """Ends a training in the middle."""

    class Interrupted(TinySegmenter):
        calls = 0

        def loss(self, images, labels):
            self.calls += 1
            if self.calls > 4:
                raise Stop
            return super().loss(images, labels)

    recipe = dataclasses.replace(QUICK, checkpoint_interval=2)
    with pytest.raises(Stop):
        train_bands(tmp_path, Interrupted(), recipe)
    path = tmp_path / "state.pt"
    damage(path, torch.load(path, weights_only=True))
    with pytest.raises(error, match=message):
        train_bands(tmp_path, recipe=recipe)


def test_a_damaged_model_is_named(tmp_path):
    train_bands(tmp_path, recipe=QUICK)
    (tmp_path / "model.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        train_bands(tmp_path, recipe=QUICK)


def test_two_runs_on_one_folder_train_once(tmp_path, caplog):
    caplog.set_level("INFO")
    reports = []
    with TrainingFolder(tmp_path, IDENTITY).locked():
        thread = threading.Thread(target=lambda: reports.append(train_bands(tmp_path, recipe=QUICK)[1]))
        thread.start()
        while "waiting" not in caplog.text and thread.is_alive():
            time.sleep(0.01)
        first = train_like_a_holder(tmp_path)
    thread.join()
    assert "Another run is training" in caplog.text
    assert [report.reused for report in reports] == [True]
    assert reports[0].figures == first.figures


def train_like_a_holder(directory):
    """Fill the folder as the run that holds its lock would: train elsewhere and move the files in."""
    elsewhere = directory / "elsewhere"
    _, report = train_bands(elsewhere, recipe=QUICK)
    for name in ("model.pt", "finished.json"):
        (elsewhere / name).rename(directory / name)
    return report


def test_torchrun_shares_the_batch_and_all_ranks_agree(tmp_path):
    process = child(tmp_path, processes=2)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert equal(ranks[0]["weights"], ranks[1]["weights"])
    assert ranks[0]["figures"] == ranks[1]["figures"]
    assert ranks[0]["figures"]["clean/pixel_accuracy/pooled"] > 0.8
    assert len(history(tmp_path)) == 3 + 4  # written by one rank only
    assert train_bands(tmp_path)[1].reused


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")  # fork under Python 3.12
def test_worker_processes_change_nothing(tmp_path):
    first, _ = train_bands(tmp_path / "0", recipe=QUICK)
    second, _ = train_bands(tmp_path / "1", recipe=QUICK, workers=1)
    assert equal(first.state_dict(), second.state_dict())


def test_bfloat16_trains(tmp_path):
    single, _ = train_bands(tmp_path / "single", recipe=QUICK)
    half, report = train_bands(tmp_path / "half", recipe=dataclasses.replace(QUICK, precision="bfloat16"))
    weights = half.state_dict().values()
    assert all(weight.dtype != torch.bfloat16 and bool(weight.isfinite().all()) for weight in weights)
    assert not equal(single.state_dict(), half.state_dict())
    assert report.figures["clean/pixel_accuracy/pooled"] > 0


def test_without_validation_there_are_no_figures(tmp_path):
    _, report = train_bands(tmp_path / "none", recipe=QUICK, val_set=None)
    assert report.figures == {}
    recipe = dataclasses.replace(QUICK, objective=CleanObjective(), validations=0)
    assert train_bands(tmp_path / "zero", recipe=recipe)[1].figures == {}


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    class Diverging(TinySegmenter):
        def loss(self, images, labels):
            losses = super().loss(images, labels)
            self.calls = getattr(self, "calls", 0) + 1
            return {**losses, "loss_ce": losses["loss_ce"] * (float("nan") if self.calls == 3 else 1)}

    with pytest.raises(ModelError, match=r"nan at iteration 3.*training\.lr"):
        train_bands(tmp_path, Diverging(), QUICK)
    assert not (tmp_path / "finished.json").exists()


def test_settings_that_do_not_go_together(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="different numbers of classes"):
        train_bands(tmp_path, TinySegmenter(num_classes=5))
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        train_bands(tmp_path, recipe=dataclasses.replace(QUICK, precision="float16"))
    with pytest.raises(ConfigError, match="non-negative"):
        train_bands(tmp_path, seed=-1)
    with pytest.raises(ConfigError, match="JSON"):
        train_bands(tmp_path, identity={"data": object()})
    monkeypatch.setattr("certseg.training.trainer.world_size", lambda: 3)
    with pytest.raises(ConfigError, match="a multiple of 3"):
        train_bands(tmp_path, recipe=QUICK)


def test_wandb_gets_losses_offline(tmp_path):
    train_bands(tmp_path, recipe=dataclasses.replace(QUICK, iterations=20), wandb={"project": "certseg-test"})
    runs = list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == 1
    assert b"loss_ce" in runs[0].read_bytes()


def test_a_network_of_mmsegmentation_on_street_scenes(tmp_path):
    config = yaml.safe_load((TESTS.parent / "configs/model/upernet_tiny.yaml").read_text())
    segmenter = MMSegSegmenter(num_classes=8, config=config["config"], name="upernet_tiny", scales=[0.5])
    scenes = Streets(split="train", count=4)
    before = {name: weight.clone() for name, weight in segmenter.state_dict().items()}
    recipe = dataclasses.replace(QUICK, iterations=2, batch_size=2, crop=(240, 320))
    _, report = train_bands(tmp_path, segmenter, recipe, train_set=scenes, val_set=Streets(split="val", count=2))
    assert not equal(before, segmenter.state_dict())
    assert 0 <= report.figures["noise/miou/pooled"] <= 1
    assert "acc_decode_seg" in history(tmp_path)[0]


def test_shortest_training(tmp_path):
    _, report = train_bands(tmp_path, recipe=Recipe(iterations=1, batch_size=2))
    assert report.iterations == 1
