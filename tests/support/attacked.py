"""Networks and images to attack, and how the tests of attacks call one."""

import torch

from certseg.attacks import APGD
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream

CPU = Hardware(device="cpu", noise_batch=4)
STREAM = NoiseStream(0, "x")


def attack(model, image, target, threat, stream=STREAM, start=None, **options):
    return APGD(**options)(model, image, target, threat, stream=stream, hardware=CPU, start=start)


def convolution(seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(4, classes, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    model.num_classes = classes
    return model


def images_and_targets(count, seed=0, size=(9, 7)):
    generator = torch.Generator().manual_seed(seed)
    images = list(torch.rand(count, 3, *size, generator=generator))
    targets = list(torch.randint(3, (count, *size), generator=generator))
    return images, targets


class Counted(torch.nn.Module):
    """Remembers the batch of every pass."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.num_classes, self.batches = inner, inner.num_classes, []

    def forward(self, images):
        self.batches.append(len(images))
        return self.inner(images)
