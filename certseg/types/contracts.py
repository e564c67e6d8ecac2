"""What a model, a data set and an inpainter must offer."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from certseg.types.bounds import LipschitzBound
from certseg.types.images import Sample
from certseg.types.results import Maps, Row


@runtime_checkable
class Segmenter(Protocol):
    """A segmentation model as attacks and certifiers see it: images in [0, 1] in, one logits tensor out.

    ``segmenter(images)`` maps ``B x 3 x H x W`` to ``B x num_classes x H x W`` at the same resolution and is
    differentiable with respect to its input; normalisation and rescaling happen inside.
    """

    num_classes: int

    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``B x num_classes x H x W`` of images ``B x 3 x H x W`` in [0, 1]."""


@runtime_checkable
class Inpainter(Protocol):
    """Fills in the hidden pixels of images from the visible ones; each image on its own, and always alike.

    ``name`` is a word for tables; ``settings`` is everything that decides the result, in plain values.
    """

    name: str
    settings: dict[str, object]

    def __call__(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Images ``B x 3 x H x W`` in [0, 1], equal to ``images`` wherever ``hidden`` (``B x H x W`` bool) is False."""


@runtime_checkable
class LipschitzSegmenter(Segmenter, Protocol):
    """A segmenter whose Lipschitz constant was audited."""

    def certified_bound(self, size: tuple[int, int]) -> LipschitzBound:
        """What holds for images of this height and width, from the weights as they are now. Asked once an image: a
        network keeps the answer for as long as its weights do not change.

        Raises:
            ModelError: nothing can be proven, for example in train mode or for this size.
        """


class SegmentationDataset(Protocol):
    """A split of a data set: a sequence of :class:`Sample` with names known without reading the images."""

    name: str
    split: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """Read one sample."""

    def names(self) -> tuple[str, ...]:
        """The names of all samples, in order."""

    def fingerprint(self) -> str:
        """Hex digest that changes when the split's content changes and stays when its folder moves."""


class Store(Protocol):
    """Where rows and maps live; :class:`certseg.reporting.RowStore` on disk."""

    def append(self, row: Row) -> None:
        """Add one row, on disk when this returns."""

    def read(self) -> dict[str, Row]:
        """All finished rows by image."""

    def save_map(self, name: str, **arrays: np.ndarray) -> object:
        """Store the maps of one image."""

    def load_map(self, name: str) -> Maps:
        """The maps of one image."""
