"""Identities: exactly the settings that change a result, and the directories named after their hashes.

Paths, batch sizes, worker counts and the number of images evaluated are no part of an identity; the content of the data
(by fingerprint), the seed, the precision of sampling and the kind of device that draws the noise are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from certseg.errors import CheckpointError
from certseg.hardware import Hardware

FORMAT = 1
"""Raised when a change of code changes results under equal settings; older results are then left alone."""

_NOT_IDENTITY = {
    "dataset": {"root", "split", "limit", "train_split", "val_split"},
    "model": {"checkpoint", "trust_checkpoint"},
    "training": {"validations", "val_images", "checkpoint_interval"},
    "attack": {"name"},
}


def key(identity: Mapping[str, Any]) -> str:
    """Ten hex digits of an identity."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def pruned(settings: Mapping[str, Any], group: str) -> dict[str, Any]:
    """A group's settings without those that do not change results."""
    return {name: value for name, value in settings[group].items() if name not in _NOT_IDENTITY.get(group, ())}


def training_identity(settings: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    """What decides the weights of a trained model.

    Args:
        settings: of the run.
        fingerprint: of the training split.
    """
    return {
        "format": FORMAT,
        "dataset": pruned(settings, "dataset"),
        "train_data": fingerprint,
        "model": pruned(settings, "model"),
        "training": pruned(settings, "training"),
        "seed": settings["seed"],
    }


def checkpoint_identity(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What decides the weights of a model that is loaded: the file's content and the architecture around it.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"Cannot read model.checkpoint={path}", received=error.strerror, remedy="Give the path of a checkpoint file"
        ) from error
    return {"format": FORMAT, "checkpoint": digest, "model": pruned(settings, "model")}


def evaluation_identity(
    settings: Mapping[str, Any], network: Mapping[str, Any], fingerprint: str, stage: Mapping[str, Any],
    hardware: Hardware | None,
) -> dict[str, Any]:  # fmt: skip
    """What decides a stage's rows.

    Args:
        settings: of the run.
        network: identity of the weights.
        fingerprint: of the evaluated split.
        stage: the settings of the certifier or attack.
        hardware: where random numbers are drawn and at which precision, or None if the stage draws none.
    """
    sampled = {
        "seed": settings["seed"],
        "precision": hardware.precision,
        "noise": hardware.torch_device.type,
    } if hardware else {}  # fmt: skip
    return {"format": FORMAT, "network": network, "data": fingerprint, "stage": dict(stage), **sampled}
