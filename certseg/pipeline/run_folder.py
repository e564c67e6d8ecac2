"""A folder of its own for every run and sweep, also for those that begin in the same second."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, flag_override


class OwnFolder(Callback):
    """Hydra callback: makes the folder of a run, or of a sweep, before anything is written into it.

    Where there is such a folder already, of another run or of this command before, the next free of ``<folder>-2``,
    ``<folder>-3`` and so on is made and used, so that no run writes over another's report.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the folder of a single run. Under torchrun rank 0, which alone reports, makes it."""
        if int(os.environ.get("RANK", 0)) == 0:
            _make(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the folder of a sweep, in which each job has its own."""
        _make(config, "hydra.sweep.dir")


def _make(config: DictConfig, setting: str) -> None:
    try:
        own = str(made(Path(OmegaConf.select(config, setting))))
    except OSError:  # Hydra, which goes on after errors of callbacks, makes the folder next and fails alike
        return
    with flag_override(config, ["readonly", "struct"], False):
        OmegaConf.update(config, setting, own)
        quoted = own.replace("\\", "\\\\").replace("'", "\\'")
        config.hydra.overrides.hydra.append(f"{setting}='{quoted}'")  # from which the jobs of a sweep are composed


def made(folder: Path) -> Path:
    """A new folder: ``folder``, or the first free of ``<folder>-2``, ``<folder>-3``, ...; of several processes that ask
    for one at once, each gets another.

    Raises:
        OSError: no folder can be made there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        own = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            own.mkdir()
        except FileExistsError:
            continue
        return own
    raise AssertionError("unreachable: numbers do not end")
