"""A network whose classes are put into another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from certseg.errors import ModelError
from certseg.types import (
    CoarseLogits,
    LipschitzBound,
    LipschitzSegmenter,
    coarse_logits_of,
    lipschitz_bound_of,
    segmenter_of,
)


def reordered(segmenter: nn.Module, order: Sequence[int] | None) -> nn.Module:
    """The segmenter with its classes in another order, and what it offers besides logits; itself where there is none.

    Args:
        segmenter: a :class:`certseg.types.Segmenter`.
        order: which of its classes each class becomes; None for no change.

    Raises:
        ModelError: see :class:`Reordered`.
    """
    if order is None:
        return segmenter
    return (ReorderedLipschitz if isinstance(segmenter, LipschitzSegmenter) else Reordered)(segmenter, order)


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


class ReorderedLipschitz(Reordered):
    """A segmenter with an audited Lipschitz constant whose class ``i`` is class ``order[i]`` of another: the features
    are the same, and so is their constant; the rows of the last linear map change places."""

    def certified_bound(self, size: tuple[int, int]) -> LipschitzBound:
        """What holds for images of this height and width.

        Raises:
            ModelError: nothing can be proven, for example in train mode or for this size.
        """
        bound = lipschitz_bound_of(segmenter_of(self.segmenter), size)
        head = None if bound.head is None else bound.head.index_select(0, self.order.to(bound.head.device))
        return replace(bound, head=head)
