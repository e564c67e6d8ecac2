"""SegCertify (Fischer et al. 2021, "Scalable Certified Segmentation via Randomized Smoothing"; seed 001): sample,
guess, test all pixels together, certify those whose test is passed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from certseg.checks import check_choice, check_count, check_number, checked_numbers
from certseg.compute.hardware import Hardware, Stopwatch
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError
from certseg.smoothing.noise import NOISES
from certseg.smoothing.presence import PresenceTest
from certseg.smoothing.sampling import NoisySampler
from certseg.smoothing.statistics import check_correction
from certseg.smoothing.stopping import AnytimeTest, FixedTest, check_power
from certseg.types import (
    Certificate,
    Certifier,
    Guarantee,
    Maps,
    NormBall,
    Promise,
    Samples,
    Sampling,
    Segmenter,
    Sides,
    check_image,
)

STOPPING = ("fixed", "curtailed", "anytime")


class Guess(NamedTuple):
    """What the first samples of an image chose to be tested.

    Args:
        classes: ``H x W`` int64, the class at each pixel.
        choice: ``H x W`` int64, what fresh samples must agree with: the classes, or ids of groups of them.
        levels: ``H x W`` uint8, the level of each pixel's group; None where classes are tested.
        groups: ``G x K`` bool, the classes of each group; None where classes are tested.
    """

    classes: Tensor
    choice: Tensor
    levels: Tensor | None = None
    groups: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class SmoothedCertificate(Certificate):
    """A certificate at one radius or, jointly, at several.

    Args:
        steps: ``H x W`` uint8, at how many of the balls, from the smallest on, each pixel is certified.
        balls: the threats, by rising radius, the last of which is that of the guarantee.
    """

    steps: Tensor
    balls: tuple[NormBall, ...]

    @property
    def radii(self) -> Tensor:
        """``H x W`` float64, the largest radius at which each pixel is certified, 0 where it is at none. All hold
        together at the guarantee's confidence, each for every perturbation of its own size."""
        return torch.tensor([0.0, *(ball.radius for ball in self.balls)], dtype=torch.float64)[self.steps.long()]

    def at_smaller_radii(self) -> tuple[Certificate, ...]:
        """The certificate at each radius but the largest."""
        return tuple(
            replace(self, certified=self.steps > place, guarantee=self.guarantee.within(ball))
            for place, ball in enumerate(self.balls[:-1])
        )

    def further_maps(self) -> Maps:
        """``steps``, if there are several radii."""
        return {"steps": self.steps.numpy()} if len(self.balls) > 1 else {}

    def pictured_maps(self) -> Maps:
        """``radii`` in float32, not above the others, if there are several."""
        if len(self.balls) == 1:
            return {}
        radii = self.radii.numpy()
        small = radii.astype(np.float32)
        return {"radii": np.where(small > radii, np.nextafter(small, np.float32(0)), small)}


class SegCertify(Certifier):
    """Certify every pixel whose smoothed class has a probability above ``tau``; abstain on the others.

    Claim. Let f be the base model and g_i(x) = argmax_c P[f_i(x + e) = c], e ~ N(0, sigma^2 I), the smoothed model.
    With probability at least ``1 - alpha`` over the sampling, all pixels of the returned map hold together: for every
    certified pixel i with class c_i and every perturbation d with ||d||_2 <= R = sigma * Phi^-1(tau),
    g_i(x + d) = c_i. (Theorem 5.1 of the paper also says that the tau-thresholded model does not abstain at x + d;
    its proof gives only P[f_i(x + d + e) = c_i] > 1/2, so that is not claimed here.) For M images the joint
    confidence is ``1 - M * alpha``. With Laplace or uniform noise the same holds for ||d||_1 and that noise's radius.

    With ``grey_levels`` this is true of the program, not of real numbers alone: x is the image rounded to a lattice, f
    rounds what it sees to the lattice, and f_i(x + e) is drawn exactly (:mod:`certseg.smoothing.lattice`). The law of
    the drawn noisy image lies within d of the ideal one in total variation, so f_i = c_i is drawn with probability at
    most tau + d where H0: p_i <= tau holds: that is tested (:meth:`certseg.smoothing.noise.Noise.tested`).

    Algorithm 2 of the paper: guess c_i from ``n0`` samples, count it in fresh samples, test H0: p_i <= tau for all
    pixels of the image together.

    With ``correction=kfwer`` the claim is weaker: all certified pixels but at most ``k - 1``. With
    ``benjamini_yekutieli`` no claim is made about a single image: the expected share of wrong pixels among the
    certified ones is at most ``alpha`` (false discovery rate).

    Several ``tau`` are tested together (:func:`certseg.smoothing.statistics.joint_thresholds`): with probability at
    least ``1 - alpha`` all of them hold, at every pixel and at each of their radii, so that every pixel has a radius of
    its own. That costs nothing at the largest of them, whose certified pixels are those of a test of it alone; figures
    without a radius are about it.

    Several certificates may be taken from the same samples, one per tau, alpha and correction. Each claim holds by
    itself with its own probability; a claim picked because of the samples does not.

    Args:
        sigma: standard deviation of the noise, on the [0, 1] image scale.
        tau: probability a certified class must exceed, in [0.5, 1); 0.5 tests but certifies nothing. Or a list of
            different ones, which are tested together.
        n0: number of samples that choose the class.
        n: number of fresh samples that test it; with ``stopping=anytime`` the largest number of them.
        alpha: error rate per image, in [1e-12, 1).
        correction: ``holm``, ``bonferroni``, ``kfwer`` or ``benjamini_yekutieli``.
        k: number of wrong pixels that ``kfwer`` guards against, at least 1; other corrections take no k but 1.
        stopping: ``fixed`` draws n samples. ``curtailed`` decides the same and stops as soon as no further sample can
            change a decision. ``anytime`` tests by e-processes that may be looked at after every batch and stops when
            further samples do not pay (:class:`certseg.smoothing.stopping.AnytimeTest`).
        look_every: number of samples between two looks of ``curtailed`` and ``anytime``.
        noise: ``gaussian`` certifies l2 balls, ``laplace`` and ``uniform`` l1 balls (:mod:`certseg.smoothing.noise`).
        gain: share of the image that a further batch of ``anytime`` must be expected to certify.
        grey_levels: number of steps from 0 to 1 in an image, to which it is rounded: 255 for 8 bits, 65535 for 16. None
            for floating point noise, which certificates are flagged with.

    Raises:
        ConfigError: an argument is outside its domain.

    >>> certifier = SegCertify(sigma=0.25, tau=0.75, alpha=0.001)
    >>> certifier.predictor, str(certifier.threat), certifier.guarantee.confidence
    ('smoothed(gaussian, sigma=0.25, grey levels of 1/255)', 'l2 <= 0.168622', 0.999)
    >>> certifier.check_size((360, 480))  # 100 samples are enough to certify pixels of such an image
    """

    name = "segcertify"

    def __init__(
        self,
        *,
        sigma: float,
        tau: float | Sequence[float] = (0.55, 0.6, 0.65, 0.7, 0.75),
        n0: int = 10,
        n: int = 100,
        alpha: float = 0.001,
        correction: str = "holm",
        k: int = 1,
        stopping: str = "fixed",
        look_every: int = AnytimeTest.look_every,
        gain: float = AnytimeTest.gain,
        noise: str = "gaussian",
        grey_levels: int | None = 255,
    ) -> None:
        for option, value in (("n0", n0), ("n", n), ("look_every", look_every)):
            check_count(f"certifier.{option}", value)
        # below, 1 - alpha cannot be told from certainty
        check_number("certifier.alpha", alpha, "[1e-12, 1)", remedy="The papers use 0.001")
        check_choice("certifier.stopping", stopping, STOPPING)
        check_number("certifier.gain", gain, "[0, 1)", what="a share of the image")
        check_correction(correction, alpha, k)
        if k != 1 and correction != "kfwer":
            raise ConfigError("certifier.k belongs to certifier.correction=kfwer", received=f"{correction}, k={k}")
        check_choice("certifier.noise", noise, NOISES)
        self.noise = NOISES[noise](sigma, grey_levels)
        self.taus = _rising(tau)
        self.tau, self.n0, self.n, self.alpha, self.correction, self.k = self.taus[-1], n0, n, alpha, correction, k
        self.stopping, self.look_every, self.gain = stopping, look_every, gain
        self.radii = tuple(self.noise.radius(one) for one in self.taus)
        self.radius = self.radii[-1]
        self.test: AnytimeTest | FixedTest
        tested = tuple(self.noise.tested(one) for one in self.taus)
        if stopping == "anytime":
            self.test = AnytimeTest(tested, alpha, n, correction, look_every, gain)
        else:
            self.test = FixedTest(tested, alpha, n, correction, k, look_every if stopping == "curtailed" else None)

    @property
    def guarantee(self) -> Guarantee:
        """What the correction leaves of the claim, for the smoothed model and a ball of radius R in the noise's norm.

        Raises:
            ConfigError: tau is 0.5, at which the radius is 0 and no perturbation is covered.
        """
        threat, assuming = self.noise.threat(self.radius), self.noise.assumption
        if self.correction == "benjamini_yekutieli":
            share, error = Promise.ERROR_SHARE, self.alpha
            return Guarantee(share, self.predictor, threat, confidence=0.0, error_share=error, assuming=assuming)
        promise, tolerated = Promise.EVERY_PIXEL if self.k == 1 else Promise.ALL_BUT, self.k - 1
        confidence = 1.0 - self.alpha
        return Guarantee(promise, self.predictor, threat, confidence=confidence, tolerated=tolerated, assuming=assuming)

    @property
    def predictor(self) -> str:
        """The smoothed model, also where its radius is 0."""
        return f"smoothed({self.noise})"

    @property
    def settings(self) -> dict[str, object]:
        """Everything that decides the result and is not at a default that switches it off."""
        names = ["tau", "n0", "n", "alpha", "correction"]
        if self.correction == "kfwer":
            names.append("k")
        if self.stopping != "fixed":
            names += ["stopping", "look_every"]
        if self.stopping == "anytime":
            names.append("gain")
        kind: dict[str, object] = {} if self.noise.name == "gaussian" else {"noise": self.noise.name}
        kind |= {} if self.noise.grey_levels is None else {"grey_levels": self.noise.grey_levels}
        tau = {} if len(self.taus) == 1 else {"tau": list(self.taus)}
        return {**kind, "sigma": self.noise.sigma, **{name: getattr(self, name) for name in names}, **tau}

    @property
    def draws_on_device(self) -> bool:
        """Whether its noise is drawn in floating point, by torch's generators."""
        return self.noise.lattice is None

    @property
    def samples_identity(self) -> dict[str, object]:
        """What decides :meth:`sample`, in plain values."""
        return {"noise": str(self.noise), "n0": self.n0, "n": self.n}

    def sampling(self) -> Sampling | None:
        """This certifier itself; None where ``stopping`` lets decisions say how many samples are drawn."""
        return self if self.stopping == "fixed" else None

    def region_test(self, samples: int) -> PresenceTest:
        """Whether noisy copies show an object, with the same noise, tau and alpha."""
        return PresenceTest(self.noise, self.tau, self.alpha, samples)

    def check_size(self, size: Sides) -> None:
        """Raise :class:`ConfigError` if no pixel of an image of this height and width could ever be certified."""
        self.check(size[0] * size[1])

    def check(self, num_pixels: int) -> None:
        """Raise :class:`ConfigError` if no pixel of an image of ``num_pixels`` could ever be certified."""
        check_power(self.n, self.test.samples_needed(num_pixels), num_pixels, tau=self.tau, alpha=self.alpha)

    def certify(self, segmenter: Segmenter, image: Tensor, *, stream: NoiseStream, hardware: Hardware) -> Certificate:
        """Certify one image.

        Args:
            segmenter: the base model, on the hardware's device.
            image: ``3 x H x W`` in [0, 1].
            stream: the image's own random numbers, which the noise is drawn from.
            hardware: device, precision, and the number of copies of the image per forward pass.

        Returns:
            The certificate, its tensors on the CPU.

        Raises:
            ConfigError: n is too small for this image.
            DataError: the image is not in [0, 1].
            ModelError: the model returned NaN, infinite or misshapen logits.
        """
        if self.stopping == "fixed":
            return self.from_samples(self.sample(segmenter, image, stream=stream, hardware=hardware))
        sampler, watch = self._sampler(segmenter, image, stream, hardware)
        with watch("sampling"):
            guess = self._guess(sampler.class_counts(0, self.n0))
        steps, drawn = self.test.certify(sampler, guess.choice, self.n0, guess.groups, watch)
        return self._certificate(
            guess.classes,
            guess.levels,
            steps,
            samples=self.n0 + drawn,
            passes=sampler.passes,
            seconds=watch.seconds,
            flags=tuple(sorted(sampler.flags)),
        )

    def sample(self, segmenter: Segmenter, image: Tensor, *, stream: NoiseStream, hardware: Hardware) -> Samples:
        """The sampling of :meth:`certify` alone, which has the same arguments and errors.

        Raises:
            ConfigError: ``stopping`` is not ``fixed``.
        """
        if self.stopping != "fixed":
            raise ConfigError("Samples can be kept only with certifier.stopping=fixed", received=self.stopping)
        sampler, watch = self._sampler(segmenter, image, stream, hardware)
        with watch("sampling"):
            guess = self._guess(sampler.class_counts(0, self.n0))
            counts = sampler.agreement(guess.choice, self.n0, self.n, guess.groups)
        flags = tuple(sorted(sampler.flags))
        return Samples(guess.classes, counts, sampler.passes, watch.seconds, flags, guess.levels)

    def decide(self, counts: Tensor) -> Tensor:
        """The pixels (``H x W`` bool) certified by ``counts`` (``H x W`` integers) out of ``n`` fresh samples, at the
        largest tau.

        Raises:
            ConfigError: ``stopping=anytime``, whose decisions are made on the way.
        """
        return self.decide_steps(counts) == len(self.taus)

    def decide_steps(self, counts: Tensor) -> Tensor:
        """At how many tau, from the smallest on, each pixel is certified (``H x W`` uint8) by ``counts`` (``H x W``
        integers) out of ``n`` fresh samples.

        Raises:
            ConfigError: ``stopping=anytime``, whose decisions are made on the way.
        """
        if not isinstance(self.test, FixedTest):
            raise ConfigError("Counts alone do not decide with certifier.stopping=anytime")
        return self.test.steps(counts)

    def from_samples(self, samples: Samples) -> Certificate:
        """The certificate that :meth:`certify` gives for an image with these samples."""
        watch = Stopwatch(samples.counts.device)
        self.check(samples.counts.numel())
        with watch("statistics"):
            steps = self.decide_steps(samples.counts)
        return self._certificate(
            samples.classes,
            samples.levels,
            steps,
            samples=self.n0 + self.n,
            passes=samples.passes,
            seconds=samples.seconds | watch.seconds,
            flags=samples.flags,
        )

    def _guess(self, counts: Tensor) -> Guess:
        """What to test at each pixel, from the class counts ``K x H x W`` of the first samples."""
        classes = counts.argmax(dim=0)
        return Guess(classes, choice=classes)

    def _sampler(
        self, segmenter: Segmenter, image: Tensor, stream: NoiseStream, hardware: Hardware
    ) -> tuple[NoisySampler, Stopwatch]:
        check_image(image, stream.name)
        self.check(image.shape[-2] * image.shape[-1])
        return NoisySampler(segmenter, image, self.noise, stream, hardware), Stopwatch(hardware.torch_device)

    def _certificate(self, classes: Tensor, levels: Tensor | None, steps: Tensor, **facts: Any) -> SmoothedCertificate:
        steps = steps.cpu()
        return SmoothedCertificate(
            classes=classes.cpu(),
            certified=steps == len(self.taus),
            guarantee=self.guarantee,
            levels=None if levels is None else levels.cpu(),
            steps=steps,
            balls=tuple(self.noise.threat(radius) for radius in self.radii),
            **facts,
        )


def _rising(tau: float | Sequence[float]) -> tuple[float, ...]:
    """All tau, in rising order; the noise checks the domain of each."""
    if not isinstance(tau, Sequence) or isinstance(tau, str):
        return (tau,)
    taus = tuple(sorted(checked_numbers("certifier.tau", tuple(tau), "(0.5, 1)")))
    if not taus or len(set(taus)) < len(taus) or len(taus) > 255:
        raise ConfigError(
            "certifier.tau must be a probability in [0.5, 1), or a list of up to 255 different ones above 0.5",
            received=list(tau),
        )
    return taus
