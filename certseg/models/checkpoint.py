"""Checkpoints that can be read without running anybody's code.

A file holds ``{"format": "certseg/1", "meta": plain JSON values, "state_dict": tensors}`` and nothing else. Files of
other libraries are read too: state dicts by themselves or under the names of :data:`GROUPS`, safetensors, and the names
that training loops give to weights (see :func:`certseg.models.checkpoint_names.renamed`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from certseg.compute.atomic import save_tensors
from certseg.errors import CheckpointError
from certseg.models.checkpoint_files import read_file
from certseg.models.checkpoint_names import missing_names, renamed

FORMAT = "certseg/1"
GROUPS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "ema")
"""Under what names files hold state dicts; the first that is there counts."""
_SHOWN = 3


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds.

    Args:
        tensors: the weights by name.
        meta: what the file says about itself; None in a file certseg did not write.
        group: the entry of the file that the tensors stand in; empty where they are the file.
        class_names: the names of the classes in the order of the logits; None where the file tells none.
        other_groups: further entries that hold state dicts.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, Any] | None
    group: str = ""
    class_names: tuple[str, ...] | None = None
    other_groups: tuple[str, ...] = ()


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


def load_checkpoint(
    segmenter: nn.Module,
    path: str | os.PathLike,
    *,
    trust: bool = False,
    tell: Callable[[str], object] | None = None,
) -> dict:
    """Load weights into ``segmenter`` and return the file's ``meta`` (``{}`` for a file that certseg did not write).

    Args:
        segmenter: the module to fill; untouched when an error is raised.
        path: a certseg checkpoint, or one of another library for the same architecture.
        trust: allow the file to run code while it is unpickled. Only for files whose source you trust.
        tell: called with one sentence where names were changed or one of several state dicts was taken; None to tell
            nobody.

    Raises:
        CheckpointError: the file is missing, corrupt, needs ``trust``, or does not fit the model.
    """
    content = read_weights(path, trust=trust)
    fill(segmenter, content, path, tell)
    return content.meta or {}


def read_weights(path: str | os.PathLike, *, trust: bool = False, setting: str = "model.checkpoint") -> Weights:
    """The tensors and ``meta`` of a checkpoint.

    Args:
        path: a certseg checkpoint, or one of another library: a state dict, also under one of :data:`GROUPS`, a
            safetensors file, or with ``trust`` a pickled network.
        trust: allow the file to run code while it is unpickled. Only for files whose source you trust.
        setting: the setting that names the file, for messages; with ``trust_`` before its last word it names the
            setting that allows ``trust``.

    Raises:
        CheckpointError: the file is missing, corrupt, needs ``trust``, or holds no tensors.
    """
    path = Path(path)
    content = read_file(path, trust, setting)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} is not a checkpoint", expected="a dictionary", received=type(content).__name__)
    groups = [name for name in GROUPS if isinstance(content.get(name), Mapping | nn.Module)]
    group = groups[0] if groups else ""
    weights = content[group] if group else content
    if isinstance(weights, nn.Module):  # pickled whole, and trusted
        weights = weights.state_dict()
    if not any(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(
            f"{path} holds no weights",
            expected=f"tensors by name, also under {', '.join(GROUPS)}",
            received=f"entries {', '.join(map(str, list(content)[:5]))}",
        )
    tensors = {key: value for key, value in weights.items() if isinstance(value, Tensor)}
    meta = content.get("meta")
    meta = dict(meta) if isinstance(meta, Mapping) else {}
    form = content.get("format")  # of a file of others possibly a tensor
    is_own = isinstance(form, str) and form == FORMAT
    return Weights(tensors, meta if is_own else None, group, _class_names(meta), tuple(groups[1:]))


def _class_names(meta: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names in ``meta`` of certseg (``classes``) or of mmsegmentation (``dataset_meta``, earlier ``CLASSES``)."""
    data = meta.get("dataset_meta")
    places = (meta.get("classes"), data.get("classes") if isinstance(data, Mapping) else None, meta.get("CLASSES"))
    for names in places:
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    return None


def fill(
    module: nn.Module, weights: Weights, path: str | os.PathLike, tell: Callable[[str], object] | None = None
) -> None:
    """Load ``weights``, read from ``path``, into ``module``, which is untouched when an error is raised.

    Args:
        module: the module to fill.
        weights: what the file holds.
        path: the file, for messages.
        tell: called with one sentence where names were changed or the weights are a moving average; None to tell
            nobody.

    Raises:
        CheckpointError: names or shapes of the weights do not fit the module.
    """
    wanted = module.state_dict()
    if weights.meta is not None:
        check_fit(path, weights.tensors, wanted)
        module.load_state_dict(weights.tensors, strict=False)
        return
    names = renamed(weights.tensors, wanted)
    check_fit(path, names.tensors, wanted)
    module.load_state_dict(names.tensors, strict=False)
    changes = [
        *([_choice(weights)] if "ema" in weights.group or weights.other_groups else []),
        *([f"took {names.prefix!r} from the front of their names"] if names.prefix else []),
        *([f"left out {len(names.left_out)} others ({_first(names.left_out)})"] if names.left_out else []),
    ]
    if changes and tell is not None:
        tell(f"Read {path}: {', '.join(changes)}")


def _choice(weights: Weights) -> str:
    """Which of the entries of a file was taken, and which were not."""
    left = ", ".join(map(repr, weights.other_groups))
    return f"took the weights under {weights.group!r}" + (f", not those under {left}" if left else "")


def check_fit(
    path: str | os.PathLike,
    found: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    *,
    part: str = "model",
    remedy: str | None = None,
) -> None:
    """Raise :class:`CheckpointError` unless ``found``, read from ``path``, has the names and shapes of ``wanted``.

    ``part`` and ``remedy`` are for its message, which names the first few that are missing, unexpected or of another
    shape; without ``remedy`` it follows from what does not fit.
    """
    missing = missing_names(found, wanted)
    unexpected = [key for key in found if key not in wanted]
    mismatched = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    if not (missing or unexpected or mismatched):
        return
    problems = [
        f"{len(keys)} {kind} ({_first(keys)})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", mismatched))
        if keys
    ]
    raise CheckpointError(
        f"The checkpoint {path} does not fit the {part}",
        expected=f"{len(wanted)} tensors{_classes(wanted)}",
        received=f"{'; '.join(problems)}{_classes(found)}",
        remedy=remedy or _remedy(found, wanted, missing, unexpected),
    )


def _first(names: Sequence[str]) -> str:
    return f"{', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"


def _remedy(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], missing: Sequence[str], unexpected: Sequence[str]
) -> str:
    """What helps where names or shapes of a file do not fit."""
    if found.keys().isdisjoint(wanted):
        return (
            "Not one name is the model's: choose the model that the checkpoint was trained with, or rename the tensors "
            "and save them as a state dict"
        )
    if not (missing or unexpected):
        return "Choose the model and data set that the checkpoint was trained with: their sizes or classes are others"
    if missing and not unexpected:
        return "The file lacks a part of the model: give one of the whole model"
    return "Choose the model that the checkpoint was trained with: its layers are others"


def _classes(weights: Mapping[str, Tensor]) -> str:
    """Number of classes of the decode head, as far as the weights tell, for a message."""
    for key, value in weights.items():
        if "decode_head" in key and key.endswith("conv_seg.weight"):
            return f", {value.shape[0]} classes"
    return ""
