"""The parts of an attack that its result hides: progress, starts, restarts, random streams, what is passed on."""

from dataclasses import replace

import pytest
import torch
from support.attacked import CPU, STREAM, Counted, convolution, images_and_targets
from support.training_fakes import TinySegmenter

from certseg.attacks import APGD, PGD, SEA, Smoothing
from certseg.attacks.geometry import perturbation_norm, random_start
from certseg.attacks.losses import LOSSES
from certseg.attacks.objective import AttackObjective, Evaluation
from certseg.compute.streams import NoiseStream
from certseg.training import AdversarialObjective
from certseg.types import L1, L2, Linf

pytestmark = pytest.mark.usefixtures("one_thread")


def walk(method, start, image, threat, evaluate):
    """Drive one search; every point with its progress, and what the search returns."""
    search, visited = method.search(start, image, threat), []
    asked = next(search)
    while True:
        visited.append(asked)
        try:
            asked = search.send(evaluate(asked[0], len(visited)))
        except StopIteration as end:
            return visited, end.value


def rising(point, number):
    """More loss at every step, the accuracy as it was."""
    return Evaluation(point, 0.5, float(number), torch.ones_like(point))


@pytest.mark.parametrize("method", [PGD(5), APGD(5)])
def test_progress_goes_from_0_to_1(method):
    image = torch.full((3, 4, 4), 0.5)
    visited, _ = walk(method, image, image, Linf(0.1), rising)
    assert [progress for _, progress in visited] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_every_stage_has_progress_of_its_own():
    image = torch.full((3, 4, 4), 0.5)
    visited, _ = walk(APGD(10, reduce_radius=True), image, image, Linf(0.1), rising)
    expected = [0, 1 / 3, 2 / 3, 1, 0, 1 / 3, 2 / 3, 1, 0, 0.25, 0.5, 0.75, 1]
    assert [progress for _, progress in visited] == pytest.approx(expected)


@pytest.mark.parametrize("reduce_radius", [False, True])
def test_a_start_that_no_step_beats_is_the_result(reduce_radius):
    image = torch.full((3, 4, 4), 0.5)
    start = image + 0.03

    def worse(point, number):
        return Evaluation(point, 0.1 if number == 1 else 0.4, float(number), torch.ones_like(point))

    _, found = walk(APGD(10, reduce_radius=reduce_radius), start, image, Linf(0.1), worse)
    assert torch.equal(found.point, start)
    assert found.accuracy == 0.1


def test_the_training_attack_advances_random_starts_in_eval_mode(monkeypatch):
    """The loss sees progress 0, 1/3, 2/3 and a network in eval mode; the first point is a random one."""
    segmenter = TinySegmenter().train()
    images, labels = torch.rand(4, 3, 16, 24), torch.randint(3, (4, 16, 24))
    seen, modes, points = [], [], []

    def spied(pixels, progress=0.0):
        seen.append(progress)
        return LOSSES["cross_entropy"](pixels, progress)

    monkeypatch.setitem(LOSSES, "balanced_cross_entropy", spied)
    segmenter.body[1].register_forward_hook(lambda module, inputs, output: modes.append(module.training))
    segmenter.register_forward_pre_hook(lambda module, inputs: points.append(inputs[0].detach().clone()))
    before = segmenter.body[1].running_mean.clone()
    AdversarialObjective(steps=3, loss="balanced_cross_entropy").attack(segmenter, images, labels)
    assert seen == pytest.approx([0, 1 / 3, 2 / 3])
    assert modes == [False] * 3
    assert torch.equal(segmenter.body[1].running_mean, before)
    change = (points[0] - images).abs()
    assert 0.25 * 4 / 255 < change.mean() < 0.75 * 4 / 255, "uniform in the cube, but for the sides of [0, 1]"


def test_the_random_start_of_training_has_random_length_in_l2():
    objective = AdversarialObjective(radius=1.0, norm="l2", step_size=0.5)
    torch.manual_seed(0)
    lengths = objective._start(torch.rand(400, 3, 6, 6)).flatten(1).norm(dim=1)
    assert lengths.max() <= 1 + 1e-5
    assert lengths.mean() == pytest.approx(0.5, abs=0.06)
    assert lengths.std() == pytest.approx(12**-0.5, abs=0.04)


@pytest.mark.parametrize("threat", [L1(20.0), L2(0.7), Linf(0.05)])
def test_a_random_start_lies_at_the_edge_of_the_ball(threat):
    image = torch.full((3, 20, 20), 0.5)
    starts = [random_start(image, threat, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert not torch.equal(*starts)
    for start in starts:
        assert 0.9 * threat.radius < perturbation_norm(start, image, threat) <= threat.radius


def test_restarts_begin_elsewhere_and_spare_what_has_fallen():
    """Three runs of one step on an image; an image that fell in its first run takes no part in the others."""
    model, points = convolution(), []
    model.register_forward_pre_hook(lambda module, inputs: points.append(inputs[0].detach().clone()))
    (image,), (target,) = images_and_targets(1)
    PGD(1, restarts=3)(model, image, target, Linf(0.05), stream=STREAM, hardware=CPU)
    starts = [points[index][0] for index in (0, 2, 4)]
    assert torch.equal(starts[0], image)
    assert not torch.equal(starts[1], image)
    assert not torch.equal(starts[1], starts[2])
    void = torch.full_like(target, 255)
    counted = Counted(convolution())
    PGD(1, restarts=3).together(
        counted, [image, image], [target, void], Linf(0.05), streams=[STREAM, STREAM], hardware=CPU
    )
    assert counted.batches[:6] == [2, 1, 1, 1, 1, 1], "the image without labels has nothing to lose"


def test_only_the_last_stage_tells_whether_accuracy_rises(monkeypatch):
    """At twice the radius accuracy is lower: falling back from it is no reason to mistrust the attack."""
    course = {}

    def scripted(self, pixels, attacked, gradient, number):
        course["calls"] = course.get("calls", 0) + 1
        self_accuracy = 0.2 if course["calls"] < 20 else 0.5
        (summary,) = original(self, pixels, attacked, gradient, number)
        return [summary._replace(accuracy=self_accuracy)]

    original = AttackObjective.summarise
    monkeypatch.setattr(AttackObjective, "summarise", scripted)
    (image,), (target,) = images_and_targets(1)
    result = APGD(40, reduce_radius=True)(convolution(), image, target, Linf(0.05), stream=STREAM, hardware=CPU)
    assert "accuracy_rising" not in result.flags


def test_an_ensemble_hands_everything_to_its_members(monkeypatch):
    """Restarts, comparison and start arrive; flags of any member and the largest share of zeros are the ensemble's."""
    (image,), (target,) = images_and_targets(1)
    start = (image + 0.01).clamp(0, 1)
    sea = SEA(("cross_entropy", "masked_cross_entropy"), 6, 2, "jensen_shannon", True, 0)
    model = convolution()
    result = sea(model, image, target, Linf(0.05), stream=STREAM, hardware=CPU, start=start)
    for member, loss in zip(result.members, sea.losses):
        alone = APGD(6, 2, loss, "jensen_shannon", True)(
            model, image, target, Linf(0.05), stream=STREAM, hardware=CPU, start=start
        )
        assert torch.equal(member.prediction.long(), alone.prediction)
        assert member.passes == alone.passes
        other = APGD(6, 1, loss, None, True)(model, image, target, Linf(0.05), stream=STREAM, hardware=CPU)
        assert other.passes != alone.passes
    together = APGD.together

    def flagged(self, *arguments, **options):
        shares = {"cross_entropy": 0.4, "masked_cross_entropy": 0.1}
        return [
            replace(result, flags=(f"flag_of_{self.loss}",), zero_gradients=shares[self.loss])
            for result in together(self, *arguments, **options)
        ]

    monkeypatch.setattr(APGD, "together", flagged)
    result = sea(model, image, target, Linf(0.05), stream=STREAM, hardware=CPU)
    assert result.flags == ("flag_of_cross_entropy", "flag_of_masked_cross_entropy")
    assert result.zero_gradients == 0.4


def test_noise_is_fresh_at_every_step_and_for_the_vote(monkeypatch):
    """Gradients never see a copy twice, and the vote sees none that the gradients saw."""
    drawn = []
    fill = NoiseStream.fill

    def spied(self, out, noise, first, **options):
        fill(self, out, noise, first, **options)
        pure = out if options.get("onto") is None else out - options["onto"]
        drawn.extend(tuple(round(value, 4) for value in part.flatten()[:6].tolist()) for part in pure)

    monkeypatch.setattr(NoiseStream, "fill", spied)
    (image,), (target,) = images_and_targets(1)
    attack = PGD(3, smoothing=Smoothing(0.25, samples=2, votes=50))
    attack(convolution(), image, target, L2(0.3), stream=STREAM, hardware=CPU)
    assert len(drawn) >= 2 * 4 + 50
    assert len(set(drawn)) == len(drawn)


def test_a_class_that_is_nearly_impossible_still_gives_a_gradient():
    """Mean probabilities far below a hundredth count as they are."""

    class Sure(torch.nn.Module):
        num_classes = 2

        def forward(self, images):
            score = 4 + 10 * images.mean(dim=1)
            return torch.stack([-score, score], dim=1)

    image, target = torch.full((3, 4, 4), 0.5), torch.zeros(4, 4, dtype=torch.int64)
    objective = AttackObjective(Sure(), target, "cross_entropy", Smoothing(1e-3, samples=2), STREAM, CPU)
    evaluation = objective(image)
    assert evaluation.loss == pytest.approx(18, abs=0.2)
    assert evaluation.gradient.abs().min() > 0
