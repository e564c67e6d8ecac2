"""One table over all jobs of a multirun."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SweepReport(Callback):
    """Hydra callback: after the last job, one report over the results all jobs left in their folders.

    It reads files only, so it works with every launcher. A job that failed has left no
    result and is missing from the table.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write ``report.md`` into the sweep's folder and print the table."""
        from certseg.pipeline.console import say
        from certseg.pipeline.main import RESULT_FILE
        from certseg.reporting import Entry, console_summary, read_json, write_report

        folder = Path(config.hydra.sweep.dir)
        results = [read_json(path) for path in sorted(folder.glob(f"*/{RESULT_FILE}"), key=_job_number)]
        if not results:
            return
        entries = {}
        for result in results:
            for part in result["entries"]:  # jobs that share a model share its clean prediction
                entry = Entry(part["summary"], model=result["label"], directory=Path(part["directory"]))
                entries.setdefault((part["directory"], entry.kind), entry)
        ordered = sorted(entries.values(), key=lambda entry: entry.kind != "prediction")
        command = shlex.join(["python", "run.py", "-m", *config.hydra.overrides.task])
        report = write_report(folder, title=f"Sweep of {len(results)} runs", command=command, entries=ordered)
        say("")
        console_summary(ordered, report=report)


def _job_number(path: Path) -> tuple[int, str]:
    name = path.parent.name
    return (int(name) if name.isdigit() else 0, name)
