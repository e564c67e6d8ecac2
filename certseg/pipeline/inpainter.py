"""``training=inpainter``: trained once, found again, and its checkpoint named; such a run has no segmenter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from certseg.compute.hardware import Hardware, rank
from certseg.errors import ConfigError
from certseg.patches.inpainting import MaskedUNet
from certseg.pipeline.console import say
from certseg.pipeline.keys import inpainter_identity, key
from certseg.pipeline.settings import build
from certseg.pipeline.weights import build_dataset
from certseg.training import Recipe, TrainableInpainter, TrainingReport, finished, train


def trains_inpainter(settings: Mapping[str, Any]) -> bool:
    """Whether the run trains an inpainter in the place of a segmenter."""
    return bool(settings["training"].get("inpainter"))


def inpainter_parts(settings: Mapping[str, Any]) -> tuple[Recipe, MaskedUNet]:
    """The recipe and the untrained network of the settings. Errors as of :func:`certseg.pipeline.settings.build`."""
    recipe = build("training", {name: value for name, value in settings["training"].items() if name != "inpainter"})
    return recipe, build("training.inpainter", settings["training"]["inpainter"])


def train_inpainter(
    settings: Mapping[str, Any], hardware: Hardware, wandb: Mapping[str, Any] | None = None
) -> TrainingReport:
    """Train the inpainter of the settings, or find it trained, and say where it lies and how it is used.

    Args:
        settings: of the run.
        hardware: of the run.
        wandb: arguments of ``wandb.init`` for the training's curves, or None.

    Raises:
        ConfigError: there is no training split, or a setting is outside its domain.
        CertsegError: as :func:`certseg.training.train`.
    """
    hardware.setup(settings["seed"])
    recipe, network = inpainter_parts(settings)
    if settings["dataset"]["train_split"] is None:
        raise ConfigError("There is nothing to train on", remedy="Give dataset.train_split=...")
    train_set = build_dataset(settings, "train")
    identity = inpainter_identity(settings, train_set.fingerprint())
    directory = Path(settings["output"]) / train_set.name / recipe.name / f"train-{key(identity)}"
    report = finished(directory, identity)
    if report is None:
        val_set = build_dataset(settings, "val") if settings["dataset"]["val_split"] is not None else None
        trainable = TrainableInpainter(network, len(train_set.class_names)).to(hardware.torch_device)
        report = train(
            trainable,
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
        error = "".join(f", mean absolute error of hidden values {value:.4g}" for value in report.figures.values())
        say(f"{'Reused training' if report.reused else cost}{error}: {report.checkpoint}")
        say(f"Use it: certifier/inpainter=learned certifier.inpainter.checkpoint={report.checkpoint}")
    return report
