"""What the pictures of a run show: the panels that there are maps for, in one order, under one name per image."""

import importlib

import numpy as np
import pytest
import torch
from support.brackets import with_guarantee

from certseg.reporting import Entry, run_pictures
from certseg.types import Sample

SIZE = (6, 8)
NAMES, PALETTE = ("road", "sky", "car"), ((90, 90, 90), (70, 130, 180), (20, 20, 140))
PREDICTION = {"prediction": np.zeros(SIZE, np.uint8)}
CERTIFIED = {"classes": np.ones(SIZE, np.uint8), "certified": np.eye(*SIZE, dtype=bool)}
ATTACKED = {"prediction": np.ones(SIZE, np.uint8), "adversarial": np.full((3, *SIZE), 51, np.uint8)}


def sample(name="a/b"):
    target = torch.zeros(SIZE, dtype=torch.int64)
    target[0] = 255
    return Sample(name=name, image=torch.rand(3, *SIZE), target=target)


def entry(kind, **promised):
    threat = {"norm": "l2", "radius": 0.1}
    told = {"kind": kind, "name": kind, "figures": {}, "images": 1, "predictor": "p", "threat": threat}
    return Entry(with_guarantee(told | {"confidence": 1.0}, **promised) if kind == "certifier" else told)


@pytest.fixture
def drawn(monkeypatch):
    """The panels of every picture, by its file's name."""
    found, module = {}, importlib.import_module("certseg.reporting.run_pictures")
    inner = module.picture

    def picture(path, panels, names, palette, title):
        found[path.name] = {panel.title: panel for panel in panels}
        return inner(path, panels, names, palette, title=title)

    monkeypatch.setattr(module, "picture", picture)
    return found


def test_a_prediction_alone(drawn, tmp_path):
    (path,) = run_pictures(
        tmp_path, [sample()], [entry("prediction")], lambda name: {"prediction": PREDICTION}, NAMES, PALETTE
    )
    assert path.exists()
    assert list(drawn[path.name]) == ["image", "prediction", "ground truth"]
    assert drawn[path.name]["ground truth"].ignored.sum() == SIZE[1]


def test_certificate_and_attack_beside_it(drawn, tmp_path):
    maps = {
        "prediction": PREDICTION,
        "certifier": {**CERTIFIED, "radii": np.ones(SIZE, np.float32)},
        "attack": {**ATTACKED, "alerts": np.eye(*SIZE, dtype=bool)},
    }
    entries = [entry(kind) for kind in maps]
    paths = run_pictures(tmp_path, [sample("one"), sample("two")], entries, lambda name: maps, NAMES, PALETTE)
    assert [path.name for path in paths] == ["one.png", "two.png"]
    panels = drawn["one.png"]
    assert list(panels) == [
        "image",
        "prediction",
        "certified",
        "certified l2 radius",
        "attacked image",
        "attacked prediction",
        "without alert",
        "ground truth",
    ]
    assert panels["attacked image"].image.max() == pytest.approx(0.2)
    assert np.array_equal(panels["certified"].certified, CERTIFIED["certified"])
    assert np.array_equal(panels["without alert"].certified, ~np.eye(*SIZE, dtype=bool))


def test_certified_groups_are_drawn_by_their_own_ids(drawn, tmp_path):
    hierarchy = (("road", "sky", "car"), ("road", "other", "other"))
    maps = {"prediction": PREDICTION, "certifier": {**CERTIFIED, "levels": np.ones(SIZE, np.uint8)}}
    entries = [entry("prediction"), entry("certifier", hierarchy=hierarchy)]
    (path,) = run_pictures(tmp_path, [sample()], entries, lambda name: maps, NAMES, PALETTE)
    assert set(drawn[path.name]["certified"].labels.ravel()) == {3}
