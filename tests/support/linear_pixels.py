"""A model whose answers are known exactly: every pixel is classified by one affine map of its three channels."""

import torch
from scipy.stats import norm
from torch import Tensor


class LinearPixels(torch.nn.Module):
    """Logits ``weight @ pixel + bias`` at every pixel.

    For two classes under N(0, sigma^2 I) the margin of a pixel is Gaussian, so class probabilities, smallest
    perturbations and smoothed predictions have closed forms.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(weight.float())
        self.bias = torch.nn.Parameter(torch.zeros(len(weight)) if bias is None else bias.float())
        self.num_classes = len(weight)

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("kc,bchw->bkhw", self.weight, images) + self.bias[:, None, None]

    def margin(self, image: Tensor) -> Tensor:
        """Signed distance of each pixel to the boundary of the first two classes, positive in class 0."""
        normal = (self.weight[0] - self.weight[1]).double()
        score = torch.einsum("c,chw->hw", normal, image.double()) + (self.bias[0] - self.bias[1]).double()
        return (score / normal.norm()).detach()

    def probability(self, image: Tensor, sigma: float) -> Tensor:
        """Exact probability of class 0 at each pixel under Gaussian noise."""
        return torch.from_numpy(norm.cdf(self.margin(image).numpy() / sigma))


def two_classes() -> LinearPixels:
    """Dark pixels are class 0, bright ones class 1, the boundary at grey 0.5."""
    weight = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    return LinearPixels(weight, torch.tensor([1.5, -1.5]))


def image_with_margins(model: LinearPixels, margins: Tensor, grey: float = 0.5) -> Tensor:
    """An image of :func:`two_classes` whose pixels have the given signed distances to the boundary.

    Args:
        model: of :func:`two_classes`.
        margins: ``H x W``, within about +-0.8.
        grey: of the boundary.
    """
    normal = (model.weight[0] - model.weight[1]).detach()
    return (grey + margins[None] * (normal / normal.norm())[:, None, None]).float().clamp(0, 1)
