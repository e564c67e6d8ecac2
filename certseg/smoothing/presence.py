"""The own test of objects: whether noisy copies of an image show them, each as a whole and not pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certseg.checks import check_count, check_number
from certseg.compute.hardware import Hardware, Stopwatch
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError
from certseg.smoothing.noise import Noise
from certseg.smoothing.sampling import NoisySampler
from certseg.smoothing.statistics import largest_level, minimum_samples, rejection_threshold, upper_tail
from certseg.types import Guarantee, Promise, RegionFindings, Regions, RegionTest, Segmenter

TOO_MANY = "too_few_samples_for_objects"
"""The flag of an image with so many objects that not even one seen in every copy is certified."""


@dataclass(frozen=True)
class PresenceTest(RegionTest):
    """Certify each object of an image by the share of noisy copies that show it.

    A noisy copy shows an object G of class c if the base classifier gives c to at least ``ceil(q |G|)`` of its pixels.
    That is a classifier of images with two answers, so that the theorem of Cohen et al. (2019) holds for it: where the
    probability of a copy that shows the object exceeds tau, it exceeds 1/2 at every x + d with ||d|| <= R.

    Claim. With probability at least ``1 - alpha`` over the sampling, for every certified object of the image and every
    perturbation d of norm at most R = ``noise.radius(tau)``, more than half of the noisy copies of x + d show the
    object: *presence by majority*. That is a statement about another predictor than the smoothed map, which decides
    every pixel by a majority of its own: copies may each show the object by other pixels. No attack on the smoothed map
    or on the network is compared with it.

    H0 of each object is that the probability is at most tau; Holm's procedure runs over the tested objects of the
    image, which are chosen by their labels alone, before anything is drawn. All samples are fresh: class and object are
    given and nothing is guessed. This certificate and one of the image's pixels, with an alpha each, hold together with
    probability at least 1 minus the sum of both.

    Args:
        noise: the smoothing distribution.
        tau: probability that a certified object must exceed, in [0.5, 1).
        alpha: error rate per image, in (0, 1).
        samples: number of noisy copies.

    Raises:
        ConfigError: an argument is outside its domain, or so few samples certify nothing even in an image with a single
            object.
    """

    noise: Noise
    tau: float
    alpha: float
    samples: int

    def __post_init__(self) -> None:
        check_count("metrics.objects_samples", self.samples)
        check_number("certifier.tau", self.tau, "[0.5, 1)")
        check_number("certifier.alpha", self.alpha, "(0, 1)")
        needed = self._needed(1)
        if self.samples < needed:
            raise ConfigError(
                "So few noisy copies certify no object, not even one that all of them show",
                expected=f"at least {needed}, and {self._needed(20)} for images with 20 objects",
                received=f"metrics.objects_samples={self.samples} with tau={self.tau}, alpha={self.alpha}",
            )

    def guarantee(self, share: float) -> Guarantee:
        """What is promised of the objects of an image that are kept by at least ``share`` of their pixels.

        Raises:
            ConfigError: tau is 0.5, at which the radius is 0 and no perturbation is covered.
        """
        threat = self.noise.threat(self.noise.radius(self.tau))
        predictor = f"presence({self.noise}, share={share:g})"
        wording = (
            f"for every object certified to be present and every {threat.norm} perturbation of norm ≤ R more than half "
            f"of the noisy copies still show it, by at least {100 * share:g} % of its pixels in each (presence by "
            "majority: not the smoothed map, in which every pixel has a majority of its own)"
        )
        return Guarantee(
            Promise.COLLECTIVE,
            predictor,
            threat,
            confidence=1.0 - self.alpha,
            wording=wording,
            assuming=self.noise.assumption,
        )

    def certify(
        self, segmenter: Segmenter, image: Tensor, regions: Regions, *, stream: NoiseStream, hardware: Hardware
    ) -> RegionFindings:
        """Test the regions of one image. Arguments and errors are those of
        :meth:`certseg.types.RegionTest.certify`."""
        watch = Stopwatch(hardware.torch_device)
        sampler = NoisySampler(segmenter, image, self.noise, stream.for_purpose("objects"), hardware)
        number = len(regions.classes)
        hits = np.zeros(number, dtype=np.int64)
        if number:
            with watch("objects"):
                hits = self._hits(sampler, regions, hardware.torch_device)
        found = hits >= self._threshold(hits)
        flags = set(sampler.flags) | ({TOO_MANY} if number and self.samples < self._needed(number) else set())
        return RegionFindings(hits, found, sampler.passes, watch.seconds, tuple(sorted(flags)))

    def _hits(self, sampler: NoisySampler, regions: Regions, device: torch.device) -> np.ndarray:
        """``(M,)`` int64, how many noisy copies show each region."""
        ids, number = regions.ids.to(device), len(regions.classes)
        inside = (ids >= 0).flatten().nonzero()[:, 0]
        mine = ids.flatten()[inside]
        classes = torch.from_numpy(regions.classes).to(device)[mine]
        needed = torch.from_numpy(regions.needed).to(device)
        hits = torch.zeros(number, dtype=torch.int64, device=device)
        for maps in sampler.maps(0, self.samples):
            right = maps.flatten(1)[:, inside] == classes  # B x pixels
            pixels = torch.zeros(len(maps), number, dtype=torch.int64, device=device)
            pixels.index_add_(1, mine, right.long())
            hits += (pixels >= needed).sum(dim=0)
        return hits.cpu().numpy()

    def _threshold(self, hits: np.ndarray) -> int:
        """The fewest copies with which an object is certified, by Holm over the objects."""
        histogram = np.bincount(hits, minlength=self.samples + 1)
        return rejection_threshold(histogram, upper_tail(self.samples, self.noise.tested(self.tau)), self.alpha)

    def _needed(self, number: int) -> int:
        """The fewest samples with which one of ``number`` objects can be certified."""
        return minimum_samples(self.noise.tested(self.tau), largest_level(number, self.alpha, "holm"))
