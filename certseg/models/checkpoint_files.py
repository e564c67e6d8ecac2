"""The content of checkpoint files, in every format that is read; nobody's code is run unless it is trusted."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from certseg.compute.atomic import first_line
from certseg.errors import CheckpointError

_ONNX_TAGS = b"\x12\x1a\x22\x2a\x32\x3a\x42"  # of the fields of a model that have a length


def read_file(path: Path, trust: bool, setting: str) -> Any:
    """What a checkpoint holds: usually a dictionary; of a pickled network its state dict.

    Args:
        path: a file of ``torch.save``, or a safetensors file, which is known by its content.
        trust: allow the file to run code while it is unpickled.
        setting: the setting that names the file, for messages.

    Raises:
        CheckpointError: the file is missing, corrupt, needs ``trust``, or holds a network for another library to run.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}", remedy=f"Check {setting}")
    if _is_safetensors(path):
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"The checkpoint {path} is corrupt ({first_line(error)})") from error
    _refuse_exported(path, setting)
    content = _unpickled(path, trust, setting)
    return content.state_dict() if isinstance(content, nn.Module) else content


def _unpickled(path: Path, trust: bool, setting: str) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken or hostile file provokes
        if not _needs_code(error):
            raise CheckpointError(f"The checkpoint {path} is corrupt ({first_line(error)})") from error
        if not trust:
            group, _, name = setting.rpartition(".")
            raise CheckpointError(
                f"The checkpoint {path} cannot be read safely: it holds Python objects that run code when loaded",
                remedy=f"If you trust its source, set {group}.trust_{name}=true",
            ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be unpickled ({first_line(error)})",
            remedy="The code of what it holds must be importable where certseg runs, under the name it was saved with; "
            "a state dict needs none: torch.save(network.state_dict(), ...)",
        ) from error


def _needs_code(error: Exception) -> bool:
    """Whether the safe reader refused an object, as opposed to not understanding the file."""
    refusals = ("GLOBAL", "Can only build", "Can only create", "Trying to call reduce", "Trying to instantiate")
    return isinstance(error, pickle.UnpicklingError) and any(text in str(error) for text in refusals)


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins with the length of a JSON header, and the header."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive with code in it, as TorchScript's are."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _is_onnx(path: Path) -> bool:
    """Whether a file begins like an ONNX model: the version of its format, then a text or the graph."""
    with path.open("rb") as file:
        head = file.read(3)
    return len(head) == 3 and head[0] == 0x08 and 0 < head[1] < 0x20 and head[2] in _ONNX_TAGS


def _refuse_exported(path: Path, setting: str) -> None:
    """Refuse files that hold a network and not only its weights."""
    for name, choice, is_one in (("TorchScript", "torchscript", is_torchscript), ("ONNX", "onnx", _is_onnx)):
        if is_one(path):
            raise CheckpointError(
                f"{path} is a whole network in the form of {name}, not the weights of one",
                expected="a state dict",
                remedy=f"Run it as it is, model={choice} model.file=..., without {setting}",
            )
