"""Patches as a threat: sizes, words, comparison; and recall over big classes."""

import math

import numpy as np
import pytest

from certseg.errors import ConfigError
from certseg.metrics.recall import BIG_CLASSES, big_classes, mean_recall
from certseg.types import L2, THREATS, Linf, Patch, Threat
from certseg.types.threats import is_within, needs_image


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
    small, large = Patch(height=3, width=4).to_json(), Patch(height=3, width=5, count=2).to_json()
    assert is_within(small, large)
    assert not is_within(large, small)
    assert not is_within(Patch(height=4, width=3).to_json(), small)
    assert is_within(Patch(share=0.01).to_json(), Patch(share=0.02).to_json())
    assert not is_within(Patch(share=0.01, aspect=1).to_json(), Patch(share=0.02, aspect=2).to_json())
    assert not is_within(Patch(share=0.01).to_json(), small)
    assert is_within(L2(0.1).to_json(), L2(0.1).to_json())
    assert not is_within(L2(0.2).to_json(), L2(0.1).to_json())
    assert not is_within(L2(0.1).to_json(), Linf(0.1).to_json())


def test_an_image_decides_between_pixels_and_shares():
    pixels, share = Patch(height=3, width=4).to_json(), Patch(share=0.01).to_json()
    wide = Patch(share=0.01, aspect=2).to_json()
    for one, other in ((pixels, share), (share, wide), (wide, pixels)):
        assert needs_image(one, other)
        assert needs_image(other, one)
        assert not is_within(one, other)
        assert is_within(one, other, ((3, 4), (3, 5)))
        assert not is_within(one, other, ((3, 4), (5, 3)))
        assert not is_within({**one, "count": 2}, other, ((3, 4), (3, 4)))
        assert is_within(one, {**other, "count": 2}, ((3, 4), (3, 4)))
    for alike in (Patch(height=9, width=1, count=2).to_json(), Patch(height=2, width=9).to_json()):
        assert not needs_image(pixels, alike)
        assert not is_within(pixels, alike, ((1, 1), (9, 9)))  # as they are given
    assert not needs_image(Patch(share=0.2, count=3).to_json(), share)
    assert not needs_image(L2(0.1).to_json(), share)


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
