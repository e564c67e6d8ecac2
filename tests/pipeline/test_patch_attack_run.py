"""Runs that attack with patches: the network, a recovery and a detection, with rows, bracket, report and refusals."""

import json

import pytest
from support.pipeline_runs import SMALL, configuration

from certseg.errors import ConfigError
from certseg.pipeline import run
from certseg.pipeline.settings import parse
from certseg.pipeline.stages import Plan
from certseg.types import Patch

BASE = tuple(option for option in SMALL if not option.startswith("certifier"))
FEW = ("attack.steps=2", "dataset.limit=1", "certifier/inpainter=mean_colour")


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Shared, so that a training is done once."""
    return tmp_path_factory.mktemp("patches")


@pytest.mark.parametrize(
    ("certifier", "attack", "options"),
    [
        ("demasked_recovery", "patch_defended", ()),
        ("demasked_detection", "patch_defended", ("certifier.num_masks=3", "attack.defence.copies=2")),
        ("demasked_recovery", "patch", ("attack.position=[3,4]",)),
    ],
)
def test_a_run_attacks_with_patches_and_checks_the_bracket(output, certifier, attack, options, tmp_path):
    chosen = (f"certifier={certifier}", f"attack={attack}", *FEW, *options)
    run(configuration(output, *chosen, "pictures=1", base=BASE), tmp_path / "report")
    kept = [json.loads(file.read_text()) for file in output.glob(f"*/*/{attack}-*/summary.json")]
    (summary,) = [s for s in kept if (certifier == "demasked_detection") == ("alert_share/image_mean" in s["figures"])]
    share = 0.01 if certifier == "demasked_detection" else 0.005
    assert summary["threat"] == {"norm": "patch", "share": share}
    result = json.loads((tmp_path / "report" / "result.json").read_text())
    (figures,) = [e["summary"]["figures"] for e in result["entries"] if e["summary"]["kind"] == "attack"]
    assert ("bracket/violations" in figures) == (attack == "patch_defended")  # the network is not what is certified
    assert figures.get("bracket/violations", 0) == 0
    assert ("bracket/alerted_pixels" in figures) == (certifier == "demasked_detection")
    assert not any("against" in name or "patch.share" in name for name in summary["settings"])
    text = (tmp_path / "report" / "report.md").read_text()
    assert f"patch (share {share})" in text
    assert list((tmp_path / "report" / "figures").glob("test_*.png"))
    before = {file: file.read_text() for file in output.glob(f"*/*/{attack}-*/rows.jsonl")}
    run(configuration(output, *chosen, base=BASE), tmp_path / "again")
    assert {file: file.read_text() for file in output.glob(f"*/*/{attack}-*/rows.jsonl")} == before


def test_an_attack_in_a_norm_beside_a_certificate_against_patches_is_reported(output, tmp_path):
    threat = ("attack=pgd", "attack.norm=linf", "attack.radius=4/255", *FEW)
    run(configuration(output, "certifier=demasked_recovery", *threat, base=BASE), tmp_path)
    entries = json.loads((tmp_path / "result.json").read_text())["entries"]
    assert {entry["summary"]["kind"] for entry in entries} == {"prediction", "certifier", "attack"}
    assert "not checked: no attack shares" in (tmp_path / "report.md").read_text()


def test_a_patch_outside_the_image_stops_before_training(tmp_path):
    for options, words in (
        (("attack.position=[46,0]",), "not inside the image"),
        (("attack.patch.height=49", "attack.patch.width=2"), "does not fit into an image"),
    ):
        cfg = configuration(tmp_path, "certifier=demasked_recovery", "attack=patch", *FEW, *options, base=BASE)
        with pytest.raises(ConfigError, match=words):
            run(cfg, tmp_path / "report")
    assert not list(tmp_path.rglob("model.pt"))


def plan(*overrides):
    return Plan.of(parse(configuration("out", *overrides, base=())))


def test_the_threat_is_the_certifiers_or_its_own():
    taken = plan("attack=patch", "certifier=demasked_detection")
    assert taken.threat == taken.certifier.threat == Patch(share=0.01)
    assert taken.attack.predictor == "base"
    own = plan("attack=patch_defended", "certifier=demasked_recovery", "attack.patch.height=4", "attack.patch.width=9")
    assert own.threat == Patch(height=4, width=9)
    assert own.attack.predictor == own.certifier.predictor
    assert plan("attack=patch", "attack.patch.share=0.02").threat == Patch(share=0.02)  # beside an l2 certificate


def test_identities_name_threat_and_defence():
    def identity(*overrides):
        return plan("attack=patch_defended", *overrides).jobs(None, ("a", "b"), None)[-1].identity

    base = identity("certifier=demasked_recovery")
    assert base["patch"] == {"norm": "patch", "share": 0.005}
    assert identity("certifier=demasked_recovery", "attack.patch.share=0.005") == base
    for other in ("certifier.num_masks=7", "certifier.patch.share=0.004", "attack.defence.judge_every=5"):
        assert identity("certifier=demasked_recovery", other) != base
    alone = plan("attack=patch", "certifier=demasked_recovery").jobs(None, ("a", "b"), None)[-1].identity
    fewer = plan("attack=patch", "attack.patch.share=0.005").jobs(None, ("a", "b"), None)[-1].identity
    assert alone == fewer  # what is certified beside it does not matter to the network


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("attack=patch",), "no certificate against patches"),
        (("attack=patch", "certifier=none"), "no certificate against patches"),
        (("attack=patch", "certifier=drs_s", "attack.radius=4/255"), "takes no attack.radius"),
        (("attack=patch", "certifier=drs_s", "attack.norm=l2"), "attack.norm"),
        (("attack=pgd", "certifier=drs_s", "attack.norm=patch"), "attack.norm"),
        (("attack=pgd", "certifier=drs_s"), "attack.radius"),
        (("attack=patch", "attack.patch.share=2"), "must lie in"),
        (("attack=patch", "attack.patch.height=2"), "width"),
        (("attack=patch", "attack.patch.count=2"), "either as a share"),
        (("attack=patch", "certifier=drs_s", "attack.position=left"), "attack.position"),
        (("attack=patch_defended", "attack.patch.share=0.01"), "a certifier against patches"),
        (("attack=patch_defended", "certifier=none", "attack.patch.share=0.01"), "a certifier against patches"),
        (("attack=patch_defended", "certifier=drs_s", "attack.defence.copies=0"), "attack.defence.copies"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(overrides, words):
    with pytest.raises(ConfigError) as error:
        plan(*overrides)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
