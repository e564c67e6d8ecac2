"""The ensemble: the worst of its members on every image, and what every attack promises."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.attacked import CPU, STREAM
from support.attacked import convolution as network
from support.linear_pixels import image_with_margins, two_classes

from certseg.attacks import APGD, PGD, SEA, Smoothing
from certseg.attacks.geometry import perturbation_norm
from certseg.errors import ConfigError
from certseg.types import L2, Linf

pytestmark = pytest.mark.usefixtures("one_thread")

LOSSES = ("masked_cross_entropy", "balanced_cross_entropy", "jensen_shannon", "masked_spherical")


def image_and_target(model, seed=0, size=(12, 10)):
    """Labels the model agrees with at nine of ten pixels, a row of them missing."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, *size, generator=generator)
    target = model(image[None]).argmax(1)[0]
    wrong = torch.rand(size, generator=generator) < 0.1
    target = torch.where(wrong, (target + 1) % model.num_classes, target)
    target[0] = 255
    return image, target


def correct(prediction, target):
    return int(((prediction == target) & (target != 255)).sum())


def run(method, model, image, target, threat, **options):
    return method(model, image, target, threat, stream=STREAM, hardware=CPU, **options)


@pytest.mark.parametrize("threat", [Linf(0.02), L2(0.3)])
def test_the_result_is_that_of_the_worst_member_run_alone(threat):
    model = network()
    image, target = image_and_target(model)
    sea = SEA(iterations=20, reference_steps=5)
    result = run(sea, model, image, target, threat)
    assert [member.name for member in result.members] == [*LOSSES, "reference"]
    alone = [run(APGD(20, loss=loss, reduce_radius=True), model, image, target, threat) for loss in LOSSES]
    alone.append(run(PGD(5), model, image, target, threat))
    for member, single in zip(result.members, alone):
        assert member.prediction.dtype == torch.uint8
        assert torch.equal(member.prediction.long(), single.prediction)
        assert (member.norm, member.passes) == (single.norm, single.passes)
    left = [correct(single.prediction, target) for single in alone]
    assert correct(result.prediction, target) == min(left) < correct(model(image[None]).argmax(1)[0], target)
    assert result.winner == [*LOSSES, "reference"][left.index(min(left))]
    assert torch.equal(result.adversarial, alone[left.index(min(left))].adversarial)
    assert result.passes.backward == sum(single.passes.backward for single in alone) == 4 * 23 + 6
    assert len(set(left)) > 1, "the members should differ for this test to say something"


def test_one_loss_is_that_member_alone():
    model = network()
    image, target = image_and_target(model)
    result = run(SEA(["jensen_shannon"], iterations=8, reference_steps=0), model, image, target, Linf(0.02))
    alone = run(APGD(8, loss="jensen_shannon", reduce_radius=True), model, image, target, Linf(0.02))
    assert torch.equal(result.adversarial, alone.adversarial)
    assert result.winner == "jensen_shannon"
    assert result.passes == alone.passes


def test_a_weaker_attack_that_wins_is_flagged():
    model = network()
    image, target = image_and_target(model)
    strong = run(SEA(iterations=20, reference_steps=1), model, image, target, Linf(0.02))
    assert "weaker_beats_stronger" not in strong.flags
    weak = run(SEA(LOSSES[-1:], iterations=1, reference_steps=30), model, image, target, Linf(0.02))
    assert "weaker_beats_stronger" in weak.flags
    assert weak.winner == "reference"


def test_through_noise_all_members_face_the_same_votes():
    model = two_classes()
    image = image_with_margins(model, torch.tensor([[0.06, 0.5]]))
    target = torch.zeros(1, 2).long()
    sea = SEA(LOSSES[:2], iterations=4, reference_steps=2, smoothing=Smoothing(0.25, samples=2, votes=100))
    result = run(sea, model, image, target, L2(0.3))
    assert result.prediction.tolist() == [[1, 0]]
    assert result.predictor == sea.predictor == "smoothed(gaussian, sigma=0.25, grey levels of 1/255)"
    assert result.votes.sum(dim=0).unique().tolist() == [100]
    assert "weaker_beats_stronger" not in result.flags


def test_labels_that_are_all_void():
    model = network()
    image, target = image_and_target(model)
    result = run(SEA(iterations=3), model, image, torch.full_like(target, 255), Linf(0.02))
    assert torch.equal(result.adversarial, image)
    assert result.flags == ()
    assert result.passes.backward == 5  # one look each


@pytest.mark.parametrize(
    "bad",
    [
        {"losses": []},
        {"losses": "jensen_shannon"},
        {"losses": ["hinge"]},
        {"losses": ["jensen_shannon"] * 2},
        {"iterations": 0},
        {"restarts": 0},
        {"compare": "hinge"},
        {"reduce_radius": 1},
        {"reference_steps": -1},
        {"reference_steps": True},
    ],
    ids=str,
)
def test_bad_arguments(bad):
    with pytest.raises(ConfigError, match=f"attack.{next(iter(bad))}"):
        SEA(**bad)


@settings(max_examples=25, deadline=None)
@given(
    method=st.sampled_from(
        [
            PGD(3, restarts=2),
            PGD(4, loss="balanced_cross_entropy"),
            PGD(4, loss="cosine_cross_entropy"),
            APGD(6, loss="masked_spherical"),
            APGD(7, restarts=2, reduce_radius=True),
            SEA(iterations=4, reference_steps=2),
            SEA(("class_balanced_masked_cross_entropy",), iterations=5),
        ]
    ),
    kind=st.sampled_from([L2, Linf]),
    radius=st.floats(1e-4, 2.0),
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(1, 1), (5, 7), (16, 9)]),
)
def test_budget_and_box_hold_in_float64_for_every_attack(method, kind, radius, seed, shape):
    model, threat = network(seed), kind(radius)
    image, target = image_and_target(model, seed, shape)
    result = run(method, model, image, target, threat)
    assert perturbation_norm(result.adversarial, image, threat) == result.norm <= radius
    assert float(result.adversarial.min()) >= 0
    assert float(result.adversarial.max()) <= 1
    assert torch.equal(result.prediction, model(result.adversarial[None]).argmax(1)[0])
    assert correct(result.prediction, target) <= correct(model(image[None]).argmax(1)[0], target)
    beyond = run(method, model, image, target, kind(radius * 1.01), start=result.adversarial)
    assert correct(beyond.prediction, target) <= correct(result.prediction, target)
