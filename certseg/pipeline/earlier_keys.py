"""The identities of results and trainings from before there were specs, so that those on disk are found again.

Keys were then hashes of plain settings that named classes by their import paths. This file is frozen: from the settings
of today it computes the identities of then, with every class at the import path it had then. Only what lies on disk
from then depends on it: :mod:`certseg.pipeline.places` looks for both keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from certseg.pipeline.keys import file_digest
from certseg.pipeline.names import import_path, logical_name

_TRAINING_FORMAT = 1
_INPAINTER_FORMAT = 2
_NOT_IDENTITY = {
    "dataset": {
        *{"root", "split", "limit", "train_split", "val_split", "hierarchy", "lists", "on_error"},
        # these were not there then, and change the fingerprint where they are set
        *{"values", "colours", "ignore_colours", "quantise", "bands", "window", "name", "objects"},
    },
    "model": {
        "checkpoint",
        "trust_checkpoint",
        "backbone_checkpoint",
        "trust_backbone_checkpoint",
        "map_classes",  # this one and the next were not there then, and are off wherever these keys are asked for
        "trust_classes",
    },
    "training": {"validations", "val_images", "checkpoint_interval"},
    "attack": {"name"},
    "model.denoiser": {"checkpoint", "trust_checkpoint"},
}
_SWITCHED_OFF = {"freeze_backbone": False, "ema": None}
_FILES_OF_INPAINTER = ("checkpoint", "path")
_PATHS = {
    "alma_prox": "certseg.attacks.ALMAProx",
    "apgd": "certseg.attacks.APGD",
    "asma": "certseg.attacks.ASMA",
    "dag": "certseg.attacks.DAG",
    "defence": "certseg.attacks.Defence",
    "pdpgd": "certseg.attacks.PDPGD",
    "pgd": "certseg.attacks.PGD",
    "patch_pgd": "certseg.attacks.PatchPGD",
    "sea": "certseg.attacks.SEA",
    "smoothing": "certseg.attacks.Smoothing",
    "ade20k": "certseg.datasets.ADE20K",
    "coco_stuff10k": "certseg.datasets.COCOStuff10k",
    "camvid": "certseg.datasets.CamVid",
    "cityscapes": "certseg.datasets.Cityscapes",
    "folder": "certseg.datasets.Folder",
    "kvasir_seg": "certseg.datasets.KvasirSEG",
    "oxford_pets": "certseg.datasets.OxfordPets",
    "pascal_context": "certseg.datasets.PascalContext",
    "streets": "certseg.datasets.Streets",
    "voc2012": "certseg.datasets.VOC2012",
    "dncnn": "certseg.models.DnCNN",
    "lip_deeplabv3": "certseg.models.LipDeepLabV3",
    "lip_upernet": "certseg.models.LipUPerNet",
    "mmseg_segmenter": "certseg.models.MMSegSegmenter",
    "black": "certseg.inpainting.Black",
    "learned": "certseg.inpainting.Learned",
    "masked_unet": "certseg.inpainting.MaskedUNet",
    "mean_colour": "certseg.inpainting.MeanColour",
    "navier_stokes": "certseg.inpainting.NavierStokes",
    "telea": "certseg.inpainting.Telea",
    "torchscript": "certseg.inpainting.TorchScript",
    "adversarial_objective": "certseg.training.AdversarialObjective",
    "augmentation": "certseg.training.Augmentation",
    "clean_objective": "certseg.training.CleanObjective",
    "consistency_objective": "certseg.training.ConsistencyObjective",
    "denoiser_objective": "certseg.training.DenoiserObjective",
    "inpainter_objective": "certseg.training.InpainterObjective",
    "lipschitz_objective": "certseg.training.LipschitzObjective",
    "masked_objective": "certseg.training.MaskedObjective",
    "noise_objective": "certseg.training.NoiseObjective",
    "recipe": "certseg.training.Recipe",
}
"""The import paths that the classes in keys had then, by their names in keys of today."""


def training_identity(composed: Mapping[str, Any], fingerprint: str, start: Mapping[str, str]) -> dict[str, Any]:
    """What decided the weights of a trained model.

    Args:
        composed: the run's plain settings.
        fingerprint: the fingerprint of the training split.
        start: the digests of the files that the training starts from, by name.

    Raises:
        CheckpointError: the file of a training's inpainter cannot be read.
    """
    return {
        "format": _TRAINING_FORMAT,
        "dataset": _pruned(composed["dataset"], "dataset"),
        "train_data": fingerprint,
        "model": _model(composed["model"]),
        "training": _training(composed["training"]),
        "seed": composed["seed"],
        **start,
    }


def inpainter_identity(composed: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    """What decided the weights of a trained inpainter.

    Args:
        composed: the run's plain settings.
        fingerprint: the fingerprint of the training split.

    Raises:
        CheckpointError: the file of a training's inpainter cannot be read.
    """
    return {
        "format": _INPAINTER_FORMAT,
        "dataset": _pruned(composed["dataset"], "dataset"),
        "train_data": fingerprint,
        "training": _training(composed["training"]),
        "seed": composed["seed"],
    }


def checkpoint_identity(composed: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    """What decided the weights of a model that was loaded.

    Args:
        composed: the run's plain settings.
        digests: the digests of the files that the model is loaded from, by name.
    """
    return {"format": _TRAINING_FORMAT, "model": _model(composed["model"]), **digests}


def attack_identity(composed: Mapping[str, Any], surrogate: str | None) -> dict[str, Any]:
    """What decided the points an attack tries, apart from its threat.

    Args:
        composed: the run's plain settings.
        surrogate: the digest of the file ``attack.surrogate``; None where the attack has no surrogate.
    """
    attack = _pruned(composed["attack"], "attack")
    if (smoothing := attack.get("smoothing")) and smoothing.get("grey_levels") is None:  # it was not there then
        attack["smoothing"] = {name: value for name, value in smoothing.items() if name != "grey_levels"}
    return {**attack, "surrogate": surrogate} if surrogate else attack


def _pruned(settings: Mapping[str, Any], group: str) -> dict[str, Any]:
    kept = {name: value for name, value in settings.items() if name not in _NOT_IDENTITY[group]}
    placed: dict[str, Any] = _placed(kept)
    return placed


def _placed(value: Any) -> Any:
    """Settings with every class at its place of then."""
    if isinstance(value, Mapping):
        return {name: _path(entry) if name == "_target_" else _placed(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_placed(entry) for entry in value]
    return value


def _path(target: Any) -> Any:
    """Where a class lay then; one that is called by another path than configs/ does stays as it is."""
    name = logical_name(str(target))
    return _PATHS.get(name, target) if import_path(name) == target else target


def _model(model: Mapping[str, Any]) -> dict[str, Any]:
    pruned = _pruned(model, "model")
    denoiser = pruned.pop("denoiser", None) or {}
    if denoiser.get("_target_") is None:
        return pruned
    return {**pruned, "denoiser": _pruned({"name": "denoiser", **denoiser}, "model.denoiser")}


def _training(training: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in _pruned(training, "training").items() if name != "from_checkpoint"}
    off = [name for name, value in _SWITCHED_OFF.items() if kept.get(name, value) == value]
    kept = {name: value for name, value in kept.items() if name not in off}
    objective = kept.get("objective") or {}
    inpainter = objective.get("inpainter")
    if isinstance(inpainter, Mapping):
        files = {name: inpainter[name] for name in _FILES_OF_INPAINTER if inpainter.get(name) is not None}
        setting = "training.objective.inpainter"
        digests = {name: file_digest(file, f"{setting}.{name}") for name, file in files.items()}
        kept["objective"] = {**objective, "inpainter": {**inpainter, **digests}}
    return kept
