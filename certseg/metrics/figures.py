"""What figures mean: the one place that reads their names.

Summaries and rows hold figures by full names, such as ``certified_accuracy/image_mean`` or
``robustness@25/image_mean``: a name, in some with a parameter, and the estimator, if any. A :class:`Figure` says what
stands behind a name, a :class:`FigureKey` is a full name taken apart, and a :class:`FigureRegistry` takes it apart.
Those certseg writes itself are described in :mod:`certseg.metrics.known_figures`; a certifier or attack from elsewhere
describes its own, in the registry everybody reads (:func:`register`) or in one of its own:

>>> from certseg.metrics import SHARE, Estimator, Figure, FigureRegistry, Side
>>> registry = FigureRegistry()
>>> kept = registry.register(Figure("kept_tumours", "tumours no attack hides", unit=SHARE, side=Side.LOWER))
>>> kept.full_name(Estimator.POOLED)
'kept_tumours/pooled'
>>> key = registry.key("kept_tumours/pooled")
>>> key.heading, key.figure.unit.shown(0.75)
('kept tumours', '75.0')
>>> registry.key("odd_thing/pooled").figure.is_described
False
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from certseg.errors import ConfigError
from certseg.types import Guarantee

LAST = 1000
"""The place in a table of figures that have no place of their own: behind all others, in the order they come in."""

_PLACEHOLDERS = {
    "{number}": (r"[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?", "25"),
    "{word}": (r"[A-Za-z_]+", "clean"),
    "{name}": (r".+", "lesion"),
}
"""By placeholder of a name the pattern of what may stand there, and an example."""


def words(name: str) -> str:
    """An identifier in words: ``certified_miou`` is ``certified mIoU``."""
    special = {"miou": "mIoU", "iou": "IoU", "far": "FAR", "fnr": "FNR"}
    return " ".join(special.get(word, word) for word in name.split("_"))


def number(value: float, digits: int = 4) -> str:
    """A number with at most ``digits`` significant digits, without exponent where that reads better."""
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text and abs(value) < 1e9 else text


class Estimator(Enum):
    """How a figure of a data set follows from its images.

    Each has the ``suffix`` of full names, ``words`` that follow a heading, and a ``meaning``. Two averages of one
    figure answer one question, so a narrow table shows the first alone (``is_average``).
    """

    IMAGE_MEAN = "image_mean", "(image mean)", "computed per image, then averaged over the images", True
    POOLED = (
        "pooled",
        "(pooled)",
        "counted over all pixels of the data set (mIoU: mean over the classes present in its labels)",
        True,
    )
    MEDIAN = "median", "median", "of the images", False

    def __init__(self, suffix: str, words: str, meaning: str, is_average: bool) -> None:
        self.suffix, self.words, self.meaning, self.is_average = suffix, words, meaning, is_average


class Side(Enum):
    """What a figure says of the worst case; its value is that in words."""

    LOWER = "certified: the worst case is at least as good"
    UPPER = "reached by an attack: the worst case is at least as bad"
    ESTIMATE = "measured without an attacker, or of what is certified: it bounds nothing"
    NEITHER = "a size, a count or a cost"


@dataclass(frozen=True)
class Unit:
    """How the numbers of a figure are shown.

    Args:
        name: What the numbers count, in words.
        mark: What stands behind the heading of a column, such as ``%``; empty for nothing.
        scale: The factor between a value as stored and as shown.
        decimals: How many digits stand behind the point; None for four significant digits.
    """

    name: str
    mark: str = ""
    scale: float = 1.0
    decimals: int | None = None

    def shown(self, value: float) -> str:
        """``value``, as stored, as a text without the mark."""
        scaled = self.scale * value
        return number(scaled) if self.decimals is None else f"{scaled:.{self.decimals}f}"


SHARE = Unit("share", "%", 100.0, 1)
NUMBER = Unit("number")
FRACTION = Unit("fraction of 1")
COUNT = Unit("count")
PIXELS = Unit("pixels")
SECONDS = Unit("seconds")
RADIUS = Unit("norm over the whole image, on the [0, 1] scale")
GREY_LEVELS = Unit("grey levels of 255")


@dataclass(frozen=True)
class Figure:
    """A figure: what it means and how it is shown.

    ``{number}`` or ``{word}`` in ``name`` makes it a family, such as ``robustness@{number}``; the same placeholder may
    then stand in ``meaning`` and ``heading``.

    Args:
        name: The name in rows and summaries, without an estimator.
        meaning: A short phrase that says what is counted; the legend below a table shows it.
        unit: How the values are shown.
        side: What the figure says of the worst case.
        heading: What its column is called; the name in words if empty. Figures of one heading, unit and estimator share
            a column, as ``certified_accuracy`` of a certifier and ``attacked_accuracy`` of an attack do.
        order: Where it stands in a table: columns of small numbers come first.
        is_plain: Whether the heading says all there is to say, so that legends leave the figure out.
        counts_pixels: Whether it counts certified pixels one by one, as papers do: what it says of the worst case then
            holds only where the guarantee lets none of them be wrong (:meth:`bounds_under`).
        is_described: False for a figure that nobody registered.

    Raises:
        ConfigError: The name is empty, ends in an estimator or has several placeholders; heading or meaning hold a
            placeholder that the name has not; or there is no meaning.
    """

    name: str
    meaning: str
    unit: Unit = NUMBER
    side: Side = Side.NEITHER
    heading: str = ""
    order: int = LAST
    is_plain: bool = False
    counts_pixels: bool = False
    is_described: bool = True
    placeholder: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if not self.is_described:
            return
        found = [placeholder for placeholder in _PLACEHOLDERS for _ in range(self.name.count(placeholder))]
        asked = [placeholder for placeholder in _PLACEHOLDERS if placeholder in self.heading + self.meaning]
        if not self.name or _split(self.name)[1] is not None or len(found) > 1:
            raise ConfigError(
                "A figure cannot have this name",
                expected="a name without an estimator, with at most one of " + ", ".join(_PLACEHOLDERS),
                received=repr(self.name),
            )
        if not self.meaning.strip() or not set(asked) <= set(found):
            raise ConfigError(
                f"The figure {self.name} has no meaning that can be shown",
                expected="a sentence, with no other placeholder than the name has",
                received=repr(self.meaning),
            )
        object.__setattr__(self, "placeholder", found[0] if found else None)

    def bounds_under(self, guarantee: Guarantee) -> bool:
        """Whether it is a lower bound of the worst case where certificates promise this."""
        return self.side is Side.LOWER and (guarantee.keeps_every_pixel or not self.counts_pixels)

    @classmethod
    def undescribed(cls, name: str) -> Figure:
        """What is known of a figure nobody registered: its name. It is shown as a number."""
        return cls(name, "", is_described=False)

    def full_name(self, estimator: Estimator | None = None, parameter: str | None = None) -> str:
        """As summaries hold the figure; with ``parameter`` (as text) for a family.

        Raises:
            ConfigError: A family needs a parameter of its kind, and another figure has none.
        """
        return str(FigureKey(self, parameter, estimator))

    def parameter_in(self, name: str) -> str | None:
        """The parameter in ``name``, which has no estimator; None if it is no name of this family."""
        if self.placeholder is None:
            return None
        before, after = self.name.split(self.placeholder)
        found = re.fullmatch(f"{re.escape(before)}({_PLACEHOLDERS[self.placeholder][0]}){re.escape(after)}", name)
        return found[1] if found else None

    def with_parameter(self, text: str, parameter: str | None) -> str:
        """``text``, a name, heading or meaning of this figure, with the parameter in it."""
        return text if self.placeholder is None or parameter is None else text.replace(self.placeholder, parameter)

    @property
    def example(self) -> str:
        """A name, with an example of the parameter where there is one."""
        return self.name if self.placeholder is None else self.with_parameter(self.name, _example(self.placeholder))


@dataclass(frozen=True)
class FigureKey:
    """A full name taken apart; ``str`` puts it together again.

    Args:
        figure: The figure that the name is about.
        parameter: What stands in the place of a family's placeholder, as text; None for a figure without one.
        estimator: How the value follows from the images; None for a figure of one image, or one that is no average.

    Raises:
        ConfigError: A family needs a parameter of its kind, and another figure has none.
    """

    figure: Figure
    parameter: str | None = None
    estimator: Estimator | None = None

    def __post_init__(self) -> None:
        name = self.figure.with_parameter(self.figure.name, self.parameter)
        is_family = self.figure.placeholder is not None
        if is_family != (self.parameter is not None) or self.parameter != self.figure.parameter_in(name):
            raise ConfigError(
                f"The figure {self.figure.name} cannot be asked for like this",
                expected=self.figure.placeholder or "no parameter",
                received=repr(self.parameter),
            )

    def __str__(self) -> str:
        name = self.figure.with_parameter(self.figure.name, self.parameter)
        return name if self.estimator is None else f"{name}/{self.estimator.suffix}"

    @property
    def heading(self) -> str:
        """What a column calls it, without unit and estimator."""
        return self.figure.with_parameter(self.figure.heading, self.parameter) or self.name_in_words

    @property
    def name_in_words(self) -> str:
        """The name alone, whatever the heading is."""
        return " ".join(words(part) for part in self.figure.with_parameter(self.figure.name, self.parameter).split("/"))

    @property
    def meaning(self) -> str:
        """What it means; empty if nobody described it."""
        return self.figure.with_parameter(self.figure.meaning, self.parameter)


class FigureRegistry:
    """Figures by name: what is written, and where a full name is taken apart."""

    def __init__(self) -> None:
        self._figures: dict[str, Figure] = {}

    def __iter__(self) -> Iterator[Figure]:
        return iter(tuple(self._figures.values()))

    def register(self, figure: Figure) -> Figure:
        """Add a figure and return it. The same one again changes nothing.

        Raises:
            ConfigError: The name has another description already, or a name of the figure can be read as another's.
        """
        if not figure.is_described:
            raise ConfigError("Only a figure with a meaning can be registered", received=figure.name)
        for known in self:
            if known != figure and (_covers(known, figure) or _covers(figure, known)):
                raise ConfigError(
                    f"The figure {figure.name} is described already",
                    expected="one description for each name",
                    received=f"{figure.meaning!r} besides {known.meaning!r} of {known.name}",
                    remedy="Choose another name",
                )
        return self._figures.setdefault(figure.name, figure)

    def key(self, full_name: str) -> FigureKey:
        """A full name taken apart; of a figure that nobody registered the name as it stands, and the estimator."""
        name, estimator = _split(full_name)
        if name in self._figures and self._figures[name].placeholder is None:
            return FigureKey(self._figures[name], None, estimator)
        for figure in self:
            parameter = figure.parameter_in(name)
            if parameter is not None:
                return FigureKey(figure, parameter, estimator)
        return FigureKey(Figure.undescribed(name), None, estimator)


FIGURES = FigureRegistry()
"""All figures that tables, plots, claims and console know."""


def register(figure: Figure) -> Figure:
    """Add a figure to :data:`FIGURES` and return it.

    Raises:
        ConfigError: See :meth:`FigureRegistry.register`.
    """
    return FIGURES.register(figure)


def _split(full_name: str) -> tuple[str, Estimator | None]:
    """Name and estimator; what stands behind the last slash and is no estimator belongs to the name."""
    name, _, suffix = full_name.rpartition("/")
    estimator = next((estimator for estimator in Estimator if estimator.suffix == suffix and name), None)
    return (full_name, None) if estimator is None else (name, estimator)


def _example(placeholder: str) -> str:
    return _PLACEHOLDERS[placeholder][1]


def _covers(figure: Figure, other: Figure) -> bool:
    return other.name == figure.name or figure.parameter_in(other.example) is not None
