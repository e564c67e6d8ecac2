"""Checkpoints that can be read without running anybody's code.

A file holds ``{"format": "certseg/1", "meta": plain JSON values, "state_dict": tensors}`` and nothing else. Checkpoints
of mmsegmentation (``backbone.*``, ``decode_head.*`` under ``state_dict``) are read too.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from certseg.compute.atomic import first_line, save_tensors
from certseg.errors import CheckpointError

FORMAT = "certseg/1"
_SHOWN = 3


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds.

    Args:
        tensors: the weights by name.
        meta: what the file says about itself; None in a file certseg did not write.
        class_names: the names of the classes in the order of the logits; None where the file tells none.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, Any] | None
    class_names: tuple[str, ...] | None = None


def save_checkpoint(path: str | os.PathLike, segmenter: nn.Module, meta: Mapping[str, Any]) -> None:
    """Write the weights of ``segmenter`` and ``meta`` to ``path``; a killed process leaves the old file or the new one.

    Args:
        path: the file; its folder is created.
        segmenter: any module; its state dict is written.
        meta: what the file says about itself, plain JSON values only.

    Raises:
        CheckpointError: ``meta`` is not plain JSON, or the file cannot be written.
    """
    path = Path(path)
    try:
        meta = json.loads(json.dumps(dict(meta)))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"The meta data for {path} are not plain JSON ({error})") from error
    weights = {key: value.detach().cpu() for key, value in segmenter.state_dict().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, {"format": FORMAT, "meta": meta, "state_dict": weights})
    except OSError as error:
        raise CheckpointError(
            f"Cannot write the checkpoint {path} ({error})", remedy="Check the free space of the disk"
        ) from error


def load_checkpoint(segmenter: nn.Module, path: str | os.PathLike, *, trust: bool = False) -> dict:
    """Load weights into ``segmenter`` and return the file's ``meta`` (``{}`` for a file that certseg did not write).

    Args:
        segmenter: the module to fill; untouched when an error is raised.
        path: a certseg checkpoint, or one of mmsegmentation for the same architecture.
        trust: allow the file to run code while it is unpickled. Only for files whose source you trust.

    Raises:
        CheckpointError: the file is missing, corrupt, needs ``trust``, or does not fit the model.
    """
    content = read_weights(path, trust=trust)
    fill(segmenter, content, path)
    return content.meta or {}


def read_weights(path: str | os.PathLike, *, trust: bool = False, setting: str = "model.checkpoint") -> Weights:
    """The tensors and ``meta`` of a checkpoint.

    Args:
        path: a certseg checkpoint, or one of another library: a state dict, also under ``state_dict`` or ``model``.
        trust: allow the file to run code while it is unpickled. Only for files whose source you trust.
        setting: the setting that names the file, for messages; with ``trust_`` before its last word it names the
            setting that allows ``trust``.

    Raises:
        CheckpointError: the file is missing, corrupt, needs ``trust``, or holds no tensors.
    """
    path = Path(path)
    content = _read(path, trust, setting)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} is not a checkpoint", expected="a dictionary", received=type(content).__name__)
    groups = (content.get(name) for name in ("state_dict", "model"))  # the second in files of classifiers
    weights = next((group for group in groups if isinstance(group, Mapping)), content)
    if not any(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(
            f"{path} holds no weights",
            expected="tensors under state_dict",
            received=f"entries {', '.join(map(str, list(content)[:5]))}",
        )
    tensors = {key: value for key, value in weights.items() if isinstance(value, Tensor)}
    meta = content.get("meta")
    meta = dict(meta) if isinstance(meta, Mapping) else {}
    return Weights(tensors, meta if content.get("format") == FORMAT else None, _class_names(meta))


def _class_names(meta: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names in ``meta`` of certseg (``classes``) or of mmsegmentation (``dataset_meta``, earlier ``CLASSES``)."""
    data = meta.get("dataset_meta")
    places = (meta.get("classes"), data.get("classes") if isinstance(data, Mapping) else None, meta.get("CLASSES"))
    for names in places:
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    return None


def fill(module: nn.Module, weights: Weights, path: str | os.PathLike) -> None:
    """Load ``weights``, read from ``path``, into ``module``, which is untouched when an error is raised.

    Raises:
        CheckpointError: names or shapes of the weights do not fit the module.
    """
    wanted = module.state_dict()
    tensors = weights.tensors if weights.meta is not None else _foreign_names(weights.tensors, wanted)
    check_fit(path, tensors, wanted)
    module.load_state_dict(tensors, strict=False)


def _read(path: Path, trust: bool, setting: str) -> Any:
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}", remedy=f"Check {setting}")
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
        raise CheckpointError(f"The checkpoint {path} cannot be unpickled ({first_line(error)})") from error


def _needs_code(error: Exception) -> bool:
    """Whether the safe reader refused an object, as opposed to not understanding the file."""
    refusals = ("GLOBAL", "Can only build", "Can only create", "Trying to call reduce", "Trying to instantiate")
    return isinstance(error, pickle.UnpicklingError) and any(text in str(error) for text in refusals)


def _foreign_names(weights: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as the segmenter has them: without a wrapper's ``module.``, with the adapter's ``network.``."""
    if all(key.startswith("module.") for key in weights):
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
    if any(key.startswith("network.") for key in wanted) and not any(key.startswith("network.") for key in weights):
        weights = {f"network.{key}": value for key, value in weights.items()}
    return weights


def check_fit(
    path: str | os.PathLike,
    found: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    *,
    part: str = "model",
    remedy: str = "Choose the model and data set that the checkpoint was trained with",
) -> None:
    """Raise :class:`CheckpointError` unless ``found``, read from ``path``, has the names and shapes of ``wanted``.

    ``part`` and ``remedy`` are for its message, which names the first few that are missing, unexpected or of another
    shape.
    """
    # counters of batch normalisation are missing in old files and change nothing in evaluation
    missing = [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in found if key not in wanted]
    mismatched = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    if not (missing or unexpected or mismatched):
        return
    problems = [
        f"{len(keys)} {kind} ({', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", mismatched))
        if keys
    ]
    raise CheckpointError(
        f"The checkpoint {path} does not fit the {part}",
        expected=f"{len(wanted)} tensors{_classes(wanted)}",
        received=f"{'; '.join(problems)}{_classes(found)}",
        remedy=remedy,
    )


def _classes(weights: Mapping[str, Tensor]) -> str:
    """Number of classes of the decode head, as far as the weights tell, for a message."""
    for key, value in weights.items():
        if "decode_head" in key and key.endswith("conv_seg.weight"):
            return f", {value.shape[0]} classes"
    return ""
