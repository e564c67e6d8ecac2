"""What networks of others expect of colours: mean and standard deviation of each channel on the [0, 1] scale."""

from __future__ import annotations

from collections.abc import Sequence

from certseg.checks import is_number
from certseg.errors import ConfigError

PRESETS = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""By name: ``imagenet`` is what most networks that began on ImageNet were trained with, ``half`` maps [0, 1] to
[-1, 1]."""

Normalisation = str | Sequence[Sequence[float]] | None
"""The name of a preset, a pair of means and standard deviations, or None for ``none``."""


def mean_and_std(normalise: Normalisation) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and standard deviations of the three channels.

    Args:
        normalise: a preset's name, ``[means, standard deviations]``, or None for none.

    Raises:
        ConfigError: it is neither.

    >>> mean_and_std("half")
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """
    if normalise is None:
        return PRESETS["none"]
    if isinstance(normalise, str) and normalise in PRESETS:
        return PRESETS[normalise]
    if not isinstance(normalise, str) and len(normalise) == 2 and all(map(_is_triple, normalise)):
        mean, std = (tuple(map(float, values)) for values in normalise)
        if min(std) > 0:
            return mean, std
    raise ConfigError(
        "The normalisation of a network must be known",
        expected=f"{', '.join(PRESETS)}, or [[mean, mean, mean], [std, std, std]] on the [0, 1] scale",
        received=normalise,
    )


def stated(normalise: Normalisation, told: Normalisation) -> Normalisation:
    """What is meant by the setting ``auto``: what a library tells of its weights, ``imagenet`` where it tells nothing.

    Args:
        normalise: the setting; any other than ``auto`` is meant as it is.
        told: what the library tells; None where it tells nothing.
    """
    if normalise != "auto":
        return normalise
    return "imagenet" if told is None else told


def _is_triple(values: object) -> bool:
    return isinstance(values, Sequence) and len(values) == 3 and all(map(is_number, values))
