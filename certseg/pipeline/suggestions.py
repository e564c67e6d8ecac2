"""What Hydra says of a word on the command line that it does not know, in a line that names what was meant perhaps."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from certseg.pipeline.config_folders import config_directory, own_config_folders

_HELP = "Run certseg --help for what can be set."
_NO_CHOICE = re.compile(r"Could not find '(\S+)/([^'/]+)' Available options in '[^']+': (.*?)( Config search|$)")
_LEAST, _BEST = 0.6, 0.1  # similarity of a near match, and how much less similar than the nearest it may be
_SHOWN = 24  # choices named in one message


def reworded(text: str, words: Sequence[str]) -> str:
    """An error message of Hydra in one line, with near matches where a name in it is unknown.

    Args:
        text: Hydra's message, on one line.
        words: the words of the command line.
    """
    folders = [config_directory(), *own_config_folders(words)]
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown_setting(found[1], words, folders)
    if found := _NO_CHOICE.search(text):
        group, choice, choices = found[1], found[2], found[3].split()
        shown = ", ".join(choices[:_SHOWN]) + (", ..." if len(choices) > _SHOWN else "")
        return f"There is no {group}={choice}. {meant(choice, choices)}Choices of {group}: {shown}."
    if "mismatched input" in text or "token recognition error" in text or "no viable alternative" in text:
        return _unreadable(text, words)
    return f"{text} {_HELP}"


def _unknown_setting(name: str, words: Sequence[str], folders: Sequence[Path]) -> str:
    group, dot, setting = name.partition(".")
    choices = _choices(group, folders) if dot else {}
    if not choices:
        return f"There is no setting or group {name}. {meant(name, _top_level(folders))}{_HELP}"
    having = sorted(choice for choice, settings in choices.items() if setting in _flat(settings))
    if having:
        if any(word.startswith(f"{group}=") and "," in word for word in words):
            return (
                f"A sweep over {group} has no {name} until {group} is chosen. Write ++{name}=..., which is set "
                "whatever is chosen."
            )
        return f"The chosen {group} has no setting {name} of this form. {group}={', '.join(having)} have it."
    known = {inner for settings in choices.values() for inner in _flat(settings)}
    return (
        f"There is no setting {name}. {meant(setting, known, f'{group}.')}"
        f"Run certseg --cfg job -p {group} for those there are; one that is new, of a class of your own, is added by "
        f"+{name}=..."
    )


def _unreadable(text: str, words: Sequence[str]) -> str:
    """For values that have to be quoted, which hold what Hydra's grammar takes for its own."""
    for word in words:
        name, equals, value = word.partition("=")
        if equals and "=" in value and value[:1] not in "'\"[{":
            return f"The value of {name} holds a '=' and has to be quoted twice: '{name}=\"{value}\"'."
    reason = text.split(" See https")[0]
    return f"A word of the command line cannot be read: {reason}. Quote values with spaces or signs: 'name=\"value\"'."


def meant(name: str, known: Iterable[str], prefix: str = "") -> str:
    """A question that names, behind ``prefix``, what is spelled most alike; empty where nothing is."""
    likeness = {other: difflib.SequenceMatcher(None, name, other).ratio() for other in sorted(known)}
    least = max(_LEAST, max(likeness.values(), default=0.0) - _BEST)
    near = [f"{prefix}{other}" for other, ratio in likeness.items() if ratio >= least]
    return f"Did you mean {' or '.join(near)}? " if near else ""


def _top_level(folders: Sequence[Path]) -> set[str]:
    """The names of groups, and of settings beside them."""
    names = {entry.name for folder in folders if folder.is_dir() for entry in folder.iterdir() if entry.is_dir()}
    return (names | set(_read(folders[0] / "config.yaml"))) - {"__pycache__", "defaults"}


def _choices(group: str, folders: Sequence[Path]) -> dict[str, Mapping[str, Any]]:
    """The settings of every choice of a group, with those of the groups within it under their names."""
    found: dict[str, Mapping[str, Any]] = {}
    for folder in folders:
        for file in sorted((folder / group).rglob("*.yaml")) if (folder / group).is_dir() else []:
            within = file.relative_to(folder / group).parts[:-1]
            settings: Mapping[str, Any] = _read(file)
            for name in reversed(within):
                settings = {name: settings}
            found["/".join([*within, file.stem])] = settings
    return found


def _flat(settings: Mapping[str, Any]) -> list[str]:
    """The names of settings, those within others joined by dots."""
    names = []
    for name, value in settings.items():
        names.append(str(name))
        if isinstance(value, Mapping):
            names += [f"{name}.{inner}" for inner in _flat(value)]
    return [name for name in names if name.split(".")[-1] not in ("defaults", "_target_")]


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError):  # a file of the user's own, about which Hydra says more
        return {}
    return content if isinstance(content, Mapping) else {}
