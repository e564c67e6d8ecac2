"""One certifier and one attack that have finished, compared in every way in which they can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from certseg.bracket.bounds import check_bounds
from certseg.bracket.comparison import Comparison
from certseg.bracket.lost_objects import check_objects
from certseg.bracket.norms import check_norms
from certseg.bracket.pixels import check_pixels
from certseg.types import Attempt, Guarantee, Store


@dataclass(frozen=True)
class Finished:
    """A finished certifier or attack.

    Args:
        summary: what :func:`certseg.evaluation.evaluate` returned for it.
        store: where its rows and maps lie.
        guarantee: what a certifier promises; None of an attack.
        attempt: what an attack was allowed to do; None of a certifier.
    """

    summary: Mapping[str, Any]
    store: Store
    guarantee: Guarantee | None = None
    attempt: Attempt | None = None


def check(certifier: Finished, attack: Finished, names: Sequence[str]) -> dict[str, int]:
    """Compare a certifier and an attack on the images ``names``, that both have finished.

    Returns:
        What was compared, by name: ``violations`` (0, for anything else raises an error), and of what there was to
        compare ``certified_pixels``, ``undecided_pixels``, ``alerted_pixels``, ``skipped_images``, ``norms``,
        ``bounds``, ``objects`` and ``undecided_objects``. Empty where the two may not be compared.

    Raises:
        BracketError: the attack contradicts the certifier; names the image.
    """
    if certifier.guarantee is None or attack.attempt is None:
        return {}
    summaries = certifier.summary, attack.summary
    comparison = Comparison.of(
        certifier.guarantee,
        attack.attempt,
        names=(str(summaries[0]["name"]), str(summaries[1]["name"])),
        subjects=(summaries[0].get("subject"), summaries[1].get("subject")),
    )
    found: dict[str, int | None] = {}
    if attack.attempt.has_budget:
        radii = [part["radius"] for part in summaries[0].get("by_radius", ())]
        pixels = check_pixels(comparison, certifier.store, attack.store, names, radii)
        found |= vars(pixels) if pixels else {}
        found["bounds"] = check_bounds(comparison, summaries[0], certifier.store, summaries[1], attack.store, names)
    else:
        norms = check_norms(comparison, certifier.store, attack.store, names)
        found |= vars(norms) if norms else {}
    objects = check_objects(comparison, certifier.store, attack.store, names)
    found |= vars(objects) if objects else {}
    compared = {name: number for name, number in found.items() if name != "images" and number is not None}
    return {"violations": 0, **compared} if compared else {}
