"""The colours in which the classes of data sets that come without a palette are drawn."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from certseg.errors import ConfigError

Colour = tuple[int, int, int]


def checked_palette(palette: Sequence[Sequence[int]] | None, count: int) -> tuple[Colour, ...]:
    """The colours that ``dataset.palette`` gives, or evenly spaced hues.

    Args:
        palette: one colour ``[red, green, blue]``, 0 to 255, per class; None for hues.
        count: number of classes.

    Raises:
        ConfigError: the palette has another length, or an entry is no colour.
    """
    if palette is None:
        return hues(count)
    colours = tuple(_colour(tuple(colour)) for colour in palette)
    if len(colours) != count:
        raise ConfigError(
            "dataset.palette does not fit the classes", expected=f"{count} colours", received=len(colours)
        )
    return colours


def hues(count: int) -> tuple[Colour, ...]:
    """``count`` colours, 0 to 255, evenly spaced over the circle of hues in such an order that neighbours differ.

    >>> hues(2)
    ((230, 57, 57), (57, 108, 230))
    """
    return tuple(_hue((index * 0.618034) % 1.0) for index in range(count))  # the golden ratio


def _hue(hue: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def _colour(colour: tuple[int, ...]) -> tuple[int, int, int]:
    if len(colour) != 3 or any(not isinstance(v, int) or not 0 <= v <= 255 for v in colour):
        raise ConfigError("dataset.palette holds no RGB colour", expected="three integers 0 to 255", received=colour)
    red, green, blue = colour
    return red, green, blue
