"""Tracking: nothing, W&B offline and disabled, and one clear error where W&B cannot start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from certseg.errors import ConfigError, ResultError
from certseg.reporting import NoTracking, WandbTracking

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from certseg.reporting import Entry, Panel, WandbTracking, picture
folder = Path(sys.argv[1])
assert "wandb" not in sys.modules
summary = {"kind": "certifier", "name": "segcertify", "threat": {"norm": "l2", "radius": 0.5}, "images": 1,
           "figures": {"certified_accuracy/image_mean": 0.75, "undefined/pooled": None}, "seconds": {"sampling": 1.5}}
shown = picture(folder / "a.png", [Panel("i", np.zeros((4, 6, 3)))], ["sky"], [(1, 2, 3)])
results = folder / "results x"
results.mkdir()
(results / "summary.json").write_text(json.dumps(summary))
for mode in ("disabled", "offline"):
    tracker = WandbTracking("certseg-test", mode=mode, name="one", group="together", directory=folder / mode)
    tracker.start({"certifier": {"tau": 0.75, "steps": (1, 2)}})
    tracker.log_summaries([Entry(summary)])
    tracker.log_table([{"image": "a", "figures": {"x": 0.5}, "seconds": {"s": 1.0}, "flags": ["odd"]}, {"image": "b"}])
    tracker.log_images([shown])
    tracker.log_artifact(results)
    tracker.finish()
    tracker.finish()
"""


def test_offline_runs_keep_everything_and_disabled_ones_nothing_without_network_or_output(tmp_path):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment = clean | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    done = subprocess.run(  # a process of its own, for wandb keeps global state and a service process
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list((tmp_path / "disabled").rglob("*.wandb"))
    (folder,) = (tmp_path / "offline" / "wandb").glob("offline-run-*")
    (record,) = folder.glob("run-*.wandb")
    content = record.read_bytes()
    for text in (
        b"certseg-test",
        b"together",
        b"segcertify l2",
        b"certified_accuracy/image_mean",
        b"tau",
        b"results-x",
    ):
        assert text in content
    (table,) = folder.glob("files/media/table/*.json")
    stored = json.loads(table.read_text())
    assert stored["columns"] == ["image", "x", "seconds/s", "flags"]
    assert stored["data"] == [["a", 0.5, 1.0, "odd"], ["b", None, None, ""]]
    assert len(list(folder.glob("files/media/images/*.png"))) == 1


@pytest.mark.parametrize("login", [False, ConnectionError("no\nnetwork.")])
def test_online_without_key_or_network_is_one_clear_error(tmp_path, monkeypatch, login):
    import wandb

    def answer(**_):
        if login:
            raise login
        return False

    monkeypatch.setattr(wandb, "login", answer)
    tracker = WandbTracking("p", mode="online", directory=tmp_path)
    with pytest.raises(ResultError) as checked:
        tracker.check()
    with pytest.raises(ResultError) as caught:
        tracker.start({})
    assert str(checked.value) == str(caught.value)
    reason = "ConnectionError: no network." if login else "There is no API key."
    assert str(caught.value).startswith("Weights & Biases did not start. Received: ")
    assert reason in str(caught.value)
    assert "tracking.mode=offline" in str(caught.value)


def test_no_tracking_takes_every_call_and_says_so():
    tracker = NoTracking()
    assert (tracker.project, tracker.mode) == (None, "disabled")
    assert tracker.check() is None
    assert tracker.training_options() is None
    calls = [tracker.start({}), tracker.log_summaries([]), tracker.log_table([]), tracker.log_images([])]
    assert [*calls, tracker.log_artifact("x"), tracker.finish()] == [None] * 6


def test_settings_are_checked_before_anything_starts():
    assert (WandbTracking("p").project, WandbTracking("p").mode) == ("p", "offline")
    with pytest.raises(ConfigError, match=r"tracking\.mode"):
        WandbTracking("p", mode="later")
    with pytest.raises(ConfigError, match=r"tracking\.project"):
        WandbTracking("")


@pytest.mark.parametrize("option", ["entity", "name", "group"])
@pytest.mark.parametrize("value", ["", 3, ["a"]])
def test_names_are_null_or_texts(option, value):
    with pytest.raises(ConfigError, match=rf"tracking\.{option}"):
        WandbTracking("p", **{option: value})


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_only_online_needs_a_login(mode, monkeypatch):
    import wandb

    monkeypatch.setattr(wandb, "login", lambda **_: pytest.fail("asked for a login"))
    WandbTracking("p", mode=mode).check()


def test_training_options_name_project_entity_and_one_group_per_command(monkeypatch):
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    tracker = WandbTracking("p", mode="online", entity="team")
    options = tracker.training_options()
    assert options == {"project": "p", "mode": "online", "entity": "team", "group": tracker.group}
    assert tracker.training_options() == options
    assert tracker.group
    assert WandbTracking("p").group != tracker.group
    assert WandbTracking("p", group="mine").training_options()["group"] == "mine"
    monkeypatch.setenv("WANDB_RUN_GROUP", "outside")
    assert WandbTracking("p").group == "outside"
    assert WandbTracking("p", group="mine").group == "mine"


def test_logging_before_the_start_is_refused(tmp_path):
    tracker = WandbTracking("p", directory=tmp_path)
    with pytest.raises(ResultError, match="not started"):
        tracker.log_artifact(tmp_path)
    tracker.finish()


@pytest.mark.parametrize("name", ["none", "wandb"])
def test_the_configs_build_their_trackers(name, tmp_path):
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    settings = OmegaConf.load(ROOT / "configs" / "tracking" / f"{name}.yaml")
    tracker = instantiate(OmegaConf.create({"output": str(tmp_path), "tracking": settings}).tracking)
    assert isinstance(tracker, {"none": NoTracking, "wandb": WandbTracking}[name])
    assert tracker.mode == {"none": "disabled", "wandb": "offline"}[name]
