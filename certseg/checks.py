"""What a setting may be, in one place: counts, numbers, flags, choices, words and lists of them.

``check_*`` raises :class:`ConfigError` with one sentence for all of certseg: "<setting> must be <expected>. Received:
<value>. <remedy>". ``checked_*`` does so, too, and returns the value in its final type. The setting is named as its
user writes it, ``certifier.n0``. ``is_*`` only answers, for whoever has a better sentence, and tells a type checker
what the value is.

Values are those that a YAML file or a notebook gives, before anything is computed, and most of them become part of a
result's key, which is JSON. So true and false are neither integers nor numbers, NumPy's integers and its float32 are
not either (``np.float64`` is a Python float, and passes), and no text is read as a number. NaN lies in no domain; an
infinity only in one that says so, such as ``(0, inf]``.

The module stands beside :mod:`certseg.errors` and below every package, for :mod:`certseg.compute` checks settings too
and :mod:`certseg.types` builds on that.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import TypeGuard, overload

from certseg.errors import ConfigError

_DOMAIN = re.compile(r"([\[(])(-?[\d.e-]+|-inf), (-?[\d.e-]+|inf)([\])])")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def require(name: str, value: object, expected: str, holds: bool, *, remedy: str | None = None) -> None:
    """Raise :class:`ConfigError`, saying that ``name`` must be ``expected``, unless it ``holds``."""
    if not holds:
        raise ConfigError(f"{name} must be {expected}", received=repr(value), remedy=remedy)


def is_count(value: object, least: int = 1, most: int | None = None) -> TypeGuard[int]:
    """Whether ``value`` is an integer from ``least`` to ``most``, both included; None is no upper limit.

    >>> is_count(1), is_count(0), is_count(True), is_count(1.0)
    (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and least <= value and (most is None or value <= most)


def is_number(value: object, domain: str = "(-inf, inf)") -> TypeGuard[float]:
    """Whether ``value`` is a real number in ``domain``, an interval such as ``(0, 1]`` as mathematics writes it.

    >>> is_number(1, "(0, 1]"), is_number(0, "(0, 1]"), is_number(float("nan"))
    (True, False, False)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, has_low, high, has_high = _interval(domain)
    return (low < value or (has_low and low == value)) and (value < high or (has_high and high == value))


def is_word(value: object) -> TypeGuard[str]:
    """Whether ``value`` is a text of letters, digits, '.', '_' and '-' that begins with a letter or digit, and so can
    be the name of a folder.

    >>> is_word("drs_e"), is_word("../up"), is_word("")
    (True, False, False)
    """
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def check_count(
    name: str,
    value: object,
    least: int = 1,
    most: int | None = None,
    *,
    optional: bool = False,
    remedy: str | None = None,
) -> None:
    """Raise :class:`ConfigError` unless :func:`is_count`; with ``optional`` None is right, too.

    >>> check_count("certifier.n", 0)
    Traceback (most recent call last):
    certseg.errors.ConfigError: certifier.n must be a positive integer. Received: 0.
    """
    if most is not None:
        expected = f"an integer from {least} to {most}"
    else:
        expected = {0: "a non-negative integer", 1: "a positive integer"}.get(least, f"an integer of at least {least}")
    _check(name, value, expected, is_count(value, least, most), optional, remedy)


def check_number(
    name: str,
    value: object,
    domain: str,
    *,
    what: str | None = None,
    optional: bool = False,
    remedy: str | None = None,
) -> None:
    """Raise :class:`ConfigError` unless :func:`is_number`; with ``optional`` None is right, too.

    Args:
        name: the setting.
        value: what it is set to.
        domain: an interval, ``(0, inf)`` for positive numbers.
        what: what the number is, for the message, for example ``a share of the pixels``; None for ``a number``.
        optional: accept None.
        remedy: what the user can do, as a full sentence.

    Raises:
        ConfigError: the value is no number or outside the domain.

    >>> check_number("attack.success", 0.0, "(0, 1]", what="a share of the pixels")
    Traceback (most recent call last):
    certseg.errors.ConfigError: attack.success must be a share of the pixels in (0, 1]. Received: 0.0.
    """
    _check(name, value, _in_words(domain, what), is_number(value, domain), optional, remedy)


def check_flag(name: str, value: object) -> None:
    """Raise :class:`ConfigError` unless ``value`` is true or false; 0 and 1 are not."""
    require(name, value, "true or false", isinstance(value, bool))


def check_choice(
    name: str, value: object, choices: Iterable[str], *, optional: bool = False, remedy: str | None = None
) -> None:
    """Raise :class:`ConfigError` unless ``value`` is one of ``choices``; with ``optional`` None is right, too.

    >>> check_choice("attack.start", "zero", ("random", "image"))
    Traceback (most recent call last):
    certseg.errors.ConfigError: attack.start must be random or image. Received: 'zero'.
    """
    known = tuple(choices)
    expected = known[0] if len(known) == 1 else f"{', '.join(known[:-1])} or {known[-1]}"
    _check(name, value, expected, value in known, optional, remedy)


def check_text(name: str, value: object, expected: str, *, optional: bool = False, remedy: str | None = None) -> None:
    """Raise :class:`ConfigError`, saying that ``name`` must be ``expected``, unless ``value`` is a text and not empty;
    with ``optional`` None is right, too."""
    _check(name, value, expected, isinstance(value, str) and value != "", optional, remedy)


def check_word(name: str, value: object) -> None:
    """Raise :class:`ConfigError` unless :func:`is_word`."""
    if not is_word(value):
        raise ConfigError(
            f"{name} must be a plain word, for it becomes a folder or part of its name",
            expected="letters, digits, '.', '_' and '-', the first a letter or digit",
            received=repr(value),
        )


def checked_counts(name: str, values: object, least: int = 1) -> tuple[int, ...]:
    """The integers of a list or tuple, perhaps empty.

    Raises:
        ConfigError: it is something else, or an entry is no integer of at least ``least``.

    >>> checked_counts("model.rates", [12, 24])
    (12, 24)
    """
    counts = tuple(value for value in _entries(values) if is_count(value, least))
    kind = {0: "non-negative integers", 1: "positive integers"}.get(least, f"integers of at least {least}")
    require(name, values, f"a list of {kind}", _is_list(values) and len(counts) == len(_entries(values)))
    return counts


def checked_numbers(name: str, values: object, domain: str) -> tuple[float, ...]:
    """The numbers of a list or tuple, perhaps empty, as floats.

    Raises:
        ConfigError: it is something else, or an entry is no number in ``domain``.

    >>> checked_numbers("certifier.radii", [1, 0.5], "[0, inf)")
    (1.0, 0.5)
    """
    numbers = tuple(float(value) for value in _entries(values) if is_number(value, domain))
    expected = {"(0, inf)": "a list of positive numbers", "[0, inf)": "a list of numbers >= 0"}
    valid = _is_list(values) and len(numbers) == len(_entries(values))
    require(name, values, expected.get(domain, f"a list of numbers in {domain}"), valid)
    return numbers


@overload
def checked_size(name: str, value: object) -> tuple[int, int]: ...


@overload
def checked_size(name: str, value: object, *, optional: bool) -> tuple[int, int] | None: ...


def checked_size(name: str, value: object, *, optional: bool = False) -> tuple[int, int] | None:
    """Height and width in pixels of a list or tuple of two positive integers; with ``optional`` None stays None.

    Raises:
        ConfigError: it is something else.

    >>> checked_size("training.crop", [64, 128])
    (64, 128)
    """
    if optional and value is None:
        return None
    sides = _entries(value)
    if len(sides) != 2 or not is_count(sides[0]) or not is_count(sides[1]):
        expected = f"{'null or ' if optional else ''}[height, width] in pixels, two positive integers"
        raise ConfigError(f"{name} must be {expected}", received=repr(value))
    return sides[0], sides[1]


def _check(name: str, value: object, expected: str, holds: bool, optional: bool, remedy: str | None) -> None:
    if optional:
        expected, holds = f"null or {expected}", holds or value is None
    require(name, value, expected, holds, remedy=remedy)


def _is_list(values: object) -> bool:
    return isinstance(values, list | tuple)


def _entries(values: object) -> tuple[object, ...]:
    """The entries of a list or tuple; none of anything else."""
    return tuple(values) if isinstance(values, list | tuple) else ()


def _in_words(domain: str, what: str | None) -> str:
    half_lines = {"(0, inf)": "a positive number", "[0, inf)": "a number >= 0", "(-inf, inf)": "a finite number"}
    return half_lines[domain] if what is None and domain in half_lines else f"{what or 'a number'} in {domain}"


@functools.cache
def _interval(domain: str) -> tuple[float, bool, float, bool]:
    """Lower end, whether it is included, upper end, whether it is included."""
    match = _DOMAIN.fullmatch(domain)
    if match is None:
        raise ValueError(f"{domain!r} is no interval such as (0, 1]")
    return float(match[2]), match[1] == "[", float(match[3]), match[4] == "]"
