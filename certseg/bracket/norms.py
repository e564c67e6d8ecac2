"""Norms of the smallest perturbations found against certified radii: none may be shorter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from certseg.bracket.comparison import Comparison
from certseg.bracket.pixels import broken_pixels
from certseg.errors import BracketError
from certseg.metrics import known_figures
from certseg.types import Maps, Store


@dataclass(frozen=True)
class NormFindings:
    """What was compared: images, perturbations that reach a share of changed pixels (one for each image and share), and
    certified pixels of images whose perturbation lies within the certificate's radius."""

    images: int
    norms: int
    certified_pixels: int


def check_norms(
    comparison: Comparison, certificates: Store, attacked: Store, names: Sequence[str]
) -> NormFindings | None:
    """Compare the perturbations a minimum-norm attack found with certificates, image by image.

    Whatever the attack's own goal was: where a share of the labelled pixels changed class, the perturbation's norm is
    not below the certified ``robustness@share``; where the norm is within the certificate's radius, no certified pixel
    changed.

    Args:
        comparison: the certifier's guarantee beside the attack's attempt.
        certificates: rows and maps of the certifier.
        attacked: rows and maps of the attack.
        names: the images both have finished.

    Returns:
        None where there is nothing to compare: another predictor or norm, nothing claimed about single images, or no
        perturbation that reaches a share or stays within the radius.

    Raises:
        BracketError: a certificate is broken; names the image. One of the two computations has a defect.
    """
    if not comparison.is_of_norms or comparison.guarantee.hierarchy:
        return None
    certified, found = certificates.read(), attacked.read()
    compared = pixels = norms = 0
    for name in names:
        smallest = found[name]["smallest"]
        shares = _check_shares(certified[name]["figures"], smallest, name, comparison)
        within = comparison.guarantee.covers_pixels and comparison.covers(smallest["distance"])
        if within:
            pixels += _check_pixels(certificates.load_map(name), attacked.load_map(name), name, comparison)
        compared += within or shares > 0
        norms += shares
    return NormFindings(compared, norms, pixels) if compared else None


def _check_shares(figures: Mapping[str, Any], smallest: Mapping[str, Any], name: str, comparison: Comparison) -> int:
    """How many shares of an image the perturbation reaches, all of them at no less than their certified radius."""
    reached = 0
    for figure, radius in figures.items():
        percent = known_figures.ROBUSTNESS.parameter_in(figure)
        if percent is None or not smallest["labelled"]:
            continue
        needed = math.ceil(float(percent) / 100 * smallest["labelled"])
        if smallest["changed"] < needed:
            continue
        radius = math.inf if radius is None else radius  # rows have none for infinite
        if smallest["distance"] < radius:
            raise _broken(
                comparison,
                f"changed {smallest['changed']} of {smallest['labelled']} pixels of image {name!r} "
                f"with a perturbation of norm {smallest['distance']:.6g}",
                f"at least {figure} = {radius:.6g}",
            )
        reached += 1
    return reached


def _check_pixels(certificate: Maps, attacked: Maps, name: str, comparison: Comparison) -> int:
    broken, _ = broken_pixels(certificate, attacked, comparison.guarantee.tolerated)
    if broken:
        raise _broken(comparison, f"changed {broken} certified pixels of image {name!r}", "no certified pixel changes")
    return int(certificate["certified"].sum())


def _broken(comparison: Comparison, what: str, expected: str) -> BracketError:
    return BracketError(
        f"The attack {comparison.attack} contradicts {comparison.certifier}: it {what}",
        expected=expected,
        remedy="Please report this with the run's folder: the certificate or the attack has a defect",
    )
