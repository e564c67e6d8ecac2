"""docs/own_models.md: its Python runs, and its commands compose."""

import re
import shlex

import pytest
from hydra import compose, initialize_config_dir
from support.pipeline_runs import ROOT

from certseg.pipeline.settings import parse
from certseg.pipeline.stages import Plan

TEXT = (ROOT / "docs" / "own_models.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, flags=re.S) for line in block.splitlines()]


def test_its_python_runs():
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
    names = {}
    exec(block, names)
    assert names["model"].num_classes == 2
    assert names["certificate"].certified.shape == (32, 40)


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_compose(command):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        spec = parse(compose("config", overrides=shlex.split(command)[1:]))
    assert Plan.of(spec).certifier is not None


def test_it_tells_every_choice_of_such_a_network():
    for file in (ROOT / "configs" / "model").glob("*.yaml"):
        if "_network\n" in file.read_text():
            assert f"model={file.stem}" in TEXT
