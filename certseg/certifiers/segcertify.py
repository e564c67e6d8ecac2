"""SegCertify (Fischer et al. 2021, "Scalable Certified Segmentation via Randomized Smoothing"; seed 001)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from certseg.errors import ConfigError
from certseg.hardware import Hardware, Stopwatch
from certseg.noise import Gaussian, NoiseStream
from certseg.sampling import NoisySampler
from certseg.stats import CORRECTIONS, minimum_samples, rejection_threshold, upper_tail
from certseg.types import Certificate, Segmenter, Threat, check_image


class SegCertify:
    """Certify every pixel whose smoothed class has a probability above ``tau``; abstain on the others.

    Claim. Let f be the base model and g_i(x) = argmax_c P[f_i(x + e) = c], e ~ N(0, sigma^2 I), the smoothed model.
    With probability at least ``1 - alpha`` over the sampling, all pixels of the returned map hold together: for every
    certified pixel i with class c_i and every perturbation d with ||d||_2 <= R = sigma * Phi^-1(tau),
    g_i(x + d) = c_i. (Theorem 5.1 of the paper also says that the tau-thresholded model does not abstain at x + d;
    its proof gives only P[f_i(x + d + e) = c_i] > 1/2, so that is not claimed here.) For M images the joint
    confidence is ``1 - M * alpha``.

    Algorithm 2 of the paper: guess c_i from ``n0`` samples, count it in ``n`` fresh samples, test H0: p_i <= tau for
    all pixels of the image together.

    Args:
        sigma: standard deviation of the noise, on the [0, 1] image scale.
        tau: probability a certified class must exceed, in [0.5, 1).
        n0: samples that choose the class.
        n: fresh samples that test it.
        alpha: family-wise error rate per image, in (0, 1).
        correction: ``holm`` or ``bonferroni``.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    name = "segcertify"

    def __init__(
        self, *, sigma: float, tau: float = 0.75, n0: int = 10, n: int = 100, alpha: float = 0.001,
        correction: str = "holm",
    ) -> None:  # fmt: skip
        for option, value in (("n0", n0), ("n", n)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"certifier.{option} must be a positive integer", received=value)
        if not 0.0 < alpha < 1.0:
            raise ConfigError("certifier.alpha must lie inside (0, 1)", received=alpha)
        if correction not in CORRECTIONS:
            raise ConfigError(
                "Unknown certifier.correction", expected=" or ".join(sorted(CORRECTIONS)), received=correction
            )
        self.noise = Gaussian(sigma)
        self.tau, self.n0, self.n, self.alpha, self.correction = tau, n0, n, alpha, correction
        self.radius = self.noise.radius(tau)
        self._p_values = upper_tail(n, tau)

    @property
    def threat(self) -> Threat:
        """The perturbations the certificate holds for: an l2 ball of radius R."""
        if self.radius == 0.0:
            raise ConfigError(
                "certifier.tau=0.5 certifies the radius 0, which is no certificate",
                remedy="Choose tau above 0.5, for example 0.75",
            )
        return self.noise.threat(self.radius)

    @property
    def predictor(self) -> str:
        """The model the certificate is about."""
        return f"smoothed({self.noise})"

    @property
    def settings(self) -> dict[str, object]:
        """Everything that decides the result."""
        names = ("tau", "n0", "n", "alpha", "correction")
        return {"sigma": self.noise.sigma, **{name: getattr(self, name) for name in names}}

    def check(self, num_pixels: int) -> None:
        """Raise :class:`ConfigError` if no pixel of an image of ``num_pixels`` could ever be certified with this n."""
        if self._p_values[-1] > self.alpha / num_pixels:
            needed = minimum_samples(self.tau, self.alpha, num_pixels)
            raise ConfigError(
                f"certifier.n={self.n} cannot certify a single pixel of an image of {num_pixels} pixels at "
                f"tau={self.tau:g}, alpha={self.alpha:g}",
                expected=f"n >= {needed}",
                received=self.n,
                remedy=f"Set certifier.n={needed} or more, or lower certifier.tau",
            )

    def certify(self, segmenter: Segmenter, image: Tensor, *, stream: NoiseStream, hardware: Hardware) -> Certificate:
        """Certify one image.

        Args:
            segmenter: the base model, on the hardware's device.
            image: ``3 x H x W`` in [0, 1].
            stream: the image's noise.
            hardware: device, precision, copies per forward pass.

        Returns:
            The certificate, its tensors on the CPU.

        Raises:
            ConfigError: n is too small for this image.
            DataError: the image is not in [0, 1].
            ModelError: the model returned NaN, infinite or misshapen logits.
        """
        check_image(image, stream.name)
        threat = self.threat
        self.check(image.shape[-2] * image.shape[-1])
        watch = Stopwatch(hardware.torch_device)
        sampler = NoisySampler(segmenter, image, self.noise, stream, hardware)
        with watch("sampling"):
            classes = sampler.class_counts(0, self.n0).argmax(dim=0)
            counts = sampler.agreement(classes, self.n0, self.n)
        with watch("statistics"):
            certified = self.decide(counts)
        return Certificate(
            classes=classes.cpu(), certified=certified.cpu(), threat=threat, predictor=self.predictor,
            confidence=1.0 - self.alpha, passes=sampler.passes, seconds=watch.seconds,
            flags=tuple(sorted(sampler.flags)),
        )  # fmt: skip

    def decide(self, counts: Tensor) -> Tensor:
        """The pixels whose hypothesis ``p <= tau`` is rejected.

        Args:
            counts: ``H x W`` integers, how often the guessed class was drawn in ``n`` fresh samples.

        Returns:
            ``H x W`` bool.
        """
        histogram = torch.bincount(counts.flatten(), minlength=self.n + 1).cpu().numpy().astype(np.int64)
        return counts >= rejection_threshold(histogram, self._p_values, self.alpha, self.correction)
