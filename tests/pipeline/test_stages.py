from dataclasses import replace

import pytest
from support.pipeline_runs import configuration

from certseg.compute.hardware import Hardware
from certseg.errors import ConfigError
from certseg.pipeline.settings import parse
from certseg.pipeline.stages import Plan
from certseg.types import Vanish


def test_a_plan_without_the_threat_that_its_attack_needs_is_refused(tmp_path):
    plan = Plan.of(parse(configuration(tmp_path, "attack=pgd", "attack.radius=0.1")))
    cpu, names = Hardware(device="cpu"), ("a", "b")
    assert [job.stage.kind for job in plan.jobs(None, names, cpu)] == ["prediction", "certifier", "attack"]
    with pytest.raises(ConfigError, match=r"attack=pgd has no threat\. Make the plan by Plan\.of"):
        replace(plan, threat=None).jobs(None, names, cpu)


def test_objects_that_are_to_vanish_are_named_by_their_class(tmp_path):
    def goal(*words):
        return Plan.of(parse(configuration(tmp_path, *words))).attack.goal

    assert goal("attack=vanish", "metrics.objects=[car,pole]", "attack.radius=0.1") == Vanish((7, 3))
    assert goal("attack=vanish_smoothed", "attack.classes=[person]") == Vanish((6,))
    assert goal("attack=sea", "attack.radius=0.1", "+attack.goal=vanish", "+attack.classes=[0]") == Vanish((0,))
    with pytest.raises(ConfigError, match="no class whose objects are to vanish"):
        goal("attack=vanish_smoothed")
    with pytest.raises(ConfigError, match=r"attack\.classes is no class.*Did you mean car"):
        goal("attack=vanish_smoothed", "attack.classes=[cra]")
    with pytest.raises(ConfigError, match=r"attack\.classes must be a list"):
        goal("attack=vanish_smoothed", "attack.classes=car")
