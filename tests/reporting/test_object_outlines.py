"""Outlines of labelled objects in pictures, and the table of objects in reports."""

import matplotlib.colors
import numpy as np
import pytest
import torch

from certseg.errors import ResultError
from certseg.metrics import OBJECTS, ObjectSettings
from certseg.reporting import Entry, Panel, object_panel
from certseg.reporting.object_tables import object_table
from certseg.reporting.pictures import picture_figure
from certseg.smoothing.noise import NOISES
from certseg.smoothing.presence import PresenceTest
from certseg.types import L2, Guarantee, Promise, Sample

NAMES = ("road", "car", "person")
EVERY = Guarantee(Promise.EVERY_PIXEL, "base", L2(0.25), confidence=1.0)
SETTINGS = ObjectSettings(("car",), share=0.5, minimum=4)


def scene():
    """Three cars of 16 pixels, one of 1 pixel and a person on a road."""
    target = torch.zeros(12, 24, dtype=torch.int64)
    for left in (1, 8, 15):
        target[2:6, left : left + 4] = 1
    target[9, 2], target[8:12, 18:22] = 1, 2
    return Sample("a", torch.full((3, 12, 24), 0.5), target)


def row(**counts):
    """The road, the four cars in the order of their first pixels, and the person."""
    areas = [288 - 16 * 4 - 1, 16, 16, 16, 1, 16]
    return {OBJECTS: {"pixels": 288, "classes": [0, 1, 1, 1, 1, 2], "areas": areas, **counts}}


def shown_at(panel, left):
    """What the outlines of a car say, and that its inside stays the image."""
    part = panel.outlined[2:6, left : left + 4]
    assert (part[1:3, 1:3] == -1).all()
    (found,) = set(part[0].tolist() + part[:, 0].tolist())
    return panel.classes[found][0]


def test_objects_are_outlined_by_what_is_known_of_them():
    hits = {"hits": [0, 16, 16, 16, 1, 16]}
    rows = {
        "certifier": row(**hits, certified=[0, 8, 8, 7, 1, 16], share=0.5),
        "attack": row(hits=[0, 16, 7, 16, 0, 0]),
    }
    panel = object_panel(scene(), rows, NAMES, SETTINGS, EVERY)
    told = [shown_at(panel, left) for left in (1, 8, 15)]
    assert told == ["object certified to be kept", "object lost under attack", "object not certified"]
    assert (panel.outlined[7:] == -1).all(), "neither tiny objects nor those of other classes"
    figure = picture_figure([panel], NAMES, [(0, 0, 0)] * 3)
    patches = figure.legends[0].get_patches()
    assert {patch.get_label() for patch in patches} == set(told)
    assert matplotlib.colors.to_rgb(patches[0].get_facecolor()) == tuple(np.array((0, 158, 115)) / 255)


def test_without_a_certificate_an_attack_alone_is_shown():
    rows = {"attack": row(hits=[0, 16, 7, 16, 0, 0])}
    panel = object_panel(scene(), rows, NAMES, SETTINGS, None)
    assert [shown_at(panel, left) for left in (1, 8)] == ["object left by the attack", "object lost under attack"]


def test_an_image_without_such_objects_has_no_panel():
    assert object_panel(scene(), {}, NAMES, ObjectSettings(("person",), minimum=17), None) is None


def test_lines_must_fit_their_image():
    image = np.zeros((4, 4, 3))
    with pytest.raises(ResultError, match="lines of panel"):
        Panel("objects", image=image, outlined=np.zeros((4, 5), dtype=int), classes=(("a", (0, 0, 0)),))
    with pytest.raises(ResultError, match="lines of panel"):
        Panel("objects", image=image, outlined=np.zeros((4, 4), dtype=int))


def entry(kind, name, kept, **more):
    part = {"class": "car", "size": "small", "objects": 4, **kept}
    return Entry(
        {"kind": kind, "name": name, "images": 1, "figures": {}, "objects": {"share": 0.5, "by_size": [part]}, **more}
    )


def test_the_table_has_a_column_for_each_result_and_says_what_the_test_promises():
    guarantee = PresenceTest(NOISES["gaussian"](0.25), 0.75, 0.001, 100).guarantee(0.5).to_json()
    entries = [
        entry("prediction", "prediction", {"kept": 1.0}),
        entry("certifier", "segcertify", {"kept": 0.25, "present": 0.75}, region_guarantee=guarantee),
        entry("attack", "vanish", {"kept": None}),
    ]
    (text,) = object_table(entries)
    header, _, line = text.splitlines()[2:5]
    assert header == (
        "|  | objects | prediction: kept % | segcertify: certified to be kept % | segcertify: certified to be present %"
        " | vanish: left by the attack % |"
    )
    assert line == "| car, small | 4 | 100.0 | 25.0 | 75.0 | – |"
    assert "at least 50 % of its pixels" in text
    assert "with probability ≥ 0.999 per image, for every object certified to be present" in text
    assert "compared with none" in text
    assert not list(object_table([Entry({"kind": "prediction", "name": "p", "images": 1, "figures": {}})]))
