"""What a segmenter offers beyond logits so that it can be trained: a loss of its own, and the logits behind it.

:func:`trainable` and :func:`explained` are the only places that ask whether a network has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from certseg.errors import ModelError
from certseg.types.results import TrainingOutput
from certseg.types.segmenters import Segmenter


@runtime_checkable
class TrainableSegmenter(Segmenter, Protocol):
    """A segmenter that knows its own loss, auxiliary heads included; a :class:`torch.nn.Module` in practice."""

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Named losses of images ``B x 3 x H x W`` in [0, 1] and int64 labels ``B x H x W`` (255 is void): all whose
        name contains ``loss`` are added up; anything else is detached, and recorded only."""

    def modules(self) -> Iterator[nn.Module]:
        """The network itself and all its parts, as :meth:`torch.nn.Module.modules` gives them."""

    def eval(self) -> object:
        """Put all parts into eval mode."""


@runtime_checkable
class ExplainedSegmenter(TrainableSegmenter, Protocol):
    """A trainable segmenter that also shows the logits its loss comes from."""

    def loss_and_logits(self, images: Tensor, labels: Tensor) -> TrainingOutput:
        """Losses and logits of one forward pass, of images and labels as :meth:`loss` takes them."""


def trainable(network: nn.Module) -> TrainableSegmenter:
    """``network``, known to have a loss of its own.

    Raises:
        ModelError: it has none.
    """
    if not isinstance(network, TrainableSegmenter):
        raise ModelError(
            f"{type(network).__name__} has no loss of its own to be trained with",
            expected="num_classes, and a method loss(images, labels) that returns tensors by name",
            remedy="Add it, or take the network by certseg.wrap or model=custom, which train any by cross-entropy",
        )
    return network


def check_losses(losses: object) -> None:
    """Check what a training is to lower, for a loss that is not added up is not trained on.

    Args:
        losses: what :meth:`TrainableSegmenter.loss` or an objective gave back.

    Raises:
        ModelError: they are no tensors by name, none is called a loss, or one that could be lowered, for it has a
            gradient, is not.
    """
    what = "What is to be trained on does not fit"
    if not isinstance(losses, Mapping) or not all(isinstance(loss, Tensor) for loss in losses.values()):
        raise ModelError(what, expected="a dictionary of losses, tensors by name", received=type(losses).__name__)
    strange = [str(name) for name, value in losses.items() if "loss" not in str(name) and value.requires_grad]
    if strange or not any("loss" in str(name) for name in losses):
        raise ModelError(
            what,
            expected="names that contain 'loss' for what is added up; anything else is detached, and recorded only",
            received=", ".join(strange or map(str, losses)) or "no loss",
            remedy="Rename them, for example 'dice' to 'loss_dice'",
        )


def explained(network: nn.Module) -> ExplainedSegmenter:
    """``network``, known to show the logits its loss comes from.

    Raises:
        ModelError: it does not.
    """
    if not isinstance(network, ExplainedSegmenter):
        raise ModelError(
            f"Consistency regularisation needs the logits behind the loss, which {type(network).__name__} hides",
            expected="a method loss_and_logits(images, labels) that returns a certseg.types.TrainingOutput",
            remedy="Add it, or use training=noise",
        )
    return network
