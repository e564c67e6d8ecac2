"""How a result came about: the commit of the code, the versions of libraries, and the device."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from certseg import __version__
from certseg.compute.hardware import Hardware, world_size

_PACKAGES = ("torch", "torchvision", "onedl-mmsegmentation", "onedl-mmengine", "timm", "numpy", "scipy")


def provenance(hardware: Hardware) -> dict[str, Any]:
    """Commit of the checkout (None outside one), versions of what computes, and the device."""
    device = hardware.torch_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "certseg": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in _PACKAGES},
        "device": f"{device.type} ({name}), {torch.get_num_threads()} CPU threads",
        "processes": world_size(),
        "precision": hardware.precision,
    }


def _commit() -> str | None:
    """Commit of this package's checkout, with ``-dirty`` after changes."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
