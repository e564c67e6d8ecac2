"""Every command of the README composes and builds; every make target it names exists."""

import re

import pytest
from hydra import compose, initialize_config_dir
from support.pipeline_runs import ROOT, readme_blocks, readme_runs, settings_of

from certseg.pipeline.settings import build, parse
from certseg.pipeline.stages import Plan

BLOCKS = readme_blocks()
COMMANDS = readme_runs()


def test_the_readme_has_commands():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes_and_builds(command):
    words = settings_of(command)
    overrides = [word.split(",")[0] if "-m" in words else word for word in words if word != "-m"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        settings = parse(compose("config", overrides=overrides))
    Plan.of(settings)
    for group in ("training", "hardware", "tracking"):
        build(group, getattr(settings, group))


def test_make_targets_and_choices_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z0-9-]+)", BLOCKS, flags=re.M):
        assert re.search(rf"^{target}:", makefile, flags=re.M)
    for group, choices in re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "README.md").read_text(), flags=re.M):
        for choice in re.findall(r"`([a-z0-9_]+)[` ]", choices):
            if choice not in ("torchrun",):
                assert (ROOT / "configs" / group / f"{choice}.yaml").exists(), (group, choice)
        missing = {f.stem for f in (ROOT / "configs" / group).glob("*.yaml")} - set(re.findall(r"\w+", choices))
        assert not missing, f"README does not name {group}={missing}"
