"""Small images for the worst cases of Lipschitz networks, and every attack on them."""

import itertools

import numpy as np
import torch

from certseg.lipschitz.worst_case import FlippableImage, entry_costs
from certseg.types import LipschitzBound

RADII = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 30.0)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def flippable(seed, classes, pixels, void=0.12):
    """A random image; every other one has tied logits, every third one a head."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(classes, 1, pixels))
    logits = np.round(logits * 2) / 2 if seed % 2 else logits
    target = logits.argmax(axis=0)
    target = np.where(rng.random((1, pixels)) < 0.35, rng.integers(0, classes, (1, pixels)), target)
    target = np.where(rng.random((1, pixels)) < void, 255, target)
    head = torch.from_numpy(rng.normal(size=(classes, 2))) if seed % 3 == 2 else None
    bound = LipschitzBound(1.3, head=head)
    return FlippableImage.of(torch.from_numpy(logits).float(), torch.from_numpy(target), bound), bound


class Search:
    """All attacks on one image within a budget: accuracies and, by class, intersections and unions."""

    def __init__(self, image, budget):
        number = image.num_classes
        pixels = torch.nonzero(image.labelled).flatten()
        costs = torch.stack([entry_costs(image.planes, pixels, k, image.geometry) for k in range(number)], 1).numpy()
        label, predicted = image.target[pixels].numpy(), image.classes[pixels].numpy()
        maps = np.asarray(list(itertools.product(range(number), repeat=len(pixels))), dtype=int)
        maps = maps.reshape(-1, len(pixels))
        spent = costs[np.arange(len(pixels)), maps].sum(axis=1)
        paid = (maps == predicted).all(axis=1) if budget == 0 else spent <= budget * (1 + 1e-9)
        maps = maps[paid]
        self.hits = (maps == label).sum(axis=1)
        self.labelled, self.present = len(pixels), [k for k in range(number) if (label == k).any()]
        self.intersections = np.stack([((maps == k) & (label == k)).sum(axis=1) for k in range(number)], axis=1)
        self.unions = np.stack([((maps == k) | (label == k)).sum(axis=1) for k in range(number)], axis=1)

    def iou(self):
        with np.errstate(invalid="ignore"):
            return self.intersections / self.unions


def smooth_image(seed=0, classes=6, height=48, width=64, scale=0.05):
    """Regions with gradual borders and a tenth of the labels wrong."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, classes, 6, 8, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0] * scale
    target = (logits + 0.3 * scale * torch.randn(logits.shape, generator=generator)).argmax(dim=0)
    target[:2] = 255
    return logits, target
