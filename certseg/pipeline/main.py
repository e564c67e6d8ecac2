"""One run, from the configuration that Hydra composed to the report: settings become a spec, and its task is done."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from certseg.errors import CertsegError
from certseg.pipeline.console import explain
from certseg.pipeline.settings import build, parse
from certseg.pipeline.tasks import Task, perform
from certseg.reporting import write_json_atomic

FAILURE_FILE = "failed.json"


def run_job(cfg: DictConfig) -> None:
    """Run one Hydra job; what a user can mend becomes one line and exit status 2.

    A job of a sweep leaves its error in its folder for the sweep's report and lets the other jobs run.
    """
    hydra = HydraConfig.get()
    directory, overrides = Path(hydra.runtime.output_dir), list(hydra.overrides.task)
    is_sweep = hydra.mode == RunMode.MULTIRUN
    try:
        run(cfg, directory, overrides)
    except Exception as error:
        if not is_sweep and not isinstance(error, CertsegError):
            raise
        status = explain(error)
        if not is_sweep:
            sys.exit(status)
        message = " ".join(str(error).split()) or type(error).__name__
        write_json_atomic(directory / FAILURE_FILE, {"overrides": overrides, "error": message, "status": status})


def run(cfg: DictConfig, directory: Path, overrides: Sequence[str] = ()) -> Path | None:
    """Run the composed configuration and report into ``directory``.

    Args:
        cfg: the configuration that Hydra composed from ``configs/config.yaml`` and the command line.
        directory: where the report goes; results themselves live below ``cfg.output`` under their keys.
        overrides: what was changed on the command line, for the report.

    Returns:
        The report's path; None on ranks other than 0, where ``input`` names pictures instead of a data set, and where
        an inpainter is trained.

    Raises:
        CertsegError: anything a user can mend.
    """
    spec = parse(cfg)
    hardware = build("hardware", spec.hardware)
    tracker = build("tracking", spec.tracking)
    return perform(Task(spec, hardware, tracker, directory, overrides))
