"""Libraries that only some parts of certseg need, each brought by an extra of its name or the one said here."""

from __future__ import annotations

import importlib
from types import ModuleType

from certseg.compute.atomic import first_line
from certseg.errors import DependencyError

_EXTRAS = {"onnxruntime": "onnx", "pycocotools.mask": "coco", "segmentation_models_pytorch": "smp", "tifffile": "tiff"}


def library(name: str, purpose: str) -> ModuleType:
    """The module called ``name``, imported now.

    Args:
        name: its import path.
        purpose: what needs it, for the message: ``this model``.

    Raises:
        DependencyError: it is not installed, or does not load; names the extra of certseg that brings it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DependencyError(
            f"{name} is needed for {purpose} and cannot be imported",
            received=first_line(error),
            remedy=f"Install it: pip install 'certseg[{_EXTRAS.get(name, name)}]'",
        ) from error
