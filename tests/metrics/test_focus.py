"""Figures of chosen classes: by hand, and against every attacker a certificate leaves room for."""

import itertools
import math

import numpy as np
import pytest
import torch

from certseg.metrics import CertifiedCounts, ClassCounts, ClassTally, focus_figures
from certseg.types import L2, Guarantee, Promise

NAMES = ["background", "lesion", "vessel"]


def prediction_row(prediction, target):
    return {"counts": ClassCounts.from_maps(torch.tensor(prediction), torch.tensor(target), len(NAMES)).to_json()}


def test_recall_dice_and_missed_images_by_hand():
    rows = [
        prediction_row([[1, 1, 0, 1]], [[1, 1, 1, 0]]),  # recall 2/3, Dice 4/6
        prediction_row([[0, 0, 0, 0]], [[1, 0, 0, 255]]),  # missed
        prediction_row([[1, 0, 0, 0]], [[0, 0, 0, 0]]),  # without the class, one of four pixels taken for it
    ]
    found = focus_figures("prediction", rows, NAMES, ["lesion"])
    assert found == {
        "recall@lesion/image_mean": pytest.approx(1 / 3),
        "recall@lesion/pooled": pytest.approx(2 / 4),
        "dice@lesion/image_mean": pytest.approx(1 / 3),
        "dice@lesion/pooled": pytest.approx(2 * 2 / (2 * 2 + 2 + 2)),
        "missed_images@lesion": 1,
        "images_with@lesion": 2,
        "empty_specificity@lesion/pooled": pytest.approx(3 / 4),
    }


def test_a_class_that_never_occurs_has_no_figures():
    found = focus_figures("attack", [prediction_row([[0, 1]], [[0, 0]])], NAMES, ["vessel"])
    assert math.isnan(found["attacked_recall@vessel/image_mean"])
    assert math.isnan(found["attacked_dice@vessel/pooled"])
    assert found["images_with@vessel"] == found["attacked_missed_images@vessel"] == 0
    assert found["attacked_empty_specificity@vessel/pooled"] == 1.0


def test_certified_figures_are_the_worst_that_any_attacker_can_do():
    generator = np.random.default_rng(0)
    for _ in range(20):
        target = torch.tensor(generator.choice([0, 1, 2, 255], (1, 6)))
        classes = torch.tensor(generator.integers(3, size=(1, 6)))
        certified = torch.tensor(generator.random((1, 6)) < 0.5)
        counts = CertifiedCounts.from_maps(classes, certified, target, 3)
        tally = ClassTally.of_certificates([counts], 1)
        free = [index for index in range(6) if not certified[0, index]]
        left = []
        for answer in itertools.product(range(3), repeat=len(free)):
            map_ = classes.clone()
            map_[0, free] = torch.tensor(answer, dtype=torch.int64)
            left.append(ClassTally.of_predictions([ClassCounts.from_maps(map_, target, 3)], 1))
        if (target == 1).any():
            assert tally.recall()[0] == min(other.recall()[0] for other in left)
            assert tally.dice()[0] == pytest.approx(min(other.dice()[0] for other in left))
            assert tally.missed() == max(other.missed() for other in left)
        elif (target != 255).any():
            assert tally.specificity() == pytest.approx(min(other.specificity() for other in left))


def test_a_certificate_also_has_the_figures_of_its_prediction():
    classes, target = torch.tensor([[1, 1, 0]]), torch.tensor([[1, 1, 1]])
    certified = CertifiedCounts.from_maps(classes, torch.tensor([[True, False, True]]), target, 3)
    row = {
        "counts": {
            "certified": certified.to_json(),
            "prediction": ClassCounts.from_maps(classes, target, 3).to_json(),
        }
    }
    found = focus_figures("certifier", [row], NAMES, ["lesion", "background"])
    assert found["certified_recall@lesion/pooled"] == pytest.approx(1 / 3)
    assert found["prediction_recall@lesion/pooled"] == pytest.approx(2 / 3)
    assert found["worst_case_dice@lesion/pooled"] == pytest.approx(2 / (1 + 3))
    assert found["certified_empty_specificity@background/pooled"] == pytest.approx(1 / 3)


def test_pixels_that_may_be_wrong_are_taken_off_at_their_worst_place():
    """All answers in which at most one certified pixel changes as well."""
    generator = np.random.default_rng(1)
    for _ in range(10):
        target = torch.tensor(generator.choice([0, 1, 2], (1, 5)))
        classes = torch.tensor(generator.integers(3, size=(1, 5)))
        certified = torch.tensor(generator.random((1, 5)) < 0.7)
        counts = CertifiedCounts.from_maps(classes, certified, target, 3)
        tally = ClassTally.of_certificates([counts], 1, tolerated=1)
        for answer in itertools.product(range(3), repeat=5):
            map_ = torch.tensor([answer])
            if int(((map_ != classes) & certified).sum()) > 1:
                continue
            left = ClassTally.of_predictions([ClassCounts.from_maps(map_, target, 3)], 1)
            if (target == 1).any():
                assert tally.recall()[0] <= left.recall()[0]
                assert tally.dice()[0] <= left.dice()[0] + 1e-12
                assert tally.missed() >= left.missed()
            else:
                assert tally.specificity() <= left.specificity() + 1e-12


def test_nothing_is_said_of_images_that_nothing_is_promised_about():
    classes, target = torch.tensor([[1, 1, 0]]), torch.tensor([[1, 1, 1]])
    certified = CertifiedCounts.from_maps(classes, torch.tensor([[True, True, True]]), target, 3)
    prediction = ClassCounts.from_maps(classes, target, 3)
    row = {"counts": {"certified": certified.to_json(), "prediction": prediction.to_json()}}
    average = Guarantee(Promise.ERROR_SHARE, "smoothed", L2(0.1), confidence=0.0, error_share=0.05)
    few = Guarantee(Promise.ALL_BUT, "smoothed", L2(0.1), confidence=0.99, tolerated=1)
    found = focus_figures("certifier", [row], NAMES, ["lesion"], average)
    assert math.isnan(found["certified_recall@lesion/pooled"])
    assert math.isnan(found["worst_case_dice@lesion/image_mean"])
    assert found["images_with@lesion"] == 1
    assert found["prediction_recall@lesion/pooled"] == pytest.approx(2 / 3)
    found = focus_figures("certifier", [row], NAMES, ["lesion"], few)
    assert found["certified_recall@lesion/pooled"] == pytest.approx(1 / 3)
    alerted = Guarantee(Promise.UNTIL_ALERT, "base", L2(0.1), confidence=1.0)
    found = focus_figures("certifier", [row], NAMES, ["lesion"], alerted)
    assert math.isnan(found["worst_case_dice@lesion/pooled"])
    assert found["certified_recall@lesion/pooled"] == pytest.approx(2 / 3)
