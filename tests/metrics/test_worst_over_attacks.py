"""The worst choice of attacks against brute force and the golden vectors."""

import itertools
import json

import numpy as np
import pytest
import torch
from support.shared import SHARED, needs_shared

from certseg.errors import ResultError
from certseg.metrics import ClassCounts, worst_pooled_miou

CASES = {
    "three_attacks": 1.0,
    "two_attacks": 1.0,
    "absent_class_last": 1.0,
    "absent_class_first__official_bug": 1.0,
    "odd_batch__official_bug": 1.0,
    "single_image": 5 / 4,  # the code averages over 5 classes, of which one is not in the labels but predicted
}


def pooled(images):
    return sum(images[1:], images[0]).miou()


def random_counts(seed, attacks=3, images=4, classes=3):
    """Counts of random predictions of random quality, sharing their labels; one image has no label."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (images, 6, 6), generator=generator)
    targets[0, :3] = 255
    targets[-1] = 255
    counts = []
    for _ in range(attacks):
        share = torch.rand(images, 1, 1, generator=generator)
        kept = torch.rand(targets.shape, generator=generator) < share
        other = torch.randint(classes, targets.shape, generator=generator)
        maps = torch.where(kept & (targets != 255), targets, other)
        counts.append([ClassCounts.from_maps(p, t, classes) for p, t in zip(maps, targets)])
    return counts


@needs_shared("golden", "worst_case.npz")
@pytest.mark.parametrize("case", CASES)
def test_golden_cases_reach_the_optimum_where_the_official_descent_does_not(case):
    golden = np.load(SHARED / "golden" / "worst_case.npz")
    meta = json.loads(str(golden["meta"]))["cases"][case]
    labels = torch.from_numpy(golden[f"{case}/labels"]).long()
    labels[labels < 0] = 255
    maps = torch.from_numpy(golden[f"{case}/preds"]).long().clamp_min(0)
    counts = [[ClassCounts.from_maps(p, t, meta["num_classes"]) for p, t in zip(own, labels)] for own in maps]
    found = worst_pooled_miou(counts)
    assert found.miou == pytest.approx(CASES[case] * float(golden[f"{case}/worst_miou__bruteforce"]), abs=1e-12)
    assert found.choice.tolist() == golden[f"{case}/worst_miou_choice"].tolist()
    worst = np.min([[image.accuracy() for image in images] for images in counts], axis=0).mean()
    assert worst == pytest.approx(float(golden[f"{case}/worst_aacc__exact"]), abs=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_it_lies_between_the_optimum_and_every_single_attack(seed):
    counts = random_counts(seed)
    found = worst_pooled_miou(counts)
    choices = itertools.product(range(3), repeat=4)
    optimum = min(pooled([counts[a][i] for i, a in enumerate(choice)]) for choice in choices)
    assert optimum - 1e-12 <= found.miou <= min(pooled(images) for images in counts)
    assert found.miou == pytest.approx(pooled([counts[a][i] for i, a in enumerate(found.choice)]))
    assert found.miou == found.counts.miou()
    assert found.miou == pytest.approx(optimum, abs=0.02)


@pytest.mark.parametrize("seed", range(6))
def test_another_attack_never_raises_it(seed):
    counts = random_counts(seed, attacks=5, images=8)
    values = [worst_pooled_miou(counts[:number]).miou for number in range(1, 6)]
    assert values[0] == pytest.approx(pooled(counts[0]))
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]


def test_no_single_image_could_be_chosen_better():
    counts = random_counts(5, attacks=4, images=9)
    found = worst_pooled_miou(counts)
    for image, attack in itertools.product(range(9), range(4)):
        other = found.choice.copy()
        other[image] = attack
        assert pooled([counts[a][i] for i, a in enumerate(other)]) >= found.miou - 1e-12


def test_degenerate_sets():
    counts = random_counts(0)
    assert worst_pooled_miou(counts[:1]).miou == pytest.approx(pooled(counts[0]))
    void = [[images[-1]] for images in counts]  # nothing labelled
    assert np.isnan(worst_pooled_miou(void).miou)
    for bad in ([], [[]], [counts[0], counts[1][:2]]):
        with pytest.raises(ResultError, match="same images"):
            worst_pooled_miou(bad)
