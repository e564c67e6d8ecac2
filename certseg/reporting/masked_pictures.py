"""Pictures of certificates against patches: masked copies, inpainted and segmented, and what becomes of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from certseg.reporting.pictures import Panel, as_colours, picture
from certseg.types import IGNORE_INDEX

OUTCOMES = (("certified, correct", (0, 158, 115)), ("certified, wrong", (213, 94, 0)))
_HIDDEN = 0.5


def masked_panels(
    image: np.ndarray, target: np.ndarray, maps: Mapping[str, np.ndarray], *, uncertified: str = "not certified"
) -> list[list[Panel]]:
    """Rows of panels, all of one length. First a row for each masked copy: the copy, the same inpainted (unless hidden
    pixels stay black), and its segmentation. Then a row with the ground truth, the answer (where a row has three
    panels) and the certification map.

    Args:
        image: ``H x W x C`` floats in [0, 1].
        target: ``H x W`` labels.
        maps: the stored maps of the image: ``classes``, ``certified`` and those of
            :attr:`certseg.patches.copies.MaskedViews.maps`.
        uncertified: what the legend calls a pixel that is not certified.
    """
    fills = bool(maps["views_inpainted"].any())
    image = as_colours(image)
    rows = []
    copies = zip(maps["views_hidden"], maps["views_inpainted"], maps["views_classes"], strict=True)
    for number, (hidden, filled, classes) in enumerate(copies, 1):
        visible = ~hidden[..., None]
        row = [Panel(f"masked copy {number}", image=np.where(visible, image, _HIDDEN))]
        if fills:
            inpainted = np.where(visible, image, as_colours(filled.transpose(1, 2, 0)) / 255.0)
            row.append(Panel("inpainted", image=inpainted))
        rows.append([*row, _segmentation(classes)])
    answer = maps["classes"].astype(np.int64)
    ignored = target == IGNORE_INDEX
    truth = Panel("ground truth", labels=target.astype(np.int64), ignored=ignored)
    outcome = Panel(
        "certification map",
        labels=(answer != target).astype(np.int64),
        certified=maps["certified"],
        ignored=ignored,
        classes=OUTCOMES,
        abstention=uncertified,
    )
    rows.append([truth, *([Panel("answer", labels=answer)] if fills else []), outcome])
    return rows


def masked_picture(
    path: str | os.PathLike[str],
    image: np.ndarray,
    target: np.ndarray,
    maps: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    palette: Sequence[Sequence[int]],
    *,
    uncertified: str = "not certified",
    title: str | None = None,
) -> Path:
    """Draw the panels of :func:`masked_panels` with a legend and return the file.

    Args:
        path: the file; its suffix says the format.
        image: ``H x W x C`` floats in [0, 1].
        target: ``H x W`` labels.
        maps: the stored maps of the image, which :func:`masked_panels` names.
        class_names: one name per class.
        palette: one RGB colour with values from 0 to 255 per class.
        uncertified: what the legend calls a pixel that is not certified.
        title: set above everything; None for no title.

    Raises:
        ResultError: the format is unknown, or names, palette and maps do not fit together.
    """
    rows = masked_panels(image, target, maps, uncertified=uncertified)
    panels = [panel for row in rows for panel in row]
    return picture(path, panels, class_names, palette, title=title, columns=len(rows[0]))


def _segmentation(classes: np.ndarray) -> Panel:
    """Classes, striped where there is none (255)."""
    says_nothing = classes == IGNORE_INDEX
    labels = np.where(says_nothing, 0, classes).astype(np.int64)
    certified = ~says_nothing if says_nothing.any() else None
    return Panel("its segmentation", labels=labels, certified=certified, abstention="no class")
