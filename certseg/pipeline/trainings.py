"""The data of a run, and its training: found where it lies finished, continued where it was left, or made."""

from __future__ import annotations

import pydoc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from certseg.checks import check_word
from certseg.compute.hardware import Hardware, rank
from certseg.datasets import check_headers, readable
from certseg.datasets.files import ImageDataset
from certseg.errors import ConfigError, DataError
from certseg.pipeline.console import say
from certseg.pipeline.declarations import LEFT_OUT
from certseg.pipeline.label_survey import check_validation
from certseg.pipeline.places import TRAININGS, Identity, place
from certseg.pipeline.settings import build
from certseg.pipeline.spec import DatasetSpec, RunSpec
from certseg.training import Recipe, TrainingReport, finished, train
from certseg.types import SegmentationDataset

_SHOWN = 8  # classes named in one message
Parts = Callable[[], tuple[Recipe, nn.Module]]


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Args:
        report: the training's figures and the file of its weights.
        directory: the folder that the training lies in.
    """

    report: TrainingReport
    directory: Path


_MEMBERS = ("name", "split", "class_names", "palette", "__len__", "__getitem__", "names", "fingerprint")
"""What :class:`certseg.types.SegmentationDataset` names, which Python before 3.13 does not list."""


def build_dataset(spec: RunSpec, split: str | None = None) -> SegmentationDataset:
    """The data set of the run.

    Args:
        spec: the run.
        split: ``train`` or ``val`` for the split that trainings learn from or validate on; None for the evaluated one.

    Raises:
        ConfigError: its class does not have what :class:`certseg.types.SegmentationDataset` names, its name, which
            becomes a folder, is no plain word, or it has more or fewer names than items.
        CertsegError: what its constructor raises.
    """
    dataset = spec.dataset
    if split is not None:
        dataset = replace(dataset, split={"train": dataset.train_split, "val": dataset.val_split}[split])
        if dataset.objects is not LEFT_OUT:  # no training looks at objects
            dataset = replace(dataset, objects=False)
    built = build("dataset", lenient(dataset) if dataset.on_error == "skip" else dataset)
    missing = [member for member in _MEMBERS if not hasattr(built, member)]  # data sets need not derive from anything
    if missing:
        raise ConfigError(
            f"What dataset._target_ names is no data set: {type(built).__name__} lacks {', '.join(missing)}",
            expected="the members of certseg.types.SegmentationDataset",
            received=f"{type(built).__module__}.{type(built).__qualname__}",
            remedy="docs/own_parts.md describes them",
        )
    check_word("dataset.name", built.name)
    if len(built.names()) != len(built):
        raise ConfigError(
            "names() of the data set does not list it", expected=f"{len(built)} names", received=len(built.names())
        )
    return _without_bad_files(built) if dataset.on_error == "skip" else cast(SegmentationDataset, built)


def lenient(dataset: DatasetSpec) -> DatasetSpec:
    """The same data set, which keeps its incomplete pairs of files in ``problems`` instead of raising; as it is if its
    class is none of certseg's that are made of files."""
    kind = pydoc.locate(dataset.target)  # None for what does not exist, which build then says
    if isinstance(kind, type) and issubclass(kind, ImageDataset):
        return replace(dataset, arguments={**dataset.arguments, "strict": False})
    return dataset


def _without_bad_files(built: SegmentationDataset) -> SegmentationDataset:
    """What of a data set can be read; how much cannot is said."""
    incomplete = list(built.problems) if isinstance(built, ImageDataset) else []
    kept, unreadable = readable(built)
    if (problems := incomplete + unreadable) and rank() == 0:
        say(
            f"{built.name}, split {built.split}: {len(kept)} images are used. {len(problems)} "
            f"problem{'' if len(problems) == 1 else 's'}, such as "
            f"{problems[0]}"
        )
    return kept


def training_data(spec: RunSpec, remedy: str) -> SegmentationDataset:
    """The split to train on.

    Args:
        spec: the run.
        remedy: what a user can do where there is no such split, as a sentence for the message.

    Raises:
        ConfigError: the run has no split to train on.
        DataError: the split cannot be used.
    """
    if spec.dataset.train_split is None:
        raise ConfigError("There is nothing to train on", remedy=remedy)
    try:
        return build_dataset(spec, "train")
    except DataError as error:
        raise DataError(
            f"The split to train on, dataset.train_split={spec.dataset.train_split}, cannot be used",
            received=str(error).rstrip("."),
            remedy="Name the split that the network is to be trained on, or give trained weights: model.checkpoint=...",
        ) from error


def check_same_classes(dataset: SegmentationDataset, class_names: Sequence[str]) -> None:
    """Raise :class:`DataError` unless a split has the classes ``class_names`` of another one, in the same order: files
    may tell them for each split anew."""
    if tuple(dataset.class_names) != tuple(class_names):
        found, wanted = (", ".join(names[:_SHOWN]) for names in (dataset.class_names, tuple(class_names)))
        raise DataError(
            f"The splits of {dataset.name} have other classes or another order of them",
            expected=f"{len(class_names)} classes, {wanted}",
            received=f"in the split {dataset.split} {len(dataset.class_names)}, {found}",
            remedy="Name the classes in the settings, as dataset.class_names=[...], so that all splits have the same",
        )


def find_or_train(
    spec: RunSpec,
    data: SegmentationDataset,
    folder: Path,
    identity: Identity,
    parts: Parts,
    hardware: Hardware,
    wandb: Mapping[str, Any] | None,
) -> Trained:
    """The training of this identity. It is found if it was finished before, under its key or that of an earlier
    version, and done now if not.

    Args:
        spec: the run.
        data: the split to train on.
        folder: the folder in which trainings of this name lie.
        identity: what decides the weights.
        parts: gives the recipe and the module to train; called only if something is left to train.
        hardware: the device that is trained on.
        wandb: arguments of ``wandb.init`` for the training's curves; None to track nothing.

    Raises:
        DataError: a file of the splits that are trained or validated on cannot be used, or their classes differ.
        CertsegError: as :func:`certseg.training.train`.
    """
    found = place(folder, "train", identity, TRAININGS)
    report = finished(found.directory, found.identity)
    if report is None:
        val_set = build_dataset(spec, "val") if spec.dataset.val_split is not None else None
        for split in (data, val_set):
            if split is not None:
                check_same_classes(split, data.class_names)
                check_headers(split)
        recipe, module = parts()
        if val_set is not None and recipe.validations:
            check_validation(val_set, recipe.val_images)
        report = train(
            module.to(hardware.torch_device),
            data,
            val_set,
            recipe,
            found.directory,
            hardware=hardware,
            seed=spec.seed,
            identity=found.identity,
            wandb=dict(wandb) if wandb else None,
        )
    return Trained(report, found.directory)
