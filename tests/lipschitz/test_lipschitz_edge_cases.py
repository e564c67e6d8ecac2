"""Counting what a budget affords: boundaries, rounding and degenerate images, by name."""

import math

import numpy as np
import pytest
import torch
from support.lipschitz_images import double, smooth_image

from certseg.errors import ConfigError, DataError
from certseg.lipschitz.worst_case import (
    ClassCurves,
    CollectiveCounts,
    CostCurve,
    FalseNegativeCounts,
    FlippableImage,
    affordable,
    class_attacks,
    dual_bound,
    grey_levels,
    mean_iou_split,
    pooled_class_iou,
    pooled_mean_iou,
    prefix_sums,
    radius_for_false_negative_rate,
    share_radii,
    worst_iou,
    worst_mean_iou,
)
from certseg.lipschitz.worst_case import by_radius as figures
from certseg.types import LipschitzBound


def test_the_boundary_belongs_to_the_attacker():
    """Rows 2 apart and a gap of 1: the boundary is exactly 1/2 away, so the budget of 1/4 suffices."""
    rows = torch.tensor([[1.0], [-1.0]])
    logits = torch.tensor([[0.5, 3.0], [-0.5, -3.0]])[:, None]
    image = FlippableImage.of(logits, torch.zeros(1, 2, dtype=torch.int64), LipschitzBound(1.0, head=rows))
    for budget, left in ((0.25, 1), (0.25 * (1 - 1e-9), 2)):
        budgets = double([budget])
        assert CollectiveCounts.of(image.costs, image.correct, image.labelled, budgets).robust == (left,)
        assert worst_iou(class_attacks(image, budget)[0], budget) == left / 2
    assert FalseNegativeCounts.of(image.costs, image.correct, image.target, budgets, 2).hidden.tolist() == [[0, 0]]


def test_radius_zero_is_no_attack_even_on_ties():
    logits = torch.zeros(3, 2, 2)
    target = torch.tensor([[0, 0], [1, 255]])
    image = FlippableImage.of(logits, target, LipschitzBound(1.0))
    zero, tiny = (double([budget]) for budget in (0.0, 1e-30))
    assert CollectiveCounts.of(image.costs, image.correct, image.labelled, zero).accuracy() == (2 / 3,)
    assert CollectiveCounts.of(image.costs, image.correct, image.labelled, tiny).accuracy() == (0.0,)
    attacks = class_attacks(image, 1e-30)
    assert worst_iou(attacks[0], 0.0) == 2 / 3
    assert worst_iou(attacks[0], 1e-30) == 0.0
    assert worst_mean_iou(image, attacks, 0.0) == pytest.approx(1 / 3)
    assert worst_mean_iou(image, attacks, 1e-30) == 0.0


def test_two_million_equal_costs_are_counted_exactly():
    """A float32 running sum is far off here."""
    number, wanted = 1 << 21, 1_500_000
    costs = torch.full((number,), 0.1, dtype=torch.float32).double()
    budget = double([wanted * float(costs[0])])
    assert int(affordable(prefix_sums(costs, float(budget)), budget)) == wanted
    assert int(affordable(prefix_sums(costs, float(budget)), budget * (1 - 1e-8))) == wanted - 1
    running = np.cumsum(np.full(number, 0.1, dtype=np.float32), dtype=np.float32)
    assert abs(int(np.searchsorted(running, np.float32(budget[0]), side="right")) - wanted) > 1000


def test_rounding_of_sums_never_costs_the_attacker_a_pixel():
    """Budgets at or just above the exact sum, which a float64 running sum often exceeds."""
    rng, too_high = np.random.default_rng(0), 0
    for _ in range(50):
        costs = np.sort(rng.random(1000))
        budget = double([math.nextafter(math.fsum(costs), math.inf)])
        too_high += float(np.cumsum(costs)[-1]) > float(budget)
        assert int(affordable(prefix_sums(torch.from_numpy(costs), float(budget)), budget)) == 1000
    assert too_high > 10


def test_a_sample_that_misleads_loses_no_pixel():
    """First guesses come from every 61st pixel; here those cost a third of all others, so they seem to use up all."""
    cheap = torch.arange(61 * 40) % 61 == 0
    gap = torch.where(cheap, 0.2, 0.35)
    logits = torch.stack([gap, torch.zeros_like(gap), torch.full_like(gap, -9.0)])[:, None]
    image = FlippableImage.of(logits, torch.zeros(1, len(gap), dtype=torch.int64), LipschitzBound(1.0))
    budget = float(image.costs[cheap].sum() + 500.5 * image.costs[~cheap][0])
    assert 61 * float(image.costs[cheap].sum()) > budget
    assert int(affordable(prefix_sums(image.costs, budget), double([budget]))) == 540
    attacks = class_attacks(image, budget)
    assert [len(attack.entered_correct) for attack in attacks] == [0, 540, 0]
    assert worst_iou(attacks[0], budget) == 1900 / 2440
    assert dual_bound([image], [attacks], budget) <= 1900 / 2440 + 1e-9


def test_all_void():
    image = FlippableImage.of(torch.randn(3, 4, 5), torch.full((4, 5), 255), LipschitzBound(1.0))
    budgets = double([1.0])
    counts = CollectiveCounts.of(image.costs, image.correct, image.labelled, budgets)
    assert (counts.robust, counts.correct, counts.labelled) == ((0,), 0, 0)
    assert math.isnan(counts.accuracy()[0])
    other = CollectiveCounts((3,), 5, 10)
    assert (counts + other).accuracy() == (0.3,)  # it enters no data set's figure
    attacks = class_attacks(image, 1.0)
    assert all(math.isnan(worst_iou(attack, 1.0)) for attack in attacks)
    assert math.isnan(worst_mean_iou(image, attacks, 1.0))
    assert all(math.isnan(radius) for radius in share_radii(image.costs[image.labelled], (0.25,), 1.0))
    misses = FalseNegativeCounts.of(image.costs[:0], image.correct[:0], image.target[:0], budgets, 3)
    assert np.isnan(misses.rates()).all()
    assert radius_for_false_negative_rate(image.costs[:0], 0, 0.5, 1.0) == math.inf


def test_one_pixel_and_a_class_that_is_absent():
    image = FlippableImage.of(
        torch.tensor([1.0, 0.0, -1.0])[:, None, None], torch.zeros(1, 1).long(), LipschitzBound(1)
    )
    attacks = class_attacks(image, 2.0)
    assert [worst_iou(attack, 0.49) for attack in attacks[:1]] == [1.0]
    assert math.isnan(worst_iou(attacks[1], 0.49))  # not even the attacker can bring it into the image
    assert [worst_iou(attack, 0.5) for attack in attacks[:2]] == [0.0, 0.0]
    assert math.isnan(worst_iou(attacks[2], 0.5))
    assert worst_mean_iou(image, attacks, 0.49) == 1.0
    assert worst_mean_iou(image, attacks, 0.5) == 0.0
    assert share_radii(image.costs, (0.25, 1.0), 2.0) == pytest.approx((math.sqrt(0.5) / 2,) * 2)


def test_a_huge_radius_leaves_nothing():
    logits, target = smooth_image(classes=2, height=12, width=16)
    image = FlippableImage.of(logits, target, LipschitzBound(1.0))
    budget = LipschitzBound(1.0).budget(1e9)
    attacks = class_attacks(image, budget)
    assert worst_mean_iou(image, attacks, budget) == 0.0
    assert CollectiveCounts.of(image.costs, image.correct, image.labelled, double([budget])).robust == (0,)


def test_false_negatives_and_the_radius_for_a_rate():
    costs = double([0.04, 0.09, 0.16, 0.25])
    hidden = affordable(prefix_sums(costs), double([0.03, 0.04, 0.13, 10.0]))
    assert hidden.tolist() == [0, 1, 2, 4]
    radius = [radius_for_false_negative_rate(costs, 1, rate, 2.0) for rate in (0.1, 0.2, 0.4, 0.6, 0.99)]
    sums = np.sqrt(np.cumsum([0.04, 0.09, 0.16, 0.25])) / 2
    assert radius == pytest.approx([0.0, sums[0], sums[1], sums[2], sums[3]])
    assert radius_for_false_negative_rate(costs, 1, 1.0, 2.0) == math.inf  # nothing exceeds 1
    assert radius_for_false_negative_rate(costs, 1, 0.4, 2.0, strictly=False) == pytest.approx(sums[0])
    # 0.57 * 100 is 56.99... in floating point: the 57th of 100 must not count as above 0.57
    assert radius_for_false_negative_rate(torch.ones(100).double(), 0, 0.57, 1.0) == pytest.approx(math.sqrt(58))
    with pytest.raises(ConfigError, match="threshold"):
        radius_for_false_negative_rate(costs, 0, 1.5, 1.0)


def test_shares_need_all_their_pixels_and_radii_are_rounded_down():
    costs = double([4.0, 1.0, 3.0, 2.0, 5.0])
    radii = share_radii(costs, (0.2, 0.21, 0.4, 1.0), 3.0)
    assert radii == pytest.approx([1 / 3, math.sqrt(3) / 3, math.sqrt(3) / 3, math.sqrt(15) / 3])
    assert all((3.0 * r) ** 2 < total for r, total in zip(radii, (1, 3, 3, 15)))
    assert share_radii(double([1.0, math.inf]), (0.5, 1.0), 1.0)[1] == math.inf


def test_grey_levels():
    assert grey_levels(0.17, 1024, 1024) == pytest.approx(0.0244, abs=1e-4)
    assert grey_levels(1.0, 120, 160) == pytest.approx(1.06, abs=1e-2)


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(DataError):
        FlippableImage.of(torch.zeros(3, 4, 5), torch.zeros(4, 4, dtype=torch.int64), LipschitzBound(1.0))
    with pytest.raises(DataError):
        FlippableImage.of(torch.zeros(3, 4, 5), torch.full((4, 5), 3), LipschitzBound(1.0))


def test_shares_are_read_as_decimal_numbers():
    """0.07 * 100 is 7.000000000000001 in floating point: still seven pixels are enough."""
    costs = torch.ones(100, dtype=torch.float64)
    radii = share_radii(costs, (0.07, 0.29, 0.57), 1.0)
    assert radii == pytest.approx([math.sqrt(7), math.sqrt(29), math.sqrt(57)])


def test_no_unlabelled_pixel_is_correct_where_there_are_more_than_255_classes():
    logits = torch.zeros(257, 1, 2)
    logits[255] = 1.0
    image = FlippableImage.of(logits, torch.tensor([[255, 3]]), LipschitzBound(1.0))
    assert not image.correct.any()


def curves(hit, counts, costs):
    """One class of one image of which true positives alone can be changed."""
    none = CostCurve(np.zeros(0), np.zeros(0))
    broken = CostCurve(np.asarray(counts, dtype=np.float64), np.asarray(costs, dtype=np.float64))
    return [ClassCurves(hit, hit, 0, broken, none, none)]


def test_large_costs_of_other_images_do_not_swamp_a_small_budget():
    """A hundred pixels of the last image are affordable. As a difference of sums over all images it would be 87."""
    expensive, cheap = curves(1_500_000, [1_500_000], [50.0]), curves(1000, [1000], [1e-9])
    images, total = [expensive] * 3 + [cheap], 3 * 1_500_000 + 1000
    budget = 100 * 1e-9
    before = 3 * 1_500_000 * 50.0
    assert (budget - ((before + 1e-6) - before - 1e-6)) / 1e-9 < 90
    for bound in (pooled_class_iou, lambda found, k, budgets: pooled_mean_iou(found, budgets)):
        lost = total * (1.0 - bound(images, 0, [budget] * 4))
        assert 100 * (1 - 1e-6) <= lost < 101


def test_the_pooled_iou_is_not_above_the_one_reached_in_the_last_step():
    """So little can be broken that the iteration stops where it began."""
    image = curves(4, [4], [1.0])
    found = pooled_class_iou([image], 0, [5e-7])
    assert 1 - 1e-6 < found <= (4 - 5e-7) / 4


def test_bounds_of_larger_radii_hold_for_smaller_ones(monkeypatch):
    logits, target = smooth_image(classes=2, height=12, width=16)
    bound = LipschitzBound(1.0)
    image = FlippableImage.of(logits, target, bound)
    raw = {0.1: 0.2, 0.2: 0.5, 0.3: 0.1}
    by_budget = {bound.budget(radius): value for radius, value in raw.items()}
    monkeypatch.setattr(figures, "worst_mean_iou", lambda image, attacks, budget: by_budget[budget])
    monkeypatch.setattr(figures, "pooled_mean_iou", lambda curves, budgets: by_budget[budgets[0]])
    settings = {"false_negative_rate": 0.5, "worst_case_iou": True}
    row = figures.RadiusFigures.of(image, bound, (12, 16), list(raw), **settings)
    assert row.worst_miou == [0.5, 0.5, 0.1]
    found = figures.figures_by_radius([row], list(raw), ["a", "b"])
    assert [entry["worst_case_miou/pooled"] for entry in found] == [0.5, 0.5, 0.1]


def test_the_shares_of_a_budget_that_fit_exactly_are_affordable():
    """Three classes that each lose all for a third of the budget; cells of the program are rounded down."""
    levels = np.asarray([1 / 3, 0.9, 1.0])
    lost = np.asarray([1.0, 0.0, 0.0])  # for charges from 0, from 1/3, from 0.9
    assert mean_iou_split._shared_out([lost] * 3, levels) == 0.0
    assert mean_iou_split._shared_out([lost] * 4, levels) == 1.0
