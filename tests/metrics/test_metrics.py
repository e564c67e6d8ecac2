import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certseg.errors import DataError
from certseg.metrics import CertifiedCounts, ClassCounts, worst_case_miou


def random_maps(seed, classes=3, pixels=7, ignore=0.15):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, (1, pixels))
    target[rng.random((1, pixels)) < ignore] = 255
    prediction = np.where(rng.random((1, pixels)) < 0.7, np.minimum(target, classes - 1), rng.integers(0, classes))
    certified = rng.random((1, pixels)) < 0.6
    return torch.from_numpy(prediction), torch.from_numpy(certified), torch.from_numpy(target)


def brute_force_iou(prediction, target, classes, keep):
    valid = target != 255
    values = []
    for c in range(classes):
        if not (valid & (target == c)).any():
            continue
        said = valid & keep & (prediction == c)
        true = valid & (target == c)
        values.append(float((said & true).sum()) / float((said | true).sum()))
    return values


@given(st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_counts_agree_with_a_loop_over_pixels(seed):
    prediction, certified, target = random_maps(seed)
    for keep in (None, certified):
        kept = torch.ones_like(certified) if keep is None else keep
        counts = ClassCounts.from_maps(prediction, target, 3, keep=keep)
        expected = brute_force_iou(prediction, target, 3, kept)
        assert [v for v in counts.iou() if np.isfinite(v)] == pytest.approx(expected)
        valid = target != 255
        if valid.any():
            right = float(((prediction == target) & kept & valid).sum())
            assert counts.accuracy() == pytest.approx(right / float(valid.sum()))


def test_abstention_is_a_miss_and_not_a_false_positive():
    target = torch.tensor([[0, 0, 1, 1]])
    prediction = torch.tensor([[0, 1, 1, 1]])
    abstain_on_the_mistake = torch.tensor([[True, False, True, True]])
    assert ClassCounts.from_maps(prediction, target, 2).iou().tolist() == pytest.approx([1 / 2, 2 / 3])
    counts = ClassCounts.from_maps(prediction, target, 2, keep=abstain_on_the_mistake)
    assert counts.iou().tolist() == pytest.approx([1 / 2, 1.0])


def test_all_void_has_no_figure():
    target = torch.full((2, 2), 255)
    counts = CertifiedCounts.from_maps(torch.zeros(2, 2).long(), torch.ones(2, 2).bool(), target, 3)
    assert np.isnan(counts.accuracy())
    assert np.isnan(counts.abstention())
    assert np.isnan(counts.as_class_counts().miou())
    assert np.isnan(worst_case_miou(counts))


def test_labels_out_of_range_are_named():
    with pytest.raises(DataError, match=r"\[3, 7\]"):
        ClassCounts.from_maps(torch.zeros(1, 3).long(), torch.tensor([[3, 7, 255]]), 3)


def test_counts_add_up_and_survive_json():
    parts = [CertifiedCounts.from_maps(*random_maps(seed), 3) for seed in range(4)]
    total = sum(parts, CertifiedCounts.zero(3))
    assert CertifiedCounts.from_json(total.to_json()).to_json() == total.to_json()
    pooled = [torch.cat(maps, dim=1) for maps in zip(*(random_maps(seed) for seed in range(4)), strict=True)]
    assert CertifiedCounts.from_maps(*pooled, 3).to_json() == total.to_json()
    plain = [ClassCounts.from_maps(p, t, 3) for p, _, t in (random_maps(seed) for seed in range(4))]
    assert sum(plain, ClassCounts.zero(3)).to_json() == ClassCounts.from_maps(pooled[0], pooled[2], 3).to_json()


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_no_attack_on_free_pixels_gets_below_the_worst_case(seed):
    """Exhaustive search over every assignment of every free pixel."""
    prediction, certified, target = random_maps(seed, classes=3, pixels=7)
    bound = worst_case_miou(CertifiedCounts.from_maps(prediction, certified, target, 3))
    free = torch.nonzero(~certified[0]).flatten().tolist()
    lowest = np.inf
    for choice in itertools.product(range(3), repeat=len(free)):
        attacked = prediction.clone()
        attacked[0, free] = torch.tensor(choice, dtype=attacked.dtype)
        lowest = min(lowest, ClassCounts.from_maps(attacked, target, 3).miou())
    if np.isnan(bound):
        assert np.isnan(lowest)
    else:
        assert bound <= lowest + 1e-12


@given(st.integers(0, 10**6), st.integers(2, 6))
@settings(max_examples=100, deadline=None)
def test_worst_case_is_the_relaxed_optimum(seed, classes):
    """The bound equals the minimum of the continuous problem, found by an independent greedy on a fine grid."""
    rng = np.random.default_rng(seed)
    target = rng.integers(1, 40, classes)
    correct = (target * rng.random(classes)).astype(int)
    free = ((target - correct) * rng.random(classes)).astype(int)
    wrong_as = rng.integers(0, 5, classes)
    counts = CertifiedCounts(correct, wrong_as, free, target)
    parts = 400
    step = free.sum() / parts if free.sum() else 0.0
    x = np.zeros(classes)
    limit = free.sum() - free
    for _ in range(parts):  # convex and separable: the best next step is the one that lowers its own term most
        gain = correct / (target + wrong_as + x) - correct / (target + wrong_as + x + step)
        gain[x + step > limit + 1e-9] = -1.0
        best = int(np.argmax(gain))
        if gain[best] < 0:
            break
        x[best] += step
    greedy = float(np.mean(correct / (target + wrong_as + x)))
    bound = worst_case_miou(counts)
    assert bound <= greedy + 1e-9
    assert bound == pytest.approx(greedy, abs=0.02)


def test_worst_case_extremes():
    whole = CertifiedCounts(np.array([5, 5]), np.array([0, 0]), np.array([0, 0]), np.array([5, 5]))
    assert worst_case_miou(whole) == pytest.approx(1.0)
    nothing = CertifiedCounts(np.array([0, 0]), np.array([0, 0]), np.array([5, 5]), np.array([5, 5]))
    assert worst_case_miou(nothing) == 0.0
