"""What a network must offer, what it may, and the one place that asks for either.

A segmenter need only have the members its protocol names: any torch module may be one.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from certseg.checks import is_count
from certseg.errors import ModelError
from certseg.types.capabilities import CoarseLogits, LipschitzBound
from certseg.types.images import IGNORE_INDEX, MOST_CLASSES


@runtime_checkable
class Segmenter(Protocol):
    """A segmentation model as attacks and certifiers see it: images in [0, 1] in, one logits tensor out.

    ``segmenter(images)`` maps ``B x 3 x H x W`` to ``B x num_classes x H x W`` at the same resolution and is
    differentiable with respect to its input; normalisation and rescaling happen inside. Any torch module with
    ``num_classes`` that does so is one. What a segmenter may offer besides is asked for by :func:`coarse_logits_of` and
    :func:`lipschitz_bound_of`, and nowhere else.
    """

    num_classes: int

    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``B x num_classes x H x W`` of images ``B x 3 x H x W`` in [0, 1]."""


@runtime_checkable
class CoarseSegmenter(Segmenter, Protocol):
    """A segmenter whose logits are the bilinear enlargement of smaller ones, so that sampling may skip it."""

    def coarse_logits(self, images: Tensor) -> CoarseLogits | None:
        """The logits of ``B x 3 x H x W`` images at the network's own resolution; None where the logits at image
        resolution are not just their enlargement."""


@runtime_checkable
class LipschitzSegmenter(Segmenter, Protocol):
    """A segmenter whose Lipschitz constant was audited."""

    def certified_bound(self, size: tuple[int, int]) -> LipschitzBound:
        """What holds for images of this height and width, from the weights as they are now. It is asked once an image:
        a network keeps the answer for as long as its weights do not change.

        Raises:
            ModelError: nothing can be proven, for example in train mode or for this size.
        """


def segmenter_of(network: object) -> Segmenter:
    """A network as attacks and certifiers see it: the network itself, once it is known to say how many classes it
    tells apart.

    Raises:
        ModelError: ``num_classes`` is missing, above :data:`certseg.types.MOST_CLASSES`, or no integer of at least 2:
            the largest of a single logit is always the first, so everything would be certified and nothing said.

    >>> network = nn.Conv2d(3, 5, kernel_size=1)
    >>> network.num_classes = 5
    >>> segmenter_of(network) is network
    True
    """
    remedy = "Set self.num_classes in its constructor"
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        received, remedy = "a wrapper that hides it", "Give the network inside it: model.module"
    elif not isinstance(network, Segmenter):
        received = "a network without it" if callable(network) else "something that cannot be called"
    elif not is_count(network.num_classes):
        received = f"num_classes={network.num_classes!r}"
    elif network.num_classes > MOST_CLASSES:
        received = f"num_classes={network.num_classes}"
        remedy = f"{IGNORE_INDEX} in labels stands for none; leave out classes that the data set has not"
    elif network.num_classes == 1:
        received = "num_classes=1"
        remedy = "A network with one logit becomes one of two classes by the logit's sign: certseg.wrap(model)"
    else:
        return network
    raise ModelError(
        f"{type(network).__name__} is no segmenter",
        expected=f"a network whose num_classes is an integer from 2 to {MOST_CLASSES}",
        received=received,
        remedy=remedy,
    )


def coarse_logits_of(segmenter: Segmenter, images: Tensor) -> CoarseLogits | None:
    """The logits of ``B x 3 x H x W`` images at the network's own resolution, None where it offers none."""
    return segmenter.coarse_logits(images) if isinstance(segmenter, CoarseSegmenter) else None


def lipschitz_bound_of(segmenter: Segmenter, size: tuple[int, int]) -> LipschitzBound:
    """The audited Lipschitz bound of a segmenter for images of this height and width.

    Raises:
        ModelError: the segmenter has no audited constant, or none for this size.
    """
    return lipschitz_segmenter_of(segmenter).certified_bound(size)


def lipschitz_segmenter_of(segmenter: Segmenter) -> LipschitzSegmenter:
    """The segmenter itself, once it is known to have an audited constant.

    Raises:
        ModelError: it has none.
    """
    if isinstance(segmenter, LipschitzSegmenter):
        return segmenter
    raise ModelError(
        "certifier=lipschitz needs a network with an audited Lipschitz constant",
        received=f"{type(segmenter).__name__} without one",
        remedy="Choose a Lipschitz network, such as model=lip_deeplabv3_small with training=lipschitz, or another "
        "certifier such as certifier=segcertify",
    )
