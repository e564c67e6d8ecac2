"""A segmenter in the hands of the attacker: what it says is planted wherever the patch shows."""

import torch
from torch import Tensor

from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream

CPU = Hardware(device="cpu")


class Puppet(torch.nn.Module):
    """Knows one clean image, without zeros, and its masked copies, of which hidden pixels are 0.

    Where a copy shows nothing but the clean image it says what is planted for its mask. Else the attacker decides:
    ``choice`` maps the index of a mask (-1: no mask) to a class or a map of classes.

    Args:
        image: ``3 x H x W``, positive.
        hidden: ``N x H x W`` bool, all masks that will be asked for.
        planted: ``N x H x W`` classes.
        base: ``H x W`` classes of the unmasked image.
        num_classes: of the model.
    """

    def __init__(self, image: Tensor, hidden: Tensor, planted: Tensor, base: Tensor, num_classes: int):
        super().__init__()
        self.image, self.planted, self.num_classes = image, planted, num_classes
        self.base, self.asked = base, []
        self.known = {mask.numpy().tobytes(): index for index, mask in enumerate(hidden)}
        self.choice = {}

    def forward(self, images: Tensor) -> Tensor:
        maps = []
        for image in images:
            mask = (image == 0).all(dim=0)
            index = self.known[mask.numpy().tobytes()] if mask.any() else -1
            self.asked.append(index)
            clean = torch.equal(image[:, ~mask], self.image[:, ~mask])
            said = (self.base if index < 0 else self.planted[index]) if clean else self.choice[index]
            maps.append(torch.as_tensor(said).expand(mask.shape))
        return torch.nn.functional.one_hot(torch.stack(maps).long(), self.num_classes).permute(0, 3, 1, 2).float()


def planted_classes(number: int, size: tuple[int, int], num_classes: int, agreement: float, seed: int) -> Tensor:
    """``number x H x W`` classes: at every pixel one class in a share ``agreement`` of all maps, others at random."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randint(num_classes, size, generator=generator).expand(number, *size)
    other = torch.randint(num_classes, (number, *size), generator=generator)
    return torch.where(torch.rand(number, *size, generator=generator) < agreement, base, other)


def certified(certifier, model, image):
    """The certificate of ``image``."""
    return certifier.certify(model, image, stream=NoiseStream(0, "x"), hardware=CPU)


def patched(image: Tensor, patch: tuple[int, int]):
    """``image`` with another content in one patch, at every position."""
    height, width = patch
    for top in range(image.shape[1] - height + 1):
        for left in range(image.shape[2] - width + 1):
            other = image.clone()
            other[:, top : top + height, left : left + width] = 1.5 - other[:, top : top + height, left : left + width]
            yield other


def positive_image(size: tuple[int, int], seed: int = 0) -> Tensor:
    """``3 x H x W`` of the values .5 and 1; the attacker turns the one into the other."""
    generator = torch.Generator().manual_seed(seed)
    return torch.where(torch.rand(3, *size, generator=generator) < 0.5, 0.5, 1.0)
