"""Certificates that let some certified pixels be wrong: bounds take these off where it harms most, counts stay."""

import itertools
import math

import numpy as np
import pytest
import torch
from support.linear_pixels import image_with_margins, two_classes

from certseg.certifiers import SegCertify
from certseg.compute.hardware import Hardware
from certseg.evaluation import CertificationStage
from certseg.evaluation.loop import summary
from certseg.metrics import GroupCounts
from certseg.types import Sample

CPU = Hardware(device="cpu", noise_batch=16)


def certified(correction, k=1):
    """Rows and summary of images of which few pixels are labelled, so that some have fewer than are tolerated."""
    certifier = SegCertify(sigma=0.25, n=200, correction=correction, k=k)
    stage, rows = CertificationStage(certifier, two_classes(), ("dark", "bright"), seed=0, hardware=CPU), []
    for index, number in enumerate((30, 12, 4)):
        margins = 3 * torch.rand(6, 5, generator=torch.Generator().manual_seed(index)) - 1
        target = (margins < 0).long().flatten()
        target[number:] = 255
        row, _ = stage.run(Sample(str(index), image_with_margins(two_classes(), margins), target.view(6, 5)))
        rows.append({"image": str(index), **row})
    return rows, summary(stage, rows)["figures"]


def test_so_many_pixels_are_taken_off_in_each_image():
    rows, figures = certified("kfwer", k=5)
    correct, labelled = (
        np.array([sum(row["counts"]["certified"][name]) for row in rows]) for name in ("correct", "target")
    )
    assert labelled.tolist() == [30, 12, 4]
    assert (correct > 4).tolist() == [True, True, False]
    assert figures["worst_case_accuracy/image_mean"] == pytest.approx((np.maximum(correct - 4, 0) / labelled).mean())
    assert figures["certified_accuracy/image_mean"] == pytest.approx((correct / labelled).mean()), "as papers count"
    assert figures["worst_case_accuracy/image_mean"] < figures["certified_accuracy/image_mean"] - 0.1


def test_nothing_is_taken_off_where_every_pixel_is_kept():
    _, figures = certified("holm")
    assert "worst_case_accuracy/image_mean" not in figures


def test_an_average_share_of_errors_bounds_no_image():
    _, figures = certified("benjamini_yekutieli")
    assert math.isnan(figures["worst_case_accuracy/image_mean"])
    assert math.isnan(figures["worst_case_miou/pooled"])
    assert figures["certified_accuracy/image_mean"] > 0.3


@pytest.mark.parametrize("tolerated", [0, 1, 3, 5, 9])
def test_of_groups_those_that_gain_most(tolerated):
    """Every choice of so many of the certified pixels, by brute force."""
    sizes = [1, 1, 2, 2, 4, 4]  # of the groups of six pixels certified rightly, among 4 classes
    correct = np.zeros((3, 4), dtype=np.int64)
    for level, size in ((0, 1), (0, 1), (1, 2), (1, 2), (2, 4), (2, 4)):
        correct[level, size - 1] += 1
    counts = GroupCounts(correct.sum(axis=1), correct, 8)
    gains = [1 - math.log(size) / math.log(4) for size in sizes]
    left = [
        sum(gain for place, gain in enumerate(gains) if place not in wrong)
        for wrong in itertools.combinations(range(6), min(6, tolerated))
    ]
    assert counts.information_gain(tolerated) == pytest.approx(min(left) / 8)
    assert counts.accuracy(tolerated) == max(0, 6 - tolerated) / 8
