"""Identities: exactly the settings that change a result, and the directories named after their hashes.

Paths, batch sizes, worker counts and the number of images evaluated are no part of an identity. The content of the data
(by fingerprint), the seed and the precision of sampling are, and the kind of device is where random numbers follow it.
Each setting is declared as the one or the other in :mod:`certseg.pipeline.spec`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from certseg.compute.hardware import Hardware
from certseg.errors import CheckpointError
from certseg.pipeline.declarations import LEFT_OUT, Role, declaration
from certseg.pipeline.names import CLASS, name_in_keys, named
from certseg.pipeline.spec import AttackSpec, ObjectSpec, RunSpec

TRAINING_FORMAT = 1
INPAINTER_FORMAT = 2
EVALUATION_FORMAT = 4
"""Numbers of formats. One grows when a change of code changes weights or rows under equal settings; what older ones
left on disk is then neither used nor touched."""


def key(identity: Mapping[str, Any]) -> str:
    """The first ten hex digits of an identity's hash."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def identity_of(spec: ObjectSpec, group: str) -> dict[str, Any]:
    """The part of a spec that decides results, as its fields declare: classes by their names, files by their content.

    Args:
        spec: the spec of a config group, or one within it.
        group: the place of the spec in the settings, such as ``training.objective``, for messages.

    Raises:
        CheckpointError: a file that the spec names cannot be read.
    """
    found: dict[str, Any] = {}
    for field in dataclasses.fields(spec):
        declared, value = declaration(field), getattr(spec, field.name)
        if value is LEFT_OUT or value is declared.off or declared.role in (Role.NONE, Role.TOLD):
            continue
        if declared.role is Role.CONTENT:
            found[field.name] = file_digest(value, f"{group}.{field.name}")
        elif field.name == "target":
            found[CLASS] = name_in_keys(value)
        elif field.name == "arguments":
            found |= named(value)
        elif isinstance(value, ObjectSpec):
            found[field.name] = identity_of(value, f"{group}.{field.name}")
        else:
            found[field.name] = value
    return found


def training_identity(spec: RunSpec, fingerprint: str) -> dict[str, Any]:
    """What decides the weights of a trained model.

    Args:
        spec: the run, which has a training.
        fingerprint: the fingerprint of the training split.

    Raises:
        CheckpointError: a file that the training depends on cannot be read.
    """
    return {
        "format": TRAINING_FORMAT,
        **_trained_on(spec, fingerprint),
        "model": identity_of(spec.model, "model"),
        **start_digests(spec),
    }


def inpainter_identity(spec: RunSpec, fingerprint: str) -> dict[str, Any]:
    """What decides the weights of a trained inpainter: that of a trained model without the model.

    Args:
        spec: the run, which has a training.
        fingerprint: the fingerprint of the training split.

    Raises:
        CheckpointError: a file that the training depends on cannot be read.
    """
    return {"format": INPAINTER_FORMAT, **_trained_on(spec, fingerprint)}


def _trained_on(spec: RunSpec, fingerprint: str) -> dict[str, Any]:
    """What every training depends on: data, recipe and seed."""
    return {
        "dataset": identity_of(spec.dataset, "dataset"),
        "train_data": fingerprint,
        "training": None if spec.training is None else identity_of(spec.training, "training"),
        "seed": spec.seed,
    }


def start_digests(spec: RunSpec) -> dict[str, str]:
    """The digests of the files that a training starts from, by name; empty if it starts afresh.

    Raises:
        CheckpointError: a file cannot be read.
    """
    model, start = spec.model, {}
    if spec.training is not None and spec.training.starts_from_checkpoint and not model.pretrained:
        start["start"] = file_digest(str(model.checkpoint), "model.checkpoint")
    if model.backbone_checkpoint:
        start["backbone_start"] = file_digest(model.backbone_checkpoint, "model.backbone_checkpoint")
    if model.denoiser and model.denoiser.checkpoint:
        start["denoiser_start"] = file_digest(model.denoiser.checkpoint, "model.denoiser.checkpoint")
    return start


def checkpoint_identity(spec: RunSpec) -> dict[str, Any]:
    """What decides the weights of a model that is loaded: the files' content and the architecture around it.

    Raises:
        CheckpointError: a file cannot be read.
    """
    return {"format": TRAINING_FORMAT, "model": identity_of(spec.model, "model"), **loaded_digests(spec)}


def loaded_digests(spec: RunSpec) -> dict[str, str]:
    """The digests of the files that a model is loaded from, by name.

    Raises:
        CheckpointError: a file cannot be read.
    """
    pretrained = spec.model.pretrained
    digests = {} if pretrained else {"checkpoint": file_digest(str(spec.model.checkpoint), "model.checkpoint")}
    denoiser = spec.model.denoiser
    if denoiser and denoiser.checkpoint:
        digests["denoiser"] = file_digest(denoiser.checkpoint, "model.denoiser.checkpoint")
    return digests


def attack_identity(attack: AttackSpec) -> dict[str, Any]:
    """What decides the points an attack tries, apart from its threat.

    Raises:
        CheckpointError: the file of a surrogate cannot be read.
    """
    identity = identity_of(attack, "attack")
    return {"attack": identity.pop(CLASS), **identity}


def file_digest(path: str, setting: str) -> str:
    """SHA-256 of a file's content.

    Args:
        path: the file.
        setting: the setting that names the file, for messages.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"Cannot read {setting}={path}", received=error.strerror, remedy="Give the path of a checkpoint file"
        ) from error


def evaluation_identity(
    seed: int,
    network: Mapping[str, Any],
    fingerprint: str,
    stage: Mapping[str, Any],
    hardware: Hardware | None,
    draws_on_device: bool = True,
) -> dict[str, Any]:
    """What decides a stage's rows.

    Args:
        seed: the seed of the run.
        network: the identity of the network's weights.
        fingerprint: the fingerprint of the evaluated split.
        stage: what decides the rows of a certifier or attack on given weights and data.
        hardware: where random numbers are drawn, and at which precision; None for a stage that draws none.
        draws_on_device: whether the random numbers depend on the kind of device.
    """
    sampled: dict[str, Any] = {"seed": seed, **arithmetic(hardware)} if hardware else {}
    if not draws_on_device:
        sampled.pop("noise", None)
    return {"format": EVALUATION_FORMAT, "network": network, "data": fingerprint, "stage": dict(stage), **sampled}


def subject_key(network: Mapping[str, Any], fingerprint: str, hardware: Hardware) -> str:
    """What tells the computed network and the images of a result apart: only results of one subject are compared.

    Args:
        network: the identity of the network's weights.
        fingerprint: the fingerprint of the evaluated split.
        hardware: where and how the network is computed.
    """
    return key({"network": network, "data": fingerprint, **arithmetic(hardware)})


def arithmetic(hardware: Hardware) -> dict[str, Any]:
    """What of the hardware makes another network of the same weights, or draws other noise: the precision of sampling
    and the kind of device, with its own kernels (and TF32, where torch has it on). At reduced precision so does
    compiling, which enlarges logits there in the place of float32. All else changes the rounding of float32 at most.

    >>> arithmetic(Hardware(device="cpu"))
    {'precision': 'float32', 'noise': 'cpu'}
    """
    found: dict[str, Any] = {"precision": hardware.precision, "noise": hardware.torch_device.type}
    if hardware.compile and hardware.precision != "float32":
        found["compile"] = True
    return found
