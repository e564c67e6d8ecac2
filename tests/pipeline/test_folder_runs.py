"""Somebody's own images and masks, as they came, through the whole pipeline by one command."""

import pytest
from support.pipeline_runs import SMALL, configuration, start, summaries
from support.shared import SHARED, needs_shared

from certseg.pipeline.keys import identity_of
from certseg.pipeline.settings import parse

BASE = [setting for setting in SMALL if setting != "dataset.count=6"]


@needs_shared("data", "membrane", "labels")
def test_masks_of_black_and_white_are_trained_on_and_certified(tmp_path):
    names = sorted(file.stem for file in (SHARED / "data" / "membrane" / "images").glob("*.png"))
    lists = tmp_path / "lists"
    lists.mkdir()
    for split, part in (("train", names[:-5]), ("val", names[-5:-3]), ("test", names[-3:])):
        (lists / f"{split}.txt").write_text("\n".join(part))
    command = start(
        tmp_path / "outputs",
        "dataset=folder",
        f"dataset.root={SHARED / 'data' / 'membrane'}",
        f"dataset.lists={lists}",
        "dataset.values={membrane: 0, cell: 255}",
        cwd=tmp_path,
        base=BASE,
    )
    status, _, errors = command.finish()
    assert status == 0, errors
    (certified,) = (found for stage, found in summaries(tmp_path / "outputs").items() if "segcertify" in stage)
    assert certified["images"] == 3
    assert len(certified["class_iou"]["prediction"]) == 2


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        (["dataset.num_classes=2"], {}),
        (["dataset.num_classes=2", "dataset.lists=mine"], {}),
        (["dataset.num_classes=2", "dataset.values=[0,255]"], {"values": [0, 255]}),
        (["dataset.colours={a: [1, 2, 3]}", "dataset.num_classes=2"], {"colours": {"a": [1, 2, 3]}}),
        (["dataset.num_classes=2", "dataset.quantise=true"], {"quantise": True}),
    ],
)
def test_keys_are_those_from_before_values_and_colours_could_be_declared(tmp_path, settings, more):
    spec = parse(configuration(tmp_path, *settings, base=["dataset=folder"]))
    assert identity_of(spec.dataset, "dataset") == BEFORE | more


BEFORE = {
    "class": "folder",
    "num_classes": 2,
    "class_names": None,
    "palette": None,
    "ignore_index": 255,
    "reduce_zero_label": False,
    "size": None,
}
"""What keys held of this data set when label files could hold class ids alone."""
