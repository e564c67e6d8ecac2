"""A stranger's network, data set, certifier and attack: nothing but what the contracts name, outside the package."""

import torch
from torch.nn import functional as F

from certseg.metrics import SHARE, Figure, Side, register
from certseg.types import (
    L2,
    Attack,
    AttackResult,
    Certificate,
    Certifier,
    Guarantee,
    Passes,
    Promise,
    Sample,
    Score,
)

register(Figure("sure_pixels", "pixels whose margin is twice what the radius needs", SHARE, Side.ESTIMATE))


class Shades:
    """Images of two shades, class 0 dark and class 1 bright, with some noise."""

    name, class_names, palette = "shades", ("dark", "bright"), ((0, 0, 0), (255, 255, 255))

    def __init__(self, split, count=4):
        self.split, self.count = split, count

    def __len__(self):
        return self.count

    def names(self):
        return tuple(f"{self.split}_{index}" for index in range(self.count))

    def fingerprint(self):
        return f"{self.split}{self.count}"

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        target = (torch.rand(12, 16, generator=generator) < 0.5).long()
        noise = 0.1 * torch.rand(3, 12, 16, generator=generator)
        return Sample(self.names()[index], (0.3 + 0.3 * target + noise).clamp(0, 1), target)


class Pixels(torch.nn.Module):
    """Logits that are linear in a pixel's own colour."""

    def __init__(self, name, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.layer = torch.nn.Conv2d(3, num_classes, 1)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1))
            self.layer.bias.copy_(torch.tensor([1.5, -1.5]))

    def forward(self, images):
        return self.layer(images)

    def loss(self, images, labels):
        return {"loss": F.cross_entropy(self(images), labels, ignore_index=255)}


class Margins(Certifier):
    """Certifies a pixel of :class:`Pixels` whose margin no perturbation of the radius can use up; ``boast`` multiplies
    the radius it claims."""

    name = "margins"
    is_sampled = False

    def __init__(self, radius=0.05, boast=1.0):
        self.radius, self.boast = radius, boast

    @property
    def guarantee(self):
        return Guarantee(Promise.EVERY_PIXEL, "base", L2(self.boast * self.radius), confidence=1.0)

    @property
    def settings(self):
        return {"radius": self.radius, "boast": self.boast}

    def certify(self, segmenter, image, *, stream, hardware):
        with torch.no_grad():
            logits = segmenter(image[None].to(hardware.torch_device))[0].cpu()
        weight = segmenter.layer.weight.detach().cpu()
        length = float((weight[1] - weight[0]).norm())
        self.margins = (logits[1] - logits[0]).abs() / length
        certified = self.margins > 1.001 * self.radius
        return Certificate(logits.argmax(dim=0), certified, self.guarantee, Passes(forward=1))

    def score(self, certificate, target):
        return Score({"sure_pixels": float((self.margins > 2 * self.radius).double().mean())})

    def summarise(self, rows, class_names):
        values = [row["figures"]["sure_pixels"] for row in rows]
        return {"figures": {"sure_pixels/image_mean": sum(values) / len(values)}}


class Darken(Attack):
    """Moves the whole image towards black as far as the threat allows."""

    norms = ("l2",)

    def __call__(self, segmenter, image, target, threat, *, stream, hardware, start=None):
        direction = -image / image.norm()
        found = (image + 0.999 * threat.radius * direction).clamp(0, 1)
        with torch.no_grad():
            prediction = segmenter(found[None].to(hardware.torch_device)).argmax(dim=1)[0].cpu()
        return AttackResult(found, prediction, threat, "base", float((found - image).norm()), Passes(forward=1))


class NoContract:
    """Has a name and a method, and derives from nothing."""

    name = "none"

    def certify(self, segmenter, image, *, stream, hardware):
        raise AssertionError("never asked")
