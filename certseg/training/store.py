"""The folder of one training: its lock, its finished marker, its state to resume from, its history.

``model.pt`` and ``finished.json`` stay; ``state.pt`` holds an unfinished training (plain types and tensors only) and is
removed at the end. Every file but the logs is replaced as a whole, so that a killed process leaves a readable one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch
import torch.distributed as dist

from certseg.compute.atomic import first_line, replacing, save_tensors
from certseg.compute.hardware import rank, world_size
from certseg.errors import CheckpointError, ConfigError, ResultError

log = logging.getLogger(__name__)
POLL_SECONDS = 1.0
_ANEW = "Delete the folder to train again"
STATE_KEYS = {"identity", "iteration", "seconds", "resumed", "segmenter", "optimiser", "schedulers"}


class TrainingFolder:
    """Paths and files of one training.

    Args:
        directory: the folder of the training, created if missing.
        identity: JSON values that say which training this is; a folder never holds two.

    Raises:
        ConfigError: ``identity`` is not made of JSON values.
        ResultError: the folder cannot be created.
    """

    def __init__(self, directory: str | os.PathLike, identity: dict):
        self.directory = Path(directory)
        try:
            self.identity = json.loads(json.dumps(identity, sort_keys=True))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"The identity of a training must be made of JSON values ({error})") from error
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResultError(f"Cannot create the training folder {directory} ({error})") from error
        self.model = self.directory / "model.pt"
        self.log = self.directory / "train.log"
        self.history = self.directory / "history.jsonl"
        self.finished = self.directory / "finished.json"
        self.state = self.directory / "state.pt"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against other runs; waits, saying so, while another run trains in it.

        Under torchrun rank 0 holds the lock for all ranks, which ask it in turns and so never time out.
        """
        with open(self.directory / ".lock", "w") as file:
            waiting = False
            while not self._acquired(file):
                if not waiting and rank() == 0:
                    log.info("Another run is training in %s; waiting for it to finish", self.directory)
                waiting = True
                time.sleep(POLL_SECONDS)
            yield

    def _acquired(self, file: IO[str]) -> bool:
        acquired = [True]
        if rank() == 0:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                acquired = [False]
        if world_size() > 1:
            dist.broadcast_object_list(acquired, src=0)
        return acquired[0]

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for what mmengine insists on creating; gone afterwards, at the latest after the next training."""
        path = self.directory / ".runner"
        path.mkdir(exist_ok=True)
        try:
            yield path
        finally:
            if rank() == 0:
                shutil.rmtree(path, ignore_errors=True)

    def read_finished(self) -> dict | None:
        """The finished marker, or None if the training is not finished; its ``weights`` is the sha256 of ``model.pt``.

        Raises:
            ResultError: the marker is unreadable or belongs to another training.
            CheckpointError: ``model.pt`` is missing or another than the training left.
        """
        if not self.finished.exists():
            return None
        try:
            marker = json.loads(self.finished.read_text())
        except (OSError, ValueError) as error:
            raise ResultError(f"{self.finished} is unreadable ({error})", remedy=_ANEW) from error
        self._check_identity(marker.get("identity"), self.finished)
        weights = self._weights_sha256()
        if marker.setdefault("weights", weights) != weights:  # markers of earlier versions have none
            raise CheckpointError(
                f"{self.model} is not the model that this training ended with",
                expected=f"sha256 {marker['weights']}",
                received=weights,
                remedy=_ANEW,
            )
        return marker

    def write_finished(self, marker: dict) -> None:
        """Write the finished marker with the sha256 of ``model.pt``, then drop the state."""
        marker = {"identity": self.identity, "weights": self._weights_sha256(), **marker}
        with self._writing(self.finished), replacing(self.finished) as file:
            file.write(json.dumps(marker, indent=2, sort_keys=True).encode() + b"\n")
        self.state.unlink(missing_ok=True)

    def _weights_sha256(self) -> str:
        try:
            with self.model.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(f"{self.model} cannot be read ({error.strerror})", remedy=_ANEW) from error

    def read_state(self) -> dict | None:
        """The state of an unfinished training, or None.

        Raises:
            CheckpointError: the file is damaged.
            ResultError: the state belongs to another training.
        """
        if not self.state.exists():
            return None
        remedy = f"Delete {self.state} to train from the start"
        try:
            state = torch.load(self.state, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged file provokes in the reader
            raise CheckpointError(f"{self.state} cannot be read ({first_line(error)})", remedy=remedy) from error
        if not isinstance(state, dict) or STATE_KEYS - state.keys():
            raise CheckpointError(f"{self.state} is not the state of a training", remedy=remedy)
        self._check_identity(state["identity"], self.state)
        return state

    def write_state(self, state: dict) -> None:
        """Replace the state to resume from; ``state`` holds plain types and tensors only."""
        with self._writing(self.state):
            save_tensors(self.state, {"identity": self.identity, **state})

    def append_history(self, entry: dict) -> None:
        """Add one line to the history."""
        with self._writing(self.history), self.history.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def cut_history(self, iteration: int) -> None:
        """Forget what a killed run wrote after the state it is resumed from."""
        kept = []
        if self.history.exists():
            for line in self.history.read_text().splitlines():
                with contextlib.suppress(ValueError):  # the last line of a killed run may be torn
                    if json.loads(line)["iteration"] <= iteration:
                        kept.append(line + "\n")
        with self._writing(self.history), replacing(self.history) as file:
            file.write("".join(kept).encode())

    def _check_identity(self, found: object, path: Path) -> None:
        if found == self.identity:
            return
        found = found if isinstance(found, dict) else {}
        different = sorted(k for k in {*found, *self.identity} if found.get(k) != self.identity.get(k))
        raise ResultError(
            f"{path} belongs to another training (different: {', '.join(different)})",
            expected={k: self.identity.get(k) for k in different},
            received={k: found.get(k) for k in different},
            remedy="Use another folder, or delete this one to train again",
        )

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """Turn what the disk refuses of ``path`` into an error for the user."""
        try:
            yield
        except OSError as error:
            raise ResultError(
                f"Cannot write {path} ({error})",
                remedy="Check the free space of the disk; the same command goes on from the last checkpoint kept",
            ) from error
