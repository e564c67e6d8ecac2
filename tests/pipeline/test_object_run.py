"""Runs with figures of objects: report, bracket, pictures; everything about objects follows from rows."""

import json

import pytest
from support.pipeline_runs import SMALL, configuration

from certseg.metrics import ObjectSettings, object_figures
from certseg.pipeline import run
from certseg.types import Guarantee

NAMES = ("road", "sidewalk", "building", "pole", "vegetation", "sky", "person", "car")
OBJECTIVE = ("attack=vanish_smoothed", "attack.steps=2", "attack.classes=[road]", "metrics.objects_share=0.25")
TESTED = (*OBJECTIVE, "metrics.objects=[road,car]", "metrics.objects_samples=60", "pictures=1")
BASE = tuple(word for word in SMALL if word != "pictures=0")


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Results of a run with prediction, certificate, the objects' own test and attack; its training is used again."""
    output = tmp_path_factory.mktemp("objects")
    run(configuration(output, *TESTED, base=BASE), output / "report")
    return output


def stages(output):
    """Summary and rows of every stage, by its name."""
    found = {}
    for file in sorted(output.glob("streets/*/*/summary.json")):
        rows = [json.loads(line) for line in (file.parent / "rows.jsonl").read_text().splitlines()]
        found.setdefault(file.parent.name.rpartition("-")[0], []).append((json.loads(file.read_text()), rows))
    return found


def test_a_run_reports_objects_and_checks_them_against_the_attack(output):
    found = stages(output)
    summary, rows = found["segcertify"][0]
    assert summary["figures"]["objects@road"] > 0
    assert summary["figures"]["certified_object_recall@road"] > 0
    assert summary["figures"]["certified_presence@road"] > 0
    assert all(row["passes"]["forward"] == 10 + 60 + 60 for row in rows)
    attack, _ = found["vanish_smoothed"][0]
    assert 0 <= attack["figures"]["goal_share/image_mean"] <= 1
    text = (output / "report" / "report.md").read_text()
    assert "## Objects" in text
    assert "certified to be present %" in text
    assert "| road, large |" in text
    assert "presence(gaussian, sigma=0.25, grey levels of 1/255, share=0.25)" in text
    told = json.loads((output / "report" / "result.json").read_text())
    compared = next(entry["summary"]["figures"] for entry in told["entries"] if "vanish" in entry["directory"])
    assert compared["bracket/violations"] == 0
    assert compared["bracket/objects"] > 0
    assert list((output / "report" / "figures").glob("test_*.png"))


@pytest.mark.parametrize("name", ["prediction", "segcertify", "vanish_smoothed"])
def test_figures_are_functions_of_rows(output, name):
    summary, rows = stages(output)[name][0]
    settings = ObjectSettings(("road", "car"), share=0.25, samples=60)
    guarantee = Guarantee.from_json(summary["guarantee"]) if "guarantee" in summary else None
    again = object_figures(summary["kind"], rows, NAMES, settings, guarantee)
    stored = {figure: summary["figures"][figure] for figure in again}
    assert stored == {figure: None if value != value else pytest.approx(value) for figure, value in again.items()}
    assert len(again) == (14 if "guarantee" in summary else 6)


def test_other_classes_cost_no_new_row(output):
    before = {name: len(found) for name, found in stages(output).items()}
    run(configuration(output, *OBJECTIVE, "metrics.objects=[sky]"), output / "other")
    after = stages(output)
    assert len(after["prediction"]) == before["prediction"]
    assert len(after["vanish_smoothed"]) == before["vanish_smoothed"]
    assert after["vanish_smoothed"][0][0]["figures"].keys() >= {"attacked_object_recall@sky"}
    assert len(after["segcertify"]) == before["segcertify"] + 1, "without a test of objects there are other rows"
    assert len([*output.glob("streets/*/samples-*")]) == 1, "and no new samples"
