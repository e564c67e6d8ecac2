"""Targeted attacks: every pixel made one class, or a given map."""

import pytest
import torch
from support.linear_pixels import image_with_margins, two_classes

from certseg.attacks import APGD, PGD, SEA
from certseg.attacks.geometry import perturbation_norm
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError, DataError
from certseg.evaluation import AttackStage
from certseg.types import L2, Linf, Sample

CPU = Hardware(device="cpu", noise_batch=4)
STREAM = NoiseStream(0, "x")

pytestmark = pytest.mark.usefixtures("one_thread")


def margins():
    """Half of the pixels in either class, up to .1 from the boundary."""
    return torch.linspace(-0.1, 0.1, 40).view(5, 8)


def attack(method, goal, threat, target=None, **options):
    model = two_classes()
    image = image_with_margins(model, margins())
    target = torch.zeros(5, 8, dtype=torch.int64) if target is None else target
    result = method(goal=goal, **options)(model, image, target, threat, stream=STREAM, hardware=CPU)
    return model, image, result


@pytest.mark.parametrize("goal", [0, 1])
@pytest.mark.parametrize("method", [APGD, PGD])
def test_every_pixel_that_can_become_the_goal_does(method, goal):
    """A step of e in every channel moves a pixel by e * sqrt(3) and no further."""
    threat = Linf(0.03)
    model, image, result = attack(method, goal, threat)
    sign = 1 if goal == 0 else -1
    within = sign * model.margin(image) > -threat.radius * 3**0.5
    inside = (sign * model.margin(image) + threat.radius * 3**0.5).abs() > 1e-5
    assert 0 < within.sum() < 40
    assert torch.equal((result.prediction == goal)[inside], within[inside])
    assert perturbation_norm(result.adversarial, image, threat) <= threat.radius


def test_labels_do_not_matter_to_a_goal():
    labels = torch.zeros(5, 8, dtype=torch.int64)
    _, _, one = attack(APGD, 1, L2(0.2), labels)
    _, _, other = attack(APGD, 1, L2(0.2), torch.full_like(labels, 255))
    assert torch.equal(one.adversarial, other.adversarial)
    assert not torch.equal(one.prediction, labels)


def test_a_map_is_reached_where_it_has_a_class():
    goal = torch.full((5, 8), 255)
    goal[:, :2], goal[:, 2:4] = 0, 1
    _, image, result = attack(APGD, goal, Linf(0.1))
    assert torch.equal(result.prediction[:, :4], goal[:, :4])
    change = (result.adversarial - image).abs().amax(0)
    assert change[:, 4:].max() == 0, "where anything will do nothing is changed"
    assert change[:, :4].max() > 0
    assert result.passes.backward < 100, "a goal that is reached ends the search"


def test_less_of_the_goal_is_lost_with_a_larger_radius():
    """By the stage: rows hold the share of the pixels that have the goal, never less at a larger radius."""
    model = two_classes()
    image = image_with_margins(model, margins())
    sample = Sample("a", image, (margins() < 0).long())
    stage = AttackStage(
        "targeted",
        APGD(20, goal=1),
        Linf(0.05),
        model,
        ("dark", "bright"),
        settings={},
        seed=0,
        hardware=CPU,
        radii=(0.0, 0.02),
    )
    row, _ = stage.run(sample)
    shares = [part["figures"]["goal_share"] for part in row["radii"]] + [row["figures"]["goal_share"]]
    reached = [int((model.margin(image) < radius * 3**0.5).sum()) / 40 for radius in (0.0, 0.02, 0.05)]
    assert shares == pytest.approx(reached, abs=0.026)
    assert shares[0] < shares[1] < shares[2]
    summary = stage.summarise([row])
    assert summary["figures"]["goal_share/image_mean"] == shares[2]
    assert [level["goal_share/image_mean"] for level in summary["by_radius"]] == shares


def test_untargeted_rows_have_no_goal():
    sample = Sample("a", image_with_margins(two_classes(), margins()), (margins() < 0).long())
    stage = AttackStage(
        "sea", SEA(iterations=2), Linf(0.05), two_classes(), ("dark", "bright"), settings={}, seed=0, hardware=CPU
    )
    assert "goal_share" not in stage.run(sample)[0]["figures"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"goal": -1}, "goal"),
        ({"goal": True}, "goal"),
        ({"goal": 1.5}, "goal"),
        ({"goal": "sky"}, "goal"),
        ({"goal": 1, "loss": "masked_cross_entropy"}, "loss"),
    ],
)
@pytest.mark.parametrize("method", [APGD, PGD])
def test_a_goal_is_a_class_and_a_loss_that_can_be_lowered(method, options, named):
    with pytest.raises(ConfigError, match=f"attack.{named}"):
        method(**options)


@pytest.mark.parametrize("goal", [2, 255, torch.full((5, 7), 1), torch.full((5, 8), 2)])
def test_a_goal_must_fit_model_and_image(goal):
    with pytest.raises(DataError):
        attack(APGD, goal, Linf(0.05))
