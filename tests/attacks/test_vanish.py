"""Attacks after which objects of some classes are no longer seen."""

import pytest
import torch
from support.linear_pixels import image_with_margins, two_classes

from certseg.attacks import APGD, DAG, PGD, SEA, Smoothing
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError, DataError
from certseg.evaluation import AttackStage
from certseg.metrics import OBJECTS, ObjectCounts
from certseg.types import L2, Linf, Sample, Vanish

CPU = Hardware(device="cpu", noise_batch=4)
STREAM = NoiseStream(0, "x")
SHARE = 0.5

pytestmark = pytest.mark.usefixtures("one_thread")


def margins():
    """An object of class 0, .01 to .1 from the boundary, above pixels of class 1 that are nearer to it."""
    found = torch.full((5, 8), -0.005)
    found[:2] = torch.linspace(0.01, 0.1, 16).view(2, 8)
    return found


def labels():
    return (margins() < 0).long()


def vanished(method, threat, **options):
    model = two_classes()
    image = image_with_margins(model, margins())
    attack = method(goal=Vanish((0,)), **options)
    return image, attack(model, image, labels(), threat, stream=STREAM, hardware=CPU)


@pytest.mark.parametrize("method", [APGD, PGD, SEA])
def test_the_object_falls_as_far_as_the_budget_goes_and_nothing_else_is_touched(method):
    """A step of e in every channel moves a pixel by e * sqrt(3) and no further."""
    threat = Linf(0.03)
    image, result = vanished(method, threat)
    lost = result.prediction[:2] != 0
    assert torch.equal(lost, margins()[:2] < threat.radius * 3**0.5)
    assert 0 < lost.sum() < 16
    assert (result.adversarial - image)[:, 2:].abs().max() == 0, "other classes do not matter"


def test_a_budget_that_is_shared_is_spent_on_the_object():
    """In l2 a network's other pixels, cheaper to change, take none of it."""
    image, result = vanished(APGD, L2(0.25), loss="masked_cross_entropy")
    everything = APGD(loss="masked_cross_entropy")(
        two_classes(), image, labels(), L2(0.25), stream=STREAM, hardware=CPU
    )
    assert int((result.prediction[:2] != 0).sum()) > int((everything.prediction[:2] != 0).sum())


def test_the_smallest_perturbation_after_which_objects_vanish():
    model = two_classes()
    image = image_with_margins(model, margins())
    result = DAG(goal=Vanish((0,)), success=1.0)(model, image, labels(), stream=STREAM, hardware=CPU)
    assert result.reached
    assert not (result.prediction[:2] == 0).any()
    assert float(margins()[:2].norm()) <= result.norm <= 1.2 * float(margins()[:2].norm())


def test_rows_tell_what_is_left_of_objects_at_every_radius():
    model = two_classes()
    sample = Sample("a", image_with_margins(model, margins()), labels())
    stage = AttackStage(
        "vanish",
        APGD(20, goal=Vanish((0,))),
        Linf(0.05),
        model,
        ("dark", "bright"),
        settings={},
        seed=0,
        hardware=CPU,
        radii=(0.0, 0.02),
        with_objects=True,
    )
    row, _ = stage.run(sample)
    parts = [*row["radii"], row]
    reached = [int((margins()[:2] < radius * 3**0.5).sum()) for radius in (0.0, 0.02, 0.05)]
    assert [part["figures"]["goal_share"] for part in parts] == [number / 16 for number in reached]
    counts = [ObjectCounts.from_json(part[OBJECTS]) for part in parts]
    assert [part.hits.tolist() for part in counts] == [[16 - number, 24] for number in reached]
    assert [part.kept(SHARE).tolist() for part in counts] == [[True, True], [True, True], [False, True]]


def test_objects_vanish_from_the_smoothed_model():
    model = two_classes()
    image = image_with_margins(model, margins())
    attack = PGD(steps=10, goal=Vanish((0,)), smoothing=Smoothing(0.05, samples=4, votes=50))
    result = attack(model, image, labels(), Linf(0.06), stream=STREAM, hardware=CPU)
    assert int((result.prediction[:2] != 0).sum()) > 12


def test_of_which_classes_must_be_told_and_known():
    with pytest.raises(ConfigError, match="no class whose objects"):
        Vanish(())
    with pytest.raises(ConfigError, match="non-negative integers"):
        Vanish(("car",))
    with pytest.raises(DataError, match="below 2"):
        PGD(goal=Vanish((2,)))(
            two_classes(), torch.full((3, 4, 4), 0.5), torch.zeros(4, 4).long(), Linf(0.1), stream=STREAM, hardware=CPU
        )
    with pytest.raises(ConfigError, match="no common way"):
        SEA(goal=1)
