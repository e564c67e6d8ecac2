"""What an attacker may do: balls of a norm, and patches."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from certseg.checks import check_count, check_number, is_number
from certseg.errors import ConfigError


class Threat(ABC):
    """What an attacker may do to an image; its values stay in [0, 1]. ``norm`` names the kind of threat."""

    norm = ""

    @abstractmethod
    def to_json(self) -> dict[str, object]:
        """The kind of threat and its size in plain values, as results on disk hold them."""


@dataclass(frozen=True)
class NormBall(Threat):
    """Any perturbation whose norm is at most ``radius``.

    Args:
        radius: in units of the [0, 1] image scale, over one whole image; finite and positive.

    Raises:
        ConfigError: the radius is not a finite positive number.
    """

    radius: float

    def __post_init__(self) -> None:
        remedy = "Give it on the [0, 1] image scale, for example 0.25 or 4/255"
        check_number(f"The radius of an {self.norm} threat", self.radius, "(0, inf)", remedy=remedy)

    def to_json(self) -> dict[str, object]:
        """Norm and radius."""
        return {"norm": self.norm, "radius": self.radius}

    def __str__(self) -> str:
        return f"{self.norm} <= {self.radius:.6g}"


class L2(NormBall):
    """Perturbations of bounded Euclidean norm, summed over all channels and pixels."""

    norm = "l2"


class Linf(NormBall):
    """Perturbations of bounded largest entry."""

    norm = "linf"


class L1(NormBall):
    """Perturbations of bounded sum of absolute entries."""

    norm = "l1"


THREATS: dict[str, type[NormBall]] = {threat.norm: threat for threat in (L2, Linf, L1)}
"""The threats that a radius defines, by norm."""


@dataclass(frozen=True, kw_only=True)
class Patch(Threat):
    """Any content in ``count`` axis-aligned rectangles of h' x w' pixels, anywhere in the image; the rest of the image
    stays as it is. Smaller and fewer rectangles are included, and rectangles may overlap.

    The size is given in pixels or as a share of the image: h' = ceil(H sqrt(share)), w' = ceil(W sqrt(share)), which
    has the image's aspect; with ``aspect`` h' = ceil(sqrt(share H W / aspect)) and w' = ceil(sqrt(share H W aspect)).

    Args:
        share: of the image's area, in (0, 1], that one rectangle may cover.
        aspect: width / height of a rectangle given by its share; None is the image's own.
        height: h' in pixels, together with ``width`` and in the place of ``share``.
        width: w' in pixels.
        count: number of rectangles, at least 1.

    Raises:
        ConfigError: a value is outside its domain, or the size is given twice or not at all.
    """

    share: float | None = None
    aspect: float | None = None
    height: int | None = None
    width: int | None = None
    count: int = 1

    norm = "patch"

    def __post_init__(self) -> None:
        if (self.share is None) == (self.height is None and self.width is None):
            raise ConfigError(
                "The size of a patch is given either as a share of the image or as height and width in pixels",
                received=f"share {self.share}, height {self.height}, width {self.width}",
            )
        if self.share is None:
            self._require_counts("height", "width")
        elif not is_number(self.share, "(0, 1]"):
            raise ConfigError("The share of the image that a patch covers must lie in (0, 1]", received=self.share)
        self._require_counts("count")
        if self.aspect is not None and (self.share is None or not is_number(self.aspect, "(0, inf)")):
            raise ConfigError(
                "The aspect of a patch is the positive width / height of one given by its share", received=self.aspect
            )

    def _require_counts(self, *names: str) -> None:
        for name in names:
            check_count(f"The {name} of a patch threat", getattr(self, name))

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height h' and width w' in pixels of one rectangle in an image of ``height x width``.

        Raises:
            ConfigError: it does not fit into the image.
        """
        if self.share is None:
            size = self.height, self.width
        else:
            area = _decimal(self.share) * height * width
            aspect = Fraction(width, height) if self.aspect is None else _decimal(self.aspect)
            size = _root_ceiling(area / aspect), _root_ceiling(area * aspect)
        if size[0] > height or size[1] > width:
            raise ConfigError(
                f"A patch of {size[0]} x {size[1]} pixels does not fit into an image of {height} x {width}",
                remedy="Choose a smaller patch",
            )
        return size

    def to_json(self) -> dict[str, object]:
        """``norm`` and the fields that are set; ``count`` where there are several."""
        fields = {name: getattr(self, name) for name in ("share", "aspect", "height", "width")}
        fields["count"] = self.count if self.count > 1 else None
        return {"norm": self.norm, **{name: value for name, value in fields.items() if value is not None}}

    def __str__(self) -> str:
        size = f"{self.height} x {self.width} pixels" if self.share is None else f"{self.share:.6g} of the image"
        aspect = "" if self.aspect is None else f" with aspect {self.aspect:.6g}"
        return f"{'patch' if self.count == 1 else f'{self.count} patches'} of {size}{aspect}"


Sides = tuple[int, int]
"""Height and width in pixels of a rectangle."""


def is_within(inner: Mapping[str, Any], outer: Mapping[str, Any], sides: tuple[Sides, Sides] | None = None) -> bool:
    """Whether an attacker limited by ``inner`` is limited by ``outer`` too, both as :meth:`Threat.to_json` gives them.

    Args:
        inner: a threat.
        outer: a threat.
        sides: of a rectangle of ``inner`` and of ``outer`` in one image, by which patches compare that only an image
            makes comparable (:func:`needs_image`). Without them such patches are not within one another.
    """
    inner, outer = ({"count": 1, **threat} for threat in (inner, outer))
    if sides is not None and needs_image(inner, outer):
        return inner["count"] <= outer["count"] and all(small <= large for small, large in zip(*sides, strict=True))
    if inner.keys() != outer.keys():
        return False
    exact = ("norm", "aspect")
    return all(inner[key] == outer[key] if key in exact else inner[key] <= outer[key] for key in inner)


def needs_image(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether both are patches, as :meth:`Threat.to_json` gives them, and which is larger depends on the image: one
    given in pixels and one by its share of the image, or shares of different aspects."""
    if not one.get("norm") == other.get("norm") == Patch.norm:
        return False
    return ("share" in one, one.get("aspect")) != ("share" in other, other.get("aspect"))


def _decimal(value: float) -> Fraction:
    """The number as it is written: 0.01 is 1/100, which its binary value is not."""
    return Fraction(repr(float(value)))


def _root_ceiling(value: Fraction) -> int:
    """The smallest integer that is not below the root of a positive number, exactly."""
    return math.isqrt(math.ceil(value) - 1) + 1
