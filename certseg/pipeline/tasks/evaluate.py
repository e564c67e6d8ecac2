"""The task of most runs: to attack and certify a network on a data set, compare the two, and report."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from certseg.attacks.objective import checked_logits
from certseg.bracket import Finished, check
from certseg.compute.hardware import Hardware, rank, world_size
from certseg.datasets import Legend, Reader, View, check_headers, evenly_spaced
from certseg.datasets.files import ImageDataset
from certseg.errors import ResultError
from certseg.evaluation import evaluate as evaluate_stage
from certseg.metrics import focus_figures, object_figures, objects_by_size
from certseg.pipeline.console import progress, say
from certseg.pipeline.keys import evaluation_identity, identity_of, key, subject_key
from certseg.pipeline.names import foreign_parts
from certseg.pipeline.places import RESULTS, Identity, Superseded, place
from certseg.pipeline.provenance import provenance
from certseg.pipeline.spec import ModelSpec, RunSpec
from certseg.pipeline.stages import Job, Plan, check_chosen_classes
from certseg.pipeline.tasks.task import Task
from certseg.pipeline.trainings import build_dataset
from certseg.pipeline.weights import Network, obtain
from certseg.reporting import (
    Entry,
    Panel,
    RowStore,
    Tracker,
    console_summary,
    object_panel,
    read_json,
    run_pictures,
    write_json_atomic,
    write_report,
)
from certseg.reporting.entries import plural
from certseg.types import Sample, SegmentationDataset, Segmenter, Stage, checked_sample, sides_of

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class Result:
    """A finished stage.

    Args:
        entry: what the report shows of it.
        store: where its rows and maps lie.
        stage: what computed them.
    """

    entry: Entry
    store: RowStore
    stage: Stage

    @property
    def directory(self) -> Path:
        """The folder of its rows, maps and summary."""
        return self.store.directory

    @property
    def finished(self) -> Finished:
        """The stage as the bracket sees it."""
        return Finished(self.entry.summary, self.store, self.stage.guarantee, self.stage.attempt)


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a network on a data set.

    Args:
        network: the network with its weights.
        whole: the evaluated split.
        fingerprint: the fingerprint of that split, which is part of every key.
        images: those images of the split that are evaluated.
    """

    network: Network
    whole: SegmentationDataset
    fingerprint: str
    images: SegmentationDataset


@dataclass(frozen=True)
class Decided:
    """What decides rows or samples, on given weights and data; the fields are those of
    :class:`certseg.pipeline.stages.Job`."""

    identity: Mapping[str, Any]
    earlier: Mapping[str, Any] | None
    is_sampled: bool
    draws_on_device: bool = True
    superseded: tuple[Superseded, ...] = ()

    @classmethod
    def of(cls, job: Job) -> Decided:
        """What decides the rows of a stage."""
        return cls(job.identity, job.earlier, job.is_sampled, job.draws_on_device, job.superseded)


def evaluate(task: Task) -> Path | None:
    """Evaluate the network of the run and report.

    Args:
        task: the run.

    Returns:
        The report's path; None on ranks other than 0.

    Raises:
        CertsegError: anything a user can mend.
    """
    started = time.perf_counter()
    spec = task.spec
    plan = Plan.of(spec)
    task.check_tracking()
    whole = build_dataset(spec)
    dataset = evenly_spaced(whole, spec.dataset.limit)
    check_chosen_classes(spec.metrics, whole.class_names)
    plan.check(sides_of(checked_sample(dataset[0], 0).target))
    if plan.obstacle and rank() == 0:
        say(plan.obstacle)
    folder = Path(spec.output) / whole.name
    legend = Legend(whole.name, tuple(whole.class_names), tuple(whole.palette))
    network = obtain(
        spec,
        legend,
        task.hardware,
        folder,
        task.tracker.training_options(),
        certifier=plan.certifier,
        evaluated=dataset,
    )
    results = _results(task, plan, Subject(network, whole, whole.fingerprint(), dataset), folder / network.label)
    if rank() != 0:
        return None
    compared = _with_brackets(results, dataset.names())
    entries = [result.entry for result in compared]
    pictures = _draw(spec, task.directory, results, dataset)
    seconds = time.perf_counter() - started
    context = provenance(task.hardware) | {
        "dataset": f"{whole.name} {whole.split}",
        **({"left out": left_out} if (left_out := _left_out(whole)) else {}),
        "network": _described(spec.model),
        **({"scale": scale} if (scale := Reader.of(*spec.dataset.reading).scale) else {}),
        "seconds": seconds,
    }
    report = write_report(
        task.directory,
        title=f"{network.label} on {whole.name} ({whole.split})",
        command=shlex.join(["certseg", *task.overrides]),
        entries=entries,
        pictures=pictures,
        expected=spec.expected,
        context=context,
    )
    _remember(task.directory, network.label, compared, task.overrides)
    console_summary(entries, report=report, seconds=seconds)
    _track(task.tracker, spec.composed, results, dataset.names(), pictures)
    return report


def _results(task: Task, plan: Plan, subject: Subject, folder: Path) -> list[Result]:
    """The results of all stages, computed where they are not finished; none on ranks other than 0."""
    network, hardware, results = subject.network, task.hardware, []
    name = subject_key(network.identity, subject.fingerprint, hardware)
    pictured = evenly_spaced(subject.images, task.spec.pictures).names() if task.spec.pictures else ()
    samples = None
    if plan.samples_identity is not None:  # shared by every tau, alpha and correction
        samples = _store(folder, "samples", _identity(task, subject, _samples_decided(plan)))

    def jobs(segmenter: Segmenter | None) -> list[Job]:
        return plan.jobs(segmenter, subject.whole.class_names, hardware, samples, pictured)

    stores = [_store(folder, step.stage.name, _identity(task, subject, Decided.of(step))) for step in jobs(None)]
    names = set(subject.images.names())
    is_done = all(names <= store.read().keys() for store in stores)
    if not is_done:
        check_headers(subject.images)
        _check_ability(plan, network.segmenter, checked_sample(subject.images[0], 0), hardware)
    for step, store in zip(jobs(None if is_done else network.segmenter), stores, strict=True):
        before = len(store.read())
        started = time.perf_counter()
        result = _run_stage(step, subject.images, store)
        if result is not None:
            result["subject"] = name
            rows = [store.read()[image] for image in subject.images.names()]
            focus = task.spec.metrics.focus
            names_of, promise = subject.whole.class_names, step.stage.guarantee
            result["figures"] |= focus_figures(step.stage.kind, rows, names_of, focus, promise)
            if (objects := task.spec.metrics.of_objects).classes:
                about = step.stage.kind, rows, names_of, objects, promise
                result["figures"] |= object_figures(*about)
                result["objects"] = {"share": objects.share, "by_size": objects_by_size(*about)}
            write_json_atomic(store.directory / "summary.json", result)
            if len(store.read()) > before:
                _remember_computation(store.directory, task.spec.composed, hardware, time.perf_counter() - started)
            results.append(Result(Entry(result, directory=store.directory), store, step.stage))
            _tell_of_labels(result)
    return results


def _check_ability(plan: Plan, segmenter: Segmenter, sample: Sample, hardware: Hardware) -> None:
    """Raise ModelError if the network cannot be certified by the certifier, or not attacked by the attack."""
    if plan.certifier is not None:
        plan.certifier.check_model(segmenter)
    if plan.attack is not None and plan.attack.needs_gradient:
        images = sample.image[None].to(hardware.torch_device).requires_grad_()
        checked_logits(segmenter, images, plan.attack.instead)


def _samples_decided(plan: Plan) -> Decided:
    """What decides the samples of the certifier, which has some."""
    samples = {"samples": plan.samples_identity}
    draws_on_device = plan.certifier is None or plan.certifier.draws_on_device
    before = {
        key(theirs): Superseded(theirs, told, remedy)
        for other, told, remedy in plan.before()
        if (theirs := {"samples": other.samples_identity}) != samples and other.samples_identity is not None
    }
    return Decided(samples, samples, True, draws_on_device, tuple(before.values()))


def _identity(task: Task, subject: Subject, decided: Decided) -> Identity:
    """What decides a stage's rows on the network and data of the run."""
    hardware = task.hardware if decided.is_sampled else None
    foreign = foreign_parts({"_target_": task.spec.dataset.target, **task.spec.dataset.arguments})
    told = {"dataset": {**identity_of(task.spec.dataset, "dataset"), **foreign}} if foreign else {}

    def on(network: Mapping[str, Any], stage: Mapping[str, Any], draws_on_device: bool = True) -> dict[str, Any]:
        return evaluation_identity(task.spec.seed, network, subject.fingerprint, stage, hardware, draws_on_device)

    network = subject.network.origin
    now = on(network.settings, {**decided.identity, **told}, decided.draws_on_device)
    earlier = None
    if decided.earlier is not None and network.earlier is not None:
        earlier = on(network.earlier, decided.earlier, decided.draws_on_device)
    superseded = []
    for other in decided.superseded:
        superseded.append(replace(other, settings=on(network.settings, {**other.settings, **told})))
        if network.earlier is not None:
            superseded.append(replace(other, settings=on(network.earlier, other.settings)))
    return Identity(now, earlier, tuple(superseded))


def _store(folder: Path, name: str, identity: Identity) -> RowStore:
    found = place(folder, name, identity, RESULTS)
    return RowStore(found.directory, identity=found.identity)


def _draw(spec: RunSpec, directory: Path, results: Sequence[Result], dataset: SegmentationDataset) -> list[Path]:
    """Pictures of evenly spaced images."""
    if spec.pictures == 0:
        return []
    chosen, objects = evenly_spaced(dataset, spec.pictures), spec.metrics.of_objects
    promise = next((result.stage.guarantee for result in results if result.stage.guarantee is not None), None)

    def outlines(sample: Sample) -> Panel | None:
        rows = {result.entry.kind: result.store.read()[sample.name] for result in results}
        return object_panel(sample, rows, dataset.class_names, objects, promise) if objects.classes else None

    return run_pictures(
        directory / "figures",
        (chosen[index] for index in range(len(chosen))),
        [result.entry for result in results],
        lambda name: {result.entry.kind: result.store.load_map(name) for result in results},
        dataset.class_names,
        dataset.palette,
        outlines,
    )


def _remember_computation(directory: Path, settings: Mapping[str, Any], hardware: Hardware, seconds: float) -> None:
    """Where and how the rows were computed; one entry for every run that added some."""
    path = directory / "run.json"
    write_json_atomic(path, {"runs": [*_runs_before(path), provenance(hardware) | {"seconds": seconds}]})
    (directory / "config.yaml").write_text(yaml.safe_dump(dict(settings), sort_keys=False))


def _runs_before(path: Path) -> list[Any]:
    """The entries of a ``run.json``; none of one that cannot be read, for it decides no result."""
    try:
        content = read_json(path) if path.exists() else {}
    except ResultError as error:
        say(f"{error} It is written anew.")
        return []
    found = content.get("runs") if isinstance(content, dict) else None
    return found if isinstance(found, list) else []


def _run_stage(job: Job, dataset: SegmentationDataset, store: RowStore) -> dict[str, Any] | None:
    finished = len(store.read().keys() & set(dataset.names()))
    if rank() == 0 and finished:
        say(f"{job.stage.name}: {finished} of {len(dataset)} images are finished already.")
    if rank() != 0 or finished == len(dataset):
        return evaluate_stage(job.stage, dataset, store)
    with progress(job.stage.name, _share(len(dataset) - finished)) as on_image:
        return evaluate_stage(job.stage, dataset, store, on_image=on_image)


def _left_out(dataset: SegmentationDataset) -> str:
    """How many images of a split are no part of any figure, since they or their labels cannot be used; empty for
    none."""
    whole = dataset.dataset if isinstance(dataset, View) else dataset
    unread, incomplete = len(whole) - len(dataset), len(whole.problems) if isinstance(whole, ImageDataset) else 0
    parts = [f"{unread} of {plural(len(whole), 'image')} cannot be read"] if unread else []
    parts += [f"{plural(incomplete, 'file')} beside them cannot be used"] if incomplete else []
    return ", ".join(parts)


def _described(model: ModelSpec) -> str:
    """The class of a network and the settings it was built with."""
    settings = (f"{name}={value}" for name, value in model.arguments.items() if value is not None)
    return f"{model.target.rpartition('.')[2]}({', '.join(settings)})"


def _tell_of_labels(summary: Mapping[str, Any]) -> None:
    """Say, before certificates and attacks are computed, where the labels let no figure say anything, and where the
    network is worse than none."""
    told = summary.get("labels") or {}
    if sentence := told.get("obstacle") or told.get("doubt"):
        say(sentence)


def _share(images: int) -> int:
    """How many of the waiting images this rank takes."""
    return len(range(rank(), images, world_size()))


def _with_brackets(results: Sequence[Result], names: Sequence[str]) -> list[Result]:
    """The results, those of attacks with the number of violations of each certificate that they may be compared with.

    Raises:
        BracketError: there are any.
    """
    compared = []
    for result in results:
        summary = result.entry.summary
        found: dict[str, int] = {}
        for other in results:
            found |= check(other.finished, result.finished, names)
        figures = summary["figures"] | {f"bracket/{name}": number for name, number in found.items()}
        entry = replace(result.entry, summary={**summary, "figures": figures})
        compared.append(replace(result, entry=entry))
    return compared


def _remember(directory: Path, label: str, results: Sequence[Result], overrides: Sequence[str]) -> None:
    """What a sweep's common report needs of this job."""
    entries = [
        {"directory": str(result.directory.absolute()), "summary": dict(result.entry.summary)} for result in results
    ]
    job = {"label": label, "overrides": list(overrides), "entries": entries}
    write_json_atomic(directory / RESULT_FILE, job)


def _track(
    tracker: Tracker,
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
            tracker.log_artifact(result.directory)
        tracker.log_images(pictures)
    finally:
        tracker.finish()
