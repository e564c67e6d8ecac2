"""A network whose classes are put into another order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from certseg.errors import ModelError
from certseg.types import CoarseLogits, coarse_logits_of, segmenter_of


class Reordered(nn.Module):
    """A segmenter whose class ``i`` is class ``order[i]`` of another.

    Args:
        segmenter: a :class:`certseg.types.Segmenter`.
        order: every class of it once.

    Raises:
        ModelError: ``order`` leaves out a class or names one twice, or ``segmenter`` does not say its ``num_classes``.

    >>> network = nn.Conv2d(3, 2, kernel_size=1)
    >>> network.num_classes = 2
    >>> images = torch.rand(1, 3, 4, 5)
    >>> bool((Reordered(network, [1, 0])(images)[:, 0] == network(images)[:, 1]).all())
    True
    """

    order: Tensor

    def __init__(self, segmenter: nn.Module, order: Sequence[int]):
        super().__init__()
        self.num_classes = segmenter_of(segmenter).num_classes
        if sorted(order) != list(range(self.num_classes)):
            raise ModelError(
                "The order of classes must name every class once",
                expected=f"0 to {self.num_classes - 1}",
                received=order,
            )
        self.segmenter = segmenter
        self.register_buffer("order", torch.tensor(order), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``B x num_classes x H x W`` of images ``B x 3 x H x W``."""
        logits: Tensor = self.segmenter(images)
        return logits.index_select(1, self.order)

    def coarse_logits(self, images: Tensor) -> CoarseLogits | None:
        """The segmenter's logits at its own resolution if it gives them, else None (see :class:`CoarseLogits`)."""
        found = coarse_logits_of(segmenter_of(self.segmenter), images)
        return None if found is None else CoarseLogits(found.logits.index_select(1, self.order), found.align_corners)
