"""Label files whose values or colours are declared class by class: masks of 0 and 255, colours, ids of 16 bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard

import numpy as np

from certseg.checks import is_count
from certseg.datasets.reading import COLOUR_LABEL, LABEL, FileKind, image_size, read_colours, read_label
from certseg.errors import ConfigError, DataError
from certseg.types import IGNORE_INDEX, Sides

Code = tuple[int, ...]
"""One value, or red, green and blue."""
Declared = Mapping[str, object] | Sequence[object]
"""What a user declares: an entry for each class by its name, or one in the place of each class."""

MOST_VALUE = 2**16 - 1
"""The largest value of a label file: that of 16 bits."""

_SHOWN = 20  # codes named in one message
_TRACES = 32  # that far, in each channel, compression may take a pixel from what was drawn
_MOST_FAR = 0.1  # share of pixels further away: a few lie along edges


@dataclass(frozen=True)
class DeclaredCoding:
    """Which values or colours of label files are which class; every other one is an error, which lists it.

    Args:
        classes: for each class the values ``(value,)`` or the colours ``(red, green, blue)`` that mean it.
        ignore: the values or colours that mean "no label".
        quantise: read a pixel as the nearest declared value or colour, for files that compression has changed. A file
            of which more than a tenth lies further than 32 from each, in some channel, is still an error.

    >>> DeclaredCoding(classes=(((0,),), ((255,), (200,)))).what
    'values'
    """

    classes: tuple[tuple[Code, ...], ...]
    ignore: tuple[Code, ...] = ()
    quantise: bool = False

    @property
    def what(self) -> str:
        """``values`` or ``colours``, as the setting is called."""
        return "values" if len(self.classes[0][0]) == 1 else "colours"

    @property
    def _kind(self) -> FileKind:
        return replace(LABEL if self.what == "values" else COLOUR_LABEL, may_be_lossy=self.quantise)

    def sides(self, file: Path) -> Sides:
        """Height and width of a label file, from its header.

        Raises:
            DataError: the header tells that the file cannot be read.
        """
        return image_size(file, self._kind)

    def identity(self) -> list[object]:
        """What a fingerprint holds of the coding."""
        return [self.what, self.classes, self.ignore, self.quantise]

    def labels(self, file: Path) -> np.ndarray:
        """Class ids ``H x W`` int64 of a label file.

        Raises:
            DataError: the file cannot be read, or holds what is not declared; names the values or colours, with the
                number of pixels of each.
        """
        pixels = read_label(file, self._kind)[..., None] if self.what == "values" else read_colours(file, self._kind)
        length = pixels.shape[-1]
        packed = pixels[..., 0].astype(np.int64)  # one number per pixel: whole rows are sorted ten times as slowly
        for channel in range(1, length):
            packed = (packed << 8) | pixels[..., channel]
        numbers, counts = np.unique(packed, return_counts=True)
        found = numbers[:, None] if length == 1 else (numbers[:, None] >> (16, 8, 0)) & 255
        meanings = self._meanings()
        if self.quantise:
            labels = self._nearest(found, counts, meanings, file)
        else:
            labels = self._exact(found, counts, meanings, file)
        return labels[np.searchsorted(numbers, packed)]

    def _meanings(self) -> dict[Code, int]:
        meanings = {code: index for index, codes in enumerate(self.classes) for code in codes}
        return meanings | dict.fromkeys(self.ignore, IGNORE_INDEX)

    def _exact(self, found: np.ndarray, counts: np.ndarray, meanings: Mapping[Code, int], file: Path) -> np.ndarray:
        codes = [tuple(code) for code in found.tolist()]
        unknown = {code: int(count) for code, count in zip(codes, counts, strict=True) if code not in meanings}
        if unknown:
            raise self._not_declared(file, _listed(unknown), f"dataset.{self.what}")
        return np.asarray([meanings[code] for code in codes], dtype=np.int64)

    def _nearest(self, found: np.ndarray, counts: np.ndarray, meanings: Mapping[Code, int], file: Path) -> np.ndarray:
        codes = np.asarray(list(meanings), dtype=np.int64)
        nearest = np.zeros(len(found), dtype=np.int64)
        least = np.full(len(found), np.iinfo(np.int64).max)
        for index, code in enumerate(codes):  # one at a time: a photograph's colours times all codes would not fit
            distance = ((found - code) ** 2).sum(axis=1)
            nearest[distance < least] = index
            least = np.minimum(least, distance)
        is_far = np.abs(found - codes[nearest]).max(axis=1) > _TRACES
        share = counts[is_far].sum() / counts.sum()
        if share > _MOST_FAR:
            far = {tuple(code): int(count) for code, count in zip(found[is_far].tolist(), counts[is_far], strict=True)}
            raise self._not_declared(file, f"{share:.0%} of the pixels are far from each: {_listed(far)}", "them all")
        return np.asarray(list(meanings.values()), dtype=np.int64)[nearest]

    def _not_declared(self, file: Path, received: str, place: str) -> DataError:
        known = ", ".join(map(_written, list(self._meanings())[:_SHOWN]))
        return DataError(
            f"Label file {file} holds {self.what} that are not declared",
            expected=known + (", ..." if len(self._meanings()) > _SHOWN else ""),
            received=received,
            remedy=f"Declare {place}: several {self.what} may mean one class, and some that there is no label",
        )


def declared_values(values: Declared, ignore_index: int | None, quantise: bool = False) -> DeclaredCoding:
    """The coding of ``dataset.values``; a value that a class has is that class, even if it is the ``ignore_index``.

    Args:
        values: for each class, by name or in order, an integer 0 to 65535 or a list of them.
        ignore_index: the value that means "no label" where no class has it; None if there is none.
        quantise: see :class:`DeclaredCoding`.

    Raises:
        ConfigError: ``values`` is something else, or gives one value to two classes.

    >>> declared_values({"background": 0, "lesion": [254, 255]}, 255).classes
    (((0,),), ((254,), (255,)))
    """
    expected = "an integer 0 to 65535 or a list of them for each class"
    classes = []
    for entry in _entries("dataset.values", values, expected):
        listed = entry if _is_list(entry) else [entry]
        classes.append(_codes("dataset.values", [[value] for value in listed], 1, MOST_VALUE, expected))
    taken = _once("dataset.values", classes)
    ignore = () if ignore_index is None or (ignore_index,) in taken else ((ignore_index,),)
    return DeclaredCoding(tuple(classes), ignore, quantise)


def declared_colours(colours: Declared, ignore: Sequence[object] | None, quantise: bool = False) -> DeclaredCoding:
    """The coding of ``dataset.colours``.

    Args:
        colours: for each class, by name or in order, a colour ``[red, green, blue]``, 0 to 255, or a list of them.
        ignore: the colours that mean "no label"; None if there is none.
        quantise: see :class:`DeclaredCoding`.

    Raises:
        ConfigError: a setting is something else, or has one colour twice.

    >>> declared_colours({"road": [128, 64, 128]}, [[0, 0, 0]]).ignore
    ((0, 0, 0),)
    """
    expected = "[red, green, blue], integers 0 to 255, or a list of such colours for each class"
    classes = []
    for entry in _entries("dataset.colours", colours, expected):
        is_one = _is_list(entry) and not any(_is_list(part) for part in entry)
        classes.append(_codes("dataset.colours", [entry] if is_one else entry, 3, 255, expected))
    without = () if ignore is None else _codes("dataset.ignore_colours", ignore, 3, 255, "a list of [red, green, blue]")
    _once("dataset.colours and dataset.ignore_colours", [*classes, without])
    return DeclaredCoding(tuple(classes), without, quantise)


def declared_names(declared: Declared | None) -> tuple[str, ...] | None:
    """The names of the classes that a mapping declares; None for a list or nothing."""
    return tuple(map(str, declared)) if isinstance(declared, Mapping) else None


def _entries(name: str, declared: object, expected: str) -> list[object]:
    if isinstance(declared, Mapping):
        entries = list(declared.values())
    elif _is_list(declared):
        entries = list(declared)
    else:
        entries = []
    if not entries:
        raise ConfigError(f"{name} declares no class", expected=expected, received=repr(declared))
    return entries


def _codes(name: str, codes: object, length: int, most: int, expected: str) -> tuple[Code, ...]:
    if not _is_list(codes) or not codes:
        raise ConfigError(f"{name} cannot be read", expected=expected, received=repr(codes))
    read = []
    for code in codes:
        parts = [part for part in code if is_count(part, 0, most)] if _is_list(code) else []
        if not _is_list(code) or len(parts) != len(code) or len(parts) != length:
            raise ConfigError(f"{name} cannot be read", expected=expected, received=repr(code))
        read.append(tuple(parts))
    return tuple(read)


def _once(name: str, groups: Iterable[tuple[Code, ...]]) -> set[Code]:
    seen: set[Code] = set()
    for code in (code for group in groups for code in group):
        if code in seen:
            raise ConfigError(f"{name} must have every entry once", received=f"{_written(code)} twice")
        seen.add(code)
    return seen


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _written(code: Code) -> str:
    return str(code[0]) if len(code) == 1 else str(list(code))


def _listed(counts: Mapping[Code, int]) -> str:
    """The codes with their numbers of pixels, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{_written(code)} ({count} pixels)" for code, count in ordered[:_SHOWN])
    return shown + (f", and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else "")
