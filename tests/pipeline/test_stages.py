from dataclasses import replace

import pytest
from support.pipeline_runs import configuration

from certseg.compute.hardware import Hardware
from certseg.errors import ConfigError
from certseg.pipeline.settings import parse
from certseg.pipeline.stages import Plan


def test_a_plan_without_the_threat_that_its_attack_needs_is_refused(tmp_path):
    plan = Plan.of(parse(configuration(tmp_path, "attack=pgd", "attack.radius=0.1")))
    cpu, names = Hardware(device="cpu"), ("a", "b")
    assert [job.stage.kind for job in plan.jobs(None, names, cpu)] == ["prediction", "certifier", "attack"]
    with pytest.raises(ConfigError, match=r"attack=pgd has no threat\. Make the plan by Plan\.of"):
        replace(plan, threat=None).jobs(None, names, cpu)
