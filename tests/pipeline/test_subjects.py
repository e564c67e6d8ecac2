"""What may be compared is of one network as it is computed: precision is part of it, in keys and in comparisons."""

import json

import pytest
from support.pipeline_runs import configuration

from certseg.compute.hardware import Hardware
from certseg.pipeline.keys import evaluation_identity, subject_key
from certseg.pipeline.main import run
from certseg.reporting import Entry
from certseg.reporting.claims import may_be_compared

USUAL = Hardware(device="cpu")


def told(hardware):
    """The subject and the identity of sampled rows."""
    identity = evaluation_identity(0, {"weights": "a"}, "images", {"stage": "b"}, hardware)
    return subject_key({"weights": "a"}, "images", hardware), json.dumps(identity)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {"precision": "bfloat16"}, False),
        ({}, {"noise_batch": 2, "threads": 1, "channels_last": True, "compile": True}, True),
        ({"precision": "bfloat16"}, {"precision": "bfloat16", "compile": True}, False),
        ({"precision": "bfloat16"}, {"precision": "bfloat16", "noise_batch": 2}, True),
    ],
)
def test_what_of_the_hardware_makes_another_network(one, other, same):
    """One rule: rows that are kept apart are not compared, and the other way round."""
    found = [told(Hardware(device="cpu", **settings)) for settings in (one, other)]
    assert (found[0][0] == found[1][0]) == (found[0][1] == found[1][1]) == same


def test_other_weights_and_other_images_are_other_subjects():
    usual = subject_key({"weights": "a"}, "images", USUAL)
    assert usual != subject_key({"weights": "b"}, "images", USUAL)
    assert usual != subject_key({"weights": "a"}, "others", USUAL)


def test_a_sweep_over_the_precision_compares_each_with_itself(tmp_path):
    entries = {}
    for precision in ("float32", "bfloat16"):
        settings = (f"hardware.precision={precision}", "attack=pgd_smoothed", "attack.steps=1", "pictures=0")
        cfg = configuration(tmp_path / "out", *settings, "attack.smoothing.votes=50")
        report = run(cfg, tmp_path / precision)
        for told in json.loads((report.parent / "result.json").read_text())["entries"]:
            entries[precision, told["summary"]["kind"]] = Entry(told["summary"])
    for first in ("float32", "bfloat16"):
        for second in ("float32", "bfloat16"):
            pair = entries[first, "certifier"], entries[second, "attack"]
            assert may_be_compared(*pair) == (first == second)
