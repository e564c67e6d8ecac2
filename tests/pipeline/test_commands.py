"""The README's commands, run to the end on small settings; a run that is tracked; a reader that leaves early."""

import json
import shlex
import subprocess
import sys

import pytest
from support.pipeline_runs import ROOT, SMALL, configuration, readme_runs, settings_of
from support.shared import SHARED

from certseg.pipeline import run

RUNS = [command for command in readme_runs() if " -m " not in command and "input=" not in command]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Shared, so that a training is done once."""
    return tmp_path_factory.mktemp("outputs")


@pytest.mark.parametrize("command", RUNS)
def test_every_command_of_the_readme_runs_to_its_report(command, output):
    overrides = [word for word in settings_of(command) if not word.startswith(("dataset.root", "dataset.limit"))]
    base = [*SMALL, "pictures=1"]
    if "dataset=camvid" in overrides:
        if not (SHARED / "data" / "camvid").exists():
            pytest.skip("reference material missing: shared/data/camvid")
        base = [o for o in base if not o.startswith("dataset.count")] + [f"dataset.root={SHARED / 'data' / 'camvid'}"]
    if any(word.startswith("certifier=") for word in overrides):  # theirs are SegCertify's
        base = [o for o in base if not o.startswith("certifier")]
    directory = output / "reports" / str(RUNS.index(command))
    report = run(configuration(output, *overrides, base=base), directory)
    result = json.loads((directory / "result.json").read_text())
    kinds = [entry["summary"]["kind"] for entry in result["entries"]]
    assert report.exists()
    assert ("attack" in kinds) == ("attack=" in command)
    assert ("certifier" in kinds) == ("certifier=none" not in command)
    assert all(entry["summary"]["images"] == 3 for entry in result["entries"])


def test_a_tracked_run_leaves_its_curves_and_its_tables_offline(output, tmp_path):
    run(configuration(tmp_path, "tracking=wandb", "training.validations=2", "pictures=1"), tmp_path / "report")
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
