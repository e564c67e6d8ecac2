"""The wheel alone, from an empty folder: the command, its configs, choices of one's own, the README's Python."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from support.pipeline_runs import ROOT, SMALL, readme_commands, settings_of

ENTER = """
import sys
from importlib.metadata import entry_points
command = entry_points(group="console_scripts")["certseg"].load()
sys.argv[0] = "certseg"
try:
    sys.exit(command())
finally:
    print(*sys.modules, file=sys.stderr)
"""
"""What an installed console script does, and the names of all imported modules on standard error."""
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
SLOW_IMPORTS = {"torch", "mmseg", "mmengine", "mmcv", "matplotlib", "scipy", "wandb", "numba", "cv2", "numpy"}
UNUSED_IMPORTS = {"mmseg", "mmengine", "mmcv", "numba", "wandb", "timm", "scipy.stats", "scipy.optimize"}
"""What a run with nothing left to compute has no need of."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The folder of the unpacked wheel, built from a copy of what goes into it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("certseg", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=source, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """The caller's folder, shared so that a training is done once."""
    return tmp_path_factory.mktemp("empty")


def python(site, cwd, code, *words, timeout=300):
    """Run code with the wheel ahead of everything else."""
    environment = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "160"}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)


def test_the_wheel_has_every_module_and_every_config(unpacked):
    expected = [*(ROOT / "certseg").rglob("*.py"), *(ROOT / "configs").rglob("*.*")]
    found = {str(path.relative_to(unpacked)) for path in (unpacked / "certseg").rglob("*.*")} - {"certseg/py.typed"}
    names = {str(path.relative_to(ROOT)).replace("configs/", "certseg/configs/") for path in expected}
    assert found == {name for name in names if not name.endswith((".pyc", "__pycache__"))}
    assert (unpacked / "certseg" / "py.typed").exists()


def test_the_wheel_is_what_runs(unpacked, empty):
    code = """
import certseg, certseg.configs
from certseg.pipeline.config_folders import config_directory
print(certseg.__file__, certseg.configs.__file__, config_directory(), sep="\\n")
"""
    done = python(unpacked, empty, code)
    assert done.returncode == 0, done.stderr
    package = unpacked / "certseg"
    assert [Path(line) for line in done.stdout.splitlines()] == [
        package / "__init__.py",
        package / "configs" / "__init__.py",
        package / "configs",
    ]


@pytest.mark.parametrize("words", [("--help",), ("--cfg", "job"), ("doctor", "--help"), ("doctr",)], ids=" ".join)
def test_what_computes_nothing_imports_nothing_that_takes_long(words, unpacked, empty):
    done = python(unpacked, empty, ENTER, *words)
    *errors, imported = done.stderr.splitlines()
    assert not SLOW_IMPORTS & set(imported.split())
    assert "hydra" in imported.split()
    if words == ("doctr",):
        assert (done.returncode, len(errors)) == (2, 1)
        assert "no such command" in errors[0]
        assert "doctor" in errors[0]
    else:
        assert (done.returncode, errors) == (0, [])
        assert "certseg" in done.stdout


def test_hydra_finds_the_configs_of_the_wheel(unpacked, empty):
    done = python(unpacked, empty, ENTER, "--info", "searchpath")
    assert str(unpacked / "certseg" / "configs") in done.stdout
    assert str(ROOT) not in done.stdout
    (empty / "own").mkdir()
    (empty / "own" / "config.yaml").write_text(
        "defaults: [/dataset: streets, _self_]\nhydra: {searchpath: ['pkg://certseg.configs']}\n"
    )
    done = python(unpacked, empty, ENTER, "--config-path", str(empty / "own"), "--cfg", "job")
    assert yaml.safe_load(done.stdout)["dataset"]["_target_"] == "certseg.datasets.Streets"


@pytest.mark.slow
def test_a_run_with_a_choice_of_ones_own_from_an_empty_folder(unpacked, empty):
    """The README's command with the README's file, then again with nothing left to compute."""
    command = next(line for line in readme_commands() if "--config-dir" in line)
    own = empty / "mine" / "certifier" / "strict.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)[1])
    words = [*settings_of(command), *SMALL, "certifier.n=200", "pictures=1"]
    done = python(unpacked, empty, ENTER, *words)
    assert done.returncode == 0, done.stderr
    settings = yaml.safe_load(next(empty.glob("outputs/streets/*/segcertify-*/config.yaml")).read_text())
    assert (settings["certifier"]["tau"], settings["certifier"]["n"]) == (0.9, 200)
    report = next(empty.glob("outputs/runs/*/*/report.md")).read_text()
    assert "certseg --config-dir mine certifier=strict" not in report  # Hydra tells the settings only
    assert "certseg certifier=strict" in report
    assert "With probability" in report
    again = python(unpacked, empty, ENTER, *words)
    assert again.returncode == 0, again.stderr
    assert "Reused training" in again.stdout
    assert not UNUSED_IMPORTS & set(again.stderr.splitlines()[-1].split())


def test_the_readmes_python_runs(unpacked, empty):
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)[1]
    code = f"""
import torch
model = torch.nn.Conv2d(3, 2, 1)
model.num_classes = 2
image = torch.rand(3, 16, 16)
{snippet}
assert certificate.certified.shape == (16, 16)
print(certseg.__file__)
"""
    done = python(unpacked, empty, code)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == unpacked / "certseg" / "__init__.py"
