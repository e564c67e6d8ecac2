"""The pictures of a run: for each chosen image what the network sees, what is certified, what an attack makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from certseg.reporting.entries import Entry
from certseg.reporting.masked_pictures import masked_picture
from certseg.reporting.pictures import Panel, group_palette, picture
from certseg.reporting.storage import safe_name
from certseg.types import IGNORE_INDEX, Sample
from certseg.types.hierarchy import Hierarchy

Maps = Mapping[str, np.ndarray]


def run_pictures(
    directory: Path,
    samples: Iterable[Sample],
    entries: Sequence[Entry],
    maps_of: Callable[[str], Mapping[str, Maps]],
    class_names: Sequence[str],
    palette: Sequence[Sequence[int]],
    further: Callable[[Sample], Panel | None] = lambda sample: None,
) -> list[Path]:
    """A picture of every sample: image, prediction, certified map, radii, attack, ground truth. Where the certificate
    comes from masked copies, another one of those.

    Args:
        directory: the folder that the pictures are written to.
        samples: the images that are drawn.
        entries: the results of the run's stages.
        maps_of: gives the stored maps of an image, by its name, for every kind of entry.
        class_names: the names of the data set's classes, in the order of their ids.
        palette: one RGB colour with values from 0 to 255 per class.
        further: gives a further panel of a sample, or None.

    Returns:
        The pictures' paths.
    """
    guarantees = [entry.guarantee for entry in entries if entry.kind == "certifier"]
    hierarchy = next((Hierarchy(found.hierarchy) for found in guarantees if found.hierarchy), None)
    names, colours = class_names, palette
    if hierarchy is not None:
        names, colours = hierarchy.groups, group_palette(hierarchy, palette)
    paths = []
    for sample in samples:
        maps = maps_of(sample.name)
        panels = _panels(sample, maps, hierarchy)
        panels += [] if (panel := further(sample)) is None else [panel]
        path = directory / f"{safe_name(sample.name)}.png"
        paths.append(picture(path, panels, names, colours, title=sample.name))
        certified = maps.get("certifier", {})
        if "views_hidden" in certified:
            path = path.with_name(f"{safe_name(sample.name)}=masks.png")
            image, target = sample.image.permute(1, 2, 0).numpy(), sample.target.numpy()
            drawn = {"uncertified": _uncertified(entries), "title": f"{sample.name}: masked copies"}
            paths.append(masked_picture(path, image, target, certified, names, colours, **drawn))
    return paths


def _panels(sample: Sample, maps: Mapping[str, Maps], hierarchy: Hierarchy | None) -> list[Panel]:
    """The parts of a sample's picture, from left to right."""
    panels = [
        Panel("image", image=sample.image.permute(1, 2, 0).numpy()),
        Panel("prediction", labels=maps["prediction"]["prediction"].astype(np.int64)),
    ]
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
    ignored = (sample.target == IGNORE_INDEX).numpy()
    return [*panels, Panel("ground truth", labels=sample.target.numpy(), ignored=ignored)]


def _uncertified(entries: Sequence[Entry]) -> str:
    """What a pixel is that is not certified: an alert, where the certificate promises something until one is raised."""
    guarantee = next(entry.guarantee for entry in entries if entry.kind == "certifier")
    return "alert" if guarantee.excuses_alerts else "not certified"
