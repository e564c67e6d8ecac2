"""Which labelled objects figures are about, when they count as kept, and which are small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from certseg.checks import check_count, check_number, checked_counts
from certseg.errors import ConfigError

SIZES = ("small", "medium", "large")
_COCO_PIXELS = 480 * 640


@dataclass(frozen=True)
class ObjectSettings:
    """What figures of objects are about.

    Args:
        classes: names of the classes whose objects get figures of their own; empty for none.
        share: the share of its pixels, in (0, 1], that must have its class for an object to be kept.
        sizes: two numbers a < b: an object is small if a square of a pixels a side is larger, large if a square of b
            pixels a side is not, and medium otherwise, in an image of 480 x 640 pixels; in others all three areas are
            scaled with that of the image. The default is COCO's: 32 and 96.
        minimum: objects of fewer pixels than this are counted apart and enter no other figure.
        samples: noisy copies for the objects' own test (:class:`certseg.smoothing.presence.PresenceTest`); 0, the
            default, for none.

    Raises:
        ConfigError: an argument is outside its domain.

    >>> settings = ObjectSettings(("car",))
    >>> settings.size_of(np.array([1023, 1024, 9216]), 480 * 640).tolist()
    [0, 1, 2]
    """

    classes: tuple[str, ...] = ()
    share: float = 0.5
    sizes: Sequence[int] = (32, 96)
    minimum: int = 16
    samples: int = 0

    def __post_init__(self) -> None:
        check_number("metrics.objects_share", self.share, "(0, 1]", what="the share of an object's pixels")
        sides = checked_counts("metrics.objects_sizes", self.sizes)
        if len(sides) != len(SIZES) - 1 or sides[0] >= sides[1]:
            raise ConfigError(
                "metrics.objects_sizes does not part small objects from medium and medium from large ones",
                expected="two rising sides of squares in pixels, such as [32, 96]",
                received=list(sides),
            )
        check_count("metrics.objects_minimum", self.minimum)
        check_count("metrics.objects_samples", self.samples, 0)
        if self.samples and not self.classes:
            raise ConfigError(
                "metrics.objects_samples has no objects to test",
                received=f"metrics.objects_samples={self.samples} metrics.objects=[]",
                remedy="Name classes in metrics.objects, or leave it out",
            )

    def size_of(self, areas: np.ndarray, pixels: int) -> np.ndarray:
        """The place in :data:`SIZES` of objects of so many pixels (int64, any shape) in an image of ``pixels``."""
        small, medium = (areas * _COCO_PIXELS >= side**2 * pixels for side in self.sizes)
        found: np.ndarray = small.astype(np.int64) + medium
        return found
