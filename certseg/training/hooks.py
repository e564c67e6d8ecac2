"""Hooks of mmengine around the steps: seeds, averages, states to resume from, history, progress."""

from __future__ import annotations

import logging
import math
import random
import time

import numpy as np
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from certseg.compute.hardware import rank
from certseg.errors import CheckpointError, ModelError
from certseg.training.data import STEP, derive_seed
from certseg.training.store import TrainingFolder

log = logging.getLogger(__name__)
LOG_INTERVAL = 20


class SeedHook(Hook):
    """Reseeds torch, numpy and Python before every step from (seed, rank, iteration).

    Dropout, noise and inner attacks then depend on nothing that happened before the step, which makes a resumed
    training equal to an uninterrupted one without storing generator states.
    """

    priority = "HIGHEST"

    def __init__(self, seed: int):
        self._seed = seed

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Seed step ``runner.iter``."""
        seed = derive_seed(self._seed, STEP, rank(), runner.iter)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global generator, which third-party layers may use
        torch.manual_seed(seed)


class AverageHook(EMAHook):
    """Validates and ends with an exponential moving average of weights and floating point buffers.

    Args:
        decay: share of itself that the average keeps in every step; it starts at the weights after the first.
    """

    def __init__(self, decay: float):
        super().__init__(momentum=1.0 - decay, update_buffers=True)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The average and its number of steps."""
        return self.ema_model.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from an average that :meth:`state_dict` gave."""
        self.ema_model.load_state_dict(state)

    def after_train(self, runner: Runner) -> None:
        """Leave the average in the model."""
        self._swap_ema_parameters()


class StateHook(Hook):
    """Saves what is needed to resume, and puts it back.

    The state of iteration ``i`` is written when step ``i + 1`` begins, hence after a validation at ``i``, and never
    after the last step: a resumed training always ends with its last validation.

    Args:
        folder: the folder of the training, to which the state is written.
        segmenter: the module in training, whose weights are saved and put back.
        interval: iterations between states.
        state: what :meth:`TrainingFolder.read_state` returned: the state to resume from, or None.
        average: the hook that averages the weights, None where the last ones count.
    """

    priority = "VERY_HIGH"

    def __init__(
        self,
        folder: TrainingFolder,
        segmenter: nn.Module,
        interval: int,
        state: dict | None,
        average: AverageHook | None = None,
    ):
        self._folder, self._segmenter = folder, segmenter
        self._interval, self._state, self._average = interval, state, average
        self._begin = time.perf_counter()
        self.start = 0 if state is None else int(state["iteration"])
        self.resumed = 0 if state is None else int(state["resumed"]) + 1

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of this training, earlier runs up to their last state included."""
        earlier = 0.0 if self._state is None else float(self._state["seconds"])
        return earlier + time.perf_counter() - self._begin

    def restore(self, runner: Runner) -> None:
        """Put the state, if there is one, into the runner.

        Raises:
            CheckpointError: the state does not fit the model or optimiser.
        """
        if self._state is None:
            return
        try:
            self._segmenter.load_state_dict(self._state["segmenter"])
            runner.optim_wrapper.load_state_dict(self._state["optimiser"])
            for scheduler, saved in zip(runner.param_schedulers, self._state["schedulers"], strict=True):
                scheduler.load_state_dict(saved)
            if self._average is not None:
                self._average.load_state_dict(self._state["average"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{self._folder.state} does not fit the model ({str(error).splitlines()[0]})",
                remedy="Delete it to train from the start",
            ) from error
        runner.train_loop._iter = self.start

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Save at the interval, except where this run began."""
        if rank() == 0 and runner.iter > self.start and runner.iter % self._interval == 0:
            self._folder.write_state(
                {
                    "iteration": runner.iter,
                    "seconds": self.seconds,
                    "resumed": self.resumed,
                    "segmenter": self._segmenter.state_dict(),
                    "optimiser": runner.optim_wrapper.state_dict(),
                    "schedulers": [scheduler.state_dict() for scheduler in runner.param_schedulers],
                    **({} if self._average is None else {"average": self._average.state_dict()}),
                }
            )


class HistoryHook(Hook):
    """Writes learning rate, losses and validation figures to the history; stops on a loss that is not finite."""

    priority = "BELOW_NORMAL"  # before the learning rate moves on

    def __init__(self, folder: TrainingFolder):
        self._folder = folder
        self.figures: dict[str, float] = {}

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None, outputs: dict) -> None:
        """Check every step, record every twentieth and the last.

        Raises:
            ModelError: the loss is NaN or infinite.
        """
        iteration = runner.iter + 1
        losses = {name: float(value.detach()) for name, value in outputs.items()}
        if not math.isfinite(losses["loss"]):
            raise ModelError(
                f"The training loss is {losses['loss']} at iteration {iteration}",
                remedy="Lower training.lr, set training.clip, or train with training.precision=float32",
            )
        if rank() == 0 and (iteration % LOG_INTERVAL == 0 or iteration == runner.max_iters):
            lr = float(runner.optim_wrapper.get_lr()["lr"][0])
            self._folder.append_history({"iteration": iteration, "lr": lr, **losses})

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Record the figures of a validation; NaN (no labelled pixels) becomes null."""
        self.figures = {name: float(value) for name, value in metrics.items()}
        if rank() == 0:
            figures = {name: value if math.isfinite(value) else None for name, value in self.figures.items()}
            self._folder.append_history({"iteration": runner.iter, "validation": figures})


class ProgressHook(Hook):
    """One line with the time left: a bar on a terminal, else a log record at every tenth of the training."""

    priority = "VERY_LOW"

    def __init__(self, name: str, total: int, start: int):
        self._name, self._total, self._start = name, total, start
        self._begin = time.perf_counter()
        self._bar: Progress | None = None
        console = Console(stderr=True)
        if rank() == 0 and console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console)
            self._task = self._bar.add_task(f"training {name}", total=total, completed=start)
            self._bar.start()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None, outputs: dict) -> None:
        """Move on by one step."""
        iteration, loss = runner.iter + 1, float(outputs["loss"].detach())
        if self._bar is not None:
            text = f"training {self._name}, loss {loss:.3f}"
            self._bar.update(self._task, completed=iteration, description=text)
        elif rank() == 0 and iteration % max(1, self._total // 10) == 0:
            speed = (time.perf_counter() - self._begin) / (iteration - self._start)
            left = speed * (self._total - iteration)
            log.info("training %s: %d/%d, loss %.3f, %s left", self._name, iteration, self._total, loss, _clock(left))

    def close(self) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
