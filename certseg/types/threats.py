"""What an attacker may do: balls of a norm, and patches."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from certseg.checks import check_count, check_number, is_number
from certseg.errors import ConfigError

Sides = tuple[int, int]
"""Height and width in pixels, of an image or of a rectangle in it."""


class Threat(ABC):
    """What an attacker may do to an image; its values stay in [0, 1]. ``norm`` names the kind of threat.

    Two threats are equal if they have the same kind and size. A threat of one's own that is comparable beyond equality
    overrides :meth:`contains`.
    """

    norm: str = ""
    has_size: bool = True
    """False of a threat that bounds nothing, see :class:`Unbounded`."""

    @abstractmethod
    def to_json(self) -> dict[str, object]:
        """The kind of threat and its size in plain values, as results on disk hold them. Under ``norm`` it has the
        kind."""

    def contains(self, other: Threat, image: Sides | None = None) -> bool:
        """Whether an attacker limited by ``other`` is limited by this threat too.

        Args:
            other: any threat. One of another kind is never contained.
            image: height and width of the image, by which patches compare that only an image makes comparable
                (:meth:`needs_image`). Without them such patches do not contain one another.
        """
        return self == other

    def needs_image(self, other: Threat) -> bool:
        """Whether which of the two is larger depends on the size of the image."""
        return False

    def is_nearly(self, other: Threat) -> bool:
        """Whether the two are equal but for rounding of their sizes, so that figures at both may stand side by side."""
        return self == other

    def scaled_to(self, radius: float) -> Threat:
        """The threat of this kind whose radius is another one.

        Raises:
            ConfigError: threats of this kind have no radius.
        """
        raise ConfigError(f"A threat of kind {self.norm} has no radius", received=radius)


@dataclass(frozen=True)
class NormBall(Threat):
    """Any perturbation whose norm is at most ``radius``.

    Args:
        radius: the largest norm of a perturbation of a whole image, on the [0, 1] image scale; finite and positive.

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

    def contains(self, other: Threat, image: Sides | None = None) -> bool:
        """Whether ``other`` is a ball of the same norm whose radius is not larger; ``image`` says nothing here."""
        return isinstance(other, NormBall) and type(self) is type(other) and other.radius <= self.radius

    def is_nearly(self, other: Threat) -> bool:
        """Whether ``other`` is a ball of the same norm whose radius differs by rounding at most."""
        if not isinstance(other, NormBall) or type(self) is not type(other):
            return False
        return math.isclose(self.radius, other.radius, rel_tol=1e-6)

    def scaled_to(self, radius: float) -> NormBall:
        """The ball of this norm with another radius."""
        return replace(self, radius=radius)

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


@dataclass(frozen=True)
class Unbounded(Threat):
    """Any image at all, told by the norm of its perturbation: what an attack may do that looks for the smallest one.

    Args:
        norm: the norm that perturbations are measured in, for example ``l2``.
    """

    norm: str
    has_size = False

    def to_json(self) -> dict[str, object]:
        """The norm alone."""
        return {"norm": self.norm}

    def contains(self, other: Threat, image: Sides | None = None) -> bool:
        """Whether ``other`` is a ball of the same norm, or bounds nothing in it either."""
        return self == other or (self.norm in THREATS and type(other) is THREATS[self.norm])

    def scaled_to(self, radius: float) -> Threat:
        """The ball of this norm with a radius."""
        return threat_of({"norm": self.norm, "radius": radius})

    def __str__(self) -> str:
        return f"any {self.norm} norm"


@dataclass(frozen=True)
class OtherThreat(Threat):
    """A threat of a kind that certseg does not know, as a summary tells of it; it contains its equals alone.

    Args:
        norm: the kind, empty where none was given.
        sizes: the other fields of :meth:`Threat.to_json`, as sorted pairs of name and JSON text.
    """

    norm: str
    sizes: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, object]:
        """The kind and the fields as they were."""
        return {"norm": self.norm, **{name: json.loads(text) for name, text in self.sizes}}

    def __str__(self) -> str:
        return " ".join([self.norm, *(f"{name} {text}" for name, text in self.sizes)])


@dataclass(frozen=True, kw_only=True)
class Patch(Threat):
    """Any content in ``count`` axis-aligned rectangles of h' x w' pixels, anywhere in the image; the rest of the image
    stays as it is. Smaller and fewer rectangles are included, and rectangles may overlap.

    The size is given in pixels or as a share of the image: h' = ceil(H sqrt(share)), w' = ceil(W sqrt(share)), which
    has the image's aspect; with ``aspect`` h' = ceil(sqrt(share H W / aspect)) and w' = ceil(sqrt(share H W aspect)).

    Args:
        share: the share of the image's area that one rectangle may cover, in (0, 1].
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
            assert self.height is not None  # both were checked when the threat was made
            assert self.width is not None
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

    def contains(self, other: Threat, image: Sides | None = None) -> bool:
        """Whether the rectangles of ``other`` are no more and no larger, in this image or in every one."""
        if not isinstance(other, Patch) or other.count > self.count:
            return False
        if self.needs_image(other):
            return image is not None and all(
                small <= large for small, large in zip(other.size(*image), self.size(*image), strict=True)
            )
        if self.share is not None and other.share is not None:
            return self.aspect == other.aspect and other.share <= self.share
        pairs = ((other.height, self.height), (other.width, self.width))
        return all(small is not None and large is not None and small <= large for small, large in pairs)

    def needs_image(self, other: Threat) -> bool:
        """Whether one is given in pixels and the other by its share of the image, or both by shares of different
        aspects."""
        if not isinstance(other, Patch):
            return False
        return ((self.share is None), self.aspect) != ((other.share is None), other.aspect)

    def to_json(self) -> dict[str, object]:
        """``norm`` and the fields that are set; ``count`` where there are several."""
        fields = {name: getattr(self, name) for name in ("share", "aspect", "height", "width")}
        fields["count"] = self.count if self.count > 1 else None
        return {"norm": self.norm, **{name: value for name, value in fields.items() if value is not None}}

    def __str__(self) -> str:
        size = f"{self.height} x {self.width} pixels" if self.share is None else f"{self.share:.6g} of the image"
        aspect = "" if self.aspect is None else f" with aspect {self.aspect:.6g}"
        return f"{'patch' if self.count == 1 else f'{self.count} patches'} of {size}{aspect}"


def check_kind(threat: Threat) -> Threat:
    """``threat`` if its kind is its own.

    Raises:
        ConfigError: it is called by the name of another kind, so that whoever reads of it would take it for that.
    """
    kinds: dict[str, type[Threat]] = {**THREATS, Patch.norm: Patch}
    known = kinds.get(threat.norm)
    if known is not None and type(threat) not in (known, Unbounded):
        raise ConfigError(
            f"{type(threat).__name__} is called {threat.norm!r}, which is the kind of certseg's own {known.__name__}",
            remedy="Give its class a norm of its own, which names what kind of threat it is",
        )
    return threat


def threat_of(fields: Mapping[str, Any]) -> Threat:
    """The threat that :meth:`Threat.to_json` described; :class:`OtherThreat` for a kind that certseg does not know.

    Raises:
        ConfigError: the size of a known kind is not what it must be.
    """
    norm, sizes = fields.get("norm"), {name: value for name, value in fields.items() if name != "norm"}
    if norm == Patch.norm and sizes.keys() <= {"share", "aspect", "height", "width", "count"}:
        return Patch(**sizes)
    if norm in THREATS and sizes.keys() == {"radius"}:
        return THREATS[norm](sizes["radius"])
    if norm in THREATS and not sizes:
        return Unbounded(norm)
    told = sorted((name, json.dumps(value, sort_keys=True)) for name, value in sizes.items())
    return OtherThreat(str(norm or ""), tuple(told))


def _decimal(value: float) -> Fraction:
    """The number as it is written: 0.01 is 1/100, which its binary value is not."""
    return Fraction(repr(float(value)))


def _root_ceiling(value: Fraction) -> int:
    """The smallest integer that is not below the root of a positive number, exactly."""
    return math.isqrt(math.ceil(value) - 1) + 1
