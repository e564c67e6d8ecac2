"""Training curves in W&B: offline without a network, online without a key one error before the first step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import dataclasses, json, sys
from support.training_fakes import RECIPE, TinySegmenter, train_bands
from certseg.errors import ResultError
class Counting(TinySegmenter):
    steps = 0
    def loss(self, images, labels):
        self.steps += 1
        return super().loss(images, labels)
recipe = dataclasses.replace(RECIPE, iterations=2, validations=0)
for mode in ("online", "disabled", "offline"):
    segmenter, message = Counting(), None
    options = {"project": "certseg-test", "mode": mode, "entity": None, "group": "the-group"}
    try:
        train_bands(mode, segmenter, recipe, wandb=options)
    except ResultError as error:
        message = str(error)
    print(json.dumps({"mode": mode, "message": message, "steps": segmenter.steps}))
"""


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """The folder below which a process without a key trained in every mode, and what became of each."""
    directory = tmp_path_factory.mktemp("tracked")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(  # a process of its own, for wandb keeps global state and a service process
        [sys.executable, "-c", SCRIPT],
        cwd=directory,
        env=clean | {"PYTHONPATH": paths, "HOME": str(directory), "NETRC": str(directory / "none")},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    results = map(json.loads, done.stdout.splitlines())
    return directory, {result["mode"]: result for result in results}


def test_online_without_a_key_is_one_error_before_the_first_step(trainings):
    directory, results = trainings
    message = results["online"]["message"]
    assert message.startswith("Weights & Biases did not start. Received: UsageError: ")
    assert "tracking.mode=offline" in message
    assert "\n" not in message
    assert results["online"]["steps"] == 0
    assert not (directory / "online" / "finished.json").exists()


@pytest.mark.parametrize(("mode", "runs"), [("offline", 1), ("disabled", 0)])
def test_without_a_network_the_curves_are_kept_in_their_group(trainings, mode, runs):
    directory, results = trainings
    assert results[mode] == {"mode": mode, "message": None, "steps": 2}
    records = list((directory / mode / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(records) == runs
    for record in records:
        content = record.read_bytes()
        assert all(text in content for text in (b"certseg-test", b"the-group", b"training", b"loss_ce"))
