"""Tests of regions of an image as wholes, beside the certificates of its pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.types.guarantees import Guarantee
from certseg.types.results import Passes
from certseg.types.segmenters import Segmenter


@dataclass(frozen=True)
class Regions:
    """The M regions of an image that are tested.

    Args:
        ids: ``H x W`` int64, the region of each pixel from 0 to M - 1, negative where there is none.
        classes: ``(M,)`` int64, the class of each region.
        needed: ``(M,)`` int64, how many pixels of each have to be of its class.
    """

    ids: Tensor
    classes: np.ndarray
    needed: np.ndarray


@dataclass(frozen=True)
class RegionFindings:
    """What a test found of the M regions of an image.

    Args:
        hits: ``(M,)`` int64, how many of the test's samples show each region.
        certified: ``(M,)`` bool, the regions that are certified.
        passes: network evaluations spent.
        seconds: wall-clock parts by name.
        flags: anything a reader of the row should know.
    """

    hits: np.ndarray
    certified: np.ndarray
    passes: Passes
    seconds: dict[str, float]
    flags: tuple[str, ...] = ()


class RegionTest(ABC):
    """Proves of whole regions of an image, such as its labelled objects, what a certificate of pixels does not say."""

    @abstractmethod
    def guarantee(self, share: float) -> Guarantee:
        """What is promised of certified regions, ``share`` of whose pixels have to be of their class: about which
        predictor, within which threat, how surely."""

    @abstractmethod
    def certify(
        self, segmenter: Segmenter, image: Tensor, regions: Regions, *, stream: NoiseStream, hardware: Hardware
    ) -> RegionFindings:
        """Test the regions of one image, all together.

        Args:
            segmenter: the network, in eval mode on the hardware's device.
            image: ``3 x H x W`` in [0, 1].
            regions: the regions, chosen without a look at what is drawn.
            stream: the random numbers of this image.
            hardware: device, precision, and the number of copies of an image per forward pass.

        Raises:
            ModelError: the model returned NaN, infinite or misshapen logits.
        """
