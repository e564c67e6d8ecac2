"""Experiment trackers: one that keeps nothing, and one that sends a run to Weights & Biases.

wandb is imported here alone (mmengine does so for a training's curves), and only once a run is checked or started.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from certseg.checks import check_choice, check_text
from certseg.errors import ConfigError, ResultError, tracking_failed
from certseg.reporting.entries import Entry, labels, threat_text
from certseg.reporting.storage import plain

Mode = Literal["offline", "online", "disabled"]
MODES: tuple[Mode, ...] = get_args(Mode)
_START_SECONDS = 30
_LOGIN_SECONDS = 15  # how long a terminal may ask for a key


class Tracker(Protocol):
    """Where a run's configuration and results are sent besides the disk.

    ``project`` is None for no tracking.
    """

    project: str | None
    mode: str

    def check(self) -> None:
        """Raise ResultError, before anything is computed, if :meth:`start` could not succeed for want of a login."""

    def training_options(self) -> dict[str, Any] | None:
        """What the curves of a training are tracked with, for ``wandb.init``; None for no tracking."""

    def start(self, config: Mapping[str, Any]) -> None:
        """Begin a run with its resolved configuration."""

    def log_summaries(self, entries: Sequence[Entry]) -> None:
        """Send all figures of finished entries."""

    def log_table(self, rows: Iterable[Mapping[str, Any]], name: str = "rows") -> None:
        """Send rows, one line per image."""

    def log_images(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        """Send pictures."""

    def log_artifact(self, directory: str | os.PathLike[str]) -> None:
        """Send a result directory."""

    def finish(self) -> None:
        """End the run."""


class NoTracking:
    """Tracks nothing."""

    project: str | None = None
    mode = "disabled"

    def check(self) -> None:
        """Do nothing."""

    def training_options(self) -> dict[str, Any] | None:
        """None."""
        return None

    def start(self, config: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log_summaries(self, entries: Sequence[Entry]) -> None:
        """Do nothing."""

    def log_table(self, rows: Iterable[Mapping[str, Any]], name: str = "rows") -> None:
        """Do nothing."""

    def log_images(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        """Do nothing."""

    def log_artifact(self, directory: str | os.PathLike[str]) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


class WandbTracking:
    """Sends a run to Weights & Biases.

    ``offline``, the default, needs neither account nor network: the run lies below ``<directory>/wandb`` and
    ``wandb sync`` uploads it later. ``online`` needs an API key, from ``wandb login`` or ``WANDB_API_KEY``;
    ``disabled`` runs the same calls and keeps nothing.

    Args:
        project: the project's name.
        mode: ``offline``, ``online`` or ``disabled``.
        entity: user or team; None for the account's default.
        name: the run's name; None for one chosen by wandb.
        directory: where wandb keeps its files; created if missing.
        group: what a command's two runs, of type ``training`` and ``results``, are found together by; None for
            ``WANDB_RUN_GROUP`` or else a new one.

    Raises:
        ConfigError: ``mode`` is unknown, ``project`` empty, or another name not a text.
    """

    def __init__(
        self,
        project: str,
        mode: Mode = "offline",
        entity: str | None = None,
        name: str | None = None,
        directory: str | os.PathLike[str] = "outputs",
        group: str | None = None,
    ):
        check_choice("tracking.mode", mode, MODES)
        check_text("tracking.project", project, "the name of a W&B project")
        for option, value in (("entity", entity), ("name", name), ("group", group)):
            check_text(f"tracking.{option}", value, "a name", optional=True)
        self.project, self.mode, self.entity, self.name = project, mode, entity, name
        made_up = f"{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
        self.group = group or os.environ.get("WANDB_RUN_GROUP") or made_up
        self.directory = Path(directory)
        self._run: Any = None

    def check(self) -> None:
        """Log in, which only ``online`` needs.

        Raises:
            ResultError: there is no API key (at a terminal wandb asks for one and waits some seconds) or no network.
        """
        if self.mode != "online":
            return
        import wandb

        with _starting():
            if not wandb.login(timeout=_LOGIN_SECONDS):
                raise ConfigError("There is no API key")

    def training_options(self) -> dict[str, Any] | None:
        """``project``, ``mode``, ``entity`` and ``group`` for ``wandb.init``."""
        return {"project": self.project, "mode": self.mode, "entity": self.entity, "group": self.group}

    def start(self, config: Mapping[str, Any]) -> None:
        """Begin a run with its resolved configuration.

        Raises:
            ResultError: wandb could not start within about half a minute, or as :meth:`check`.
        """
        self.check()
        import wandb

        with _starting():
            self.directory.mkdir(parents=True, exist_ok=True)
            settings = wandb.Settings(silent=True, console="off", init_timeout=_START_SECONDS, disable_git=True)
            self._run = wandb.init(
                project=self.project,
                entity=self.entity,
                group=self.group,
                name=self.name,
                job_type="results",
                mode=self.mode,
                dir=self.directory,
                config=plain(config),
                settings=settings,
                reinit="create_new",
            )

    def log_summaries(self, entries: Sequence[Entry]) -> None:
        """Put all figures, seconds and passes into the run's summary, under label and threat of their entry."""
        for entry, label in zip(entries, labels(entries)):
            place = " ".join(text for text in (label, threat_text(entry.threat)) if text)
            for part in ("figures", "seconds", "passes"):
                values = plain(entry.summary.get(part) or {})
                self._started.summary.update({f"{place}/{part}/{name}": value for name, value in values.items()})

    def log_table(self, rows: Iterable[Mapping[str, Any]], name: str = "rows") -> None:
        """Log one table with a line per image: its figures, seconds and flags."""
        run = self._started
        import wandb

        flat = [
            {"image": row["image"]}
            | plain(row.get("figures") or {})
            | {f"seconds/{part}": value for part, value in plain(row.get("seconds") or {}).items()}
            | {"flags": ", ".join(row.get("flags") or ())}
            for row in rows
        ]
        columns = list(dict.fromkeys(key for row in flat for key in row))
        data = [[row.get(column) for column in columns] for row in flat]
        run.log({name: wandb.Table(columns=columns, data=data)})

    def log_images(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        """Log picture files, captioned with their names."""
        run = self._started
        import wandb

        pictures = [wandb.Image(os.fspath(path), caption=Path(path).stem) for path in paths]
        if pictures:
            run.log({"pictures": pictures})

    def log_artifact(self, directory: str | os.PathLike[str]) -> None:
        """Store a result directory as an artifact of type ``results``."""
        run = self._started
        import wandb

        artifact = wandb.Artifact(re.sub(r"[^A-Za-z0-9._-]", "-", Path(directory).name), type="results")
        for path in sorted(Path(directory).rglob("*")):  # add_dir does the same but prints
            if path.is_file():
                artifact.add_file(os.fspath(path), name=path.relative_to(directory).as_posix())
        run.log_artifact(artifact)

    def finish(self) -> None:
        """End the run and write what is left; does nothing for a run that was not started."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    @property
    def _started(self) -> Any:
        if self._run is None:
            raise ResultError("The W&B run was not started or is finished", remedy="Call start(config) first")
        return self._run


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise tracking_failed(error) from error
