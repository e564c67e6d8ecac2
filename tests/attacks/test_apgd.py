"""APGD against the golden trajectories, the published step rule, and models whose optimum is known."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.attacked import CPU, STREAM, attack, convolution, images_and_targets
from support.linear_pixels import LinearPixels, image_with_margins, two_classes
from support.shared import SHARED, needs_shared

from certseg.attacks import APGD, Smoothing, apgd
from certseg.attacks.geometry import perturbation_norm
from certseg.attacks.losses import LOSSES, class_balanced_masked_cross_entropy
from certseg.attacks.objective import AttackObjective
from certseg.errors import ConfigError
from certseg.types import L1, L2, Linf, Patch

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = {
    "ce": "cross_entropy",
    "js": "jensen_shannon",
    "mask-ce": "masked_cross_entropy",
    "mask-ce-bal": "class_balanced_masked_cross_entropy",
}
TRAIN = ["ce_n20", "ce_n100", "js_n20", "js_n100", "mask-ce_n20", "mask-ce_n100", "mask-ce-bal_n20_trackce"]
REDUCTION = [*TRAIN, "js_n20_trackce", "js_n100_trackce", "mask-ce-bal_n100_trackce"]


class GoldenNetwork(torch.nn.Module):
    num_classes = 5

    def __init__(self, golden):
        super().__init__()
        self.layers = [
            (torch.from_numpy(golden[f"net.c{n}.weight"]), torch.from_numpy(golden[f"net.c{n}.bias"]))
            for n in (1, 2, 3)
        ]

    def forward(self, images):
        values = 2 * images - 1
        for number, (weight, bias) in enumerate(self.layers):
            values = F.conv2d(values if number == 0 else F.relu(values), weight, bias, padding=len(weight[0, 0]) // 2)
        return values


class OfficialSchedule(apgd.StepSchedule):
    """The step rule as the official code has it: checkpoints truncated instead of rounded up, 75 % itself counted as
    too few, the first loss compared with an unwritten 0, a restart's loss with that of the point left behind, and no
    second condition at the first checkpoint."""

    def __init__(self, iterations, loss):
        super().__init__(iterations, loss)
        self._halved = True
        self._losses = [0.0]
        period, last, found = max(22 * iterations // 100, 1), 0, set()
        while last <= iterations:
            last += period
            found.add(last)
            period = max(period - max(3 * iterations // 100, 1), max(6 * iterations // 100, 1))
        self._checkpoints = found

    def must_return(self, before, now, best):
        self._losses.append(now)
        self._taken += 1
        self._steps += 1
        self._rises += now > self._losses[-2]
        if self._taken not in self._checkpoints:
            return False
        self._halved = 4 * self._rises <= 3 * self._steps or (not self._halved and best <= self._best)
        self.step /= 2.0 if self._halved else 1.0
        self._best, self._rises, self._steps = best, 0, 0
        return self._halved


def trajectory(golden, case, number, reduce_radius, monkeypatch):
    """Losses, accuracies and steps (in radii of the threat) of one golden case, and the point kept."""
    name, iterations, *compared = case.split("_")
    weights = torch.from_numpy(golden["class_weights"])

    def given(pixels, progress=0.0):
        return class_balanced_masked_cross_entropy(pixels, class_weights=weights)

    monkeypatch.setitem(LOSSES, "class_balanced_masked_cross_entropy", given)
    compare = "cross_entropy" if compared else NAMES[name]
    method = APGD(int(iterations[1:]), loss=NAMES[name], compare=compare, reduce_radius=reduce_radius)
    target, image = torch.from_numpy(golden["y"])[number], torch.from_numpy(golden["x"])[number]
    objective = AttackObjective(GoldenNetwork(golden), target, method.loss, None, STREAM, CPU, compare)
    eps = json.loads(str(golden["meta"]))["eps"]
    search = method.search(image, image, Linf(eps))
    point, progress = next(search)
    seen = []
    while True:
        seen.append(objective(point, progress))
        try:
            point, progress = search.send(seen[-1])
        except StopIteration as end:
            return seen, end.value


def check_golden(file, case, number, monkeypatch):
    golden = dict(np.load(SHARED / "golden" / f"{file}.npz"))
    seen, best = trajectory(golden, case, number, file == "apgd_reduction", monkeypatch)
    ours, first = [], 0
    for length in golden[f"{case}/stage_len"]:
        ours += seen[first + 1 : first + 1 + length]  # the file leaves out where a stage starts
        first += length + 1
    assert len(seen) == first
    losses, accuracies = golden[f"{case}/loss_track"][:, number], golden[f"{case}/acc_running"][:, number]
    np.testing.assert_allclose([e.loss for e in ours], losses, rtol=1e-9)
    assert best.accuracy == pytest.approx(golden[f"{case}/acc"][number], rel=1e-6)
    np.testing.assert_allclose(best.point.numpy(), golden[f"{case}/x_best_adv"][number], atol=1e-12)
    if file == "apgd_train":
        running = np.minimum.accumulate([e.accuracy for e in seen])[1:]
        np.testing.assert_allclose(running, accuracies, rtol=1e-6)
        assert max(e.loss for e in seen) == pytest.approx(golden[f"{case}/loss_best"][number], rel=1e-9)


@needs_shared("golden", "apgd_train.npz")
@pytest.mark.parametrize("case", ["ce_n100", "js_n100", "mask-ce_n100"])
@pytest.mark.parametrize("number", [0, 1])
def test_the_published_rule_follows_the_golden_trajectories_where_the_code_has_it(case, number, monkeypatch):
    check_golden("apgd_train", case, number, monkeypatch)


@pytest.mark.parametrize(
    ("file", "case"),
    [
        pytest.param(file, case, marks=needs_shared("golden", f"{file}.npz"), id=f"{file}-{case}")
        for file, cases in (("apgd_train", TRAIN), ("apgd_reduction", REDUCTION))
        for case in cases
    ],
)
def test_with_the_codes_step_rule_all_golden_trajectories_are_followed(file, case, monkeypatch):
    """Momentum, projections, best points and the reduction of the radius, with the code's step rule."""
    monkeypatch.setattr(apgd, "StepSchedule", OfficialSchedule)
    for number in (0, 1):
        check_golden(file, case, number, monkeypatch)


def test_checkpoints_are_the_papers():
    assert apgd.checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert apgd.checkpoints(20) == [5, 9, 12, 14, 16, 18, 19, 20]  # the code truncates: 4, 7, 9, 10, 11, ...
    assert apgd.checkpoints(1) == [1]


def observed(schedule, start, losses):
    """Feed a schedule with losses; the steps in force when each was reached, and where it returned to its best."""
    before = best = start
    steps, returns = [], []
    for now in losses:
        steps.append(schedule.step)
        best = max(best, now)
        returns.append(schedule.must_return(before, now, best))
        before = best if returns[-1] else now
    return steps, returns


def test_three_quarters_of_rising_steps_are_enough():
    rising = [-4.0, -3.0, -2.0, -3.0]  # 3 of 4 steps raise the loss; all losses are below 0
    one, same = apgd.StepSchedule(18, -5.0), OfficialSchedule(18, -5.0)
    one._checkpoints = same._checkpoints = {4}
    assert not any(observed(one, -5.0, rising)[1])
    assert observed(same, -5.0, rising)[1][-1]  # the official code counts the first step as a fall below 0


def test_a_step_that_gains_nothing_is_halved_once_it_was_kept():
    schedule = apgd.StepSchedule(100, 1.0)
    schedule._checkpoints = {4, 8, 12}
    stair = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.96, 0.97]  # always rising, never above the start
    steps, returns = observed(schedule, 1.0, stair)
    assert [index + 1 for index, restarted in enumerate(returns) if restarted] == [4, 12]
    assert steps == [2.0] * 4 + [1.0] * 8


def test_after_a_return_a_step_must_beat_the_best_point():
    schedule = apgd.StepSchedule(100, 0.0)
    schedule._checkpoints = {2, 3}
    _, returns = observed(schedule, 0.0, [5.0, 1.0, 4.0])  # 4 is above the point left behind, not above the best
    assert returns == [False, True, True]


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"masked_spherical"}))  # constant where two logits are opposite
@pytest.mark.parametrize("reduce_radius", [False, True])
def test_linf_reaches_the_exact_optimum_on_the_linear_model(loss, reduce_radius):
    model = two_classes()
    image = image_with_margins(model, torch.linspace(0.01, 0.4, 40).reshape(5, 8))
    eps = 0.1
    result = attack(
        model, image, torch.zeros(5, 8).long(), Linf(eps), iterations=20, loss=loss, reduce_radius=reduce_radius
    )
    assert torch.equal(result.prediction == 1, model.margin(image) < eps * 3**0.5)
    assert result.norm <= eps


@pytest.mark.parametrize("loss", ["cross_entropy", "masked_cross_entropy", "jensen_shannon"])
@pytest.mark.parametrize("reduce_radius", [False, True])
def test_l2_buys_all_pixels_it_can_afford_on_the_linear_model(loss, reduce_radius):
    model = two_classes()
    image = image_with_margins(model, torch.cat([torch.full((6,), 0.05), torch.full((30,), 0.35)]).reshape(4, 9))
    cost = torch.sort(model.margin(image).flatten() ** 2).values.cumsum(0)
    result = attack(
        model, image, torch.zeros(4, 9).long(), L2(0.2), iterations=100, loss=loss, reduce_radius=reduce_radius
    )
    assert int((result.prediction == 1).sum()) == int((cost <= 0.2**2).sum()) == 6
    assert result.norm <= 0.2


def test_l2_reaches_the_optimum_where_every_pixel_has_its_own_price():
    """The largest set an l2 budget can buy are the cheapest pixels; the masked loss finds exactly as many."""
    plain = two_classes()
    model = LinearPixels(5 * plain.weight.detach(), 5 * plain.bias.detach())
    image = image_with_margins(plain, torch.linspace(0.02, 0.5, 48).reshape(6, 8))
    cost = torch.sort(plain.margin(image).flatten() ** 2).values.cumsum(0)
    result = attack(
        model,
        image,
        torch.zeros(6, 8).long(),
        L2(0.5),
        iterations=300,
        loss="masked_cross_entropy",
        compare="masked_cross_entropy",
    )
    assert int((result.prediction == 1).sum()) == int((cost <= 0.5**2).sum()) == 17


def test_passes_are_counted():
    (image,), (target,) = images_and_targets(1)
    for reduce_radius, passes in ((False, 11), (True, 13)):  # every stage evaluates where it starts
        result = attack(convolution(), image, target, Linf(0.001), iterations=10, reduce_radius=reduce_radius)
        assert (result.passes.forward, result.passes.backward) == (passes + 1, passes)


def test_stages_share_the_iterations():
    assert APGD(300, reduce_radius=True).stages(Linf(0.1)) == [(2.0, 90), (1.5, 90), (1.0, 120)]
    assert APGD(7, reduce_radius=True).stages(L2(0.1)) == [(2.0, 2), (1.5, 2), (1.0, 3)]
    assert APGD(300, reduce_radius=True).stages(L1(0.1)) == [(3.0, 90), (2.0, 90), (1.0, 120)]
    for threat in (Linf(0.1), L1(0.1)):
        assert APGD(3, reduce_radius=True).stages(threat) == [(1.0, 3)]
        assert APGD(300).stages(threat) == [(1.0, 300)]


def test_apgd_through_noise_reaches_the_known_boundary():
    model = two_classes()
    image = image_with_margins(model, torch.tensor([[0.06, 0.5]]))
    smoothing = Smoothing(sigma=0.25, samples=4, votes=200)
    result = attack(model, image, torch.zeros(1, 2).long(), L2(0.3), iterations=12, smoothing=smoothing)
    assert result.prediction.tolist() == [[1, 0]]
    assert result.predictor == "smoothed(gaussian, sigma=0.25, grey levels of 1/255)"
    assert result.num_votes == 200


@pytest.mark.parametrize(
    "bad",
    [
        {"iterations": 0},
        {"restarts": 1.5},
        {"loss": "hinge"},
        {"compare": "hinge"},
        {"reduce_radius": 2},
        {"iterations": True},
    ],
    ids=str,
)
def test_bad_arguments(bad):
    with pytest.raises(ConfigError, match=f"attack.{next(iter(bad))}"):
        APGD(**bad)


def test_other_threats_are_refused():
    with pytest.raises(ConfigError, match="L2 or Linf"):
        attack(two_classes(), torch.rand(3, 2, 2), torch.zeros(2, 2).long(), Patch(share=0.1))


@pytest.mark.parametrize("threat", [L1(5.0), L2(0.7), Linf(0.05)])
def test_budget_and_box_hold_in_float64(threat):
    (image,), (target,) = images_and_targets(1, seed=5)
    result = attack(convolution(5), image, target, threat, iterations=12, restarts=2, reduce_radius=True)
    assert perturbation_norm(result.adversarial, image, threat) <= threat.radius
    assert float(result.adversarial.min()) >= 0
    assert float(result.adversarial.max()) <= 1
