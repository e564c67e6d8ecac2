"""One run: data set, network, stages, report."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from torch import nn

from certseg.bracket import Finished, check
from certseg.checks import check_count
from certseg.compute.hardware import Hardware, rank, world_size
from certseg.datasets import evenly_spaced
from certseg.errors import CertsegError
from certseg.evaluation import evaluate
from certseg.pipeline.console import explain, progress, say
from certseg.pipeline.deployment import deploy
from certseg.pipeline.inpainter import train_inpainter, trains_inpainter
from certseg.pipeline.keys import evaluation_identity, key
from certseg.pipeline.provenance import provenance
from certseg.pipeline.settings import build, resolve
from certseg.pipeline.stages import Job, Plan
from certseg.pipeline.weights import Network, build_dataset, obtain
from certseg.reporting import (
    Entry,
    Panel,
    RowStore,
    console_summary,
    group_palette,
    masked_picture,
    picture,
    read_json,
    safe_name,
    write_json_atomic,
    write_report,
)
from certseg.types import Guarantee, SegmentationDataset, Stage
from certseg.types.hierarchy import Hierarchy

RESULT_FILE = "result.json"
FAILURE_FILE = "failed.json"


@dataclass(frozen=True)
class Result:
    """A finished stage: what the report shows of it, and where its rows and maps lie."""

    entry: Entry
    store: RowStore
    stage: Stage

    @property
    def finished(self) -> Finished:
        """The stage as the bracket sees it."""
        return Finished(self.entry.summary, self.store, self.stage.guarantee, self.stage.attempt)


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
        cfg: of ``configs/config.yaml``.
        directory: where the report goes; results themselves live below ``cfg.output`` under their keys.
        overrides: what was changed on the command line, for the report.

    Returns:
        The report's path; None on ranks other than 0, where ``input`` names pictures instead of a data set, and where
        an inpainter is trained.

    Raises:
        CertsegError: anything a user can mend.
    """
    started = time.perf_counter()
    settings = resolve(cfg)
    check_count("pictures", settings["pictures"], 0)
    hardware = build("hardware", settings["hardware"])
    tracker = build("tracking", settings["tracking"])
    if trains_inpainter(settings):
        if rank() == 0:
            tracker.check()
        train_inpainter(settings, hardware, tracker.training_options())
        return None
    plan = Plan.of(settings)
    if rank() == 0:
        tracker.check()
    if settings["input"] is not None:
        deploy(settings, plan.certifier, hardware, directory / "pictures", tracker.training_options())
        return None
    whole = build_dataset(settings)
    dataset = evenly_spaced(whole, settings["dataset"]["limit"])
    plan.check(tuple(dataset[0].target.shape))
    folder = Path(settings["output"]) / whole.name
    network = obtain(settings, len(whole.class_names), hardware, folder, tracker.training_options())
    results = _evaluate(settings, plan, network, whole, dataset, hardware, folder)
    if rank() != 0:
        return None
    entries = _with_brackets(results, dataset.names())
    pictures = _draw(settings["pictures"], directory, results, dataset)
    seconds = time.perf_counter() - started
    context = provenance(hardware) | {"dataset": f"{whole.name} {whole.split}", "seconds": seconds}
    report = write_report(
        directory,
        title=f"{network.label} on {whole.name} ({whole.split})",
        command=_command(overrides),
        entries=entries,
        pictures=pictures,
        expected=settings["expected"],
        context=context,
    )
    _remember(directory, network.label, entries, overrides)
    console_summary(entries, report=report, seconds=seconds)
    _track(tracker, settings, results, dataset.names(), pictures)
    return report


def _evaluate(
    settings: Mapping[str, Any],
    plan: Plan,
    network: Network,
    whole: SegmentationDataset,
    dataset: SegmentationDataset,
    hardware: Hardware,
    folder: Path,
) -> list[Result]:
    results = []
    fingerprint = whole.fingerprint()
    subject = key({"network": network.identity, "data": fingerprint})

    def identity_of(stage: Mapping[str, Any], is_sampled: bool) -> dict[str, Any]:
        return evaluation_identity(settings, network.identity, fingerprint, stage, hardware if is_sampled else None)

    number = settings["pictures"]
    pictured = evenly_spaced(dataset, number).names() if number else ()
    samples = None
    if plan.samples_identity is not None:  # shared by every tau, alpha and correction
        identity = identity_of({"samples": plan.samples_identity}, True)
        samples = RowStore(folder / network.label / f"samples-{key(identity)}", identity=identity)

    def jobs(segmenter: nn.Module | None) -> list[Job]:
        return plan.jobs(segmenter, whole.class_names, hardware, samples, pictured)

    stores = []
    for job in jobs(None):
        identity = identity_of(job.identity, job.is_sampled)
        directory = folder / network.label / f"{job.stage.name}-{key(identity)}"
        stores.append(RowStore(directory, identity=identity))
    names = set(dataset.names())
    is_done = all(names <= store.read().keys() for store in stores)
    for job, store in zip(jobs(None if is_done else network.segmenter), stores, strict=True):
        directory = store.directory
        before = len(store.read())
        started = time.perf_counter()
        result = _run_stage(job, dataset, store)
        if result is not None:
            result["subject"] = subject
            write_json_atomic(directory / "summary.json", result)
            if len(store.read()) > before:
                _remember_computation(directory, settings, hardware, time.perf_counter() - started)
            results.append(Result(Entry(result, directory=directory), store, job.stage))
    return results


def _remember_computation(directory: Path, settings: Mapping[str, Any], hardware: Hardware, seconds: float) -> None:
    """Where and how the rows were computed; one entry for every run that added some."""
    path = directory / "run.json"
    runs = read_json(path)["runs"] if path.exists() else []
    write_json_atomic(path, {"runs": [*runs, provenance(hardware) | {"seconds": seconds}]})
    (directory / "config.yaml").write_text(yaml.safe_dump(dict(settings), sort_keys=False))


def _run_stage(job: Job, dataset: SegmentationDataset, store: RowStore) -> dict[str, Any] | None:
    finished = len(store.read().keys() & set(dataset.names()))
    if rank() == 0 and finished:
        say(f"{job.stage.name}: {finished} of {len(dataset)} images are finished already.")
    if rank() != 0 or finished == len(dataset):
        return evaluate(job.stage, dataset, store)
    with progress(job.stage.name, _share(len(dataset) - finished)) as on_image:
        return evaluate(job.stage, dataset, store, on_image=on_image)


def _share(images: int) -> int:
    """How many of the waiting images this rank takes."""
    return len(range(rank(), images, world_size()))


def _with_brackets(results: Sequence[Result], names: Sequence[str]) -> list[Entry]:
    """The entries, those of attacks with the number of violations (an error if there are any) where comparable."""
    entries = []
    for result in results:
        summary = result.entry.summary
        found = {}
        for other in results:
            found |= check(other.finished, result.finished, names)
        figures = summary["figures"] | {f"bracket/{name}": number for name, number in found.items()}
        entries.append(Entry({**summary, "figures": figures}, directory=result.entry.directory))
    return entries


def _draw(number: int, directory: Path, results: Sequence[Result], dataset: SegmentationDataset) -> list[Path]:
    """Pictures of evenly spaced images: image, prediction, certified map, radii, attack, ground truth."""
    paths = []
    if number == 0:
        return paths
    names, palette = dataset.class_names, dataset.palette
    found = [result.stage.guarantee.hierarchy for result in results if result.stage.guarantee is not None]
    hierarchy = Hierarchy(found[0]) if found and found[0] else None
    if hierarchy is not None:
        names, palette = hierarchy.groups, group_palette(hierarchy, palette)
    chosen_images = evenly_spaced(dataset, number)
    for index, name in enumerate(chosen_images.names()):
        sample = chosen_images[index]
        maps = {result.entry.kind: result.store.load_map(name) for result in results}
        ignored = (sample.target == 255).numpy()
        panels = [Panel("image", image=sample.image.permute(1, 2, 0).numpy())]
        panels.append(Panel("prediction", labels=maps["prediction"]["prediction"].astype(np.int64)))
        if "certifier" in maps:
            part = maps["certifier"]
            shown = part["classes"].astype(np.int64)
            if hierarchy is not None:
                shown = hierarchy.table.numpy()[part["levels"], shown]
            panels.append(Panel("certified", labels=shown, certified=part["certified"]))
            if "radii" in part:
                panels.append(Panel("certified l2 radius", values=part["radii"]))
        if "attack" in maps:
            part = maps["attack"]
            if "adversarial" in part:  # else it was no picture when it was attacked
                panels.append(Panel("attacked image", image=part["adversarial"].transpose(1, 2, 0) / 255.0))
            panels.append(Panel("attacked prediction", labels=part["prediction"].astype(np.int64)))
            if "alerts" in part:
                silent = ~part["alerts"].astype(bool)
                panels.append(Panel("without alert", labels=part["prediction"].astype(np.int64), certified=silent))
        panels.append(Panel("ground truth", labels=sample.target.numpy(), ignored=ignored))
        path = directory / "figures" / f"{safe_name(name)}.png"
        paths.append(picture(path, panels, names, palette, title=name))
        part = maps.get("certifier", {})
        if "views_hidden" in part:
            path = path.with_name(f"{safe_name(name)}=masks.png")
            drawn = {"uncertified": _uncertified(results), "title": f"{name}: masked copies"}
            paths.append(masked_picture(path, panels[0].image, sample.target.numpy(), part, names, palette, **drawn))
    return paths


def _uncertified(results: Sequence[Result]) -> str:
    """What a pixel is that is not certified: an alert, if the certificate has a claim of its own, up to alerts."""
    summary = next(result.entry.summary for result in results if result.entry.kind == "certifier")
    return "alert" if Guarantee.from_json(summary["guarantee"]).excuses_alerts else "not certified"


def _remember(directory: Path, label: str, entries: Sequence[Entry], overrides: Sequence[str]) -> None:
    """What a sweep's common report needs of this job."""
    result = {
        "label": label,
        "overrides": list(overrides),
        "entries": [
            {"directory": str(entry.directory.absolute()), "summary": dict(entry.summary)} for entry in entries
        ],
    }
    write_json_atomic(directory / RESULT_FILE, result)


def _track(
    tracker: Any,
    settings: Mapping[str, Any],
    results: Sequence[Result],
    names: Sequence[str],
    pictures: Sequence[Path],
) -> None:
    tracker.start(settings)
    try:
        tracker.log_summaries([result.entry for result in results])
        for result in results:
            rows = result.store.read()
            tracker.log_table([rows[name] for name in names], name=f"rows/{result.entry.name}")
            tracker.log_artifact(result.entry.directory)
        tracker.log_images(pictures)
    finally:
        tracker.finish()


def _command(overrides: Sequence[str]) -> str:
    return shlex.join(["certseg", *overrides])
