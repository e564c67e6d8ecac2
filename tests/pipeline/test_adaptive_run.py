"""Runs that certify groups of classes: report, kept samples, bracket, pictures, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.pipeline_runs import SMALL, configuration

from certseg.certifiers import AdaptiveCertify
from certseg.errors import ConfigError
from certseg.pipeline import run
from certseg.reporting import RowStore

HIERARCHY = (
    "dataset.hierarchy=[{surface: [road, sidewalk]},"
    "{backdrop: [building, vegetation, sky], thing: [pole, person, car]}]"
)
ADAPTIVE = ("certifier=adaptive_certify", HIERARCHY, "certifier.lead=0.9")


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Results of a run with certificate and attack; its training is used again."""
    output = tmp_path_factory.mktemp("adaptive")
    run(configuration(output, *ADAPTIVE, "attack=pgd_smoothed", "attack.steps=2", "pictures=1"), output / "report")
    return output


def maps_of(summary_file):
    identity = json.loads((summary_file.parent / "identity.json").read_text())
    store = RowStore(summary_file.parent, identity=identity)
    return [store.load_map(name) for name in store.read()]


def test_a_run_reports_levels_and_information(output):
    (summary_file,) = output.glob("*/*/adaptive_certify-*/summary.json")
    summary = json.loads(summary_file.read_text())
    figures = summary["figures"]
    levels = [figures[f"level_{level}_share/image_mean"] for level in range(3)]
    assert sum(levels) + figures["group_abstention/image_mean"] == pytest.approx(1)
    assert levels[2] > 0
    assert figures["certified_accuracy/image_mean"] <= figures["certified_information_gain/image_mean"]
    assert figures["certified_information_gain/image_mean"] <= figures["certified_group_accuracy/image_mean"]
    assert summary["hierarchy"][2].count("backdrop") == 3
    assert {level for maps in maps_of(summary_file) for level in np.unique(maps["levels"])} <= {0, 1, 2}
    text = (output / "report" / "report.md").read_text()
    assert "the most likely group of `smoothed(gaussian, sigma=0.25, grey levels of 1/255)`" in text
    assert "information gain % (image mean)" in text
    assert "Bracket**, certified ≤ worst case ≤ attacked: holds" in text or "no significant violation" in text
    assert list((output / "report" / "figures").glob("test_*.png"))


def test_another_tau_costs_no_sample_and_another_hierarchy_does(output):
    def taken():
        return len([*output.glob("*/*/samples-*")])

    assert taken() == 1
    run(configuration(output, *ADAPTIVE, "certifier.tau=0.6"), output / "other")
    assert taken() == 1
    run(configuration(output, "certifier=adaptive_certify"), output / "other")
    assert taken() == 2
    assert len(list(output.glob("*/*/train-*"))) == 1
    assert len(list(output.glob("*/*/adaptive_certify-*"))) == 3


def test_pictures_explain_the_ids_of_groups(output, tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 52, 3), dtype=np.uint8)).save(tmp_path / "one.png")
    run(configuration(output, *ADAPTIVE, f"input={tmp_path / 'one.png'}"), tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "pictures" / "one.json").read_text())
    ids = np.asarray(Image.open(tmp_path / "run" / "pictures" / "one.certified.png"))
    assert {name: (group["id"], group["level"]) for name, group in facts["groups"].items()} == {
        "surface": (8, 1),
        "backdrop": (9, 2),
        "thing": (10, 2),
    }
    assert facts["groups"]["thing"]["classes"] == ["pole", "person", "car"]
    legend = [*facts["classes"].values(), *facts["groups"].values()]
    for entry in legend:
        assert entry["certified"] == pytest.approx((ids == entry["id"]).mean())
    assert set(np.unique(ids)) <= {entry["id"] for entry in legend} | {255}
    assert facts["abstention"] == pytest.approx((ids == 255).mean())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("~dataset.hierarchy",), "needs a hierarchy"),
        (("dataset.hierarchy=[{vehicle: [car, truck]}]",), "'truck'"),
        (("certifier.lead=[0.5]",), "certifier.lead"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_data_set_stops_before_training(overrides, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        run(configuration(tmp_path, "certifier=adaptive_certify", *overrides, base=SMALL), tmp_path / "report")
    assert not list(tmp_path.rglob("model.pt"))


def test_pictures_certified_as_groups_without_levels_are_refused(output, tmp_path, monkeypatch):
    certify = AdaptiveCertify.certify

    def without(self, *given, **options):
        return replace(certify(self, *given, **options), levels=None)

    monkeypatch.setattr(AdaptiveCertify, "certify", without)
    Image.fromarray(np.zeros((40, 52, 3), dtype=np.uint8)).save(tmp_path / "one.png")
    with pytest.raises(ConfigError, match="certifies groups of classes, but its certificate"):
        run(configuration(output, *ADAPTIVE, f"input={tmp_path / 'one.png'}"), tmp_path / "run")
