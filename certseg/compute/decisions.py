"""Which class wins at each pixel, from logits.

There are two rules. :func:`winner` is the base classifier of everything that is sampled: the class of the *unique*
maximum of the logits. Where the largest logit is tied no class is predicted, :data:`NO_CLASS`. A tie therefore never
helps a certificate, and whichever class a tie-breaking rule would choose has at least the probability counted here.
:func:`decide` is what a network itself predicts: the first of tied classes.

On the CPU two compiled kernels read the logits once. :func:`enlarged_winner` even decides from logits at the network's
own resolution: inside a cell of four neighbouring logit vectors a bilinear value lies between the smallest and the
largest of its four corners, so a class whose largest corner lies below another class's smallest cannot win anywhere in
the cell. Mostly one class is left and nothing need be interpolated.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from certseg.compute.threads import for_each

NO_CLASS = -1
_SHARE = 2**14  # pixels that are worth a thread


def winner(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The unique maximum over classes.

    Args:
        logits: ``B x K x H x W`` floating point, K below 2^15.

    Returns:
        ``B x H x W`` int16 classes, :data:`NO_CLASS` where the maximum is tied; and a scalar that is finite exactly if
        no logit is NaN or plus infinity (and no pixel has minus infinity throughout).

    >>> logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 5.0]]).view(1, 2, 1, 3)  # the second pixel is tied
    >>> winner(logits)[0].tolist()
    [[[0, -1, 1]]]
    """
    if logits.device.type == "cpu":
        from certseg.compute.kernels.winners import winner_of_planes  # the compiler takes half a second to import

        planes = logits.detach().to(torch.float32).contiguous().flatten(2)
        classes = torch.empty(logits.shape[0], *logits.shape[-2:], dtype=torch.int16)
        check = torch.empty(logits.shape[0], dtype=torch.float64)
        arrays = planes.numpy(), classes.flatten(1).numpy(), check.numpy()
        for_each(len(planes), lambda b: winner_of_planes(arrays[0][b], arrays[1][b], arrays[2][b : b + 1]))
        return classes, check.sum()
    top, classes = logits.max(dim=1)
    tied = (logits == top.unsqueeze(1)).sum(dim=1) != 1
    return classes.to(torch.int16).masked_fill_(tied, NO_CLASS), top.sum(dtype=torch.float64)


def enlarged_winner(logits: Tensor, size: Sequence[int], align_corners: bool = False) -> tuple[Tensor, Tensor]:
    """:func:`winner` of ``logits`` enlarged bilinearly to ``size``, without the enlargement; on the CPU.

    Args:
        logits: ``B x K x h x w`` float32.
        size: height and width of the result.
        align_corners: whether the corner pixels of both sizes lie on one another, as in
            :func:`torch.nn.functional.interpolate`.

    Returns:
        ``B x H x W`` int16 classes, which differ from :func:`winner` of interpolated logits at most where the two
        largest are equal but for rounding; and a scalar that is finite exactly if all logits are finite, apart from
        classes that are minus infinity all over an image.
    """
    from certseg.compute.kernels.winners import winner_of_cells

    logits = logits.detach().to(torch.float32)
    check = torch.where(logits.amax(dim=(2, 3)).isneginf()[..., None, None], 0.0, logits).sum(dtype=torch.float64)
    pixels = logits.permute(0, 2, 3, 1).contiguous().numpy()
    rows = _neighbours(pixels.shape[1], size[0], align_corners)
    columns = _neighbours(pixels.shape[2], size[1], align_corners)
    out = torch.empty(len(pixels), *size, dtype=torch.int16)
    images = out.numpy()
    for_each(len(pixels), lambda b: winner_of_cells(pixels[b], *rows, *columns, images[b]))
    return out, check


@functools.lru_cache(maxsize=64)
def _neighbours(old: int, new: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """How ``new`` positions lie among ``old`` ones: for each old one the first new position from there on, with ``new``
    appended (``old + 1`` integers), and for each new position its share of the way to the next old one (float32)."""
    if align_corners:
        at = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
    else:
        at = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0.0)
    cell = np.minimum(at.astype(np.int64), old - 1)
    return np.searchsorted(cell, np.arange(old + 1)), (at - cell).astype(np.float32)


def decide(logits: Tensor) -> tuple[Tensor, Tensor]:
    """What a network predicts from logits ``B x K x H x W``: the class of the largest one, the first where it is tied.

    Returns:
        ``B x H x W`` integers; and for each image a number that is not finite if a logit is NaN or plus infinity.

    >>> logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 5.0]]).view(1, 2, 1, 3)  # the second pixel is tied
    >>> decide(logits)[0].tolist()
    [[[0, 0, 1]]]
    """
    if logits.device.type != "cpu":
        return logits.argmax(dim=1), logits.amax(dim=(1, 2, 3))
    from certseg.compute.kernels.predictions import first_largest  # the compiler takes half a second to import

    planes = logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).contiguous().flatten(2)
    batch, _, pixels = planes.shape
    share = -(-pixels // min(torch.get_num_threads(), 1 + pixels // _SHARE))  # argmax takes ten times as long
    starts = range(0, pixels, share)
    classes = torch.empty(batch, *logits.shape[-2:], dtype=torch.int16)
    checks = torch.empty(batch, len(starts), dtype=torch.float64)
    arrays = planes.numpy(), classes.flatten(1).numpy(), checks.numpy()

    def work(task: int) -> None:
        image, part = divmod(task, len(starts))
        first, last = starts[part], min(starts[part] + share, pixels)
        first_largest(arrays[0][image], first, last, arrays[1][image], arrays[2][image, part : part + 1])

    for_each(batch * len(starts), work)
    return classes, checks.sum(dim=1)
