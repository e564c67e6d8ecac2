"""What networks of others expect of colours: mean and standard deviation of each channel on the [0, 1] scale."""

from __future__ import annotations

from collections.abc import Sequence

from certseg.checks import is_number
from certseg.errors import ConfigError

PRESETS = {
    "none": ((0.0,), (1.0,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""By name: ``imagenet`` is what most networks that began on ImageNet were trained with, ``half`` maps [0, 1] to
[-1, 1]."""

Normalisation = str | Sequence[Sequence[float]] | None
"""The name of a preset, a pair of means and standard deviations, or None for ``none``."""


def mean_and_std(normalise: Normalisation) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and standard deviations of the channels; a single one is that of all.

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
    if not isinstance(normalise, str) and len(normalise) == 2 and all(map(_are_numbers, normalise)):
        mean, std = (tuple(map(float, values)) for values in normalise)
        if min(std) > 0 and len(mean) == len(std):
            return mean, std
    raise ConfigError(
        "The normalisation of a network must be known",
        expected=f"{', '.join(PRESETS)}, or [[mean, mean, mean], [std, std, std]] on the [0, 1] scale, one of each for "
        "a channel",
        received=normalise,
    )


def stated(normalise: Normalisation, told: Normalisation, channels: int = 3) -> Normalisation:
    """What is meant by the setting ``auto``: what a library tells of its weights; where it tells nothing ``imagenet``
    for three channels, and ``none`` for any other number.

    Args:
        normalise: the setting; any other than ``auto`` is meant as it is.
        told: what the library tells; None where it tells nothing.
        channels: number of the images' channels.
    """
    if normalise != "auto":
        return normalise
    return ("imagenet" if channels == 3 else "none") if told is None else told


def _are_numbers(values: object) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str) and bool(values) and all(map(is_number, values))
