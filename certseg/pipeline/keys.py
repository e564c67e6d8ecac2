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

from certseg.compute.hardware import Hardware
from certseg.errors import CheckpointError
from certseg.pipeline.settings import denoiser_settings

TRAINING_FORMAT = 1
INPAINTER_FORMAT = 2
EVALUATION_FORMAT = 4
"""Raised when a change of code changes weights or rows under equal settings; older ones are then left alone."""

_NOT_IDENTITY = {
    "dataset": {"root", "split", "limit", "train_split", "val_split", "hierarchy", "lists"},
    "model": {"checkpoint", "trust_checkpoint", "backbone_checkpoint", "trust_backbone_checkpoint"},
    "training": {"validations", "val_images", "checkpoint_interval"},
    "attack": {"name"},
    "model.denoiser": {"checkpoint", "trust_checkpoint"},
}
_SWITCHED_OFF = {"freeze_backbone": False, "ema": None}
"""Settings of a training that are named only where they do something, for results of before there were such."""

_FILES_OF_INPAINTER = ("checkpoint", "path")
"""Settings of an inpainter that name a file."""


def key(identity: Mapping[str, Any]) -> str:
    """Ten hex digits of an identity."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def pruned(settings: Mapping[str, Any], group: str) -> dict[str, Any]:
    """A group's settings without those that do not change results."""
    return {name: value for name, value in settings[group].items() if name not in _NOT_IDENTITY.get(group, ())}


def _model(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture: a denoiser is named only where there is one, for results of before there were denoisers."""
    model = pruned(settings, "model")
    if denoiser := denoiser_settings(settings):
        return {**model, "denoiser": pruned({"model.denoiser": denoiser}, "model.denoiser")}
    model.pop("denoiser", None)
    return model


def _training(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe; what it starts from is told by :func:`_start`.

    Raises:
        CheckpointError: the file of an inpainter cannot be read.
    """
    training = {name: value for name, value in pruned(settings, "training").items() if name != "from_checkpoint"}
    off = [name for name, value in _SWITCHED_OFF.items() if training.get(name, value) == value]
    training = {name: value for name, value in training.items() if name not in off}
    objective = training.get("objective") or {}
    if isinstance(objective.get("inpainter"), Mapping):
        training["objective"] = {**objective, "inpainter": _by_content(objective["inpainter"])}
    return training


def _by_content(inpainter: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training's inpainter, its files named by their digests."""
    files = {name: inpainter[name] for name in _FILES_OF_INPAINTER if inpainter.get(name) is not None}
    setting = "training.objective.inpainter"
    return {**inpainter, **{name: file_digest(file, f"{setting}.{name}") for name, file in files.items()}}


def _start(settings: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the weights a training starts from, where there are any.

    Raises:
        CheckpointError: a file cannot be read.
    """
    denoiser = denoiser_settings(settings)
    start = {}
    if settings["training"].get("from_checkpoint"):
        start["start"] = file_digest(settings["model"]["checkpoint"], "model.checkpoint")
    if settings["model"].get("backbone_checkpoint"):
        start["backbone_start"] = file_digest(settings["model"]["backbone_checkpoint"], "model.backbone_checkpoint")
    if denoiser and denoiser["checkpoint"]:
        start["denoiser_start"] = file_digest(denoiser["checkpoint"], "model.denoiser.checkpoint")
    return start


def training_identity(settings: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    """What decides the weights of a trained model.

    Args:
        settings: of the run.
        fingerprint: of the training split.

    Raises:
        CheckpointError: a file it depends on cannot be read.
    """
    return {
        "format": TRAINING_FORMAT,
        "dataset": pruned(settings, "dataset"),
        "train_data": fingerprint,
        "model": _model(settings),
        "training": _training(settings),
        "seed": settings["seed"],
        **_start(settings),
    }


def inpainter_identity(settings: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    """What decides the weights of a trained inpainter; arguments and errors as of :func:`training_identity`. No model
    is in it."""
    return {
        "format": INPAINTER_FORMAT,
        "dataset": pruned(settings, "dataset"),
        "train_data": fingerprint,
        "training": _training(settings),
        "seed": settings["seed"],
    }


def checkpoint_identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the weights of a model that is loaded: the files' content and the architecture around it.

    Raises:
        CheckpointError: a file cannot be read.
    """
    digest = file_digest(settings["model"]["checkpoint"], "model.checkpoint")
    identity = {"format": TRAINING_FORMAT, "checkpoint": digest, "model": _model(settings)}
    denoiser = denoiser_settings(settings)
    if denoiser and denoiser["checkpoint"]:
        identity["denoiser"] = file_digest(denoiser["checkpoint"], "model.denoiser.checkpoint")
    return identity


def file_digest(path: str, setting: str) -> str:
    """SHA-256 of a file's content.

    Args:
        path: the file.
        setting: that names it, for messages.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"Cannot read {setting}={path}", received=error.strerror, remedy="Give the path of a checkpoint file"
        ) from error


def evaluation_identity(
    settings: Mapping[str, Any],
    network: Mapping[str, Any],
    fingerprint: str,
    stage: Mapping[str, Any],
    hardware: Hardware | None,
) -> dict[str, Any]:
    """What decides a stage's rows.

    Args:
        settings: of the run.
        network: identity of the weights.
        fingerprint: of the evaluated split.
        stage: the settings of the certifier or attack.
        hardware: where random numbers are drawn and at which precision, or None if the stage draws none.
    """
    sampled = (
        {
            "seed": settings["seed"],
            "precision": hardware.precision,
            "noise": hardware.torch_device.type,
        }
        if hardware
        else {}
    )
    return {"format": EVALUATION_FORMAT, "network": network, "data": fingerprint, "stage": dict(stage), **sampled}
