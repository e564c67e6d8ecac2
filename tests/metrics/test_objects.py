"""Labelled objects: what they are, when they are kept, and against every attacker a certificate leaves room for."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from certseg.errors import ConfigError, DataError, ResultError
from certseg.metrics import (
    OBJECTS,
    ObjectCounts,
    ObjectRegions,
    ObjectSettings,
    object_figures,
    objects_by_size,
    pixels_needed,
)
from certseg.types import L2, Certificate, Guarantee, Passes, Promise, Sample

NAMES = ["road", "car", "person"]
EVERY = Guarantee(Promise.EVERY_PIXEL, "base", L2(0.25), confidence=1.0)


def sample_of(target, objects=None):
    target = torch.tensor(target)
    numbers = None if objects is None else torch.tensor(objects)
    return Sample("a", torch.zeros(3, *target.shape), target, numbers)


def certificate_of(classes, certified, guarantee=EVERY):
    return Certificate(torch.tensor(classes), torch.tensor(certified).bool(), guarantee, Passes())


def counts_of(sample, classes, certified, share, guarantee=EVERY):
    certificate = certificate_of(classes, certified, guarantee)
    regions = ObjectRegions.of(sample.target, 3, sample.objects)
    return ObjectCounts.of_certificate(regions, sample.target, certificate, certificate.certified, share)


def test_connected_regions_are_those_of_another_library():
    target = torch.from_numpy(np.random.default_rng(0).choice([0, 1, 2, 255], (30, 40)).astype(np.int64))
    found = ObjectRegions.of(target, 3)
    areas = []
    for label in range(3):
        regions, number = ndimage.label((target == label).numpy(), structure=np.ones((3, 3)))
        areas += [(label, int(area)) for area in np.bincount(regions.flatten(), minlength=number + 1)[1:]]
    assert sorted(zip(found.classes.tolist(), found.areas.tolist())) == sorted(areas)
    assert torch.equal(found.ids >= 0, target != 255)
    for index in range(len(found)):
        assert set(target[found.ids == index].tolist()) == {found.classes[index]}


def test_numbers_part_what_touches_and_join_what_does_not():
    target = [[1, 1, 1, 0, 1], [2, 2, 255, 0, 1]]
    objects = [[4, 4, 5, 0, 4], [4, -1, 5, 0, 0]]
    found = ObjectRegions.of(torch.tensor(target), 3, torch.tensor(objects))
    told = sorted(zip(found.classes.tolist(), found.areas.tolist()))
    assert told == [(0, 2), (1, 1), (1, 1), (1, 3), (2, 1)], "one number in two classes is two objects"
    assert found.ids[1, 1] == -1, "of a group nobody told the objects apart"
    assert found.ids[0, 0] == found.ids[0, 4] != found.ids[0, 2]
    assert found.ids[1, 4] != found.ids[0, 4], "a pixel without a number is in no numbered object"


def test_a_map_of_objects_fits_its_labels():
    with pytest.raises(DataError, match="map of objects"):
        sample_of([[0, 1]], [[1]])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 1 / 3, 1.0])
def test_an_object_is_lost_exactly_if_more_than_the_rest_is_wrong(share):
    """The count that METHODS names, floor((1 - q) n) + 1 wrong pixels, read as decimals."""
    from fractions import Fraction

    for area in range(1, 60):
        needed = int(pixels_needed(np.array([area]), share)[0])
        spare = 1 - Fraction(str(share))
        assert area - needed + 1 == math.floor(spare * area) + 1
        assert needed >= Fraction(str(share)) * area > needed - 1


def test_counts_survive_a_row():
    sample = sample_of([[0, 1, 1]])
    counts = ObjectCounts(3, *(np.array([1, 2]) for _ in range(4)), radii=np.array([0.5, np.inf]), share=0.5)
    stored = {**counts.to_json(), "radii": [0.5, None]}  # rows have none for infinite
    again = ObjectCounts.from_json(stored)
    assert again.radii.tolist() == [0.5, np.inf]
    assert again.share == 0.5
    assert again.alerted is None
    assert ObjectCounts.of_prediction(sample, sample.target, 3).to_json().keys() == {
        *("pixels", "classes", "areas", "hits")
    }
    with pytest.raises(ResultError, match="another share"):
        counts.radii_at(0.4)


@pytest.mark.parametrize("tolerated", [0, 1])
def test_certified_objects_are_those_that_no_attacker_can_lose(tolerated):
    """All answers in which at most so many certified pixels change."""
    generator = np.random.default_rng(tolerated)
    for _ in range(25):
        share = float(generator.choice([0.3, 0.5, 0.75, 1.0]))
        sample = sample_of(generator.choice([0, 1, 255], (1, 6)))
        classes = generator.integers(2, size=(1, 6))
        certified = generator.random((1, 6)) < 0.7
        counts = counts_of(sample, classes, certified, share)
        kept = np.ones(len(counts.areas), dtype=bool)
        for answer in itertools.product(range(2), repeat=6):
            prediction = torch.tensor([answer])
            if int((prediction.numpy() != classes)[certified].sum()) <= tolerated:
                kept &= ObjectCounts.of_prediction(sample, prediction, 3).kept(share)
        assert counts.certainly_kept(share, tolerated).tolist() == kept.tolist()


def rows_of(*counts):
    return [{OBJECTS: part.to_json()} for part in counts]


def test_figures_by_hand():
    """Three cars of 4, 2 and 1 pixels in two images, of which the last is too small to count."""
    settings = ObjectSettings(("car", "person"), share=0.5, minimum=2)
    first = counts_of(sample_of([[1, 1, 1, 1, 0, 1, 1]]), [[1, 1, 1, 0, 0, 1, 0]], [[1, 1, 0, 0, 0, 0, 0]], 0.5)
    second = counts_of(sample_of([[1, 0, 0, 0, 0, 0, 0]]), [[1, 0, 0, 0, 0, 0, 0]], [[1] * 7], 0.5)
    found = object_figures("certifier", rows_of(first, second), NAMES, settings, EVERY)
    assert {name: value for name, value in found.items() if "car" in name} == {
        "certified_object_recall@car": 0.5,
        "prediction_object_recall@car": 1.0,
        "objects@car": 2,
        "tiny_objects@car": 1,
        "smallest_certified_object@car": 4,
        "uncovered_objects@car": 1,
    }
    assert math.isnan(found["certified_object_recall@person"])
    assert math.isnan(found["smallest_certified_object@person"])
    assert found["objects@person"] == found["uncovered_objects@person"] == 0


def test_nothing_is_said_of_objects_that_nothing_is_promised_about():
    counts = counts_of(sample_of([[1, 1]]), [[1, 1]], [[True, True]], 0.5)
    average = Guarantee(Promise.ERROR_SHARE, "smoothed", L2(0.1), confidence=0.0, error_share=0.05)
    settings = ObjectSettings(("car",), minimum=1)
    found = object_figures("certifier", rows_of(counts), NAMES, settings, average)
    assert math.isnan(found["certified_object_recall@car"])
    assert math.isnan(found["uncovered_objects@car"])
    assert found["prediction_object_recall@car"] == 1.0
    few = Guarantee(Promise.ALL_BUT, "smoothed", L2(0.1), confidence=0.99, tolerated=2)
    found = object_figures("certifier", rows_of(counts), NAMES, settings, few)
    assert found["certified_object_recall@car"] == 0.0
    assert found["uncovered_objects@car"] == 1, "both of its certified pixels may be wrong"


def test_a_radius_keeps_an_object_that_single_pixels_do_not():
    settings = ObjectSettings(("car",), minimum=1)
    radii = np.array([0.3, 0.25, 0.0, np.inf])
    counts = ObjectCounts(8, *(np.array(v) for v in ([1] * 4, [2] * 4, [2, 2, 0, 2], [0] * 4)), radii=radii, share=0.5)
    found = object_figures("certifier", rows_of(counts), NAMES, settings, EVERY)
    assert found["certified_object_recall@car"] == 0.5, "at exactly its radius an object may be lost"
    assert found["object_radius@car"] == 0.3, "two of the four are kept below it"
    assert found["uncovered_objects@car"] == 2


def test_objects_lost_with_an_alert_are_not_lost_silently():
    sample = sample_of([[1, 1, 0, 2, 2]])
    alerts = torch.tensor([[True, False, False, False, False]])
    counts = ObjectCounts.of_prediction(sample, torch.zeros(1, 5, dtype=torch.int64), 3, alerts)
    found = object_figures("attack", rows_of(counts), NAMES, ObjectSettings(("car", "person"), minimum=1))
    assert found["attacked_object_recall@car"] == found["attacked_object_recall@person"] == 0.0
    assert found["silently_lost_objects@car"] == 0
    assert found["silently_lost_objects@person"] == 1


def test_sizes_are_those_of_coco_scaled_with_the_image():
    settings = ObjectSettings()
    assert settings.size_of(np.array([255, 256, 2303, 2304]), 240 * 320).tolist() == [0, 1, 1, 2]
    counts = ObjectCounts(240 * 320, *(np.array(v) for v in ([1, 1, 1], [20, 256, 300], [20, 0, 300])))
    told = objects_by_size("prediction", rows_of(counts), NAMES, ObjectSettings(("car",)))
    assert [(part["size"], part["objects"]) for part in told] == [("small", 1), ("medium", 2), ("large", 0)]
    assert [part["kept"] for part in told[:2]] == [1.0, 0.5]
    assert math.isnan(told[2]["kept"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"share": 0.0}, "metrics.objects_share"),
        ({"share": 1.5}, "metrics.objects_share"),
        ({"sizes": [96, 32]}, "two rising sides"),
        ({"sizes": [32]}, "two rising sides"),
        ({"sizes": "32"}, "metrics.objects_sizes"),
        ({"minimum": 0}, "metrics.objects_minimum"),
        ({"samples": -1}, "metrics.objects_samples"),
        ({"classes": (), "samples": 50}, "no objects to test"),
    ],
)
def test_settings_outside_their_domain(setting, message):
    with pytest.raises(ConfigError, match=message):
        ObjectSettings(**{"classes": ("car",), **setting})
