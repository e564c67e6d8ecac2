"""Patches as a threat: sizes, words, comparison; and recall over big classes."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from certseg.errors import ConfigError
from certseg.metrics.recall import BIG_CLASSES, big_classes, mean_recall
from certseg.types import L2, THREATS, Linf, Patch, Threat, Unbounded, threat_of


@pytest.mark.parametrize(
    ("threat", "image", "expected"),
    [
        (Patch(height=3, width=4), (9, 9), (3, 4)),
        (Patch(share=0.01), (70, 100), (7, 10)),  # 70 * 0.1 is 7.000000000000001
        (Patch(share=0.005), (360, 480), (26, 34)),
        (Patch(share=1), (5, 8), (5, 8)),
        (Patch(share=1e-9), (5, 8), (1, 1)),
        (Patch(share=0.01, aspect=1), (360, 480), (42, 42)),
        (Patch(share=0.01, aspect=4.0), (100, 100), (5, 20)),
    ],
    ids=str,
)
def test_size_in_pixels(threat, image, expected):
    assert threat.size(*image) == expected


def test_a_share_covers_at_least_that_share_and_hardly_more():
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = (int(v) for v in rng.integers(1, 500, 2))
        share = round(float(rng.uniform(1e-4, 1)), int(rng.integers(2, 6))) or 0.01
        patch = Patch(share=share).size(height, width)
        for side, length in zip(patch, (height, width)):
            exact = length * math.sqrt(share)
            assert exact - 1e-9 <= side < exact + 1 + 1e-9


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"share": 0.1, "height": 3, "width": 3},
        {"height": 3},
        {"share": 0.0},
        {"share": 1.1},
        {"share": "much"},
        {"share": math.nan},
        {"height": 2.0, "width": 3},
        {"height": 0, "width": 3},
        {"share": 0.1, "count": 0},
        {"share": 0.1, "count": True},
        {"share": 0.1, "aspect": 0},
        {"height": 3, "width": 3, "aspect": 1},
    ],
    ids=str,
)
def test_bad_patches(fields):
    with pytest.raises(ConfigError):
        Patch(**fields)


def test_a_patch_larger_than_the_image():
    with pytest.raises(ConfigError, match="10 x 3 pixels does not fit into an image of 9 x 9"):
        Patch(height=10, width=3).size(9, 9)
    with pytest.raises(ConfigError, match="does not fit"):
        Patch(share=0.5, aspect=9).size(20, 20)


def test_words_and_plain_values():
    assert str(Patch(share=0.005, count=2)) == "2 patches of 0.005 of the image"
    assert str(Patch(height=3, width=4)) == "patch of 3 x 4 pixels"
    assert str(L2(0.25)) == "l2 <= 0.25"
    assert Patch(share=0.005).to_json() == {"norm": "patch", "share": 0.005}
    assert Patch(height=3, width=4, count=2).to_json() == {"norm": "patch", "height": 3, "width": 4, "count": 2}
    assert Linf(0.5).to_json() == {"norm": "linf", "radius": 0.5}
    assert isinstance(Patch(share=0.1), Threat)
    assert set(THREATS) == {"l2", "linf", "l1"}


def test_which_attacker_is_no_stronger():
    small, large = Patch(height=3, width=4), Patch(height=3, width=5, count=2)
    assert large.contains(small)
    assert not small.contains(large)
    assert not small.contains(Patch(height=4, width=3))
    assert Patch(share=0.02).contains(Patch(share=0.01))
    assert not Patch(share=0.02, aspect=2).contains(Patch(share=0.01, aspect=1))
    assert not small.contains(Patch(share=0.01))
    assert L2(0.1).contains(L2(0.1))
    assert not L2(0.1).contains(L2(0.2))
    assert not Linf(0.1).contains(L2(0.1))


@pytest.mark.parametrize("image", [(30, 50), (50, 30), (40, 40), (64, 96)])
def test_an_image_decides_between_pixels_and_shares(image):
    pixels, share, wide = Patch(height=3, width=4), Patch(share=0.01), Patch(share=0.01, aspect=2)
    for one, other in ((pixels, share), (share, pixels), (share, wide), (wide, share), (wide, pixels), (pixels, wide)):
        assert one.needs_image(other)
        assert not other.contains(one)
        fits = all(a <= b for a, b in zip(one.size(*image), other.size(*image), strict=True))
        assert other.contains(one, image) == fits
        assert not other.contains(replace(one, count=2), image)
        assert replace(other, count=2).contains(one, image) == fits


def test_what_compares_as_it_is_given_needs_no_image():
    pixels, share = Patch(height=3, width=4), Patch(share=0.01)
    for alike in (Patch(height=9, width=1, count=2), Patch(height=2, width=9)):
        assert not pixels.needs_image(alike)
        assert not alike.contains(pixels, (100, 100))
    assert not share.needs_image(Patch(share=0.2, count=3))
    assert not share.needs_image(L2(0.1))


@pytest.mark.parametrize(
    "threat",
    [L2(0.25), Linf(4 / 255), Patch(share=0.01, aspect=2.0), Patch(height=3, width=4, count=2), Unbounded("l2")],
    ids=str,
)
def test_a_threat_comes_back_from_what_is_written_of_it(threat):
    assert threat_of(json.loads(json.dumps(threat.to_json()))) == threat


def test_an_unknown_threat_contains_its_equals_alone():
    tilt = threat_of({"norm": "rotation", "degrees": 5, "axis": [0, 0, 1]})
    assert tilt.to_json() == {"norm": "rotation", "degrees": 5, "axis": [0, 0, 1]}
    assert tilt.contains(threat_of({"axis": [0, 0, 1], "degrees": 5, "norm": "rotation"}))
    assert not tilt.contains(threat_of({"norm": "rotation", "degrees": 4, "axis": [0, 0, 1]}))
    assert not L2(9.0).contains(tilt)
    assert not tilt.contains(L2(0.1))


def test_what_bounds_nothing_contains_every_ball_of_its_norm_and_lies_in_none():
    anything = Unbounded("l2")
    assert anything.contains(L2(100.0))
    assert not anything.contains(Linf(0.1))
    assert not L2(100.0).contains(anything)
    assert anything.scaled_to(0.3) == L2(0.3)


def test_mean_recall_over_classes_that_are_present():
    hits, target = np.array([3, 0, 5, 0]), np.array([4, 2, 5, 0])
    assert mean_recall(hits, target) == pytest.approx((0.75 + 0 + 1) / 3)
    assert mean_recall(hits, target, np.array([True, False, True, True])) == pytest.approx(0.875)
    assert math.isnan(mean_recall(hits, target, np.array([False, False, False, True])))
    assert math.isnan(mean_recall(hits * 0, target * 0))


def test_big_classes_are_big_where_they_are_present():
    targets = [np.array([30, 10, 0, 20]), np.array([0, 31, 0, 20]), np.array([0, 0, 0, 0])]
    assert big_classes(targets, [100, 100, 100]).tolist() == [True, True, False, False]  # 30, 20.5, none, 20
    assert [len(BIG_CLASSES[name]) for name in ("ade20k", "coco_stuff10k")] == [19, 21]
