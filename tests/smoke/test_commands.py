"""The README's commands, run to the end on small settings; a run that is tracked; a reader that leaves early."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from pipeline_runs import ROOT, SMALL, configuration, readme_commands
from shared import SHARED

from certseg.errors import CertsegError
from certseg.pipeline import run

RUNS = [command for command in readme_commands() if " -m " not in command and "input=" not in command]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Shared, so that a training is done once."""
    return tmp_path_factory.mktemp("outputs")


@pytest.mark.parametrize("command", RUNS)
def test_every_command_of_the_readme_runs_to_its_report(command, output):
    overrides = [word for word in shlex.split(command)[2:] if not word.startswith(("dataset.root", "dataset.limit"))]
    base = list(SMALL)
    if "dataset=camvid" in overrides:
        if not (SHARED / "data" / "camvid").exists():
            pytest.skip("reference material missing: shared/data/camvid")
        base = [o for o in base if not o.startswith("dataset.count")] + [f"dataset.root={SHARED / 'data' / 'camvid'}"]
    if "certifier=none" in overrides:
        base = [o for o in base if not o.startswith("certifier")]
    directory = output / "reports" / str(RUNS.index(command))
    report = run(configuration(output, *overrides, base=base), directory)
    result = json.loads((directory / "result.json").read_text())
    kinds = [entry["summary"]["kind"] for entry in result["entries"]]
    assert report.exists()
    assert ("attack" in kinds) == ("attack=" in command)
    assert ("certifier" in kinds) == ("certifier=none" not in command)
    assert all(entry["summary"]["images"] == 3 for entry in result["entries"])


def test_pictures_without_labels_get_maps_and_sidecars(output, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("one.png", (40, 52)), ("two.jpg", (33, 47))):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(photos / name)
    (photos / "notes.txt").write_text("not a picture")
    run(configuration(output, f"input={photos}"), tmp_path / "run")
    made = {path.name for path in (tmp_path / "run" / "pictures").iterdir()}
    assert made == {f"{n}.{s}" for n in ("one", "two") for s in ("json", "certified.png", "overview.png")}
    facts = json.loads((tmp_path / "run" / "pictures" / "one.json").read_text())
    ids = np.asarray(Image.open(tmp_path / "run" / "pictures" / "one.certified.png"))
    assert ids.shape == (40, 52)
    assert facts["abstention"] == pytest.approx((ids == 255).mean())
    assert "With probability" in facts["claim"]
    shares = {entry["id"]: entry["certified"] for entry in facts["classes"].values()}
    assert all(shares[k] == pytest.approx((ids == k).mean()) for k in shares)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [(("certifier=none",), "needs a certifier"), (("input=nowhere",), "no picture"), ((), "no picture")],
    ids=str,
)
def test_pictures_that_cannot_be_certified_stop_before_training(overrides, words, tmp_path):
    (tmp_path / "empty").mkdir()
    base = [o for o in SMALL if not (overrides == ("certifier=none",) and o.startswith("certifier"))]
    with pytest.raises(CertsegError, match=words):
        run(configuration(tmp_path, f"input={tmp_path / 'empty'}", *overrides, base=base), tmp_path / "run")
    assert not list(tmp_path.rglob("model.pt"))


def test_a_tracked_run_leaves_its_curves_and_its_tables_offline(output, tmp_path):
    run(configuration(tmp_path, "tracking=wandb", "training.validations=2"), tmp_path / "report")
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    curves = list(tmp_path.glob("*/*/train-*/wandb/offline-run-*/*.wandb"))
    assert len(curves) == 1
    content = curves[0].read_bytes()
    for name in (b"loss", b"lr", b"clean/miou/pooled"):
        assert name in content


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    script = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'run.py'))} --help | head -n 1"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("certseg")
    assert done.stderr == ""
