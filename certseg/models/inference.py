"""Rescaled, multi-scale and sliding-window inference: functions on tensors, differentiable in images and logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from certseg.types import IGNORE_INDEX


def scaled_size(size: Sequence[int], scale: float) -> tuple[int, int]:
    """Height and width after scaling by ``scale``, rounded, at least 1.

    >>> scaled_size((360, 480), 0.5), scaled_size((3, 480), 0.1)
    ((180, 240), (1, 48))
    """
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


def rescale(images: Tensor, scale: float) -> Tensor:
    """Resize ``B x C x H x W`` images to ``round(scale * H) x round(scale * W)``.

    Scale 1 is the identity. Scale 1/k averages blocks of ``k x k`` pixels where k divides both sides, which divides the
    standard deviation of white noise by exactly k. Every other size is bilinear, with antialiasing when it shrinks.
    """
    size = scaled_size(images.shape[-2:], scale)
    if size == tuple(images.shape[-2:]):
        return images
    factor = round(1 / scale) if scale < 1 else 1
    if factor > 1 and all(small * factor == large for small, large in zip(size, images.shape[-2:])):
        return F.avg_pool2d(images, factor)
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)


def resize_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Resize ``B x C x h x w`` logits bilinearly to ``size``; the identity when they have that size."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def rescale_labels(labels: Tensor, scale: float) -> Tensor:
    """Resize ``B x H x W`` labels to the size :func:`rescale` gives images, taking the pixel nearest to each centre."""
    height, width = labels.shape[-2:]
    new_height, new_width = scaled_size((height, width), scale)
    if (new_height, new_width) == (height, width):
        return labels
    rows = _nearest(height, new_height, labels.device)
    columns = _nearest(width, new_width, labels.device)
    return labels[:, rows][:, :, columns]


def _nearest(old: int, new: int, device: torch.device) -> Tensor:
    return (2 * torch.arange(new, device=device) + 1) * old // (2 * new)


def label_edges(labels: Tensor, width: int) -> Tensor:
    """Mark the borders between classes in ``B x H x W`` labels: int64 of the same shape, 1 on bands ``width`` wide.

    The same pixels as mmsegmentation's ``GenerateEdge``: a border to an ignored pixel (255) is none.

    >>> label_edges(torch.tensor([[[0, 0, 0, 1, 1, 1]]]), width=2)
    tensor([[[0, 0, 1, 1, 0, 0]]])
    """
    edges = torch.zeros_like(labels, dtype=torch.bool)
    upper, lower = slice(None, -1), slice(1, None)
    pairs = (  # of neighbours: the marked pixel, then the other
        ((..., lower, slice(None)), (..., upper, slice(None))),
        ((..., upper), (..., lower)),
        ((..., upper, upper), (..., lower, lower)),
        ((..., upper, lower), (..., lower, upper)),
    )
    for marked, other in pairs:
        first, second = labels[marked], labels[other]
        edges[marked] |= (first != second) & (first != IGNORE_INDEX) & (second != IGNORE_INDEX)
    before, after = width // 2, (width - 1) // 2
    grown = F.max_pool2d(F.pad(edges[:, None].float(), (before, after, before, after)), width, stride=1)
    return grown[:, 0].long()


def slide(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    num_classes: int,
    crop_size: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    """Logits ``B x num_classes x H x W``: the mean over all windows of ``crop_size`` at steps of ``stride``.

    The last window of each row and column is moved inside, as mmsegmentation does. An image smaller than a window is
    one smaller window.

    Args:
        network: maps windows ``B x 3 x h x w`` to logits ``B x num_classes x h x w``.
        images: ``B x 3 x H x W``.
        num_classes: number of classes.
        crop_size: height and width of a window in pixels.
        stride: vertical and horizontal step between windows in pixels, at most the window.
    """
    height, width = images.shape[-2:]
    tops = _window_starts(height, crop_size[0], stride[0])
    lefts = _window_starts(width, crop_size[1], stride[1])
    total = images.new_zeros(images.shape[0], num_classes, height, width)
    count = images.new_zeros(1, 1, height, width)
    for top in tops:
        for left in lefts:
            window = (..., slice(top, top + crop_size[0]), slice(left, left + crop_size[1]))
            total[window] += network(images[window])
            count[window] += 1
    return total / count


def _window_starts(side: int, crop: int, stride: int) -> list[int]:
    last = max(side - crop, 0)
    return [*range(0, last, stride), last]


def log_mean_softmax(logits: Sequence[Tensor]) -> Tensor:
    """Log of the mean of the softmax probabilities of several ``B x C x H x W`` logits, at least in float32."""
    log_probabilities = [F.log_softmax(x.float() if x.element_size() < 4 else x, dim=1) for x in logits]
    mean = torch.tensor(float(len(log_probabilities))).log().item()
    return torch.logsumexp(torch.stack(log_probabilities), dim=0) - mean
