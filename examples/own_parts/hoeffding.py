"""A certifier of one's own: randomized smoothing with Hoeffding's inequality in the place of the binomial test."""

import math

from certseg.errors import ConfigError
from certseg.smoothing.noise import NOISES
from certseg.smoothing.sampling import NoisySampler
from certseg.types import Certificate, Certifier, Guarantee, Promise


class Hoeffding(Certifier):
    """With probability at least ``1 - alpha`` all certified pixels keep the class of the smoothed model for every
    perturbation of l2 norm at most ``sigma * Phi^-1(tau)``: by Hoeffding's inequality and a union bound over the P
    pixels, a class drawn in a share s of ``n`` samples has a probability above ``s - sqrt(log(P / alpha) / (2 n))``."""

    name = "hoeffding"

    def __init__(self, *, sigma, noise="gaussian", grey_levels=255, tau=0.75, n0=10, n=200, alpha=0.001):
        self.noise = NOISES[noise](sigma, grey_levels)
        self.tau, self.n0, self.n, self.alpha = tau, n0, n, alpha

    @property
    def guarantee(self):
        threat = self.noise.threat(self.noise.radius(self.tau))
        predictor, confidence = f"smoothed({self.noise})", 1 - self.alpha
        return Guarantee(Promise.EVERY_PIXEL, predictor, threat, confidence, assuming=self.noise.assumption)

    @property
    def settings(self):
        return {"noise": str(self.noise), "tau": self.tau, "n0": self.n0, "n": self.n, "alpha": self.alpha}

    def slack(self, pixels):
        return math.sqrt(math.log(pixels / self.alpha) / (2 * self.n))

    def check_size(self, size):
        if 1 - self.slack(size[0] * size[1]) <= self.noise.tested(self.tau):
            raise ConfigError("No pixel can be certified", received=f"n={self.n}", remedy="Raise n or lower tau")

    def certify(self, segmenter, image, *, stream, hardware):
        sampler = NoisySampler(segmenter, image, self.noise, stream, hardware)
        classes = sampler.class_counts(0, self.n0).argmax(dim=0)
        share = sampler.agreement(classes, self.n0, self.n).double() / self.n
        certified = share - self.slack(classes.numel()) > self.noise.tested(self.tau)
        flags = tuple(sorted(sampler.flags))
        return Certificate(
            classes.cpu(), certified.cpu(), self.guarantee, sampler.passes, flags=flags, samples=self.n0 + self.n
        )
