"""Worst cases under one budget against exhaustive search: every assignment of classes to pixels an attacker can pay."""

import itertools
import math

import numpy as np
import pytest
import torch
from support.lipschitz_images import RADII, Search, double, flippable, smooth_image

from certseg.lipschitz.worst_case import (
    ClassCurves,
    CollectiveCounts,
    CostCurve,
    FlippableImage,
    class_attacks,
    dual_bound,
    pooled_class_iou,
    pooled_mean_iou,
    split_bound,
    worst_iou,
    worst_mean_iou,
    worst_pooled_iou,
)
from certseg.lipschitz.worst_case.by_radius import falling
from certseg.lipschitz.worst_case.knapsack import Gains, exact_gain
from certseg.lipschitz.worst_case.regions import Region
from certseg.types import LipschitzBound


def same(value, expected):
    return (math.isnan(value) and math.isnan(expected)) or value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(18))
def test_one_image(seed):
    classes = 2 + seed % 3
    image, bound = flippable(seed, classes, 6 if classes < 4 else 5)
    rng = np.random.default_rng(seed)
    for radius in rng.choice(RADII, 3, replace=False):
        budget = bound.budget(radius)
        search = Search(image, budget)
        counts = CollectiveCounts.of(image.costs, image.correct, image.labelled, double([budget]))
        assert counts.robust[0] == search.hits.min(initial=0 if not search.labelled else 99)
        attacks = class_attacks(image, budget)
        iou = search.iou()
        for k, attack in enumerate(attacks):
            expected = np.nanmin(iou[:, k]) if (search.unions[:, k] > 0).any() else math.nan
            assert same(worst_iou(attack, budget), expected)  # exact
        if not search.present:
            assert math.isnan(worst_mean_iou(image, attacks, budget))
            continue
        lowest = iou[:, search.present].mean(axis=1).min()
        for bounded in (
            dual_bound([image], [attacks], budget) / len(search.present),
            split_bound(attacks, budget) / len(search.present),
            worst_mean_iou(image, attacks, budget),
        ):
            assert bounded <= lowest + 1e-12
        curves = [ClassCurves.of_image(attacks, [budget])]
        assert pooled_mean_iou(curves, [budget]) <= lowest + 1e-12


@pytest.mark.parametrize("seed", range(12))
def test_any_multipliers_give_a_bound(seed):
    """Weak duality, also far from the optimum: each region and each gain must hold all that attacks do."""
    classes = 2 + seed % 2
    image, bound = flippable(200 + seed, classes, 6, void=0.0)
    rng = np.random.default_rng(seed)
    budget = bound.budget(rng.choice(RADII[2:]))
    search = Search(image, budget)
    lowest = np.nan_to_num(search.iou()[:, search.present]).sum(axis=1).min()
    attacks = class_attacks(image, budget)
    regions = {k: Region.of([attacks[k]], budget) for k in search.present}
    for _ in range(40):
        prices = 10.0 ** rng.uniform(-3, 1, (2, classes)) * (rng.random((2, classes)) < 0.7)
        prices[:, [k for k in range(classes) if k not in regions]] = 0.0
        least = sum(region.minimum(*prices[:, k])[0] for k, region in regions.items())
        assert least - exact_gain(image, Gains(*prices), budget, 10.0 ** rng.uniform(-3, 1)) <= lowest + 1e-9


def test_a_wrong_pixel_may_leave_one_class_to_harm_another():
    """Moving the last pixel mends class 0 and halves class 1. A region without that, and a high price of leaving
    class 0, would promise the clean value."""
    logits = torch.full((3, 1, 4), -9.0)
    logits[0, 0, :2], logits[1, 0, 2] = 9.0, 9.0
    logits[:, 0, 3] = torch.tensor([0.1, 0.0, -9.0])
    target = torch.tensor([[0, 0, 1, 2]])
    image = FlippableImage.of(logits, target, LipschitzBound(1.0))
    budget = 0.01
    attacks = class_attacks(image, budget)
    assert np.nan_to_num(Search(image, budget).iou()).sum(axis=1).min() == 1.5
    prices = np.asarray([[0.0, 0.0, 0.0], [10.0, 0.5, 0.0]])
    least = sum(Region.of([attack], budget).minimum(*prices[:, k])[0] for k, attack in enumerate(attacks))
    assert least - exact_gain(image, Gains(*prices), budget, 1.0) <= 1.5
    assert 1.4 < dual_bound([image], [attacks], budget) <= 1.5


def test_costs_that_are_not_listed_are_not_overlooked():
    """Charged a share of their cost, more changes are affordable than the lists of a budget hold."""
    logits, target = smooth_image(classes=4, height=24, width=32)
    image = FlippableImage.of(logits, target, LipschitzBound(1.0))
    every = class_attacks(image, 1e6)
    for radius in (0.05, 0.1, 0.2):
        budget = LipschitzBound(1.0).budget(radius)
        listed = class_attacks(image, budget)
        for share in (0.2, 0.5, 0.9):
            bounds = [split_bound(attacks, budget, (share,)) for attacks in (listed, every)]
            assert bounds[0] <= bounds[1] + 5e-3  # but for where the steps of m happen to lie
            assert bounds[0] >= bounds[1] - 0.1


@pytest.mark.parametrize("seed", range(10))
def test_two_images_with_a_budget_each(seed):
    """Exhaustive over both: the class may be absent from one of them."""
    images, bounds = zip(*(flippable(100 + 2 * seed + part, 3, 4, void=0.0) for part in range(2)))
    rng = np.random.default_rng(seed)
    for radius in rng.choice(RADII[1:], 2, replace=False):
        budgets = [bound.budget(radius) for bound in bounds]
        searches = [Search(image, budget) for image, budget in zip(images, budgets)]
        most = max(budgets)
        attacks = [class_attacks(image, budget) for image, budget in zip(images, budgets)]
        hits = (searches[0].intersections[:, None] + searches[1].intersections[None]).reshape(-1, 3)
        unions = (searches[0].unions[:, None] + searches[1].unions[None]).reshape(-1, 3)
        with np.errstate(invalid="ignore"):
            iou = hits / unions
        curves = [ClassCurves.of_image(part, [budget]) for part, budget in zip(attacks, budgets)]
        curves = [[ClassCurves.from_json(entry.to_json()) for entry in part] for part in curves]
        for k in range(3):
            expected = np.nanmin(iou[:, k]) if (unions[:, k] > 0).any() else math.nan
            if most == budgets[0] == budgets[1]:
                assert same(worst_pooled_iou([part[k] for part in attacks], most), expected)
            pooled = pooled_class_iou(curves, k, budgets)
            assert same(pooled, expected) or pooled <= expected
        present = sorted({k for search in searches for k in search.present})
        lowest = iou[:, present].mean(axis=1).min()
        assert pooled_mean_iou(curves, budgets) <= lowest + 1e-12
        if budgets[0] == budgets[1]:
            assert dual_bound(images, attacks, most) / len(present) <= lowest + 1e-12


def test_bounds_fall_with_the_radius_and_are_ordered():
    logits, target = smooth_image()
    bound = LipschitzBound(1.0)
    image = FlippableImage.of(logits, target, bound)
    radii = (0.0, 0.05, 0.1, 0.2, 0.5)
    budgets = double([bound.budget(radius) for radius in radii])
    attacks = class_attacks(image, float(budgets.max()))
    present = [attack for attack in attacks if attack.target]
    counts = CollectiveCounts.of(image.costs, image.correct, image.labelled, budgets)
    single = [int((image.costs[image.correct] > budget).sum()) for budget in budgets[1:]]
    assert counts.robust[0] == counts.correct == int(image.correct.sum())
    assert all(one <= both for one, both in zip(single, counts.robust[1:]))
    assert 0 < counts.robust[2] < counts.correct
    clean = sum(attack.hit / attack.union for attack in present) / len(present)
    curves = [ClassCurves.of_image(attacks, budgets.tolist())]
    series = {
        "collective": counts.robust,
        "alone": [sum(worst_iou(attack, b) for attack in present) / len(present) for b in budgets.tolist()],
        "dual": [dual_bound([image], [attacks], b) / len(present) for b in budgets.tolist()],
        "split": [split_bound(attacks, b) / len(present) for b in budgets.tolist()],
        "best": [worst_mean_iou(image, attacks, b) for b in budgets.tolist()],
        "curves": [pooled_mean_iou(curves, [b]) for b in budgets.tolist()],
    }
    for name, values in series.items():
        assert all(later <= earlier + 2e-3 * (name != "collective") for earlier, later in itertools.pairwise(values)), (
            name
        )
    for name in ("alone", "dual", "split", "best", "curves"):
        assert series[name][0] == pytest.approx(clean, abs=1e-6), name
        assert all(value <= best + 1e-12 for value, best in zip(series[name], series["best"])) or name == "curves"
    for index in (1, 2):  # half of what adding class optima gives away, or more
        assert clean - series["best"][index] < 0.75 * (clean - series["alone"][index])
        assert series["curves"][index] > series["alone"][index]
    # Moving the cheapest pixels is an attack, so its mean IoU is above every bound.
    order = image.costs.masked_fill(~image.correct, torch.inf).argsort()
    for index in (1, 2, 3):
        moved = image.classes.clone()
        cheapest = order[: counts.correct - counts.robust[index]]
        moved[cheapest] = image.planes.scatter(0, image.classes[None], -torch.inf).argmax(dim=0)[cheapest]
        iou = [
            int(((moved == k) & (image.target == k)).sum())
            / int((((moved == k) & image.labelled) | (image.target == k)).sum())
            for k, attack in enumerate(attacks)
            if attack.target
        ]
        assert series["best"][index] <= float(np.mean(iou))


@pytest.mark.parametrize("head", [False, True])
def test_other_devices_give_the_same(head):
    """Half-precision logits take the way of other devices: no compiled loop."""
    logits, target = smooth_image(classes=4, height=20, width=30)
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)) if head else None
    bound = LipschitzBound(1.0, head=rows)
    budget = bound.budget(0.1)
    found = []
    for part in (logits.half(), logits.half().float()):
        image = FlippableImage.of(part, target, bound)
        attacks = class_attacks(image, budget)
        found.append([worst_mean_iou(image, attacks, budget), *(worst_iou(attack, budget) for attack in attacks)])
    assert found[0] == pytest.approx(found[1], abs=1e-9)
    assert 0 < found[0][0] < 1


def test_a_bound_at_a_larger_radius_holds_at_smaller_ones():
    assert falling([0.5, 0.3, 0.31, 0.1]) == [0.5, 0.31, 0.31, 0.1]
    assert falling([]) == []


def test_curves_lose_little():
    logits, target = smooth_image(seed=3)
    bound = LipschitzBound(1.0)
    image = FlippableImage.of(logits, target, bound)
    budgets = [bound.budget(radius) for radius in (0.1, 0.5)]
    attacks = class_attacks(image, max(budgets))
    curves = [ClassCurves.from_json(part.to_json()) for part in ClassCurves.of_image(attacks, budgets)]
    for budget in (*budgets, bound.budget(0.3)):  # the last one was not marked
        for k, attack in enumerate(attacks):
            exact, pooled = worst_iou(attack, budget), pooled_class_iou([curves], k, [budget])
            assert pooled <= exact
            assert pooled >= exact - 0.01


def test_a_cost_curve_never_overstates():
    costs = np.sort(np.random.default_rng(0).gamma(0.5, 1e-3, 3000))
    limit = float(costs[:2000].sum())
    curve = CostCurve.of(costs[:2000], 3000, limit, [137], 12)
    assert len(curve.counts) < 40
    assert curve.counts.sum() == pytest.approx(3000)
    true = np.concatenate([[0.0], np.cumsum(costs)])
    edges = np.concatenate([[0.0], np.cumsum(curve.counts)])
    paid = np.interp(np.arange(3001), edges, np.concatenate([[0.0], np.cumsum(curve.counts * curve.costs)]))
    assert (paid <= true * (1 + 1e-12)).all()
    assert paid[137] >= 0.998 * true[137]  # but for costs kept to a few digits
    assert paid[2000] >= 0.998 * true[2000]
