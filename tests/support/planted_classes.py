"""A model that draws every pixel's class with known probabilities, from the noise of that pixel alone."""

import torch
from torch import Tensor


class PlantedClasses(torch.nn.Module):
    """On an image of grey 0.5 under N(0, sigma^2 I) noise the class of a pixel is k with probability ``p[k]``.

    Args:
        probabilities: ``K x H x W``, summing to 1 over classes.
        sigma: of the noise.
    """

    def __init__(self, probabilities: Tensor, sigma: float = 0.25):
        super().__init__()
        self.num_classes = len(probabilities)
        share = probabilities.double().cumsum(0)[:-1].clamp(0, 1)
        self.register_buffer("bounds", (0.5 + sigma * torch.special.ndtri(share)).float())

    @property
    def image(self) -> Tensor:
        """The image the probabilities are for."""
        return torch.full((3, *self.bounds.shape[1:]), 0.5)

    def forward(self, images: Tensor) -> Tensor:
        classes = (images[:, :1] > self.bounds).sum(dim=1)
        return torch.nn.functional.one_hot(classes, self.num_classes).permute(0, 3, 1, 2).float()


def row(*pixels: tuple[float, ...]) -> Tensor:
    """``K x 1 x W`` probabilities of pixels side by side."""
    return torch.tensor(pixels, dtype=torch.float64).T[:, None]
