"""Train once: :func:`train` reuses a finished training, resumes an interrupted one, or starts a new one."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch.distributed as dist
from torch import nn

from certseg.compute.hardware import Hardware, barrier, checked_seed, rank, world_size
from certseg.errors import ConfigError, ResultError
from certseg.models import backbone_of, load_checkpoint, save_checkpoint
from certseg.models.mmseg_library import quiet_import
from certseg.training.recipe import Recipe
from certseg.training.store import TrainingFolder
from certseg.types import SegmentationDataset, segmenter_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingReport:
    """What a training cost and reached.

    Args:
        checkpoint: the weights, readable with :func:`certseg.models.load_checkpoint`.
        iterations: optimiser steps taken in all.
        seconds: wall-clock seconds of the training, validation included, interrupted runs up to their last state.
        weights_sha256: hex digest of the file ``checkpoint``, the same as when the training ended.
        figures: ``<view>/pixel_accuracy/pooled`` and ``<view>/miou/pooled`` of the last validation, shares in [0, 1];
            views are ``clean`` and, for a noise training, ``noise``. Empty without validation.
        resumed: how many times the training was resumed.
        reused: whether it was already finished when called.
    """

    checkpoint: Path
    iterations: int
    seconds: float
    weights_sha256: str
    figures: dict[str, float] = field(default_factory=dict)
    resumed: int = 0
    reused: bool = False

    @property
    def seconds_per_iteration(self) -> float:
        """Wall-clock seconds of a step, its share of the validations included: what an objective costs."""
        return self.seconds / self.iterations


def train(
    segmenter: nn.Module,
    train_set: SegmentationDataset,
    val_set: SegmentationDataset | None,
    recipe: Recipe,
    directory: str | os.PathLike,
    *,
    hardware: Hardware,
    seed: int,
    identity: dict,
    wandb: dict | None = None,
) -> TrainingReport:
    """Train ``segmenter`` in place, or load what an equal training left in ``directory``.

    The folder then holds ``model.pt``, ``train.log``, ``history.jsonl`` and, written last, ``finished.json``.
    A training killed at any moment continues from its last state and ends with the weights of an uninterrupted one
    (on the same kind of device and number of processes). A second run on the same folder waits and reuses.
    Under torchrun, every rank calls this with its process group up (``hardware.setup``) and takes an equal share of
    ``recipe.batch_size``. Batch statistics are each rank's own unless the model uses SyncBN.

    Args:
        segmenter: a module with ``num_classes``, ``loss(images, labels)`` and ``forward(images)``; an objective that
            needs less or more of it says so.
        train_set: labelled images to learn from.
        val_set: labelled images to validate on, or None.
        recipe: objective, schedule and augmentation.
        directory: this training's own folder, created if missing.
        hardware: device, number of loading processes and memory order.
        seed: integer >= 0; with recipe, data and initial weights it determines the result.
        identity: JSON values that say which training this is (a different one in the folder is an error).
        wandb: arguments of ``wandb.init`` such as ``project``, ``mode`` (default offline), ``entity`` and ``group``;
            None for no tracking.

    Raises:
        ConfigError, ModelError: recipe, data set, model and hardware do not go together.
        ResultError: the folder belongs to another training or cannot be written, or W&B does not start.
        CheckpointError: a stored state or model cannot be read, or the model is another than the training left.
        DataError: images or labels are unusable.
        ModelError: the loss is not finite.
    """
    _check(segmenter, train_set, recipe, hardware, seed)
    folder = TrainingFolder(directory, identity)
    with folder.locked():
        marker = folder.read_finished()
        if marker is None:
            _train(segmenter, train_set, val_set, recipe, folder, hardware, seed, wandb)
        barrier()
        load_checkpoint(segmenter, folder.model)  # under torchrun this gives all ranks the buffers of rank 0
        hardware.place(segmenter)
        done = marker or folder.read_finished()
        barrier()
    if done is None:
        raise ResultError(f"{folder.finished} is gone", remedy="Check who else writes into the folder, and train again")
    if marker is not None and rank() == 0:
        log.info("reusing the finished training in %s", folder.directory)
    return _report(folder, done, reused=marker is not None)


def finished(directory: str | os.PathLike, identity: dict) -> TrainingReport | None:
    """The report of a training that is finished, None where it is not.

    It needs no network, so a run that has nothing left to compute answers at once.

    Args:
        directory: the training's own folder, as given to :func:`train`.
        identity: JSON values that say which training this is (a different one in the folder is an error).

    Raises:
        ConfigError: ``identity`` is not made of JSON values.
        ResultError: the folder belongs to another training or cannot be read.
        CheckpointError: the stored model is missing, or another than the training left.
    """
    if not Path(directory).is_dir():
        return None
    folder = TrainingFolder(directory, identity)
    with folder.locked():
        marker = folder.read_finished()
    return None if marker is None else _report(folder, marker, reused=True)


def _report(folder: TrainingFolder, marker: dict, *, reused: bool) -> TrainingReport:
    figures = {name: float("nan") if value is None else value for name, value in marker["figures"].items()}
    numbers = {name: marker[name] for name in ("iterations", "seconds", "resumed")}
    return TrainingReport(
        checkpoint=folder.model, figures=figures, weights_sha256=marker["weights"], reused=reused, **numbers
    )


def _train(
    segmenter: nn.Module,
    train_set: SegmentationDataset,
    val_set: SegmentationDataset | None,
    recipe: Recipe,
    folder: TrainingFolder,
    hardware: Hardware,
    seed: int,
    wandb: dict | None,
) -> None:
    with quiet_import():
        from certseg.training import runner
    state = folder.read_state()
    if rank() == 0:
        folder.cut_history(0 if state is None else int(state["iteration"]))
        if state is not None:
            log.info("resuming %s at iteration %d", folder.directory, state["iteration"])
    recipe.objective.prepare(segmenter)
    segmenter = hardware.place(segmenter)
    keeper, figures = runner.run(
        segmenter, train_set, val_set, recipe, folder, hardware=hardware, seed=seed, state=state, wandb=wandb
    )
    if rank() == 0:
        numbers = {name: value if value == value else None for name, value in figures.items()}
        result = {"iterations": recipe.iterations, "figures": numbers}
        meta = {"classes": list(train_set.class_names), "identity": folder.identity, "recipe": recipe.name, **result}
        save_checkpoint(folder.model, segmenter, meta)
        folder.write_finished({**result, "seconds": keeper.seconds, "resumed": keeper.resumed})


def _check(segmenter: nn.Module, train_set: SegmentationDataset, recipe: Recipe, hardware: Hardware, seed: int) -> None:
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1 and not dist.is_initialized():
        raise ConfigError(
            f"torchrun started {processes} processes, which do not know each other yet",
            remedy="Call hardware.setup(seed) before training",
        )
    checked_seed(seed)
    if segmenter_of(segmenter).num_classes != len(train_set.class_names):
        raise ConfigError(
            "The model and the training set have different numbers of classes",
            expected=f"{len(train_set.class_names)} classes ({train_set.name})",
            received=f"{segmenter_of(segmenter).num_classes} (the model)",
            remedy="Build the model with the data set's number of classes",
        )
    if recipe.freeze_backbone:
        backbone_of(segmenter)  # or an error
    if recipe.precision == "float16" and hardware.torch_device.type == "cpu":
        raise ConfigError("training.precision=float16 needs a GPU", remedy="Use bfloat16 or float32 on the CPU")
    if recipe.batch_size % world_size():
        raise ConfigError(
            "training.batch_size cannot be shared out evenly over the processes",
            expected=f"a multiple of {world_size()}",
            received=recipe.batch_size,
        )
