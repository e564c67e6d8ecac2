"""JointClass and IndivClass: certificates for the whole map or none (Fischer et al. 2021, section 4; seed 001).

The two ways to apply randomized smoothing for classification to a segmentation, which SegCertify is compared with.
Both test at the radius of :class:`SegCertify`, ``sigma * Phi^-1(tau)``, so that all three answer for one threat; the
radius without a tau, as in the paper, is :meth:`AllOrNothing.untied_radius`.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections import Counter

import torch
from torch import Tensor

from certseg.certifiers.segcertify import SegCertify
from certseg.compute.hardware import Hardware, Stopwatch
from certseg.compute.streams import NoiseStream
from certseg.smoothing.sampling import NoisySampler
from certseg.smoothing.statistics import clopper_pearson_lower, minimum_samples
from certseg.smoothing.stopping import check_power
from certseg.types import Certificate, Certifier, Guarantee, Samples, Sampling, Segmenter, Sides, check_image


class AllOrNothing(Certifier):
    """Certify every pixel if every test has a Clopper-Pearson lower bound above ``tau``, no pixel otherwise.

    Claim. With probability at least ``1 - alpha`` over the sampling: if the map is certified, the smoothed model
    g_i(x) = argmax_c P[f_i(x + e) = c], e ~ N(0, sigma^2 I), has g(x + d) = c, the returned classes, at every pixel
    and for every perturbation d with ||d||_2 <= R = sigma * Phi^-1(tau); with Laplace or uniform noise for
    ||d||_1 and that noise's radius.

    Args:
        sigma: standard deviation of the noise, on the [0, 1] image scale.
        tau: probability that the certified class must exceed, in [0.5, 1); 0.5 tests but certifies nothing.
        n0: samples that choose the classes.
        n: fresh samples that test them.
        alpha: error rate per image, in [1e-12, 1).
        noise: ``gaussian`` certifies l2 balls, ``laplace`` and ``uniform`` l1 balls.
        grey_levels: number of steps from 0 to 1 in an image, to which it is rounded; None for floating point noise
            (:class:`SegCertify`).

    Raises:
        ConfigError: an argument is outside its domain.
    """

    name = ""

    def __init__(
        self,
        *,
        sigma: float,
        tau: float = 0.75,
        n0: int = 10,
        n: int = 100,
        alpha: float = 0.001,
        noise: str = "gaussian",
        grey_levels: int | None = 255,
    ) -> None:
        # it checks the arguments, and has the same threat and the same smoothed model
        self._model = SegCertify(sigma=sigma, tau=tau, n0=n0, n=n, alpha=alpha, noise=noise, grey_levels=grey_levels)
        self.noise, self.radius = self._model.noise, self._model.radius
        self.tau, self.n0, self.n, self.alpha = tau, n0, n, alpha

    @property
    def guarantee(self) -> Guarantee:
        """All pixels of a certified map, for the smoothed model and a ball of radius R in the noise's norm."""
        return self._model.guarantee

    @property
    def predictor(self) -> str:
        """The smoothed model, also where its radius is 0."""
        return self._model.predictor

    @property
    def settings(self) -> dict[str, object]:
        """Everything that decides the result."""
        return {name: value for name, value in self._model.settings.items() if name != "correction"}

    @property
    def draws_on_device(self) -> bool:
        """Whether its noise is drawn in floating point, by torch's generators."""
        return self.noise.lattice is None

    @property
    @abstractmethod
    def samples_identity(self) -> dict[str, object]:
        """What decides :meth:`sample`."""

    @abstractmethod
    def number_of_tests(self, num_pixels: int) -> int:
        """How many tests share alpha on an image of ``num_pixels``."""

    @abstractmethod
    def _guess_and_count(self, sampler: NoisySampler) -> tuple[Tensor, Tensor]:
        """Classes (``H x W`` int64) and the counts of the tests."""

    def sampling(self) -> Sampling:
        """This certifier itself: its samples depend on no decision."""
        return self

    def check_size(self, size: Sides) -> None:
        """Raise :class:`ConfigError` if no image of this height and width could ever be certified."""
        self.check(size[0] * size[1])

    def check(self, num_pixels: int) -> None:
        """Raise :class:`ConfigError` if no image of ``num_pixels`` could ever be certified."""
        level = self.alpha / self.number_of_tests(num_pixels)
        tested = self.noise.tested(self.tau)
        needed = minimum_samples(tested, level)
        if clopper_pearson_lower(self.n, self.n, level) <= tested:  # an equality at n = needed is not enough
            needed = max(needed, self.n + 1)
        check_power(self.n, needed, num_pixels, tau=self.tau, alpha=self.alpha)

    def certify(self, segmenter: Segmenter, image: Tensor, *, stream: NoiseStream, hardware: Hardware) -> Certificate:
        """Certify one image.

        Args:
            segmenter: the base model, on the hardware's device.
            image: ``3 x H x W`` in [0, 1].
            stream: the image's own random numbers, which the noise is drawn from.
            hardware: device, precision, and the number of copies of the image per forward pass.

        Returns:
            The certificate, its tensors on the CPU; ``certified`` is true everywhere or nowhere.

        Raises:
            ConfigError: n is too small for this image.
            DataError: the image is not in [0, 1].
            ModelError: the model returned NaN, infinite or misshapen logits.
        """
        return self.from_samples(self.sample(segmenter, image, stream=stream, hardware=hardware))

    def sample(self, segmenter: Segmenter, image: Tensor, *, stream: NoiseStream, hardware: Hardware) -> Samples:
        """The sampling of :meth:`certify` alone, which has the same arguments and errors.

        Returns:
            The guess, and as ``counts`` how often it was drawn: ``H x W`` for IndivClass, a single number for
            JointClass.
        """
        check_image(image, stream.name)
        self.check(image.shape[-2] * image.shape[-1])
        watch = Stopwatch(hardware.torch_device)
        sampler = NoisySampler(segmenter, image, self.noise, stream, hardware)
        with watch("sampling"):
            classes, counts = self._guess_and_count(sampler)
        return Samples(classes, counts, sampler.passes, watch.seconds, tuple(sorted(sampler.flags)))

    def from_samples(self, samples: Samples) -> Certificate:
        """The certificate that :meth:`certify` gives for an image with these samples."""
        watch = Stopwatch(samples.counts.device)
        self.check(samples.classes.numel())
        with watch("statistics"):
            certified = torch.full(samples.classes.shape, self.decide(samples.counts))
        return Certificate(
            classes=samples.classes.cpu(),
            certified=certified,
            guarantee=self.guarantee,
            passes=samples.passes,
            seconds=samples.seconds | watch.seconds,
            flags=samples.flags,
            samples=self.n0 + self.n,
        )

    def lower_bound(self, counts: Tensor) -> float:
        """The smallest lower bound on the probability of a guess as it is drawn; all bounds hold together with
        ``1 - alpha``.

        Args:
            counts: integers in ``0 .. n``, one for each test, any shape.
        """
        return float(clopper_pearson_lower(int(counts.min()), self.n, self.alpha / counts.numel()))

    def decide(self, counts: Tensor) -> bool:
        """Whether every test's lower bound exceeds ``tau``, by what drawn noise may differ from the ideal one.

        Args:
            counts: integers in ``0 .. n``, one for each test, any shape.
        """
        return self.lower_bound(counts) > self.noise.tested(self.tau)

    def untied_radius(self, counts: Tensor) -> float | None:
        """The radius without a threshold, as in the paper: sigma * Phi^-1(smallest lower bound).

        With probability ``1 - alpha`` the map of :meth:`sample` holds for every l2 perturbation of at most this norm,
        on the [0, 1] image scale. It differs from image to image, so it is no common threat and enters no row.

        Args:
            counts: integers in ``0 .. n``, one for each test, any shape.

        Returns:
            The radius, or None where the bound is at most 1/2 and there is no certificate.
        """
        bound = math.nextafter(self.lower_bound(counts) - self.noise.total_variation, -math.inf)
        return self.noise.radius(bound) if bound > 0.5 else None


class IndivClass(AllOrNothing):
    """One test for each pixel at ``alpha / N`` (Bonferroni): a single bad pixel leaves the whole map uncertified.

    It certifies the images on which SegCertify with Bonferroni's correction abstains nowhere (but for p-values exactly
    at alpha / N, which the bound does not count). Claim and arguments are those of :class:`AllOrNothing`.
    """

    name = "indiv_class"

    @property
    def samples_identity(self) -> dict[str, object]:
        """That of SegCertify: kept samples serve both."""
        return self._model.samples_identity

    def number_of_tests(self, num_pixels: int) -> int:
        """One for each pixel."""
        return num_pixels

    def _guess_and_count(self, sampler: NoisySampler) -> tuple[Tensor, Tensor]:
        classes = sampler.class_counts(0, self.n0).argmax(dim=0)
        return classes, sampler.agreement(classes, self.n0, self.n)


class JointClass(AllOrNothing):
    """One test for the whole map taken as one class: a sample counts only if it agrees at every pixel.

    P[f(x + e) = c] > tau bounds the probability of every pixel's class too, so the claim of :class:`AllOrNothing`
    follows for each of them.
    """

    name = "joint_class"

    @property
    def samples_identity(self) -> dict[str, object]:
        """SegCertify's, counted otherwise."""
        return {**self._model.samples_identity, "counted": "whole map"}

    def number_of_tests(self, num_pixels: int) -> int:
        """One, whatever the size."""
        return 1

    def _guess_and_count(self, sampler: NoisySampler) -> tuple[Tensor, Tensor]:
        classes = most_frequent_map(sampler, self.n0).clamp_min(0)  # a tie agrees with nothing, itself included
        agree = [(maps == classes).flatten(1).all(dim=1).sum() for maps in sampler.maps(self.n0, self.n)]
        return classes, torch.stack(agree).sum()


def most_frequent_map(sampler: NoisySampler, number: int) -> Tensor:
    """The whole map drawn most often in samples ``0 .. number - 1``; of several, the one that got there first.

    Memory: one map and a digest for each sample. A map that takes the lead is the sample at hand, so none but the
    leader is kept.

    Returns:
        ``H x W`` int64, :data:`certseg.compute.decisions.NO_CLASS` where the logits of the sample are tied.
    """
    seen: Counter[bytes] = Counter()
    most, leader = 0, torch.empty(0)
    for maps in sampler.maps(0, number):
        for classes in maps:
            digest = hashlib.blake2b(classes.cpu().numpy().tobytes(), digest_size=16).digest()
            seen[digest] += 1
            if seen[digest] > most:
                most, leader = seen[digest], classes
    return leader.long()
