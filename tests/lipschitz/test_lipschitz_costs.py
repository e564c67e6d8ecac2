"""Costs of changing pixels, against an independent projection onto the region of a class."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from certseg.errors import ModelError
from certseg.lipschitz.worst_case import (
    ClassGeometry,
    FlippableImage,
    class_attacks,
    entry_costs,
    flip_costs,
    worst_iou,
)
from certseg.lipschitz.worst_case.changes import changes_within
from certseg.types import LipschitzBound


def squared_projection(normals, gaps):
    """min ||x||^2 with normals @ x >= gaps, by Lawson and Hanson's least distance programming."""
    if (gaps <= 0).all():
        return 0.0
    system = np.vstack([normals.T, gaps])
    wanted = np.zeros(len(system))
    wanted[-1] = 1.0
    solution, _ = nnls(system, wanted)
    residual = system @ solution - wanted
    return (
        math.inf if abs(residual[-1]) < 1e-9 else float((residual[:-1] / residual[-1]) @ (residual[:-1] / residual[-1]))
    )


def entering(logits, rows, pixel, k):
    others = [j for j in range(len(logits)) if j != k]
    return squared_projection(
        np.stack([rows[k] - rows[j] for j in others]), np.asarray([logits[j, pixel] - logits[k, pixel] for j in others])
    )


def random_logits(seed, classes=4, pixels=12):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(classes, 1, pixels))
    return torch.from_numpy(np.round(logits * 4) / 4 if seed % 2 else logits).float()  # odd seeds: many ties


def all_entry_costs(logits, bound):
    planes = logits.flatten(1)
    geometry = ClassGeometry.of(bound, len(planes), planes.device)
    pixels = torch.arange(planes.shape[1])
    return torch.stack([entry_costs(planes, pixels, k, geometry) for k in range(len(planes))], dim=1)


@pytest.mark.parametrize("seed", range(6))
def test_the_cost_of_entering_a_class_is_a_projection(seed):
    logits = random_logits(seed)
    costs = all_entry_costs(logits, LipschitzBound(1.0))
    planes = logits.flatten(1).double().numpy()
    expected = [[entering(planes, np.eye(4), i, k) for k in range(4)] for i in range(planes.shape[1])]
    assert costs.numpy() == pytest.approx(np.asarray(expected), abs=1e-9)
    cheap = (planes.max(axis=0)[:, None] - planes.T) ** 2 / 2  # the paper's: never more
    assert (costs.numpy() >= cheap - 1e-12).all()
    assert (costs.numpy() > cheap + 1e-6).any()


@pytest.mark.parametrize("seed", range(6))
def test_with_a_head_it_is_bounded_by_the_nearest_half_spaces(seed):
    rows = np.random.default_rng(seed + 100).normal(size=(4, 3))
    logits = random_logits(seed)
    planes = logits.flatten(1).double().numpy()
    costs = all_entry_costs(logits, LipschitzBound(1.0, head=torch.from_numpy(rows))).numpy()
    expected = np.asarray([[entering(planes, rows, i, k) for k in range(4)] for i in range(planes.shape[1])])
    assert (costs <= expected + 1e-9).all()
    pairs = [
        [
            max(
                (max(planes[j, i] - planes[k, i], 0) / np.linalg.norm(rows[k] - rows[j])) ** 2
                for j in range(4)
                if j != k
            )
            for k in range(4)
        ]
        for i in range(planes.shape[1])
    ]
    assert costs == pytest.approx(np.asarray(pairs), abs=1e-12)


@pytest.mark.parametrize("head", [None, "orthonormal", "narrow"])
def test_the_cost_of_a_flip_is_that_of_the_cheapest_class(head):
    rows = {None: None, "orthonormal": np.eye(4), "narrow": np.random.default_rng(5).normal(size=(4, 2))}[head]
    bound = LipschitzBound(1.0, head=None if rows is None else torch.from_numpy(rows))
    for seed in range(4):
        logits = random_logits(seed)
        classes, costs = flip_costs(logits, bound)
        entered = all_entry_costs(logits, bound)
        entered.scatter_(1, classes.flatten()[:, None], torch.inf)
        if head == "narrow":  # a flip may lead into any class, an entry has to beat all others
            assert (costs.flatten() <= entered.amin(dim=1) + 1e-12).all()
        else:
            assert costs.flatten().numpy() == pytest.approx(entered.amin(dim=1).numpy(), abs=1e-12)
        assert torch.equal(classes, logits.argmax(dim=0))


def test_the_pairwise_cost_is_never_below_the_joint_one():
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = torch.randn(3, 6, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits = torch.einsum("kd,dhw->khw", rows, features)
    pairwise, joint = LipschitzBound(1.0, head=rows), LipschitzBound(float(torch.linalg.matrix_norm(rows, 2)))
    radii = [flip_costs(logits, bound)[1].sqrt() / bound.constant for bound in (pairwise, joint)]
    assert (radii[0] >= radii[1] * (1 - 1e-12)).all()
    assert (radii[0] > 1.05 * radii[1]).float().mean() > 0.5


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("slack", [0.0, 0.02])
def test_compiled_loops_agree_with_torch(head, slack):
    """Half-precision logits take the way of other devices."""
    logits = random_logits(3, classes=6, pixels=300).half()
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(2)) if head else None
    bound = LipschitzBound(1.0, head=rows, slack=slack)
    for one, other in (
        (flip_costs(logits, bound)[1], flip_costs(logits.float(), bound)[1]),
        (all_entry_costs(logits, bound), all_entry_costs(logits.float(), bound)),
    ):
        assert one.numpy() == pytest.approx(other.numpy(), rel=1e-12)


@pytest.mark.parametrize("head", [False, True])
def test_slack_is_what_the_worst_rounding_needs(head):
    """Computed logits are off by the slack, in favour of the class at the image and against it at the attacked one."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, 3)) if head else np.eye(2)
    slack, changed = 0.01, 0
    for _ in range(50):
        features = rng.normal(size=rows.shape[1])
        winner = int((rows @ features).argmax())
        sign = np.where(np.arange(2) == winner, 1.0, -1.0) * slack
        computed = torch.from_numpy(rows @ features + sign)[:, None, None]
        _, cost = flip_costs(computed, LipschitzBound(1.0, head=torch.from_numpy(rows) if head else None, slack=slack))
        step = rows[1 - winner] - rows[winner]
        for length in (0.999, 1.001):
            moved = features + length * math.sqrt(float(cost)) * step / np.linalg.norm(step)
            if float(cost) > 0:
                assert ((rows @ moved - sign).argmax() == winner) == (length < 1)
                changed += length > 1
    assert changed > 30


def test_ties_cost_nothing_and_equal_rows_cannot_be_left():
    tied = torch.tensor([1.0, 1.0, 0.0])[:, None, None]
    assert flip_costs(tied, LipschitzBound(1.0))[1].item() == 0.0
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    apart = torch.tensor([1.0, 0.5])[:, None, None]
    assert flip_costs(apart, LipschitzBound(1.0, head=rows))[1].item() == math.inf
    assert flip_costs(apart.half(), LipschitzBound(1.0, head=rows))[1].item() == math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_undefined_logits_are_refused(bad):
    logits = torch.zeros(3, 4, 5)
    logits[1, 2, 3] = bad
    with pytest.raises(ModelError, match="NaN or infinite"):
        flip_costs(logits, LipschitzBound(1.0))


def test_bad_bounds_and_shapes_are_refused():
    for arguments in ({"constant": 0.0}, {"constant": math.inf}, {"constant": 1.0, "slack": -1.0}):
        with pytest.raises(ModelError):
            LipschitzBound(**arguments)
    with pytest.raises(ModelError, match="matrix"):
        LipschitzBound(1.0, head=torch.full((2, 2), math.nan))
    with pytest.raises(ModelError, match="4 rows"):
        flip_costs(torch.zeros(4, 2, 2), LipschitzBound(1.0, head=torch.zeros(3, 2)))
    with pytest.raises(ModelError, match="K x H x W"):
        flip_costs(torch.zeros(1, 4, 2, 2), LipschitzBound(1.0))


def test_budgets_are_rounded_up():
    for constant, radius in ((1.0, 0.1), (1.3, 0.17), (0.7, 1e-3), (3.0, 2.0)):
        assert LipschitzBound(constant).budget(radius) > (constant * radius) ** 2
    assert LipschitzBound(2.0).budget(0.0) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("head", [False, True])
def test_no_cheap_entry_is_missed(dtype, head):
    """The quick search for cheap changes against all of them."""
    logits = (torch.randn(5, 40, 50, generator=torch.Generator().manual_seed(4)) * 0.1).to(dtype)
    target = torch.randint(0, 5, (40, 50), generator=torch.Generator().manual_seed(5))
    target[:3] = 255
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(6)) if head else None
    image = FlippableImage.of(logits, target, LipschitzBound(1.0, head=rows))
    every = all_entry_costs(logits, LipschitzBound(1.0, head=rows))
    for limit in (1e-4, 0.01, 0.3, 100.0):
        for k, attack in enumerate(class_attacks(image, limit)):
            open_ = image.labelled & (image.target != k) & (image.classes != k)
            for part, mask in ((attack.entered_correct, image.correct), (attack.entered_wrong, ~image.correct)):
                costs = every[open_ & mask, k].sort().values
                expected = costs[costs.cumsum(0) <= limit * (1 + 1e-9)]
                assert part.numpy() == pytest.approx(expected.numpy(), rel=1e-12)
            assert math.isnan(worst_iou(attack, limit)) or 0 <= worst_iou(attack, limit) <= 1
    thresholds = torch.rand(10, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(7)) * 0.01 - 0.002
    pixels, into = changes_within(image, thresholds)
    found = set(zip(pixels.tolist(), into.tolist()))
    rows_ = image.classes + 5 * (~image.correct)
    for pixel in range(0, 2000, 7):
        for k in range(5):
            wanted = image.labelled[pixel] and k not in (image.classes[pixel], image.target[pixel])
            if wanted and every[pixel, k] <= thresholds[rows_[pixel], k]:
                assert (pixel, k) in found
