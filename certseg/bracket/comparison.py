"""Whether a certificate and an attack may be compared, and at which of the attack's budgets: the one rule.

Everything that puts the two side by side asks a :class:`Comparison`: the bracket of single pixels, bounds on whole
images, norms of smallest perturbations, the table and figure of a report, its claims, the summary of a run and its
set-up.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from certseg.types import Attempt, Guarantee, Level, Sides


@dataclass(frozen=True)
class Comparison:
    """A certificate's guarantee beside an attack's attempt.

    They are compared only if they are about the same model with the same weights on the same data, and only where the
    guarantee holds: at budgets that its threat contains. A guarantee about no single image is compared with nothing.

    Args:
        guarantee: what the certificates promise.
        attempt: what the attack was allowed to do, and to which model.
        certifier: the certifier's name, for messages.
        attack: the attack's name, for messages.
        same_subject: whether both are about the same weights and the same images.

    >>> from certseg.types import L2, Attempt, Guarantee, Promise
    >>> guarantee = Guarantee(Promise.EVERY_PIXEL, "base", L2(0.25), confidence=1.0)
    >>> Comparison(guarantee, Attempt("base", L2(0.1))).is_possible
    True
    >>> Comparison(guarantee, Attempt("base", L2(0.5))).is_possible
    False
    >>> Comparison(guarantee, Attempt("smoothed(gaussian, sigma=0.25)", L2(0.1))).is_possible
    False
    """

    guarantee: Guarantee
    attempt: Attempt
    certifier: str = "the certificate"
    attack: str = "the attack"
    same_subject: bool = True

    @classmethod
    def of(
        cls,
        guarantee: Guarantee,
        attempt: Attempt,
        *,
        names: tuple[str, str] = ("the certificate", "the attack"),
        subjects: tuple[Hashable, Hashable] = (None, None),
    ) -> Comparison:
        """The comparison of a guarantee and an attempt, with the names that messages call them by.

        Args:
            guarantee: what the certificates promise.
            attempt: what the attack was allowed to do.
            names: the names of the certifier and of the attack, for messages.
            subjects: what tells the weights and images of the two apart; by default they are the same.
        """
        return cls(guarantee, attempt, *names, same_subject=subjects[0] == subjects[1])

    @property
    def same_model(self) -> bool:
        """Whether both are about one model: the same predictor with the same weights, on the same images."""
        return self.same_subject and self.guarantee.predictor == self.attempt.predictor

    @property
    def is_about_images(self) -> bool:
        """Whether both are about one model, and the guarantee about single images."""
        return self.same_model and self.guarantee.covers_images

    @property
    def obstacle(self) -> str:
        """Why nothing of the two can be compared, whatever the sizes of their threats; empty where they may be."""
        guarantee, attempt = self.guarantee, self.attempt
        if not self.same_subject:
            return "they are about other weights or other images"
        if not self.same_model:
            return f"the attack is on {attempt.predictor}, the certificates are about {guarantee.predictor}"
        if not guarantee.covers_images:
            return "the certificates promise nothing about a single image"
        if guarantee.threat.norm != attempt.threat.norm:
            return f"the attack is of kind {attempt.threat.norm}, the certificates are about {guarantee.threat.norm}"
        return ""

    def levels(self, image: Sides | None = None) -> tuple[Level, ...]:
        """The budgets of the attack, ascending, of which the guarantee says something.

        Args:
            image: height and width of an image, for patches that only an image makes comparable (:attr:`by_image`).
        """
        if not self.is_about_images:
            return ()
        threat = self.guarantee.threat
        return tuple(level for level in self.attempt.levels if threat.contains(level.threat, image))

    @property
    def by_image(self) -> bool:
        """Whether which :meth:`levels` there are depends on the size of the image."""
        threat = self.guarantee.threat
        return self.is_about_images and any(threat.needs_image(level.threat) for level in self.attempt.levels)

    @property
    def is_possible(self) -> bool:
        """Whether there is any budget at which the two may be compared, on some image."""
        return self.by_image or bool(self.levels())

    @property
    def is_level(self) -> bool:
        """Whether the attack's largest budget is the certified threat, so that figures of both may stand side by side
        as bounds of the same worst case."""
        return self.is_about_images and self.guarantee.threat.is_nearly(self.attempt.threat)

    @property
    def bounds_accuracy(self) -> bool:
        """Whether certified accuracy, less the pixels that may be wrong, and attacked accuracy bound the same worst
        case from below and from above: where an alert excuses a change they do not."""
        return self.is_level and self.guarantee.bounds_accuracy

    @property
    def is_of_norms(self) -> bool:
        """Whether the attack looks for the smallest perturbation, in the norm of the certified threat."""
        if not self.is_about_images or self.attempt.has_budget:
            return False
        return self.attempt.threat.contains(self.guarantee.threat)

    def covers(self, distance: float) -> bool:
        """Whether a perturbation of this size, in the attack's own norm, lies within the certified threat."""
        return distance == 0.0 or self.guarantee.threat.contains(self.attempt.threat.scaled_to(distance))

    def smallest_cover(self, level: Level, radii: tuple[float, ...]) -> int | None:
        """The place of the smallest among ``radii`` of the certificate that contains a budget of the attack; None if
        none does, or the two may not be compared. The certificate must hold at each of the radii."""
        threat = self.guarantee.threat
        fitting = [
            place
            for place, radius in enumerate(radii)
            if radius > 0 and replace(self, guarantee=self.guarantee.within(threat.scaled_to(radius)))._contains(level)
        ]
        return min(fitting, key=radii.__getitem__, default=None)

    def _contains(self, level: Level) -> bool:
        return self.is_about_images and self.guarantee.threat.contains(level.threat)
