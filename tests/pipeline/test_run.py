"""The whole pipeline on data the tests draw: run, reuse, kill, resume, sweep, shard, refuse."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from support.pipeline_runs import ROOT, SMALL, configuration, start, summaries

from certseg.errors import CheckpointError, ConfigError, DataError
from certseg.pipeline import run

UNCERTIFIED = [word for word in SMALL if not word.startswith(("certifier.", "pictures"))]


def files(output):
    """What only a run that computes rows may touch."""
    return [*output.rglob("rows.jsonl"), *output.rglob("run.json")]


def rows_file(output, stage):
    found = list(output.glob(f"*/*/{stage}-*/rows.jsonl"))
    return found[0] if found else None


def wait_for(condition, process, seconds=240):
    """Poll until ``condition()``; the process must not end before."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            raise AssertionError(process.kill())
        time.sleep(0.01)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """An uninterrupted run with certificate and attack."""
    output = tmp_path_factory.mktemp("first")
    cfg = configuration(output, "attack=pgd_smoothed", "attack.steps=2", "attack.smoothing.votes=50", "pictures=1")
    report = run(cfg, output / "report", ["attack=pgd_smoothed"])
    return output, report, cfg


def test_a_run_leaves_everything_a_reader_needs(first_run):
    output, report, _ = first_run
    text = report.read_text()
    assert "certseg attack=pgd_smoothed" in text
    assert "With probability" in text
    for stage in ("prediction", "segcertify", "pgd_smoothed"):
        folder = rows_file(output, stage).parent
        content = json.loads((folder / "summary.json").read_text())
        assert content["images"] == 3
        assert {p.name for p in folder.iterdir()} >= {"rows.jsonl", "summary.json", "config.yaml", "run.json", "maps"}
        for value in content["figures"].values():
            assert value is None or np.isfinite(value)
    figure = json.loads((rows_file(output, "segcertify").parent / "summary.json").read_text())["figures"]
    assert f"{100 * figure['certified_accuracy/image_mean']:.1f}" in text
    assert list((output / "report" / "figures").glob("test_*.png"))
    run_json = json.loads((rows_file(output, "segcertify").parent / "run.json").read_text())
    assert run_json["runs"][0]["versions"]["torch"]
    assert run_json["runs"][0]["seconds"] > 0


def test_the_same_run_again_computes_nothing(first_run, capsys):
    output, _, cfg = first_run
    before = {path: path.stat().st_mtime_ns for path in files(output)}
    figures = summaries(output)
    weights = next(output.rglob("model.pt")).stat().st_mtime_ns
    run(cfg, output / "again")
    assert {path: path.stat().st_mtime_ns for path in files(output)} == before
    assert next(output.rglob("model.pt")).stat().st_mtime_ns == weights
    assert summaries(output) == figures
    assert "Reused training" in capsys.readouterr().out


def test_settings_that_change_results_get_their_own_folder_and_others_do_not(first_run):
    output, _, _ = first_run
    trainings = len(list(output.rglob("train-*")))
    run(configuration(output, "certifier.tau=0.6"), output / "other")
    assert len(list(output.glob("*/*/segcertify-*"))) == 2
    run(configuration(output, "hardware.noise_batch=3", "dataset.limit=2"), output / "other")
    assert len(list(output.glob("*/*/segcertify-*"))) == 2
    assert len(list(output.rglob("train-*"))) == trainings


@pytest.mark.parametrize("content", ["", "{", "[]", '{"runs": 3}', "null"])
def test_a_broken_record_of_runs_stops_nothing(content, first_run, tmp_path):
    output, _, _ = first_run
    target = tmp_path / "out"
    cfg = configuration(
        target, f"model.checkpoint={next(output.rglob('model.pt'))}", "certifier=none", base=UNCERTIFIED
    )
    run(cfg, tmp_path / "report")
    (record,) = target.rglob("run.json")
    record.write_text(content)
    rows = rows_file(target, "prediction")
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:-1]))
    run(cfg, tmp_path / "again")
    assert len(json.loads(record.read_text())["runs"]) == 1
    assert len(rows.read_text().splitlines()) == 3


def test_batch_size_does_not_change_a_certificate(first_run, tmp_path):
    output, _, _ = first_run
    checkpoint = next(output.rglob("model.pt"))
    maps = []
    for batch in (1, 7):
        target = tmp_path / str(batch)
        cfg = configuration(target, f"model.checkpoint={checkpoint}", f"hardware.noise_batch={batch}")
        run(cfg, target / "report")
        stored = [np.load(path) for path in sorted(rows_file(target, "segcertify").parent.glob("maps/*.npz"))]
        maps.append([(part["data/classes"], part["data/certified"]) for part in stored])
    for one, other in zip(*maps, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_killed_twice_and_resumed_is_the_same_as_uninterrupted(tmp_path):
    """kill -9 in the middle of training and again in the middle of certification."""
    options = ("training.iterations=12", "dataset.limit=6")
    reference, output = tmp_path / "reference", tmp_path / "killed"
    run(configuration(reference, *options), reference / "report")

    process = start(output, *options, cwd=tmp_path)
    wait_for(lambda: any(p.stat().st_size for p in output.rglob("history.jsonl")), process)
    process.kill()
    assert not list(output.rglob("finished.json"))

    process = start(output, *options, cwd=tmp_path)
    wait_for(lambda: (f := rows_file(output, "segcertify")) is not None and f.stat().st_size, process)
    process.kill()
    finished = len(rows_file(output, "segcertify").read_text().splitlines())
    assert 1 <= finished < 6

    status, out, err = start(output, *options, cwd=tmp_path).finish()
    assert status == 0, err
    assert "finished already" in out
    assert summaries(output) == summaries(reference)


def test_a_sweep_trains_once_and_ends_in_one_table(tmp_path):
    status, out, err = start(tmp_path / "out", "certifier.tau=.6,.75", cwd=tmp_path, flags=("-m",)).finish()
    assert status == 0, err
    assert len(list((tmp_path / "out").rglob("finished.json"))) == 1
    report = next((tmp_path / "out" / "runs").glob("*/*/report.md")).read_text()
    assert report.count("| certified |") == 2
    assert "tau" in report
    assert out.count("Reused training") == 1


def test_a_job_that_fails_does_not_end_the_sweep(tmp_path):
    status, out, err = start(tmp_path / "out", "certifier.tau=.6,.3,.75", cwd=tmp_path, flags=("-m",)).finish()
    assert status == 2
    assert "tau must lie in [0.5, 1)" in err
    assert re.search(r"failed: .*certifier.tau=0?\.3", out)
    report = next((tmp_path / "out" / "runs").glob("*/*/report.md")).read_text()
    assert report.count("| certified |") == 2
    assert "tau must lie" in report


def test_a_sweep_over_models_compares_each_with_itself(tmp_path):
    """Certificates of one seed's network say nothing about another's."""
    options = ("seed=0,1", "attack=pgd_smoothed", "attack.steps=2", "attack.smoothing.votes=50")
    status, _, err = start(tmp_path / "out", *options, cwd=tmp_path, flags=("-m",)).finish()
    assert status == 0, err
    report = next((tmp_path / "out" / "runs").glob("*/*/report.md")).read_text()
    assert report.count("lies between") <= 2
    assert "seed=0" in report
    assert "seed=1" in report


def test_the_joblib_launcher_shares_one_training(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the joblib extra is not installed")
    launch = [sys.executable, str(ROOT / "run.py"), "-m", *SMALL, f"output={tmp_path / 'out'}"]
    words = [*launch, "certifier.tau=.6,.75", "hydra/launcher=parallel"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").rglob("finished.json"))) == 1
    assert next((tmp_path / "out" / "runs").glob("*/*/report.md")).read_text().count("| certified |") == 2


def test_two_processes_share_the_images_and_agree_with_one(first_run, tmp_path):
    output, _, _ = first_run
    checkpoint = next(output.rglob("model.pt"))
    options = (f"model.checkpoint={checkpoint}", "attack=pgd_smoothed", "attack.steps=2", "attack.smoothing.votes=50")
    run(configuration(tmp_path / "one", *options), tmp_path / "one" / "report")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone"]
    words = [*torchrun, str(ROOT / "run.py"), *SMALL, f"output={tmp_path / 'two'}", *options, "pictures=1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert summaries(tmp_path / "two") == summaries(tmp_path / "one")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("certifier.tau=.4",), "tau must lie in [0.5, 1)"),
        (("certifier.tauu=.6",), "certifier.tauu"),
        (("certifier=segcertfy",), "certifier=segcertfy"),
        (("dataset=cityscapes",), "dataset.root"),
        (("experiment=dmeo",), "experiment=dmeo"),
    ],
    ids=str,
)
def test_what_a_user_can_mend_is_one_line_and_a_status(overrides, words, tmp_path):
    base = () if "dataset=cityscapes" in overrides else SMALL
    status, _, err = start(tmp_path / "out", *overrides, cwd=tmp_path, base=base).finish()
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not list((tmp_path / "out").rglob("rows.jsonl"))


@pytest.mark.parametrize(
    ("overrides", "kind", "words"),
    [
        (("certifier.n=10",), ConfigError, "n >= "),
        (("certifier.tau=.5",), ConfigError, "radius 0"),
        (("model.checkpoint=nowhere.pt",), CheckpointError, "nowhere.pt"),
        (("pictures=-1",), ConfigError, "pictures"),
        (("dataset.limit=0",), ConfigError, "limit"),
        (("dataset.split=noon",), (ConfigError, DataError), "noon"),
        (("dataset.train_split=null",), ConfigError, "model.checkpoint"),
        (("model=mmseg", "model.config=upernet/nothing"), Exception, "nothing"),
    ],
    ids=str,
)
def test_bad_runs_stop_before_training(overrides, kind, words, tmp_path):
    with pytest.raises(kind) as error:
        run(configuration(tmp_path, *overrides), tmp_path / "report")
    assert words in str(error.value)
    assert not list(tmp_path.rglob("model.pt"))


def test_a_checkpoint_of_another_model_is_refused(first_run, tmp_path):
    output, _, _ = first_run
    checkpoint = next(output.rglob("model.pt"))
    base = [o for o in SMALL if not o.startswith("model.scales")]
    cfg = configuration(tmp_path, "model=segformer_b0", f"model.checkpoint={checkpoint}", base=base)
    with pytest.raises(CheckpointError):
        run(cfg, tmp_path / "report")


def test_help_and_the_composed_configuration_read_well(tmp_path):
    status, out, err = start(tmp_path, cwd=tmp_path, flags=("--help",), base=()).finish()
    assert (status, err) == (0, "")
    assert "certseg attack=pgd_smoothed" in out
    assert "certifier: adaptive_certify, demasked_detection, demasked_recovery, drs_e, drs_s, indiv_class" in out
    status, out, err = start(tmp_path, cwd=tmp_path, flags=("--cfg", "job"), base=()).finish()
    assert (status, err) == (0, "")
    assert re.search(r"certifier:\n  _target_: certseg.certifiers.SegCertify", out)
