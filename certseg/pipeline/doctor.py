"""``certseg doctor``: what certseg finds on this machine, and what is broken.

Nothing is computed, downloaded or written. Libraries are imported inside the checks: one that cannot be loaded
becomes a finding.
"""

from __future__ import annotations

import netrc
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from certseg import __version__
from certseg.errors import ConfigError
from certseg.pipeline.config_folders import config_directory

USAGE = """certseg doctor [output=FOLDER]

Prints the versions of what computes, the device, threads, memory, the disk space where results go (output=outputs),
the data sets that lie where their choices look for them, and whether Weights & Biases knows an account.
The exit status is 0, or 1 where something is broken."""

_COMPUTES = {  # distributions by the module that must load
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "onedl-mmengine": "mmengine",
    "onedl-mmcv": "mmcv",
    "onedl-mmsegmentation": "mmseg",
    "orthogonium": "orthogonium",
    "deel-torchlip": "deel.torchlip",
    "numpy": "numpy",
    "scipy": "scipy",
    "numba": "numba",
}
_OPENCV = ("opencv-python", "opencv-python-headless")
_LAUNCHERS = {"joblib": "hydra-joblib-launcher", "slurm": "hydra-submitit-launcher"}
_GIB = 2**30
_LITTLE_DISK = 2 * _GIB  # rows and maps of a few hundred images


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        topic: what was looked at, in a word or two.
        text: what was found.
        is_broken: whether certseg cannot work because of it.
    """

    topic: str
    text: str
    is_broken: bool = False


def main(words: Sequence[str]) -> int:
    """Print all findings.

    Args:
        words: the words of the command line after ``doctor``.

    Returns:
        The exit status: 1 if something is broken, else 0.

    Raises:
        ConfigError: a word is neither ``--help`` nor ``output=FOLDER``.
    """
    if {"--help", "-h"} & set(words):
        print(USAGE)
        return 0
    output = "outputs"
    for word in words:
        name, _, value = word.partition("=")
        if name != "output" or not value:
            raise ConfigError("certseg doctor has no such setting", expected="output=FOLDER or --help", received=word)
        output = value
    broken = 0
    for finding in findings(Path(output)):
        print(f"{finding.topic:<12}{'BROKEN: ' if finding.is_broken else ''}{finding.text}")
        broken += finding.is_broken
    print(f"{'':<12}{f'{broken} broken' if broken else 'nothing is broken'}")
    return 1 if broken else 0


def findings(output: Path) -> Iterator[Finding]:
    """All findings in the order they are shown in; ``output`` is the folder where results go."""
    yield Finding("certseg", f"{__version__} in {Path(__file__).parents[1]}, configs in {config_directory()}")
    yield Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield _opencv()
    yield from _libraries()
    yield from _computes_on()
    yield _memory()
    yield _disk(output)
    yield from _datasets(config_directory() / "dataset")
    yield _launchers()
    yield _tracking()


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _load(module: str) -> str | None:
    """Why a module cannot be loaded, in one line; None if it can."""
    try:
        import_module(module)
    except Exception as error:  # a broken library may raise anything
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _libraries() -> Iterator[Finding]:
    """The versions of what computes in one line, and a line for each library that is missing or does not load."""
    versions = {name: _version(name) for name in _COMPUTES}
    yield Finding("libraries", ", ".join(f"{name} {found}" for name, found in versions.items() if found is not None))
    for name, module in _COMPUTES.items():
        if versions[name] is None:
            yield Finding(name, "is not installed", is_broken=True)
        elif problem := _load(module):
            yield Finding(name, f"does not load: {problem}", is_broken=True)


def _opencv() -> Finding:
    builds = [f"{name} {found}" for name in _OPENCV if (found := _version(name)) is not None]
    text = " and ".join(builds) or "not installed"
    if problem := _load("certseg.compute.opencv"):
        return Finding("OpenCV", f"{text}. {problem}", is_broken=True)
    if len(builds) > 1:
        text += ": they overwrite each other's files; it loads, so leave them, or keep one and install it anew"
    return Finding("OpenCV", text)


def _computes_on() -> Iterator[Finding]:
    """Devices and threads as torch sees them; nothing where torch does not load, which is a finding already."""
    if _load("torch"):
        return
    import torch

    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    names = [f"{gpu.name} ({gpu.total_memory / _GIB:.0f} GiB)" for gpu in gpus]
    built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
    yield Finding("device", ", ".join(names) if names else f"CPU only: {built} and sees no GPU")
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    yield Finding("threads", f"{torch.get_num_threads()} by default, {usable} processors (hardware.threads)")


def _memory() -> Finding:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = (page * os.sysconf(name) for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    except (ValueError, OSError):  # not every system tells
        return Finding("memory", "unknown")
    return Finding("memory", f"{total / _GIB:.1f} GiB, {free / _GIB:.1f} GiB of it unused")


def _disk(output: Path) -> Finding:
    """Free space and the right to write in the folder of results, or in the one it will be made in."""
    place = output.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return Finding("disk", f"cannot write results to {output}. Set output=FOLDER to one you may write", True)
    free = shutil.disk_usage(place).free
    return Finding("disk", f"{free / _GIB:.1f} GiB free for {output}{', which is little' * (free < _LITTLE_DISK)}")


def _datasets(choices: Path) -> Iterator[Finding]:
    """Which data sets lie in the folder their choice names, relative to the caller's."""
    found, missing = [], []
    for file in sorted(choices.glob("*.yaml")):
        root = yaml.safe_load(file.read_text(encoding="utf-8")).get("root")
        if root is None:
            found.append(f"{file.stem} (built in)")
        elif Path(root).is_dir():
            found.append(f"{file.stem} ({root})")
        else:
            missing.append(f"{file.stem} ({root})")
    yield Finding("data sets", ", ".join(found) or "none")
    if missing:
        yield Finding("", f"not here: {', '.join(missing)}; another place is dataset.root=FOLDER")


def _launchers() -> Finding:
    installed = {choice: _version(name) for choice, name in _LAUNCHERS.items()}
    texts = [f"{choice} {found or f'not installed (certseg[{choice}])'}" for choice, found in installed.items()]
    return Finding("sweeps", ", ".join(texts))


def _tracking() -> Finding:
    """Whether Weights & Biases would find an API key. Its server is not asked whether the key is good."""
    found = _version("wandb")
    if found is None:
        return Finding("W&B", "wandb is not installed", is_broken=True)
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    if os.environ.get("WANDB_API_KEY"):
        return Finding("W&B", f"wandb {found}, a key in WANDB_API_KEY")
    if _in_netrc(host):
        return Finding("W&B", f"wandb {found}, a key for {host} in {_netrc_path()}")
    return Finding("W&B", f"wandb {found}, not logged in at {host}: tracking=wandb stays offline until `wandb login`")


def _netrc_path() -> Path:
    if named := os.environ.get("NETRC"):
        return Path(named).expanduser()
    return Path.home() / ("_netrc" if sys.platform == "win32" else ".netrc")


def _in_netrc(host: str) -> bool:
    try:
        return netrc.netrc(_netrc_path()).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
