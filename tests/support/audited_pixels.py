"""Linear pixels with an audited Lipschitz constant, and small images of theirs."""

import torch

from certseg.compute.hardware import Hardware
from certseg.types import LipschitzBound, Sample
from support.linear_pixels import LinearPixels

CPU = Hardware(device="cpu")


NAMES = ("dark", "bright", "green")


class AuditedPixels(LinearPixels):
    """Linear pixels that say what is proven about them; ``joint`` forgets the head."""

    def __init__(self, weight, bias=None, joint=False):
        super().__init__(weight, bias)
        self.joint, self.sizes = joint, []

    def certified_bound(self, size):
        self.sizes.append(size)
        slack = 1e-6 * float(self.weight.detach().abs().sum(dim=1).max())
        if self.joint:
            return LipschitzBound(
                float(torch.linalg.matrix_norm(self.weight.detach().double(), 2)) * (1 + 1e-9), slack=slack
            )
        return LipschitzBound(1.0, head=self.weight.detach(), slack=slack, flags=("calibrated",))


def three_classes():
    weight = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0], [-1.0, 2.0, -1.0]])
    return AuditedPixels(weight, torch.tensor([1.5, -1.5, -0.3]))


class Images:
    """Small images with a few unlabelled pixels; the first of ``void`` has no label at all."""

    name, split, class_names, palette = "images", "test", NAMES, ((0, 0, 0), (255, 255, 255), (0, 255, 0))

    def __init__(self, count=3, void=False):
        self.count, self.void = count, void

    def __len__(self):
        return self.count

    def names(self):
        return tuple(f"image/{i}" for i in range(self.count))

    def fingerprint(self):
        return "0"

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = 0.5 + 0.25 * torch.randn(3, 8, 10, generator=generator).clamp(-1.9, 1.9)
        target = three_classes()(image[None]).argmax(dim=1)[0]
        target[2] = (target[2] + 1) % 3
        target[0, :3] = 255
        if self.void and index == 0:
            target[:] = 255
        return Sample(self.names()[index], image, target)
