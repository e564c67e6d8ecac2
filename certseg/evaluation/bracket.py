"""The bracket: what is certified may never be broken by an attack on the same predictor within the same threat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.stats import binom

from certseg.errors import BracketError

LEVEL = 1e-6
"""Probability with which a correct certificate is accused, per image, through the votes' own chance alone."""


class MapSource(Protocol):
    """Where the maps of an image are read from."""

    def load_map(self, name: str) -> dict[str, np.ndarray]:
        """The stored maps of image ``name``."""


@dataclass(frozen=True)
class Bracket:
    """What was compared: images, certified pixels, and how many of them a majority vote put into another class
    without that being significant (near probability 1/2 votes fall either way)."""

    images: int
    certified_pixels: int
    undecided_pixels: int


def comparable(certifier: Mapping, attack: Mapping) -> bool:
    """Whether two summaries speak about the same predictor and the attack stays inside the certified threat."""
    return (
        certifier["predictor"] == attack["predictor"]
        and certifier["threat"]["norm"] == attack["threat"]["norm"]
        and attack["threat"]["radius"] <= certifier["threat"]["radius"]
    )


def broken_pixels(certificate: Mapping[str, np.ndarray], attacked: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Number of certified pixels proven to be broken, and of those merely outvoted.

    A network's prediction is exact: any other class at a certified pixel breaks it. A smoothed model's prediction is a
    vote. If the certificate holds, the certified class has a probability above 1/2 at the adversarial image, so its
    votes follow a binomial law with p > 1/2. It received at most ``num_votes - votes`` of them when another class won
    with ``votes``. The pixel is broken when that is impossible at level :data:`LEVEL` / (number of certified pixels).

    Args:
        certificate: maps ``classes`` and ``certified`` (``H x W``).
        attacked: map ``prediction``, and ``votes`` with ``num_votes`` for a sampled predictor.
    """
    certified = certificate["certified"].astype(bool)
    changed = certified & (attacked["prediction"] != certificate["classes"])
    if "votes" not in attacked or not changed.any():
        return int(changed.sum()), 0
    at_most = int(attacked["num_votes"]) - attacked["votes"][changed].astype(np.int64)
    p_values = binom.cdf(at_most, int(attacked["num_votes"]), 0.5)
    broken = int((p_values <= LEVEL / certified.sum()).sum())
    return broken, int(changed.sum()) - broken


def check_bracket(
    certifier: Mapping, certificates: MapSource, attack: Mapping, attacked: MapSource, names: Sequence[str]
) -> Bracket | None:
    """Compare a certifier's and an attack's maps, image by image and pixel by pixel.

    Args:
        certifier: the certifier's summary.
        certificates: its maps.
        attack: the attack's summary.
        attacked: its maps.
        names: the images both have finished.

    Returns:
        None where the two may not be compared (another predictor, norm or larger radius).

    Raises:
        BracketError: a certified pixel is broken; names the image. One of the two computations has a defect.
    """
    if not comparable(certifier, attack):
        return None
    certified_pixels = undecided = 0
    for name in names:
        certificate = certificates.load_map(name)
        broken, outvoted = broken_pixels(certificate, attacked.load_map(name))
        if broken:
            raise BracketError(
                f"The attack {attack['name']} changed {broken} pixels of image {name!r} that {certifier['name']} "
                f"certified at {certifier['threat']['norm']} radius {certifier['threat']['radius']:.6g}",
                expected="no certified pixel changes within its radius",
                remedy="Please report this with the run's folder: the certificate or the attack has a defect",
            )
        certified_pixels += int(certificate["certified"].sum())
        undecided += outvoted
    return Bracket(len(names), certified_pixels, undecided)
