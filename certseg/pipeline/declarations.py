"""What a field of a spec declares: what its value may be, whether it decides results, whether a constructor gets it.

A field is declared with :func:`identity`, :func:`by_content`, :func:`told` or :func:`not_identity`. Nothing says it a
second time: keys (:func:`certseg.pipeline.keys.identity_of`), the reading of settings (:func:`read`) and the arguments
of constructors (:func:`options_of`) all follow the declarations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from certseg.errors import ConfigError

_METADATA = "setting"
_MISSING = dataclasses.MISSING


class LeftOut(Enum):
    """The value of a setting that nobody gave: the constructor's own default then applies."""

    LEFT_OUT = "left out"


LEFT_OUT = LeftOut.LEFT_OUT


class Role(Enum):
    """How a field takes part in keys.

    ``IDENTITY``: the key holds its value. ``CONTENT``: it names a file, and the key holds the digest of the file.
    ``TOLD``: the key holds what the object made of it says of itself, such as the digest of loaded weights, the threat
    of an attack or a certifier's own settings. ``NONE``: it changes no result and is in no key.
    """

    IDENTITY = "identity"
    CONTENT = "content"
    TOLD = "told"
    NONE = "none"


@dataclass(frozen=True)
class Kind:
    """What the value of a setting may be.

    Args:
        expected: what the value must be, in words for messages.
        holds: tells whether a value is of this kind.
        convert: makes what the field holds from a value and the setting's name; by default the value itself.
    """

    expected: str
    holds: Callable[[Any], bool]
    convert: Callable[[Any, str], Any] = lambda value, name: value

    def read(self, value: Any, name: str) -> Any:
        """What a field of this kind holds where the setting ``name`` has this value.

        Raises:
            ConfigError: the value is of another kind.
        """
        if not self.holds(value):
            raise ConfigError(
                f"{name} must be {self.expected}",
                received=repr(value),
                remedy=f"What {name} means is written beside it in configs/",
            )
        return self.convert(value, name)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


ANYTHING = Kind("anything", lambda value: True)
TEXT = Kind("a text", lambda value: isinstance(value, str))
FULL_TEXT = Kind("a text that is not empty", lambda value: isinstance(value, str) and bool(value))
TEXT_OR_NULL = Kind("null or a text", lambda value: value is None or isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
COUNT = Kind("a non-negative integer", _is_count)
WORDS = Kind("a list of names", lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value))
STOP_OR_SKIP = Kind("stop or skip", lambda value: value in ("stop", "skip"))
DERIVED = Kind("nothing that can be set", lambda value: True)
MAPPING = Kind("a mapping", lambda value: isinstance(value, Mapping))


@dataclass(frozen=True)
class Declaration:
    """What a field says of itself.

    Args:
        role: how the field takes part in keys.
        kind: what the field's value may be.
        argument: whether the constructor of the spec's class gets the value, where one is given.
        off: the value that switches the setting off. Keys do not name a setting that is off, so that results from
            before there was such a setting are found again.
    """

    role: Role
    kind: Kind
    argument: bool
    off: Any


def _declared(role: Role, kind: Kind, default: Any, argument: bool, off: Any) -> Any:
    metadata = {_METADATA: Declaration(role, kind, argument, off)}
    if default is dict:
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def identity(kind: Kind = ANYTHING, *, default: Any = _MISSING, argument: bool = False, off: Any = LEFT_OUT) -> Any:
    """A field that decides results by its value. See :class:`Declaration`; ``default`` may be the type dict."""
    return _declared(Role.IDENTITY, kind, default, argument, off)


def by_content(*, default: Any = None, argument: bool = False) -> Any:
    """A field that names a file, or is None. The content of the file decides results, not its path."""
    return _declared(Role.CONTENT, TEXT_OR_NULL, default, argument, None)


def told(kind: Kind = ANYTHING, *, default: Any = _MISSING, argument: bool = False) -> Any:
    """A field that decides results only through an object made of it; keys hold what that object says of itself."""
    return _declared(Role.TOLD, kind, default, argument, LEFT_OUT)


def not_identity(kind: Kind = ANYTHING, *, default: Any = _MISSING, argument: bool = False) -> Any:
    """A field that changes no result: where things lie, how fast they go, what is shown."""
    return _declared(Role.NONE, kind, default, argument, LEFT_OUT)


def declaration(field: dataclasses.Field[Any]) -> Declaration:
    """What a field of a spec says of itself."""
    found: Declaration = field.metadata[_METADATA]
    return found


def spec_kind(spec: type, *, optional: bool = False) -> Kind:
    """The kind of settings that become a spec of their own.

    Args:
        spec: the class of that spec.
        optional: whether null and settings without ``_target_`` are allowed, which become None.
    """

    def convert(value: Any, name: str) -> Any:
        if optional and (value is None or value.get("_target_") is None):
            return None
        return read(spec, value, name)

    return Kind(
        "settings with a _target_" + (", or none" if optional else ""),
        lambda value: isinstance(value, Mapping) or (optional and value is None),
        convert,
    )


def read(spec: type, settings: Mapping[str, Any], group: str = "") -> Any:
    """Make a spec from plain settings. Settings that it has no field for become its ``arguments``.

    Args:
        spec: the class of the spec.
        settings: nested dicts, lists and scalars.
        group: the config group of the settings, such as ``model``, for messages; empty for the settings of a run.

    Raises:
        ConfigError: a setting is missing or of another kind, or has no field in a spec without ``arguments``.
    """
    rest, values, names = dict(settings), {}, []
    fields = dataclasses.fields(spec)
    for field in fields:
        kind = declaration(field).kind
        if field.name == "arguments" or kind is DERIVED:
            continue
        setting = "_target_" if field.name == "target" else field.name
        name = f"{group}.{setting}" if group else setting
        names.append(setting)
        if setting in rest:
            values[field.name] = kind.read(rest.pop(setting), name)
        elif field.default is _MISSING and field.default_factory is _MISSING:
            raise ConfigError(
                f"{name} is not set",
                expected=kind.expected,
                remedy=f"Set {name}=..., or in a choice of your own add it to the YAML file",
            )
    if any(field.name == "arguments" for field in fields):
        values["arguments"] = rest
    elif rest:
        raise ConfigError(
            f"Unknown setting{'s' if len(rest) > 1 else ''} of {group or 'the run'}",
            expected=", ".join(names),
            received=", ".join(map(str, rest)),
            remedy="Correct the name; a setting of an experiment's own, for others to refer to, is listed in variables",
        )
    return spec(**values)


def options_of(spec: Any) -> dict[str, Any]:
    """The class of a spec as ``_target_`` and its constructor's arguments; a spec within it becomes a nested dict."""
    options: dict[str, Any] = {"_target_": spec.target}
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if declaration(field).argument and value is not LEFT_OUT:
            options[field.name] = options_of(value) if dataclasses.is_dataclass(value) else value
    return {**options, **spec.arguments}
