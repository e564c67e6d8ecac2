"""APGD within an l1 ball: its schedule, and linear losses whose optimum is a knapsack filled greedily."""

import pytest
import torch
from support.attacked import attack
from support.linear_pixels import LinearPixels, image_with_margins, two_classes

from certseg.attacks import APGD, PGD
from certseg.attacks.apgd import SparsitySchedule
from certseg.attacks.geometry import perturbation_norm
from certseg.attacks.objective import Evaluation
from certseg.types import L1

pytestmark = pytest.mark.usefixtures("one_thread")


def knapsack(slope, image, radius):
    """The largest value of a linear function over the l1 ball and [0, 1]: the steepest entries first, each to its side
    of the box, until the radius is used up."""
    steepest = slope.abs().flatten().argsort(descending=True)
    room = torch.where(slope > 0, 1 - image.double(), image.double()).flatten()[steepest]
    before = room.cumsum(0) - room
    return float((torch.minimum(room, (radius - before).clamp_min(0)) * slope.abs().flatten()[steepest]).sum())


def linear_ascent(method, slope, image, threat):
    """The best value of a linear function that a search finds. Accuracy falls as the function rises."""
    search = method.search(image, image, threat)
    point, _ = next(search)
    while True:
        value = float((slope * (point.double() - image.double())).sum())
        try:
            point, _ = search.send(Evaluation(point, 1 - 1e-6 * value, value, slope.float()))
        except StopIteration as end:
            best = end.value
            break
    assert perturbation_norm(best.point, image, threat) <= threat.radius
    return best.loss


@pytest.mark.parametrize("radius", [0.3, 5.0, 40.0])
@pytest.mark.parametrize("method", [APGD(300), APGD(100, reduce_radius=True)], ids=["plain", "reduced"])
def test_the_optimum_of_a_linear_loss_is_reached(method, radius):
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        image = torch.rand(3, 16, 20, generator=generator)
        slope = torch.randn(3, 16, 20, generator=generator).double()
        best = knapsack(slope, image, radius)
        reached = linear_ascent(method, slope, image, L1(radius))
        assert 0.9999 * best <= reached <= best * (1 + 1e-9)


def test_pgd_comes_close():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 16, 20, generator=generator)
    slope = torch.randn(3, 16, 20, generator=generator).double()
    assert linear_ascent(PGD(100), slope, image, L1(40.0)) >= 0.99 * knapsack(slope, image, 40.0)


@pytest.mark.parametrize("radius", [2.0, 5.0])
def test_most_pixels_that_can_be_paid_fall_and_no_more(radius):
    """A pixel falls once its three channels have risen by its margin times sqrt(3), however that is shared out. The
    share of pixels is no concave function: the attack need not find all that can be paid."""
    plain = two_classes()
    model = LinearPixels(5 * plain.weight.detach(), 5 * plain.bias.detach())
    image = image_with_margins(plain, torch.linspace(0.02, 0.5, 48).reshape(6, 8))
    cost = torch.sort(plain.margin(image).flatten() * 3**0.5).values.cumsum(0)
    affordable = int((cost <= radius).sum())
    options = {"loss": "masked_cross_entropy", "compare": "masked_cross_entropy"}
    result = attack(model, image, torch.zeros(6, 8).long(), L1(radius), iterations=300, **options)
    fallen = int((result.prediction == 1).sum())
    assert 0.6 * affordable <= fallen <= affordable


def test_steps_follow_the_sparsity_of_the_best_point():
    schedule = SparsitySchedule(100, 3000)
    assert (schedule.step, schedule.entries) == (1.0, 600)
    assert [schedule.is_checkpoint() for _ in range(8)] == [False, False, False, True] * 2
    assert schedule.must_return(900)  # from all 3000
    assert (schedule.step, schedule.entries) == (1.0, 600)
    assert not schedule.must_return(880)  # 2 % fewer
    assert (schedule.step, schedule.entries) == (pytest.approx(2 / 3), 587)
    assert schedule.must_return(600)
    assert (schedule.step, schedule.entries) == (1.0, 400)
    for _ in range(9):
        assert not schedule.must_return(700)
    assert schedule.step == 0.1  # no shorter
    assert not schedule.must_return(0)
    assert schedule.entries == 467


def test_a_later_stage_begins_as_sparse_as_the_one_before_ended():
    assert SparsitySchedule(100, 3000, moved=300).entries == 200
    assert SparsitySchedule(1, 3, moved=1).entries == 1
    assert SparsitySchedule(1, 3).is_checkpoint()
    assert SparsitySchedule(1, 3).entries == 1
