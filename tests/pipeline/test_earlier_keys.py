"""Results and trainings from before there were logical names are found where they lie, or one line says why not."""

import json
import sys

import pytest
from support.pipeline_runs import SMALL, configuration, summaries

from certseg.pipeline import earlier_keys, run, trainings
from certseg.pipeline.keys import EVALUATION_FORMAT, key, loaded_digests, start_digests
from certseg.pipeline.places import RESULTS, TRAININGS, Identity, Place, place
from certseg.pipeline.settings import parse
from certseg.pipeline.stages import Plan
from certseg.pipeline.tasks import evaluate

MASKED = "certifier/inpainter@training.objective.inpainter"
CASES = {  # keys that the code of then gave for the configurations of then
    ("certifier.grey_levels=null", "certifier.tau=0.75"): {"training": "b013a79661", "segcertify": "38b61e7156"},
    ("experiment=demo", "certifier.grey_levels=null"): {"training": "98c17ae921"},
    ("training=masked",): {"training": "656548db03"},
    ("training=masked", f"{MASKED}=torchscript", "training.objective.inpainter.path={file}"): {
        "training": "6675a4deab"
    },
    ("training=inpainter",): {"inpainter": "6118a1f6dc"},
    ("training=consistency", "model/denoiser=dncnn", "model.denoiser.checkpoint={file}"): {"training": "cb560a6824"},
    ("training=denoiser", "model/denoiser=dncnn", "model.checkpoint={file}"): {"training": "33bad48901"},
    (
        "training=adversarial",
        "training.freeze_backbone=true",
        "training.ema=0.9",
        "model.backbone_checkpoint={file}",
    ): {"training": "b2f08ade19"},
    ("model=lip_deeplabv3", "model.checkpoint={file}"): {"checkpoint": "95abd9cd83"},
    ("model=lip_deeplabv3", "training=lipschitz", "certifier=lipschitz", "attack=alma_prox"): {
        "training": "8c69e358f2",
        "alma_prox": "da7e268dff",
    },
    ("attack=sea", "certifier=none", "attack.radius=[0,4/255,8/255]"): {"sea": "fe07a6ebb1"},
    ("attack=sea", "certifier=none", "attack.surrogate={file}"): {"sea": "64e7901fd6"},
    ("attack=patch_defended", "certifier=demasked_recovery"): {"patch_defended": "a9b1252058"},
    ("attack=targeted", "attack.goal=sky"): {"targeted": "11bf8e04d6"},
    ("dataset=kvasir_seg", "dataset.lists=y", "training=at2"): {"training": "e1911933a2"},
}


@pytest.mark.parametrize(("overrides", "expected"), CASES.items(), ids=lambda part: " ".join(part) or "default")
def test_keys_of_then_are_found_from_settings_of_today(overrides, expected, tmp_path):
    """A setting that is added to a configuration and enters these keys orphans what lies on disk."""
    file = tmp_path / "weights.bin"
    file.write_bytes(b"weights")
    spec = parse(configuration("outputs", *(entry.format(file=file) for entry in overrides), base=()))
    composed = spec.settings_of_earlier
    found = {job.stage.name: job.earlier for job in Plan.of(spec).jobs(None, tuple("abcdefgh"), None)}
    found["training"] = earlier_keys.training_identity(composed, "data", start_digests(spec))
    found["inpainter"] = earlier_keys.inpainter_identity(composed, "data")
    if "checkpoint" in expected:
        found["checkpoint"] = earlier_keys.checkpoint_identity(composed, loaded_digests(spec))
    assert {name: key(found[name]) for name in expected} == expected


@pytest.mark.parametrize(
    ("overrides", "stage"),
    [
        (("attack=pgd_smoothed",), "pgd_smoothed"),  # every pixel that was outvoted counted as lost
        (("model=lip_deeplabv3", "certifier=lipschitz"), "lipschitz"),  # the slack of float32 could be nothing
    ],
)
def test_rows_that_were_counted_otherwise_are_not_found_again(overrides, stage):
    spec = parse(configuration("outputs", *overrides, base=()))
    (job,) = (job for job in Plan.of(spec).jobs(None, tuple("abcdefgh"), None) if job.stage.name == stage)
    assert job.earlier is None
    assert {"lost", "revision"} & job.identity.keys()


def test_a_class_at_a_path_of_its_own_keeps_it():
    composed = {"attack": {"_target_": "mine.Attack", "norm": "l2", "inner": {"_target_": "certseg.models.x.DnCNN"}}}
    assert earlier_keys.attack_identity(composed, None) == composed["attack"]


def as_then(folder, stem, identity, marks):
    """Where the code of then put things, with the identity it wrote there."""
    return Place(folder / f"{stem}-{key(identity.earlier)}", dict(identity.earlier))


def written_then(monkeypatch, cfg, directory):
    """Run as the code of then did."""
    with monkeypatch.context() as patched:
        for module in (trainings, sys.modules[evaluate.__module__]):
            patched.setattr(module, "place", as_then)
        return run(cfg, directory)


def folders(output):
    return sorted(path for path in output.glob("*/*/*-*") if path.is_dir())


def contents(output):
    return {path: path.read_bytes() for path in sorted(output.rglob("*.jsonl"))}


def test_a_run_of_then_is_found_again_and_goes_on(tmp_path, monkeypatch, capsys):
    options = ("attack=pgd", "attack.steps=2", "attack.radius=0.1")
    output = tmp_path / "out"
    written_then(monkeypatch, configuration(output, *options, "dataset.limit=2"), tmp_path / "first")
    before, rows, figures = folders(output), contents(output), summaries(output)
    assert len(before) == 5  # training, samples, prediction, certificate, attack
    assert all("_target_" in json.dumps(json.loads(path.read_text())) for path in output.rglob("identity.json"))
    capsys.readouterr()
    run(configuration(output, *options, "dataset.limit=2"), tmp_path / "again")
    printed = capsys.readouterr().out
    assert (folders(output), contents(output), summaries(output)) == (before, rows, figures)
    for folder in before:
        assert printed.count(f"Found under the key of an earlier version: {folder}\n") == 1
    assert "Reused training" in printed

    run(configuration(output, *options, "dataset.limit=3"), tmp_path / "more")
    assert folders(output) == before
    reference = tmp_path / "reference"
    run(configuration(reference, *options, "dataset.limit=3"), tmp_path / "report")
    assert "earlier version" not in capsys.readouterr().out.split("images are finished already")[-1]
    assert [*figures_of(output)] == [*figures_of(reference)], "continued or done at once, the figures are the same"


LIPSCHITZ = ("model=lip_deeplabv3", "training=lipschitz", "certifier=lipschitz")
UNTOLD = {  # keys of the same configurations from before noise was exact, radii joint and votes significant
    (): {"segcertify": "38b61e7156"},
    ("attack=pgd_smoothed",): {"segcertify": "38b61e7156", "pgd_smoothed": "8847c79284"},
    ("experiment=demo",): {"segcertify": "38b61e7156", "pgd_smoothed": "63b74b0dde"},
    LIPSCHITZ: {"lipschitz": "e3697a5af5"},
    ("certifier=adaptive_certify", "dataset=camvid"): {"adaptive_certify": "7494e9c4aa"},
    ("certifier=indiv_class",): {"indiv_class": "7f69503728"},
}


@pytest.mark.parametrize(("overrides", "expected"), UNTOLD.items(), ids=lambda part: " ".join(part) or "default")
def test_results_under_other_rules_are_known_by_their_keys(overrides, expected):
    """So that none is computed again without a word; nothing tells of itself."""
    plan = Plan.of(parse(configuration("outputs", *overrides, base=())))
    for job in plan.jobs(None, tuple("abcdefgh"), None):
        keys = [key(other.settings) for other in job.superseded]
        assert key(job.identity) not in keys
        assert len(keys) == len(set(keys))
        if job.stage.name in expected:
            assert expected[job.stage.name] in keys


def test_a_single_radius_from_before_is_told_of_and_used_by_its_setting(tmp_path, capsys):
    options, then = ("dataset.limit=2",), ("certifier.grey_levels=null", "certifier.tau=0.75")
    output = tmp_path / "out"
    run(configuration(output, *options, *then), tmp_path / "first")
    (before,) = output.rglob("segcertify-*")
    capsys.readouterr()
    run(configuration(output, *options), tmp_path / "today")
    printed = capsys.readouterr().out
    assert f"{before} is the same by floating point noise, at its largest radius alone, and stays as it is" in printed
    assert " ".join(then).replace(" ", " and ") in printed
    count = len(folders(output))
    run(configuration(output, *options, *then), tmp_path / "again")
    assert len(folders(output)) == count


def test_results_by_float_noise_are_told_of_and_found_again_by_their_setting(tmp_path, capsys):
    options = ("attack=pgd_smoothed", "attack.steps=2", "attack.smoothing.votes=50", "dataset.limit=2")
    output, by_float = tmp_path / "out", "certifier.grey_levels=null"
    run(configuration(output, *options, by_float), tmp_path / "first")
    before, rows = folders(output), contents(output)
    assert "floating point noise" not in capsys.readouterr().out
    noisy = [folder for folder in before if folder.name.startswith(("samples", "segcertify", "pgd_smoothed"))]
    assert len(noisy) == 3
    run(configuration(output, *options), tmp_path / "exact")
    printed = capsys.readouterr().out
    for folder in noisy:
        assert printed.count(f"{folder} is the same by floating point noise") == 1
    assert printed.count("floating point noise") == 3
    assert len(folders(output)) == len(before) + 3
    run(configuration(output, *options, by_float), tmp_path / "again")
    assert "floating point noise" not in capsys.readouterr().out
    assert {path: text for path, text in contents(output).items() if path in rows} == rows
    assert len(folders(output)) == len(before) + 3


def figures_of(output):
    return (json.dumps(content, sort_keys=True) for _, content in sorted(by_stage(output).items()))


def by_stage(output):
    return {name.rpartition("-")[0]: content["figures"] for name, content in summaries(output).items()}


def test_an_inpainter_of_then_is_found_again(tmp_path, monkeypatch, capsys):
    small = tuple(option for option in SMALL if not option.startswith(("certifier", "model")))
    options = ("training=inpainter", "training.inpainter.width=8", "training.inpainter.depth=2")
    cfg = configuration(tmp_path / "out", *options, base=small)
    written_then(monkeypatch, cfg, tmp_path / "first")
    (folder,) = tmp_path.glob("out/streets/inpainter/train-*")
    capsys.readouterr()
    run(cfg, tmp_path / "again")
    printed = capsys.readouterr().out
    assert f"Found under the key of an earlier version: {folder}" in printed
    assert "Reused training" in printed
    assert list(tmp_path.glob("out/streets/inpainter/train-*")) == [folder]


NOW, THEN = {"format": EVALUATION_FORMAT, "stage": "a"}, {"format": EVALUATION_FORMAT, "stage": {"_target_": "a"}}


def left(folder, name, identity):
    directory = folder / name
    directory.mkdir(parents=True)
    (directory / "identity.json").write_text(json.dumps(identity))
    return directory


def test_what_is_under_its_own_key_comes_first(tmp_path, capsys):
    own, before = left(tmp_path, f"pgd-{key(NOW)}", NOW), left(tmp_path, f"pgd-{key(THEN)}", THEN)
    assert place(tmp_path, "pgd", Identity(NOW, THEN), RESULTS) == Place(own, NOW)
    assert capsys.readouterr().out == ""
    (own / "identity.json").unlink()
    own.rmdir()
    assert place(tmp_path, "pgd", Identity(NOW, THEN), RESULTS) == Place(before, THEN)
    assert str(before) in capsys.readouterr().out
    assert place(tmp_path, "pgd", Identity(NOW), RESULTS) == Place(own, NOW)


@pytest.mark.parametrize("content", ['{"format": 4, "stage": "b"}', "{", "[]"])
def test_a_directory_that_is_not_what_its_key_says_is_not_used(content, tmp_path, capsys):
    before = left(tmp_path, f"pgd-{key(THEN)}", THEN)
    (before / "identity.json").write_text(content)
    assert place(tmp_path, "pgd", Identity(NOW, THEN), RESULTS).identity == NOW
    assert "something else than its key says" in " ".join(capsys.readouterr().out.split())


def test_an_unfinished_training_of_then_goes_on(tmp_path):
    before = tmp_path / f"train-{key(THEN)}"
    before.mkdir()
    assert place(tmp_path, "train", Identity(NOW, THEN), TRAININGS).identity == NOW  # there is nothing in it
    (before / "state.pt").write_bytes(b"")
    assert place(tmp_path, "train", Identity(NOW, THEN), TRAININGS) == Place(before, THEN)
    (before / "finished.json").write_text(json.dumps({"identity": THEN, "figures": {}}))
    assert place(tmp_path, "train", Identity(NOW, THEN), TRAININGS) == Place(before, THEN)


def test_results_of_an_older_format_are_never_left_without_a_word(tmp_path, capsys):
    left(tmp_path, "pgd-0123456789", {"format": 2})
    left(tmp_path, "pgd-0123456780", {"format": 3})
    left(tmp_path, "pgd-x-0123456789", {"format": 1})  # of another stage
    left(tmp_path, "pgd-9999999999", {"format": EVALUATION_FORMAT})  # of other settings
    found = place(tmp_path, "pgd", Identity(NOW, THEN), RESULTS)
    line = " ".join(capsys.readouterr().out.split())
    assert "2 earlier directories pgd-* of format 2, 3 cannot be used by this version" in line
    found.directory.mkdir()
    place(tmp_path, "pgd", Identity(NOW, THEN), RESULTS)
    assert capsys.readouterr().out == ""
