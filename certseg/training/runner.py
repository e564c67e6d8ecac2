"""mmengine's runner, set up from a recipe and kept to one folder, one log file and safe checkpoints."""

from __future__ import annotations

import logging
import uuid
from typing import Any

import torch.multiprocessing as mp
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import LinearLR, PolyLR
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from certseg.compute.hardware import Hardware, rank, world_size
from certseg.errors import tracking_failed
from certseg.models import freeze_backbone
from certseg.training.data import DrawSampler, TrainingImages, ValidationImages, collate
from certseg.training.hooks import LOG_INTERVAL, AverageHook, HistoryHook, ProgressHook, SeedHook, StateHook
from certseg.training.recipe import Recipe
from certseg.training.store import TrainingFolder
from certseg.training.training_model import TrainingModel, ViewMetric
from certseg.types import SegmentationDataset

WARMUP_START = 0.01
_TRACKING_SECONDS = 30  # how long W&B may take to start, or a terminal may ask for its key


class FolderRunner(Runner):
    """mmengine's runner without its own files, console output, device choice and pickled checkpoints."""

    def __init__(self, *, folder: TrainingFolder, hardware: Hardware, state: StateHook, **kwargs: Any):
        self._folder, self._hardware, self._state = folder, hardware, state
        super().__init__(default_scope=None, **kwargs)

    def build_logger(self, log_level: str = "INFO", log_file: str | None = None, **kwargs: Any) -> MMLogger:
        """A logger that writes to the training's ``train.log`` and not to the console."""
        logger = super().build_logger(log_level=log_level, log_file=str(self._folder.log), **kwargs)
        logger.handlers = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
        return logger

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Put the model on this rank's device; under torchrun, average gradients over the ranks."""
        device = self._hardware.torch_device
        model = model.to(device)
        if world_size() == 1:
            return model
        ids = [device] if device.type == "cuda" else None
        # static_graph: parameters that no loss reaches (unused stages of a backbone) must not stall the reduction
        return MMDistributedDataParallel(module=model, device_ids=ids, broadcast_buffers=False, static_graph=True)

    def load_or_resume(self) -> None:
        """Resume from our own state file; mmengine would fall back to unpickling."""
        self._state.restore(self)
        self._has_loaded = True

    def dump_config(self) -> None:
        """Nothing to write: the pipeline stores the configuration."""

    def _log_env(self, env_cfg: dict) -> None:
        """Nothing to write: results carry their versions; collecting them here takes seconds."""

    def close(self) -> None:
        """Close the log file."""
        for handler in self.logger.handlers:
            handler.close()
        self.logger.handlers = []


def run(
    segmenter: nn.Module,
    train_set: SegmentationDataset,
    val_set: SegmentationDataset | None,
    recipe: Recipe,
    folder: TrainingFolder,
    *,
    hardware: Hardware,
    seed: int,
    state: dict | None,
    wandb: dict | None,
) -> tuple[StateHook, dict[str, float]]:
    """Train to the end of the recipe.

    Args:
        segmenter: the module to train in place, prepared by the objective and on its device.
        train_set: labelled images to learn from, of as many classes as the segmenter has.
        val_set: labelled images to validate on, or None for no validation.
        recipe: objective, schedule and augmentation.
        folder: this training's own folder, locked by the caller.
        hardware: device, number of loading processes and memory order.
        seed: integer >= 0, of which all randomness comes.
        state: the state to resume from, as :meth:`TrainingFolder.read_state` returns it; None to start.
        wandb: arguments of ``wandb.init``, or None for no tracking.

    Returns:
        the hook that knows seconds and resumes, and the last validation's figures (empty without validation).

    Raises:
        ResultError: W&B does not start.
    """
    amp = recipe.precision == "float16"
    autocast = recipe.precision if recipe.precision == "bfloat16" else None
    frozen = freeze_backbone(segmenter) if recipe.freeze_backbone else ()
    model = TrainingModel(segmenter, recipe.objective, seed, autocast, hardware.channels_last, frozen)
    num_classes = len(train_set.class_names)
    loader = _training_loader(train_set, recipe, seed, num_classes, hardware.workers)
    average = None if recipe.ema is None else AverageHook(recipe.ema)
    keeper = StateHook(folder, segmenter, recipe.checkpoint_interval, state, average)
    history = HistoryHook(folder)
    progress = ProgressHook(recipe.name, recipe.iterations, keeper.start)
    runner = None
    try:
        with folder.scratch() as scratch:
            runner = FolderRunner(
                folder=folder,
                hardware=hardware,
                state=keeper,
                model=model,
                work_dir=str(scratch),
                train_dataloader=loader,
                train_cfg={
                    "by_epoch": False,
                    "max_iters": recipe.iterations,
                    "val_interval": recipe.validation_interval,
                },
                optim_wrapper=_optim_wrapper(recipe, amp),
                param_scheduler=_schedule(recipe),
                default_hooks={
                    "checkpoint": None,
                    "sampler_seed": None,
                    "logger": {"type": "LoggerHook", "interval": LOG_INTERVAL, "log_metric_by_epoch": False},
                },
                custom_hooks=[SeedHook(seed), keeper, history, progress, *([average] if average else [])],
                launcher="pytorch" if world_size() > 1 else "none",
                env_cfg={"mp_cfg": {"mp_start_method": mp.get_start_method()}},
                log_processor={"by_epoch": False},
                visualizer=_visualizer(recipe, folder, wandb),
                randomness={"seed": seed},
                experiment_name=f"{recipe.name}-{uuid.uuid4().hex}",
                **_validation(val_set, recipe, num_classes, hardware.workers),
            )
            _start_tracking(runner)
            if keeper.start:
                runner.logger.info("resumed at iteration %d", keeper.start)
            runner.train()
    finally:
        progress.close()
        if runner is not None:
            runner.close()
    return keeper, history.figures


def _training_loader(
    train_set: SegmentationDataset, recipe: Recipe, seed: int, num_classes: int, workers: int
) -> DataLoader:
    images = TrainingImages(train_set, recipe, seed, num_classes)
    if workers:
        images.fill()
    sampler = DrawSampler(len(images), recipe.batch_size, recipe.iterations, seed, rank(), world_size())
    return DataLoader(
        images, recipe.batch_size // world_size(), sampler=sampler, num_workers=workers, collate_fn=collate
    )


def _validation(val_set: SegmentationDataset | None, recipe: Recipe, num_classes: int, workers: int) -> dict:
    if val_set is None or recipe.validations == 0:
        return {}
    images = ValidationImages(val_set, recipe.val_images, num_classes)
    # one image at a time: validation images may differ in size; rank r takes every world_size-th
    share = range(rank(), len(images), world_size())
    loader = DataLoader(images, batch_size=1, sampler=share, num_workers=workers, collate_fn=collate)
    return {"val_dataloader": loader, "val_cfg": {}, "val_evaluator": [ViewMetric()]}


def _optim_wrapper(recipe: Recipe, amp: bool) -> dict:
    return {
        "type": "AmpOptimWrapper" if amp else "OptimWrapper",
        **({"dtype": "float16"} if amp else {}),
        "optimizer": {"type": "AdamW", "lr": recipe.lr, "weight_decay": recipe.weight_decay},
        "clip_grad": None if recipe.clip is None else {"max_norm": recipe.clip},
    }


def _schedule(recipe: Recipe) -> list[dict]:
    """Linear warm-up, then polynomial decay to zero one step after the last."""
    warmup, end = recipe.warmup_iterations, recipe.iterations + 1
    schedule = []
    if warmup > 1:
        schedule.append({"type": LinearLR, "start_factor": WARMUP_START, "begin": 0, "end": warmup})
    else:
        warmup = 0
    if end - warmup > 1:
        schedule.append({"type": PolyLR, "power": recipe.power, "begin": warmup, "end": end})
    return [{**entry, "by_epoch": False} for entry in schedule]


def _visualizer(recipe: Recipe, folder: TrainingFolder, wandb: dict | None) -> dict:
    backends = []
    if wandb is not None:
        quiet = {"silent": True, "init_timeout": _TRACKING_SECONDS, "login_timeout": _TRACKING_SECONDS}
        place = {"mode": "offline", "dir": str(folder.directory), "job_type": "training"}
        settings = {"config": recipe.settings(), "settings": quiet, **place, **wandb}
        backends.append({"type": "WandbVisBackend", "init_kwargs": settings})
    return {"type": "Visualizer", "vis_backends": backends}


def _start_tracking(runner: FolderRunner) -> None:
    """Begin the W&B run before the first step; mmengine would at the first log line."""
    backend = runner.visualizer.get_backend("WandbVisBackend")
    if backend is None or rank() != 0:
        return
    try:
        _ = backend.experiment
    except Exception as error:
        raise tracking_failed(error) from error
