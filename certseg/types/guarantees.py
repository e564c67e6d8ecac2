"""What a certificate promises: about what, of which model, within which threat, and how surely.

A promise is never told by the absence of something. Whoever compares a certificate with an attack, words it for a
reader or decides which pixels it covers asks its :class:`Guarantee`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from certseg.errors import ConfigError, ResultError
from certseg.types.threats import Threat, check_kind, threat_of


class Promise(enum.Enum):
    """What holds, at the stated confidence and for each attack within the threat."""

    EVERY_PIXEL = "every_pixel"
    """Every certified pixel keeps what is certified of it."""
    ALL_BUT = "all_but"
    """All certified pixels but a stated number keep it (a generalised family-wise error)."""
    ERROR_SHARE = "error_share"
    """The expected share of wrong pixels among the certified ones is bounded (a false discovery rate). Nothing follows
    for a single image."""
    UNTIL_ALERT = "until_alert"
    """Every certified pixel keeps it, or an alert is raised there."""
    COLLECTIVE = "collective"
    """What is certified holds of the image as a whole, such as how many pixels one perturbation leaves correct; no
    pixel is certified on its own."""


@dataclass(frozen=True)
class Guarantee:
    """What the certificates of one certifier promise about one image.

    Args:
        promise: what holds of the certified pixels.
        predictor: the model that it holds for, for example ``base`` or ``smoothed(gaussian, sigma=0.25)``. A
            certificate says nothing about any other model.
        threat: the attacks that it holds for.
        confidence: probability with which it holds, over the certifier's own random numbers; 1 for a deterministic
            certificate, and 0 exactly for :attr:`Promise.ERROR_SHARE`.
        tolerated: number of certified pixels of an image that may be wrong: at least 1 for :attr:`Promise.ALL_BUT`, 0
            for every other promise.
        error_share: bound on the expected share of wrong pixels, for :attr:`Promise.ERROR_SHARE` alone.
        hierarchy: where groups of classes are certified, the name of the group of class c on level l as
            ``hierarchy[l][c]`` (:class:`certseg.types.hierarchy.Hierarchy`); empty where classes are certified.
        wording: what is guaranteed, as a clause that follows "With probability ≥ p per image," for a promise that the
            standard wording does not fit; empty for the standard wording (:meth:`statement`).
        assuming: what the claim rests on besides its proof and how the image is meant, in whole sentences; empty for
            nothing.
        assumption: what was not proven and must hold, as a clause that follows "provided that"; empty for nothing.

    Raises:
        ConfigError: the numbers do not fit the promise, or the threat is called by the name of another kind.
    """

    promise: Promise
    predictor: str
    threat: Threat
    confidence: float
    tolerated: int = 0
    error_share: float | None = None
    hierarchy: tuple[tuple[str, ...], ...] = ()
    wording: str = ""
    assuming: str = ""
    assumption: str = ""

    def __post_init__(self) -> None:
        check_kind(self.threat)
        is_average = self.promise is Promise.ERROR_SHARE
        if not 0.0 <= self.confidence <= 1.0 or is_average != (self.confidence == 0.0):
            raise ConfigError(
                "The confidence of a guarantee must lie in (0, 1], and be 0 where nothing is promised about an image",
                received=f"{self.confidence} for {self.promise.value}",
            )
        if (self.promise is Promise.ALL_BUT) != (self.tolerated > 0) or self.tolerated < 0:
            raise ConfigError(
                "Wrong pixels are tolerated by the promise all_but, and by no other",
                received=f"{self.tolerated} for {self.promise.value}",
            )
        if is_average != (self.error_share is not None):
            raise ConfigError(
                "The promise error_share, and no other, bounds an expected share of wrong pixels",
                received=f"{self.error_share} for {self.promise.value}",
            )

    @property
    def is_deterministic(self) -> bool:
        """Whether it holds without any error probability. What it assumes is another matter: :attr:`assumption`."""
        return self.confidence == 1.0

    @property
    def covers_images(self) -> bool:
        """Whether something is promised about a single image."""
        return self.promise is not Promise.ERROR_SHARE

    @property
    def covers_pixels(self) -> bool:
        """Whether something is promised about the certified pixels of a single image."""
        return self.covers_images and self.promise is not Promise.COLLECTIVE

    @property
    def excuses_alerts(self) -> bool:
        """Whether a certified pixel may change where an alert is raised."""
        return self.promise is Promise.UNTIL_ALERT

    @property
    def keeps_every_pixel(self) -> bool:
        """Whether none of the certified pixels of an image may be wrong; until an alert, where alerts excuse a change.
        Then a count of certified pixels is a lower bound."""
        return self.covers_images and not self.tolerated

    @property
    def bounds_accuracy(self) -> bool:
        """Whether there is, at the stated confidence, a lower bound of the accuracy of an image under attack: that of
        the whole image, or its certified and correct pixels less those tolerated. An alert that excuses a change leaves
        none."""
        return self.covers_images and not self.excuses_alerts

    @property
    def bounds_counts(self) -> bool:
        """Whether the certified and correct pixels of an image are, without exception, a lower bound of the correct
        pixels under attack: no alert excuses a change, no pixel is tolerated, there is no error probability, and
        classes are certified, not groups of them."""
        return self.promise is Promise.EVERY_PIXEL and self.is_deterministic and not self.hierarchy

    def within(self, threat: Threat) -> Guarantee:
        """The same promise within another threat."""
        return replace(self, threat=threat)

    def provided(self, assumption: str) -> Guarantee:
        """The same promise under this assumption; the same without any where it is empty."""
        return replace(self, assumption=assumption)

    def statement(self) -> str:
        """What is guaranteed, in words. The radius of a ball is called R, so that a sweep has one wording.

        >>> from certseg.types import L2
        >>> Guarantee(Promise.EVERY_PIXEL, "base", L2(0.25), confidence=1.0).statement()
        'for every certified pixel and every l2 perturbation of norm ≤ R the class of `base` does not change'
        """
        if self.wording:
            return self.wording
        if self.promise is Promise.ERROR_SHARE:
            return (
                "No statement about a single image: the expected share of wrong pixels among the certified ones is at "
                f"most {self.error_share:g} (false discovery rate)"
            )
        predictor = f"`{self.predictor}`" if self.predictor else "the model"
        if self.promise is Promise.COLLECTIVE:
            return f"for {self._attacks()} what is certified of each image as a whole holds for {predictor}"
        if self.promise is Promise.UNTIL_ALERT:
            return f"for every certified pixel and {self._attacks()} {self._change(predictor)}, or an alert is raised"
        pixels = "every certified pixel"
        if self.promise is Promise.ALL_BUT:
            pixels = f"all certified pixels but at most {self.tolerated}"
        return f"for {pixels} and {self._attacks()} {self._change(predictor)}"

    def _attacks(self) -> str:
        if "radius" in self.threat.to_json():
            return f"every {self.threat.norm} perturbation of norm ≤ R"
        return f"every attack within the threat {self.threat}"

    def _change(self, predictor: str) -> str:
        if self.hierarchy:
            return (
                f"the most likely group of {predictor} on the pixel's level does not change (level 0 are the classes; "
                "within a larger group nothing is said about the class)"
            )
        text = f"the class of {predictor} does not change"
        if self.promise is Promise.EVERY_PIXEL and not self.is_deterministic:
            text += " (where it abstains by a threshold of its own it may come to abstain, but shows no other class)"
        return text

    def to_json(self) -> dict[str, Any]:
        """Every field in plain values, as summaries on disk hold it."""
        return {
            "promise": self.promise.value,
            "predictor": self.predictor,
            "threat": self.threat.to_json(),
            "confidence": self.confidence,
            "tolerated": self.tolerated,
            "error_share": self.error_share,
            "hierarchy": [list(level) for level in self.hierarchy],
            "wording": self.wording,
            "assuming": self.assuming,
            "assumption": self.assumption,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Guarantee:
        """Inverse of :meth:`to_json`.

        Raises:
            ResultError: a field is missing or the promise is not known.
        """
        try:
            return cls(
                promise=Promise(fields["promise"]),
                predictor=fields["predictor"],
                threat=threat_of(fields["threat"]),
                confidence=fields["confidence"],
                tolerated=fields["tolerated"],
                error_share=fields["error_share"],
                hierarchy=tuple(tuple(level) for level in fields["hierarchy"]),
                wording=fields["wording"],
                assuming=fields.get("assuming", ""),  # summaries from before there were assumptions tell none
                assumption=fields.get("assumption", ""),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ResultError(
                "A guarantee cannot be read",
                expected="promise, predictor, threat, confidence, tolerated, error_share, hierarchy, wording and "
                "assumption",
                received=f"{type(error).__name__}: {error}",
                remedy="Run the command again: finished images are kept, and the summary is written anew",
            ) from error
