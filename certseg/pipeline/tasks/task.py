"""What every task of a run is given: what is to be done, where it is computed, and where results go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from certseg.compute.hardware import Hardware, rank
from certseg.pipeline.spec import RunSpec
from certseg.reporting import Tracker


@dataclass(frozen=True)
class Task:
    """A run with what every task needs.

    Args:
        spec: what is to be done.
        hardware: where it is computed.
        tracker: where results are sent besides the disk.
        directory: where the report goes; results themselves live below ``spec.output`` under their keys.
        overrides: what was changed on the command line, for the report.
    """

    spec: RunSpec
    hardware: Hardware
    tracker: Tracker
    directory: Path
    overrides: Sequence[str] = ()

    def check_tracking(self) -> None:
        """Raise ResultError, before anything is computed, if the tracker could not start."""
        if rank() == 0:
            self.tracker.check()
