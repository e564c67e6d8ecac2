"""Small runs of the whole pipeline, in this process or as the command a user types."""

import json
import re
import shlex
from pathlib import Path

from hydra import compose, initialize_config_dir

from support.commands import ROOT, Command

SMALL = (
    "dataset.size=[48,64]",
    "dataset.count=6",
    "dataset.limit=3",
    "training.iterations=4",
    "training.batch_size=2",
    "training.crop=null",
    "training.validations=1",
    "training.val_images=2",
    "training.checkpoint_interval=2",
    "model.scales=[1.0]",
    "certifier.n=60",
    "pictures=0",
    "hardware=cpu",
    "hardware.threads=1",
)
"""Settings of a run of seconds. It draws nothing: a picture takes longer than its certificate."""


def configuration(output, *overrides, base=SMALL):
    """The composed configuration of a small run with results below ``output``."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("config", overrides=[*base, f"output={output}", *overrides])


def start(output, *overrides, cwd, base=SMALL, flags=()):
    """Start the command of a small run in ``cwd``; the caller waits."""
    return Command(*flags, *base, f"output={output}", *overrides, cwd=cwd, door="run.py")


def summaries(output):
    """Figures of all summaries below ``output`` by stage name and key."""
    found = {}
    for path in sorted(Path(output).rglob("summary.json")):
        content = json.loads(path.read_text())
        found[path.parent.name] = {k: content[k] for k in ("figures", "class_iou", "images", "passes", "flags")}
    return found


def readme_blocks():
    """The text of the README's shell blocks."""
    return "\n".join(re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S))


def readme_commands():
    """The README's lines that call certseg, without their comments."""
    lines = [line.split("#")[0].strip() for line in readme_blocks().splitlines()]
    return [line for line in lines if line.startswith("python run.py") or line.split(" ")[0] == "certseg"]


def readme_runs():
    """Those of :func:`readme_commands` that run the pipeline on choices certseg has."""
    words = ("--config-dir", "doctor")
    return [line for line in readme_commands() if not any(word in line.split() for word in words)]


def settings_of(command):
    """The words of a command line after ``certseg`` or ``python run.py``."""
    words = shlex.split(command)
    return words[1:] if words[0] == "certseg" else words[2:]
