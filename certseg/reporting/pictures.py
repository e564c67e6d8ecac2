"""Pictures of single images: the image, what the model says, what is certified, what an attack makes of it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from certseg.errors import ResultError
from certseg.metrics.figures import number
from certseg.reporting.plots import INK, save_figure
from certseg.types import IGNORE_INDEX
from certseg.types.hierarchy import Hierarchy

if TYPE_CHECKING:  # imported where something is drawn: it takes most of a second
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

_WIDTH = 9.0  # inches; at 200 dots per inch twice the pixels a README shows
_LEGEND_COLUMNS = 7
_EVEN_COLOURS = "viridis"
_SIDES: tuple[Literal["left", "center", "right"], ...] = ("left", "center", "right")
_ABSTAINS, _STRIPE, _NO_LABEL = (255, 255, 255), (176, 176, 176), (208, 208, 208)


def as_colours(image: np.ndarray) -> np.ndarray:
    """An image of C channels as it is looked at, ``H x W x 3``: the first three channels as red, green and blue, or the
    first alone as grey where there are fewer.

    Args:
        image: ``H x W x C``.
    """
    return image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)


@dataclass(frozen=True)
class Panel:
    """One panel of a picture: an image, a label map with or without abstention, or a map of values.

    Args:
        title: shown above the panel.
        image: ``H x W x C`` floats in [0, 1], shown as :func:`as_colours` makes them.
        values: ``H x W`` floats, none NaN or negative, drawn from 0 to the largest finite one with a scale below.
        labels: ``H x W`` class ids; the ignore index 255 is drawn grey.
        certified: ``H x W`` bool; where it is False the label map is drawn white with stripes.
        ignored: ``H x W`` bool, pixels drawn grey although ``labels`` has a class there, for example those without a
            true label.
        classes: name and RGB colour of each of ``labels`` where they are not the classes of the picture, or of the
            lines that ``outlined`` draws.
        outlined: ``H x W`` integers, drawn over the image: the place in ``classes`` of the line at each pixel, -1
            where there is none.
        abstention: what the legend calls pixels where ``certified`` is False.

    Raises:
        ResultError: not exactly one of ``image``, ``labels`` and ``values``, or shapes that do not fit.
    """

    title: str
    image: np.ndarray | None = None
    labels: np.ndarray | None = None
    certified: np.ndarray | None = None
    ignored: np.ndarray | None = None
    values: np.ndarray | None = None
    classes: tuple[tuple[str, tuple[int, int, int]], ...] | None = None
    abstention: str = "abstains"
    outlined: np.ndarray | None = None

    def __post_init__(self) -> None:
        if sum(shown is not None for shown in (self.image, self.labels, self.values)) != 1:
            raise ResultError(f"Panel {self.title!r} must show one of an image, labels and values")
        if self.shown.ndim != (2 if self.image is None else 3):
            raise ResultError(
                f"Panel {self.title!r} cannot be drawn",
                expected="labels or values H x W or an image H x W x C",
                received=f"shape {self.shown.shape}",
            )
        if self.values is not None and not (self.values >= 0).all():
            raise ResultError(f"The values of panel {self.title!r} must not be NaN or negative")
        lines = self.outlined
        if lines is not None and (self.image is None or self.classes is None or lines.shape != self.shown.shape[:2]):
            raise ResultError(
                f"The lines of panel {self.title!r} do not fit",
                expected="an image, its classes of lines, and lines of its height and width",
                received=f"shape {lines.shape}",
            )
        for name, mask in (("certified", self.certified), ("ignored", self.ignored)):
            if mask is not None and (self.labels is None or mask.dtype != bool or mask.shape != self.labels.shape):
                raise ResultError(
                    f"The {name} mask of panel {self.title!r} does not fit",
                    expected="a bool mask of the shape of its labels",
                    received=f"{mask.dtype} of shape {mask.shape}",
                )

    @property
    def shown(self) -> np.ndarray:
        """What the panel shows: an image in colours, labels or values."""
        if self.image is not None:
            return as_colours(self.image) if self.image.ndim == 3 else self.image
        return next(array for array in (self.labels, self.values) if array is not None)

    @property
    def abstains(self) -> np.ndarray | None:
        """``H x W`` bool, the pixels drawn striped; None for a panel without certificates."""
        return None if self.certified is None else ~self.certified & ~self.unlabelled

    @property
    def unlabelled(self) -> np.ndarray:
        """``H x W`` bool, the pixels drawn grey; none of a panel without labels."""
        if self.labels is None:
            return np.zeros(self.shown.shape[:2], dtype=bool)
        unlabelled: np.ndarray = self.labels == IGNORE_INDEX
        return unlabelled if self.ignored is None else unlabelled | self.ignored

    @property
    def coloured(self) -> np.ndarray:
        """``H x W`` bool, the pixels drawn in the colour of their class."""
        return ~self.unlabelled if self.abstains is None else ~self.unlabelled & ~self.abstains


def picture(
    path: str | os.PathLike[str],
    panels: Sequence[Panel],
    class_names: Sequence[str],
    palette: Sequence[Sequence[int]],
    *,
    title: str | None = None,
    columns: int | None = None,
) -> Path:
    """Draw panels side by side with a legend of the classes that occur in them, and return the file.

    Args:
        path: the file; its suffix says the format.
        panels: all of one height and width.
        class_names: one name per class.
        palette: one RGB colour with values from 0 to 255 per class.
        title: set above everything.
        columns: how many panels stand in one row; None for what their number asks for.

    Raises:
        ResultError: no panels, a palette that does not fit the names, or a class without a name.
    """
    path = Path(path)
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise ResultError(f"Cannot draw {path}", expected="a name that ends in .png, .pdf or .svg")
    figure = picture_figure(panels, class_names, palette, title=title, columns=columns)
    return save_figure(figure, path.with_suffix(""), [path.suffix[1:]])[0]


def group_palette(hierarchy: Hierarchy, palette: Sequence[Sequence[int]]) -> list[list[int]]:
    """A colour for each group of a hierarchy by its id, the mean colour of its classes; ``palette`` has those."""
    members = hierarchy.members.numpy().astype(float)
    means = members @ np.asarray(palette) / members.sum(axis=1, keepdims=True)
    colours: list[list[int]] = np.rint(means).astype(int).tolist()
    return colours


def picture_figure(
    panels: Sequence[Panel],
    class_names: Sequence[str],
    palette: Sequence[Sequence[int]],
    *,
    title: str | None = None,
    columns: int | None = None,
) -> Figure:
    """The figure :func:`picture` writes."""
    colours = np.asarray(palette, dtype=np.uint8).reshape(-1, 3)
    _check(panels, class_names, colours)
    columns = columns or _columns(len(panels))
    rows = math.ceil(len(panels) / columns)
    height, width = panels[0].shown.shape[:2]
    legend = _legend(panels, class_names, colours)
    legend_rows = math.ceil(len(legend) / _LEGEND_COLUMNS)
    panel_height = _WIDTH / columns * height / width + 0.22
    scales = len({index // columns for index, panel in enumerate(panels) if panel.values is not None})
    size = (_WIDTH, rows * panel_height + 0.3 * scales + 0.24 * legend_rows + 0.1 + 0.3 * bool(title))
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.02, wspace=0.0, hspace=0.01)
    for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, [*panels] + [None] * (rows * columns)):
        axes.set_axis_off()
        if panel is not None:
            _draw(axes, panel, colours)
            axes.set_title(panel.title, fontsize=10, color=INK, pad=3)
    if title:
        figure.suptitle(title, fontsize=11, color=INK)
    if legend:
        figure.legend(
            handles=legend,
            loc="outside lower center",
            ncols=_LEGEND_COLUMNS,
            frameon=False,
            fontsize=9,
            labelcolor=INK,
            handlelength=1.2,
            handleheight=1.0,
            columnspacing=1.4,
        )
    return figure


def _columns(panels: int) -> int:
    """How many stand in one row: at most three, or four where that saves one."""
    if panels <= 3:
        return panels
    return {4: 2, 7: 4, 8: 4}.get(panels, 3)


def _draw(axes: Axes, panel: Panel, colours: np.ndarray) -> None:
    if panel.values is not None:
        _draw_values(axes, panel.values)
    elif panel.labels is not None:
        axes.imshow(_painted(panel, panel.labels, colours), interpolation="nearest")
    else:
        axes.imshow(_with_lines(panel), interpolation="antialiased")


def _with_lines(panel: Panel) -> np.ndarray:
    """``H x W x 3`` floats in [0, 1]: the image of a panel with its lines."""
    pixels: np.ndarray = np.clip(panel.shown, 0, 1)
    if panel.outlined is not None and panel.classes is not None:
        pixels = pixels.copy()
        for place, (_, colour) in enumerate(panel.classes):
            pixels[panel.outlined == place] = _fractions(colour)
    return pixels


def _draw_values(axes: Axes, values: np.ndarray) -> None:
    """Values in even steps of perceived brightness, infinite ones as the largest, with a scale below."""
    finite = values[np.isfinite(values)]
    top = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    drawn = axes.imshow(np.minimum(values, top), cmap=_EVEN_COLOURS, vmin=0, vmax=top, interpolation="nearest")
    height = 0.03 * values.shape[1] / values.shape[0]
    place = axes.inset_axes((0.0, -2 * height, 1.0, height))
    scale = axes.figure.colorbar(drawn, cax=place, orientation="horizontal")
    scale.set_ticks([0, top / 2, top], labels=["0", number(top / 2, 2), number(top, 2)])
    for text, side in zip(place.get_xticklabels(), _SIDES, strict=True):
        text.set_horizontalalignment(side)
    place.tick_params(labelsize=8, labelcolor=INK, length=0, pad=2)
    scale.outline.set_visible(False)


def _check(panels: Sequence[Panel], class_names: Sequence[str], colours: np.ndarray) -> None:
    if not panels:
        raise ResultError("A picture needs at least one panel")
    if len(colours) != len(class_names):
        raise ResultError(
            "The palette does not fit the class names",
            expected=f"{len(class_names)} colours",
            received=f"{len(colours)}",
        )
    for panel in panels:
        if panel.labels is not None:
            known = len(class_names if panel.classes is None else panel.classes)
            strange = set(np.unique(panel.labels).tolist()) - set(range(known)) - {IGNORE_INDEX}
            if strange:
                raise ResultError(
                    f"Panel {panel.title!r} holds classes without a name",
                    expected=f"0 to {known - 1} or {IGNORE_INDEX}",
                    received=sorted(strange),
                )


def _painted(panel: Panel, labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """``H x W x 3`` bytes: palette colours, stripes where the panel abstains, grey where nothing is labelled."""
    grey = panel.unlabelled
    if panel.classes is not None:
        colours = np.asarray([colour for _, colour in panel.classes], dtype=np.uint8)
    pixels = colours[np.where(labels == IGNORE_INDEX, 0, labels)]
    if panel.abstains is not None:
        down, right = np.indices(labels.shape)
        period = max(4, round(max(labels.shape) / 45))
        stripe = (down + right) % period < max(1, period // 5)
        pixels[panel.abstains] = _ABSTAINS
        pixels[panel.abstains & stripe] = _STRIPE
    pixels[grey] = _NO_LABEL
    return pixels


def _legend(panels: Sequence[Panel], class_names: Sequence[str], colours: np.ndarray) -> list[Patch]:
    from matplotlib.patches import Patch

    maps = [panel for panel in panels if panel.labels is not None]
    seen = [(panel.classes, panel.shown[panel.coloured]) for panel in maps]
    usual = [labels for classes, labels in seen if classes is None]
    present: list[int] = np.unique(np.concatenate(usual)).tolist() if usual else []
    shown = [(class_names[c], _fractions(colours[c].tolist())) for c in present]
    for classes, labels in seen:
        if classes is not None:
            own = (classes[c] for c in np.unique(labels).tolist())
            shown += [(name, _fractions(colour)) for name, colour in own]
    for panel in panels:
        if panel.outlined is not None and panel.classes is not None:
            lines = (panel.classes[place] for place in np.unique(panel.outlined[panel.outlined >= 0]).tolist())
            shown += [(name, _fractions(colour)) for name, colour in lines]
    patches = [Patch(facecolor=colour, edgecolor="#888888", lw=0.4, label=name) for name, colour in shown]
    stripe = _fractions(_STRIPE)
    abstentions = [panel.abstention for panel in maps if panel.abstains is not None and panel.abstains.any()]
    for words in dict.fromkeys(abstentions):
        patches.append(Patch(facecolor="white", edgecolor=stripe, hatch="/////", lw=0.4, label=words))
    if any(panel.unlabelled.any() for panel in maps):
        patches.append(Patch(facecolor=_fractions(_NO_LABEL), edgecolor="#888888", lw=0.4, label="no label"))
    return patches


def _fractions(colour: Sequence[int]) -> tuple[float, float, float]:
    """An RGB colour with values from 0 to 1."""
    red, green, blue = colour
    return red / 255, green / 255, blue / 255
