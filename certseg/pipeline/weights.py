"""The network of a run: loaded from a checkpoint, or trained once and found again."""

from __future__ import annotations

import functools
import itertools
import pydoc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from certseg.compute.hardware import Hardware, rank
from certseg.datasets import Legend
from certseg.errors import CheckpointError, ConfigError
from certseg.metrics import FIGURES
from certseg.models import Denoised, load_backbone, load_checkpoint, load_denoised, load_denoiser
from certseg.models.checkpoint import read_weights
from certseg.pipeline.console import say
from certseg.pipeline.keys import checkpoint_identity, file_digest, key, training_identity
from certseg.pipeline.settings import build, denoiser_settings
from certseg.training import finished, train
from certseg.types import SegmentationDataset

_CHECKPOINT = ("checkpoint", "trust_checkpoint", "backbone_checkpoint", "trust_backbone_checkpoint")


@dataclass(frozen=True)
class Network:
    """A segmenter with its weights, built when it is first asked for: a run that has nothing left to compute is
    spared that.

    Args:
        load: gives the segmenter with its weights.
        hardware: of the run.
        identity: what decides its weights, and for a trained one their digest: the same settings may give other
            weights on another machine.
        label: for directories and tables, for example ``upernet_tiny-noise``.
    """

    load: Callable[[], nn.Module]
    hardware: Hardware
    identity: dict[str, Any]
    label: str

    @functools.cached_property
    def segmenter(self) -> nn.Module:
        """On the hardware's device, in eval mode, without gradients of its weights."""
        segmenter = self.hardware.place(self.load())
        for parameter in segmenter.parameters():
            parameter.requires_grad_(False)  # attacks differentiate with respect to the image only
        return segmenter


def build_dataset(settings: Mapping[str, Any], split: str | None = None) -> SegmentationDataset:
    """The data set of the run: its evaluated split, or another one (``train``, ``val``) by the config's name for it."""
    options = _dataset_options(settings)
    if split is not None:
        options["split"] = settings["dataset"][f"{split}_split"]
    return build("dataset", options)


def _dataset_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    others = ("limit", "train_split", "val_split", "hierarchy")
    return {k: v for k, v in settings["dataset"].items() if k not in others}


def legend_of(settings: Mapping[str, Any]) -> Legend:
    """Name and classes of the run's data set, without its files: only a class of one's own that has no ``legend`` is
    built for them."""
    options = _dataset_options(settings)
    if hasattr(pydoc.locate(str(options["_target_"])), "legend"):  # None for what does not exist, which build then says
        return build("dataset", {**options, "_target_": f"{options['_target_']}.legend"})
    dataset = build_dataset(settings)
    return Legend(dataset.name, tuple(dataset.class_names), tuple(dataset.palette))


def build_segmenter(settings: Mapping[str, Any], num_classes: int) -> nn.Module:
    """The architecture of the run with fresh weights, behind its denoiser if there is one."""
    options = {k: v for k, v in settings["model"].items() if k not in (*_CHECKPOINT, "denoiser")}
    segmenter = build("model", options, num_classes=num_classes)
    denoiser = denoiser_settings(settings)
    if denoiser is None:
        return segmenter
    options = {k: v for k, v in denoiser.items() if k not in (*_CHECKPOINT, "name")}
    return Denoised(build("model/denoiser", options), segmenter)


def _load(segmenter: nn.Module, settings: Mapping[str, Any]) -> set[str]:
    """Fill ``segmenter`` from ``model.checkpoint``; the parts whose weights it held."""
    path, trust = settings["model"]["checkpoint"], settings["model"]["trust_checkpoint"]
    if isinstance(segmenter, Denoised):
        return load_denoised(segmenter, path, trust=trust)
    load_checkpoint(segmenter, path, trust=trust)
    return {"segmenter"}


def _load_denoiser(segmenter: nn.Module, settings: Mapping[str, Any]) -> bool:
    """Fill the denoiser of ``segmenter`` from ``model.denoiser.checkpoint``; False if there is none."""
    denoiser = denoiser_settings(settings)
    if denoiser is None or not denoiser["checkpoint"]:
        return False
    load_denoiser(segmenter.denoiser, denoiser["checkpoint"], trust=denoiser["trust_checkpoint"])
    return True


def _loaded(settings: Mapping[str, Any], num_classes: int) -> nn.Module:
    """The network with all its weights from the files the settings name.

    Raises:
        CheckpointError: a file cannot be read or does not fit, or none has the weights of the denoiser.
    """
    segmenter = build_segmenter(settings, num_classes)
    filled = _load(segmenter, settings)
    has_own_file = _load_denoiser(segmenter, settings)
    is_fresh = isinstance(segmenter, Denoised) and not has_own_file and "denoiser" not in filled
    if is_fresh and segmenter.denoiser.state_dict():
        raise CheckpointError(
            f"model.checkpoint={settings['model']['checkpoint']} holds no weights of the denoiser",
            remedy="Give model.denoiser.checkpoint=..., or train the denoiser: training=denoiser",
        )
    return segmenter


def surrogate_digest(settings: Mapping[str, Any]) -> str:
    """Digest of the weights in ``attack.surrogate``.

    Raises:
        CheckpointError: the file cannot be read.
    """
    return file_digest(settings["attack"]["surrogate"], "attack.surrogate")


def load_surrogate(settings: Mapping[str, Any], num_classes: int, hardware: Hardware) -> nn.Module:
    """A network of the run's architecture with the weights in ``attack.surrogate``, ready to be attacked.

    Raises:
        CheckpointError: the file cannot be read or does not fit.
    """
    segmenter = build_segmenter(settings, num_classes)
    load = functools.partial(_filled, segmenter, settings["attack"]["surrogate"])
    return Network(load, hardware, {}, "surrogate").segmenter


def _filled(segmenter: nn.Module, path: str) -> nn.Module:
    load_checkpoint(segmenter, path)
    return segmenter


def _start(settings: Mapping[str, Any], num_classes: int) -> nn.Module:
    """The network a training starts from: fresh where the settings name no file."""
    model = settings["model"]
    segmenter = build_segmenter(settings, num_classes)
    if settings["training"].get("from_checkpoint"):
        _load(segmenter, settings)
    if model.get("backbone_checkpoint"):
        load_backbone(segmenter, model["backbone_checkpoint"], trust=model.get("trust_backbone_checkpoint", False))
    _load_denoiser(segmenter, settings)
    return segmenter


def _check_start(settings: Mapping[str, Any]) -> None:
    """Refuse files that contradict each other, and trainings without the weights they need."""
    model, training = settings["model"], settings["training"]
    if model["checkpoint"] and model.get("backbone_checkpoint"):
        raise ConfigError(
            "model.checkpoint has a backbone already",
            received=f"model.backbone_checkpoint={model['backbone_checkpoint']}",
            remedy="Give one of the two",
        )
    if training.get("from_checkpoint") and not model["checkpoint"]:
        raise ConfigError(
            f"training={training['name']} starts from a trained segmenter",
            remedy="Give model.checkpoint=..., for example the model.pt of training=clean",
        )
    if training.get("freeze_backbone") and not (model["checkpoint"] or model.get("backbone_checkpoint")):
        raise ConfigError(
            "training.freeze_backbone=true would keep the backbone's random weights",
            remedy="Give model.backbone_checkpoint=..., or model.checkpoint=... and training.from_checkpoint=true",
        )


def _figure(name: str, value: float) -> str:
    """A figure of a validation under its full name, in its unit."""
    unit = FIGURES.key(name).figure.unit
    return " ".join(part for part in (name, unit.shown(value), unit.mark) if part)


def _trained(settings: Mapping[str, Any], num_classes: int, path: Path) -> nn.Module:
    """The network as a training left it in ``path``."""
    return _filled(build_segmenter(settings, num_classes), path)


def _label(settings: Mapping[str, Any], origin: str) -> str:
    denoiser = denoiser_settings(settings)
    return "-".join([settings["model"]["name"], *([denoiser["name"]] if denoiser else []), origin])


def _is_loaded(settings: Mapping[str, Any]) -> bool:
    """Whether the network comes from ``model.checkpoint`` without a training."""
    return bool(settings["model"]["checkpoint"] and not settings["training"].get("from_checkpoint"))


def check_classes(settings: Mapping[str, Any], legend: Legend) -> None:
    """Raise CheckpointError if the network is loaded from a file that cannot be read or names other classes.

    certseg's own checkpoints name theirs; nothing is known about those of others.
    """
    if not _is_loaded(settings):
        return
    path, wanted = settings["model"]["checkpoint"], list(legend.class_names)
    found = (read_weights(path, trust=settings["model"]["trust_checkpoint"]).meta or {}).get("classes")
    if not isinstance(found, list) or found == wanted:
        return
    first = next(index for index, (a, b) in enumerate(itertools.zip_longest(found, wanted)) if a != b)
    wanted, found = (
        f"{len(names)} classes" + "".join(f", {first} is {name!r}" for name in names[first : first + 1])
        for names in (wanted, found)
    )
    raise CheckpointError(
        f"The classes of the checkpoint {path} are not those of the data set {legend.name}",
        expected=wanted,
        received=found,
        remedy="Choose the data set that the checkpoint was trained on; dataset=folder takes dataset.class_names",
    )


def obtain(
    settings: Mapping[str, Any], num_classes: int, hardware: Hardware, folder: Path, wandb: Mapping | None = None
) -> Network:
    """Load or train the network.

    Args:
        settings: of the run.
        num_classes: of the data set.
        hardware: of the run.
        folder: of the data set's results; trainings lie below.
        wandb: arguments of ``wandb.init`` for the training's curves, or None.

    Raises:
        CheckpointError: a checkpoint that the settings name cannot be read or does not fit.
        ConfigError: there is neither a checkpoint nor a training split, no checkpoint to start from, or one too many.
    """
    hardware.setup(settings["seed"])
    _check_start(settings)
    if _is_loaded(settings):
        identity = checkpoint_identity(settings)
        load = functools.partial(_loaded, settings, num_classes)
        return Network(load, hardware, identity, _label(settings, "checkpoint"))
    if settings["dataset"]["train_split"] is None:
        raise ConfigError("There is nothing to train on", remedy="Give model.checkpoint=... or dataset.train_split=...")
    train_set = build_dataset(settings, "train")
    identity = training_identity(settings, train_set.fingerprint())
    label = _label(settings, settings["training"]["name"])
    directory = folder / label / f"train-{key(identity)}"
    report = finished(directory, identity)
    if report is None:
        val_set = build_dataset(settings, "val") if settings["dataset"]["val_split"] is not None else None
        recipe = build("training", settings["training"])
        segmenter = _start(settings, num_classes).to(hardware.torch_device)
        report = train(
            segmenter,
            train_set,
            val_set,
            recipe,
            directory,
            hardware=hardware,
            seed=settings["seed"],
            identity=identity,
            wandb=dict(wandb) if wandb else None,
        )
    if rank() == 0:
        cost = f"Trained in {report.seconds:.0f} s, {report.seconds_per_iteration:.2g} s per iteration"
        verb = "Reused training" if report.reused else cost
        figures = ", ".join(_figure(name, value) for name, value in sorted(report.figures.items()))
        say(f"{verb}: {directory}" + (f" (validation: {figures})" if figures else ""))
    load = functools.partial(_trained, settings, num_classes, report.checkpoint)
    return Network(load, hardware, identity | {"weights": report.weights_sha256}, label)
