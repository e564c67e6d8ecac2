"""docs/own_parts.md shows the example as it is, and what its YAML says composes."""

import re

import yaml
from support.pipeline_runs import ROOT

TEXT = (ROOT / "docs" / "own_parts.md").read_text()
EXAMPLE = ROOT / "examples" / "own_parts"


def block(language, number=0):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.S)[number]


def test_the_certifier_shown_is_the_one_that_runs():
    shown = block("python").split()
    lies = re.sub(r'"""(.|\n)*?"""', "", (EXAMPLE / "hoeffding.py").read_text()).split()
    assert shown == lies


def test_the_choice_shown_is_the_one_that_lies_there():
    assert yaml.safe_load(block("yaml")) == yaml.safe_load((EXAMPLE / "certifier" / "hoeffding.yaml").read_text())
