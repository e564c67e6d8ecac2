"""The network of a run: loaded from a checkpoint, or trained once and found again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from certseg.errors import ConfigError
from certseg.hardware import Hardware, rank
from certseg.models import load_checkpoint
from certseg.pipeline.console import say
from certseg.pipeline.keys import checkpoint_identity, key, training_identity
from certseg.pipeline.settings import build
from certseg.training import finished, train
from certseg.types import SegmentationDataset


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
    options = {k: v for k, v in settings["dataset"].items() if k not in ("limit", "train_split", "val_split")}
    if split is not None:
        options["split"] = settings["dataset"][f"{split}_split"]
    return build("dataset", options)


def build_segmenter(settings: Mapping[str, Any], num_classes: int) -> nn.Module:
    """The architecture of the run with fresh weights."""
    options = {k: v for k, v in settings["model"].items() if k not in ("checkpoint", "trust_checkpoint")}
    return build("model", options, num_classes=num_classes)


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
        CheckpointError: ``model.checkpoint`` cannot be read or does not fit.
        ConfigError: there is neither a checkpoint nor a training split.
    """
    model = settings["model"]
    hardware.setup(settings["seed"])

    def loaded(path: Path, trust: bool) -> nn.Module:
        segmenter = build_segmenter(settings, num_classes)
        load_checkpoint(segmenter, path, trust=trust)
        return segmenter

    if model["checkpoint"]:
        path = Path(model["checkpoint"])
        identity = checkpoint_identity(settings, path)
        load = functools.partial(loaded, path, model["trust_checkpoint"])
        return Network(load, hardware, identity, f"{model['name']}-checkpoint")
    if settings["dataset"]["train_split"] is None:
        raise ConfigError("There is nothing to train on", remedy="Give model.checkpoint=... or dataset.train_split=...")
    train_set = build_dataset(settings, "train")
    identity = training_identity(settings, train_set.fingerprint())
    label = f"{model['name']}-{settings['training']['name']}"
    directory = folder / label / f"train-{key(identity)}"
    report = finished(directory, identity)
    if report is None:
        val_set = build_dataset(settings, "val") if settings["dataset"]["val_split"] is not None else None
        recipe = build("training", settings["training"])
        segmenter = build_segmenter(settings, num_classes).to(hardware.torch_device)
        report = train(
            segmenter, train_set, val_set, recipe, directory,
            hardware=hardware, seed=settings["seed"], identity=identity, wandb=dict(wandb) if wandb else None,
        )  # fmt: skip
    if rank() == 0:
        verb = "Reused training" if report.reused else f"Trained in {report.seconds:.0f} s"
        figures = ", ".join(f"{name} {100 * value:.1f} %" for name, value in sorted(report.figures.items()))
        say(f"{verb}: {directory}" + (f" (validation: {figures})" if figures else ""))
    load = functools.partial(loaded, report.checkpoint, False)
    return Network(load, hardware, identity | {"weights": report.weights_sha256}, label)
