"""The report of a multirun: one table over the results of all its jobs, and the jobs that failed."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

if TYPE_CHECKING:
    from certseg.reporting import Entry


class SweepReport(Callback):
    """Hydra callback: after the last job, one report over the results all jobs left in their folders.

    It reads files only, so it works with every launcher. Jobs that failed are named, and the process exits with the
    largest of their statuses.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write ``report.md`` into the sweep's folder and print the table."""
        from certseg.pipeline.console import say
        from certseg.pipeline.main import FAILURE_FILE
        from certseg.pipeline.tasks.evaluate import RESULT_FILE
        from certseg.reporting import console_summary, read_json, write_report

        folder = Path(config.hydra.sweep.dir)
        results = [read_json(path) for path in sorted(folder.glob(f"*/{RESULT_FILE}"), key=_job_number)]
        failures = [read_json(path) for path in sorted(folder.glob(f"*/{FAILURE_FILE}"), key=_job_number)]
        if results:
            ordered = _entries(results)
            command = shlex.join(["certseg", "-m", *config.hydra.overrides.task])
            context = {"failed": {" ".join(job["overrides"]): job["error"] for job in failures}} if failures else {}
            title = f"Sweep of {len(results) + len(failures)} runs"
            report = write_report(
                folder, title=title, command=command, entries=ordered, expected=config.expected, context=context
            )
            say("")
            console_summary(ordered, report=report)
        for job in failures:
            say(f"failed: {' '.join(job['overrides'])}: {job['error']}")
        if failures:
            sys.exit(max(job["status"] for job in failures))


def _entries(results: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """The entries of all jobs, predictions first; what jobs share is listed once."""
    from certseg.reporting import Entry

    entries: dict[tuple[str, str, str], Entry] = {}
    models = _model_labels(results)
    for result, model in zip(results, models, strict=True):
        for part in result["entries"]:
            entry = Entry(part["summary"], model=model, directory=Path(part["directory"]))
            shown = {name: part["summary"].get(name) for name in ("images", "figures")}
            entries.setdefault((part["directory"], entry.kind, json.dumps(shown, sort_keys=True)), entry)
    return sorted(entries.values(), key=lambda entry: entry.kind != "prediction")


def _model_labels(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The label of each job's model on its data, with the overrides that tell it from others of the same label."""
    subjects: dict[str, dict[str, set[str]]] = {}
    for result in results:
        own: set[str] = {o for o in result["overrides"] if not o.lstrip("+~").startswith(("certifier", "attack"))}
        kept = subjects.setdefault(result["label"], {})
        kept[_subject(result)] = kept.get(_subject(result), own) & own
    labels = []
    for result in results:
        peers = subjects[result["label"]]
        shared = set[str].intersection(*peers.values())
        telling = sorted(peers[_subject(result)] - shared)
        labels.append(", ".join([result["label"], *telling]))
    return labels


def _subject(result: Mapping[str, Any]) -> str:
    return str(result["entries"][0]["summary"].get("subject"))


def _job_number(path: Path) -> tuple[int, str]:
    name = path.parent.name
    return (int(name) if name.isdigit() else 0, name)
