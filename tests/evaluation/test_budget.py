"""What an attack gives back is checked against what it was given: nobody's word is taken for it."""

from dataclasses import replace

import pytest
import torch
from support.linear_pixels import two_classes

from certseg.compute.hardware import Hardware
from certseg.errors import ConfigError
from certseg.evaluation import AttackStage, MinimumNormStage
from certseg.evaluation.budget import check_budget
from certseg.types import (
    L2,
    Attack,
    AttackResult,
    Linf,
    MinimumNormResult,
    Passes,
    Patch,
    Sample,
    SmallestAttack,
)

IMAGE = torch.full((3, 6, 8), 0.5)
TARGET = torch.zeros(6, 8, dtype=torch.int64)


BALL = L2(0.1)


def result(adversarial, threat=BALL, predictor="base"):
    return AttackResult(adversarial, TARGET, threat, predictor, 0.0, Passes(1))


def painted(top, left, height, width):
    image = IMAGE.clone()
    image[:, top : top + height, left : left + width] = 1.0
    return image


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (result(IMAGE, predictor="smoothed"), "another model"),
        (result(IMAGE, threat=L2(0.2)), "another threat"),
        (result(IMAGE, threat=Linf(0.1)), "another threat"),
        (result(IMAGE[:, :5]), "did not end at an image"),
        (result(IMAGE + 0.6), "did not end at an image"),
        (result(IMAGE * float("nan")), "did not end at an image"),
        (result(IMAGE + 0.05), r"left its budget.*a norm of 0\.6"),
    ],
)
def test_what_left_its_budget_is_refused(found, words):
    with pytest.raises(ConfigError, match=words):
        check_budget(found, IMAGE, "base", L2(0.1), "x")


def test_what_stayed_within_is_not():
    check_budget(result(IMAGE), IMAGE, "base", L2(0.1), "x")
    check_budget(result(IMAGE + 0.008), IMAGE, "base", L2(0.1), "x")
    patch = Patch(height=2, width=3)
    check_budget(result(painted(1, 1, 2, 3), patch), IMAGE, "base", patch, "x")
    with pytest.raises(ConfigError, match=r"left its patch.*at most 2 x 3 pixels"):
        check_budget(result(painted(1, 1, 3, 3), patch), IMAGE, "base", patch, "x")


class Overreach(Attack):
    norms = ("l2",)

    def __call__(self, segmenter, image, target, threat, *, stream, hardware, start=None):
        return replace(result(IMAGE + 0.05), threat=threat)


class Misnamed(SmallestAttack):
    norms = ("linf",)

    def __call__(self, segmenter, image, target, *, stream, hardware):
        return MinimumNormResult(IMAGE, TARGET, 0.0, True, 1.0, 0.0, 0, 48, Passes(1), predictor="another")


def test_stages_check_what_they_are_given():
    cpu, names = Hardware(device="cpu"), ("a", "b")
    stage = AttackStage("mine", Overreach(), L2(0.1), two_classes(), names, settings={}, seed=0, hardware=cpu)
    with pytest.raises(ConfigError, match="'x' left its budget"):
        stage.run(Sample("x", IMAGE, TARGET))
    smallest = MinimumNormStage("mine", Misnamed(), two_classes(), names, settings={}, seed=0, hardware=cpu)
    assert smallest.attempt.threat.norm == "linf"
    with pytest.raises(ConfigError, match="another model than announced"):
        smallest.run(Sample("x", IMAGE, TARGET))
