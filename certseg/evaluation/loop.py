"""Walk over a data set once: read an image, let a stage work on it, store maps and row, go on. Resumable and shardable.

A row is ``{"image", "figures", "counts", "seconds", "passes", "flags"}``: figures of this image, per-class counts that
add up over images, wall-clock parts, network evaluations, self-checks that fired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from certseg.compute.hardware import barrier, rank, world_size
from certseg.errors import DataError, ResultError
from certseg.metrics.over_images import sums
from certseg.types import Row, Sample, SegmentationDataset, Stage, Store, checked_sample


def evaluate(
    stage: Stage, dataset: SegmentationDataset, store: Store, *, on_image: Callable[[str], None] | None = None
) -> dict[str, Any] | None:
    """Run ``stage`` on the images of ``dataset`` that have no row yet and summarise the rows of all of them.

    Under torchrun every rank takes its share of these images and rank 0 returns the summary of all; others return None.

    Args:
        stage: what to do with an image.
        dataset: the images, each with a name of its own.
        store: finished rows; shared by all ranks.
        on_image: told the name of every image of this rank when it is finished.

    Raises:
        DataError: two images share a name, or an item is not the image it is listed as.
        CertsegError: whatever the stage raises on an image; finished rows stay.
    """
    names = dataset.names()
    if len(set(names)) != len(names):
        raise DataError("Image names of a data set must differ", received=f"{len(names) - len(set(names))} repeated")
    finished = store.read()
    barrier()  # every rank has seen the same rows before one adds to them
    waiting = [index for index, name in enumerate(names) if name not in finished]
    for samples in _groups(dataset, names, waiting[rank() :: world_size()], stage.at_once):
        found = [stage.run(samples[0])] if len(samples) == 1 else stage.run_together(samples)
        for sample, (row, maps) in zip(samples, found, strict=True):
            store.save_map(sample.name, **maps)
            store.append({"image": sample.name, **row})
            if on_image is not None:
                on_image(sample.name)
    barrier()
    if rank() != 0:
        return None
    rows = store.read()
    missing = [name for name in names if name not in rows]
    if missing:
        raise ResultError("Rows are missing after the run", received=", ".join(missing[:5]))
    return summary(stage, [rows[name] for name in names])


def _groups(
    dataset: SegmentationDataset, names: Sequence[str], indices: Sequence[int], most: int
) -> Iterator[list[Sample]]:
    """The samples in order, neighbours of one shape together, at most so many."""
    group: list[Sample] = []
    for index in indices:
        sample = checked_sample(dataset[index], index, names[index])
        if group and (len(group) == most or sample.image.shape != group[0].image.shape):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


def summary(stage: Stage, rows: Sequence[Row]) -> dict[str, Any]:
    """The summary of ``rows``: what the stage computes from them, plus totals of seconds, passes and flags."""
    if not rows:
        raise DataError("There is no image to summarise", remedy="Check dataset.split and dataset.limit")
    flags: dict[str, int] = {}
    for row in rows:
        for flag in row["flags"]:
            flags[flag] = flags.get(flag, 0) + 1
    return {
        "kind": stage.kind,
        "name": stage.name,
        "images": len(rows),
        "seconds": sums(row["seconds"] for row in rows),
        "passes": sums(row["passes"] for row in rows),
        "flags": flags,
        **stage.summarise(rows),
    }


def by_class(class_names: Sequence[str], values: np.ndarray) -> dict[str, float | None]:
    """Values per class name, None for classes without one."""
    return {name: float(v) if np.isfinite(v) else None for name, v in zip(class_names, values, strict=True)}
