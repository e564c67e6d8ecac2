"""The worst case of the mean IoU where some certified pixels may be wrong: against every attacker, and its limits."""

import itertools

import numpy as np
import pytest
import torch

from certseg.metrics import CertifiedCounts, ClassCounts, worst_case_miou


def drawn(generator, pixels=6, classes=3):
    target = torch.tensor(generator.integers(classes, size=(1, pixels)))
    predicted = torch.tensor(np.where(generator.random((1, pixels)) < 0.7, target, generator.integers(classes)))
    certified = torch.tensor(generator.random((1, pixels)) < 0.7)
    return target, predicted, certified


@pytest.mark.parametrize("tolerated", [1, 2])
def test_no_attacker_leaves_less(tolerated):
    generator, tight = np.random.default_rng(0), []
    for _ in range(25):
        target, predicted, certified = drawn(generator)
        counts = CertifiedCounts.from_maps(predicted, certified, target, 3)
        least = min(
            ClassCounts.from_maps(torch.tensor([answer]), target, 3).miou()
            for answer in itertools.product(range(3), repeat=6)
            if int(((torch.tensor([answer]) != predicted) & certified).sum()) <= tolerated
        )
        bound = worst_case_miou(counts, tolerated)
        assert bound <= least + 1e-12
        tight.append(bound >= 0.7 * least)
    assert np.mean(tight) > 0.3  # the bound is no empty one


def test_more_tolerated_pixels_leave_less():
    generator = np.random.default_rng(1)
    for _ in range(20):
        target, predicted, certified = drawn(generator, pixels=60, classes=5)
        counts = CertifiedCounts.from_maps(predicted, certified, target, 5)
        values = [worst_case_miou(counts, tolerated) for tolerated in (0, 1, 3, 10, 60)]
        assert values == sorted(values, reverse=True)
        assert values[-1] == 0.0
        assert values[1] > 0.0
