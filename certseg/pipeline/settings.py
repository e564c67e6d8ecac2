"""The one door to Hydra's configurations: a composed one becomes a :class:`RunSpec`, and a spec the object it names."""

from __future__ import annotations

import re
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from certseg.compute.atomic import first_line, place_of
from certseg.errors import CertsegError, ConfigError
from certseg.pipeline.declarations import options_of
from certseg.pipeline.spec import ObjectSpec, RunSpec

_FRACTION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*/\s*(\d+(?:\.\d*)?|\.\d+)")
_LENGTHS = ("radius", "radii", "sigma")  # settings that may be written as a fraction of the 8-bit range


def parse(cfg: DictConfig) -> RunSpec:
    """The run that a composed config describes.

    Raises:
        ConfigError: a setting has no value, is unknown, or is of another kind than it must be.
    """
    return RunSpec.of(resolve(cfg))


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """The config as nested dicts, lists and scalars, every interpolation resolved and ``8/255`` a number.

    Raises:
        ConfigError: an interpolation has no value or a mandatory setting is missing.
    """
    try:
        settings = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        name = error.full_key
        raise ConfigError(f"{name} is not set", remedy=f"Give it on the command line: {name}=<value>") from error
    except OmegaConfBaseException as error:
        raise ConfigError(
            "The configuration has no value for a setting",
            received=str(error).splitlines()[0],
            remedy="Set it on the command line, or choose a certifier that has it (attack=pgd_smoothed and "
            "square_smoothed need one)",
        ) from error
    plain: dict[str, Any] = _with_numbers(settings)
    return plain


def _with_numbers(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _with_numbers(entry, str(name)) for name, entry in value.items()}
    if isinstance(value, list):
        return [_with_numbers(entry, key) for entry in value]
    if key in _LENGTHS and isinstance(value, str):
        match = _FRACTION.fullmatch(value.strip())
        if match is None or float(match[2]) == 0:
            raise ConfigError(f"Cannot read {key}", expected="a number or a fraction such as 8/255", received=value)
        return float(match[1]) / float(match[2])
    return value


def build(group: str, spec: ObjectSpec, **extra: Any) -> Any:
    """The object that a spec names.

    Args:
        group: the config group that the spec stands in, for messages.
        spec: the class of the object and the arguments of its constructor.
        extra: further keyword arguments of the constructor.

    Raises:
        CertsegError: what the constructor raised, or a ConfigError naming an unknown or missing argument.
    """
    try:
        return instantiate(options_of(spec), _convert_="all", **extra)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, CertsegError):
            raise cause from None
        if isinstance(cause, Exception) and (where := place_of(cause)):
            raise ConfigError(
                f"What {group} names cannot be built", received=f"{first_line(cause)}{where}", remedy="Correct it there"
            ) from error
        raise ConfigError(
            f"The settings of {group} do not fit {spec.target}",
            received=cause if cause is not None else str(error).splitlines()[0],
            remedy=f"See configs/{group} for what can be set",
        ) from error
