"""The picture of labelled objects: outlined by whether they are certified to be kept, and lost under attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from certseg.metrics import OBJECTS, ObjectCounts, ObjectRegions, ObjectSettings
from certseg.metrics.object_figures import promised
from certseg.reporting.pictures import Panel
from certseg.types import Guarantee, Row, Sample

_KEPT, _OPEN, _LOST, _LEFT = range(4)
_OUTLINES = (
    ("object certified to be kept", (0, 158, 115)),
    ("object not certified", (240, 228, 66)),
    ("object lost under attack", (213, 94, 0)),
    ("object left by the attack", (86, 180, 233)),
)
_PIXELS = 240  # of the longer side, for each pixel of an outline's width


def object_panel(
    sample: Sample,
    rows: Mapping[str, Row],
    class_names: Sequence[str],
    settings: ObjectSettings,
    guarantee: Guarantee | None,
) -> Panel | None:
    """The image with the outlines of its objects of the chosen classes.

    An object that an attack loses is drawn as lost, whichever predictor it attacked; of the others one that is
    certified to be kept as kept. Where nothing is certified, those that an attack leaves are drawn as left, and all
    others as not certified.

    Args:
        sample: the image with its labels.
        rows: those of the image by the kind of stage.
        class_names: the names of all classes, in the order of their ids.
        settings: the chosen classes, and when their objects count and are kept.
        guarantee: what the certificates promise; None where there are none.

    Returns:
        None where the image has no such object.
    """
    regions = ObjectRegions.of(sample.target, len(class_names), sample.objects)
    named = [list(class_names).index(name) for name in settings.classes]
    chosen = np.isin(regions.classes, named) & (regions.areas >= settings.minimum)
    if not chosen.any():
        return None
    status = np.full(len(regions), _OPEN)
    counts = {kind: ObjectCounts.from_json(row[OBJECTS]) for kind, row in rows.items() if OBJECTS in row}
    if "attack" in counts and guarantee is None:
        status[:] = _LEFT
    if "certifier" in counts and guarantee is not None:
        certain, _ = promised(counts["certifier"], settings.share, guarantee)
        if certain is not None:
            status[certain] = _KEPT
    if "attack" in counts:
        status[~counts["attack"].kept(settings.share)] = _LOST
    ids = regions.ids.numpy()
    shown = np.where(chosen, status, -1)
    drawn = np.where((ids >= 0) & _edges(ids), np.append(shown, -1)[ids], -1)
    return Panel("objects", image=sample.image.permute(1, 2, 0).numpy(), outlined=drawn, classes=_OUTLINES)


def _edges(ids: np.ndarray) -> np.ndarray:
    """``H x W`` bool, the pixels near which another number begins."""
    width = max(1, round(max(ids.shape) / _PIXELS))
    wide = np.pad(ids, width, mode="edge")
    found = np.zeros(ids.shape, dtype=bool)
    height, length = ids.shape
    for down, right in ((width, 0), (-width, 0), (0, width), (0, -width)):
        moved = wide[width + down : width + down + height, width + right : width + right + length]
        found |= moved != ids
    return found
