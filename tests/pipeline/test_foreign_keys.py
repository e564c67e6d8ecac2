"""Which keys change with the source of a part that is not certseg's own, wherever in the settings it stands."""

import sys

import pytest
from support.pipeline_runs import configuration

from certseg.pipeline.settings import parse
from certseg.pipeline.stages import Plan

MODULE = """
import torch
from certseg.types import Attack, Certifier, Guarantee, L2, Promise, Threat
from certseg.smoothing.noise import Gaussian


class Grey:
    name, settings = "grey", {}

    def __call__(self, images, hidden):
        return torch.where(hidden[:, None], 0.5, images)


class Brightness(Threat):
    norm = "brightness"

    def to_json(self):
        return {"norm": self.norm, "strength": 0.1}

    def __eq__(self, other):
        return type(self) is type(other)

    __hash__ = None


class Exposed(Certifier):
    name = "exposed"
    settings = {}

    @property
    def guarantee(self):
        return Guarantee(Promise.EVERY_PIXEL, "base", Brightness(), confidence=1.0)

    def certify(self, segmenter, image, *, stream, hardware):
        raise AssertionError("never asked")


class Brighten(Attack):
    norms = ("brightness",)

    def __init__(self, strength=1.0):
        self.strength = strength

    def __call__(self, segmenter, image, target, threat, *, stream, hardware, start=None):
        raise AssertionError("never asked")
"""
INPAINTER = (
    "certifier=demasked_recovery",
    "certifier/inpainter=black",
    "certifier.inpainter._target_=parts_of_mine.Grey",
    "attack=patch_defended",
)
BRIGHTNESS = (
    "certifier=none",
    "certifier._target_=parts_of_mine.Exposed",
    "attack=none",
    "attack._target_=parts_of_mine.Brighten",
)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The stranger's module, imported anew."""
    path = tmp_path / "parts_of_mine.py"
    path.write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path
    sys.modules.pop("parts_of_mine", None)


def identities(*overrides):
    """What decides the rows of each stage, by kind."""
    plan = Plan.of(parse(configuration("outputs", *overrides, base=())))
    return {job.stage.kind: job.identity for job in plan.jobs(None, ("a", "b"), None)}


def test_an_inpainter_of_ones_own_in_a_certifier_of_certseg(module):
    before = identities(*INPAINTER)
    module.write_text(MODULE.replace("0.5, images", "0.4, images"))
    after = identities(*INPAINTER)
    assert before["prediction"] == after["prediction"]
    assert before["certifier"] != after["certifier"]
    assert before["attack"] != after["attack"]  # it attacks that certifier's answer


def test_own_parts_alone_leave_a_key_as_it_is(module):
    assert "foreign_parts" not in identities("certifier=demasked_recovery")["certifier"]


def test_a_threat_of_ones_own_hides_no_argument_of_the_attack(module):
    one, other = (identities(*BRIGHTNESS, f"+attack.strength={value}")["attack"] for value in (0.5, 7))
    assert one != other
    assert one["threat"] == other["threat"] == {"norm": "brightness", "strength": 0.1}
