"""Images and labels: what they must be, wherever they enter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certseg.errors import DataError, ModelError
from certseg.types.threats import Sides

IGNORE_INDEX = 255
"""Stands in a map where there is no label."""

MOST_CLASSES = IGNORE_INDEX
"""Ids of classes, and of groups of them, run from 0 to 254."""

_USUAL = (1, 3, 4)  # channels of a picture; where these come last, the sides come first


@dataclass(frozen=True)
class Sample:
    """One image of a data set.

    Args:
        name: unique within its split, stable over machines, usable as a file name after ``/`` is replaced.
        image: ``C x H x W`` float32 in [0, 1], RGB where C is 3.
        target: ``H x W`` int64 class ids, :data:`IGNORE_INDEX` where unlabelled.
        objects: ``H x W`` int64, at each pixel the number of the object that it belongs to, from 1 on; 0 where no
            annotation tells objects apart, and -1 in a group whose objects nobody told apart. None, the default, for
            labels that tell classes alone.

    Raises:
        DataError: shapes, types or values are not as stated.
    """

    name: str
    image: Tensor
    target: Tensor
    objects: Tensor | None = None

    def __post_init__(self) -> None:
        check_image(self.image, self.name)
        if self.target.dtype != torch.int64 or self.target.shape != self.image.shape[-2:]:
            raise DataError(
                f"The target of image {self.name!r} does not fit its image",
                expected=f"int64 labels of shape {tuple(self.image.shape[-2:])}",
                received=f"{self.target.dtype} of shape {tuple(self.target.shape)}",
                remedy="Check that image and label files belong together (scripts/check_dataset.py names them)",
            )
        numbers = self.objects
        if numbers is not None and (numbers.dtype != torch.int64 or numbers.shape != self.target.shape):
            raise DataError(
                f"The map of objects of image {self.name!r} does not fit its labels",
                expected=f"int64 numbers of objects of shape {tuple(self.target.shape)}",
                received=f"{numbers.dtype} of shape {tuple(numbers.shape)}",
            )


def sides_of(maps: Tensor) -> Sides:
    """Height and width: the last two dimensions of an image, of its labels, or of a batch of either.

    >>> sides_of(torch.zeros(3, 360, 480))
    (360, 480)
    """
    height, width = maps.shape[-2:]
    return height, width


def check_image(image: object, name: str = "input") -> None:
    """Raise :class:`DataError` unless ``image`` is ``C x H x W`` floating point, not empty, with finite values in
    [0, 1]; the message says how to make it so. An image whose last side alone is 3 has its channels last."""
    if not isinstance(image, Tensor):
        raise DataError(
            f"Image {name!r} is no tensor",
            expected="a floating point tensor of shape (3, H, W)",
            received=f"{type(image).__module__}.{type(image).__qualname__}",
            remedy="An array of 8-bit colours becomes one by torch.from_numpy(array).permute(2, 0, 1) / 255",
        )
    is_last = image.ndim == 3 and image.shape[2] in _USUAL and image.shape[0] > 3
    if image.ndim != 3 or is_last or not image.is_floating_point() or image.numel() == 0:
        raise DataError(
            f"Image {name!r} has the wrong form",
            expected="a floating point tensor of shape (3, H, W), or with other channels (C, H, W)",
            received=f"{image.dtype} of shape {tuple(image.shape)}",
            remedy=_remedy(image),
        )
    low, high = (float(v) for v in image.aminmax())
    if not (low >= 0.0 and high <= 1.0):  # false for NaN too
        raise DataError(
            f"Image {name!r} has values outside [0, 1]",
            received=f"values from {low:g} to {high:g}",
            remedy="Divide 8-bit values by 255 and leave normalisation to the model",
        )


def _remedy(image: Tensor) -> str:
    """What makes an image of a tensor that is none."""
    if image.numel() == 0:
        return "Give an image with at least one pixel"
    if image.ndim == 4:
        return "Give one image, without the dimension of a batch: image[0]"
    steps = []
    if image.ndim == 3 and image.shape[2] in _USUAL:
        steps.append("put the channels first, image.permute(2, 0, 1)")
    elif image.ndim == 2:
        steps.append("repeat the grey channel, image.expand(3, -1, -1)")
    if not image.is_floating_point():
        steps.append("divide 8-bit values by 255")
    text = ", and ".join(steps) or "convert it to RGB"
    return text[0].upper() + text[1:]


def checked_sample(item: object, index: int, name: str | None = None) -> Sample:
    """An item of a data set, once it is known to be a sample.

    Args:
        item: what the data set gave.
        index: where it lies, for the message.
        name: the name it is listed under; None where that does not matter.

    Raises:
        DataError: it is no :class:`Sample`, or one of another name.
    """
    if isinstance(item, Sample) and name in (None, item.name):
        return item
    raise DataError(
        f"Item {index} of the data set is not the image it is listed as",
        expected="a certseg.types.Sample" + ("" if name is None else f" named {name!r}"),
        received=f"one named {item.name!r}" if isinstance(item, Sample) else type(item).__name__,
        remedy="Let names() give the names of the items, in their order",
    )


def check_target(target: object, size: Sequence[int], num_classes: int) -> None:
    """Raise :class:`DataError` unless ``target`` is int64 of shape ``size`` (height, width) with every value below
    ``num_classes`` or :data:`IGNORE_INDEX`."""
    expected = f"int64 labels of shape {tuple(size)}"
    if not isinstance(target, Tensor):
        raise DataError("The target is no tensor", expected=expected, received=type(target).__name__)
    if target.dtype != torch.int64 or tuple(target.shape) != tuple(size):
        raise DataError(
            "The target does not fit its image",
            expected=expected,
            received=f"{target.dtype} of shape {tuple(target.shape)}",
        )
    bad = (target != IGNORE_INDEX) & ((target < 0) | (target >= num_classes))
    if bad.any():
        raise DataError(
            "The target holds labels the model does not know",
            expected=f"0 .. {num_classes - 1} or {IGNORE_INDEX}",
            received=target[bad].unique().tolist()[:8],
            remedy="Check the data set's label mapping and the model's number of classes",
        )


def check_images(images: Tensor, channels: int | None = 3) -> None:
    """Raise :class:`ModelError` unless ``images`` are ``B x channels x H x W`` floating point; None for any number."""
    fits = images.ndim == 4 and (channels is None or images.shape[1] == channels) and images.is_floating_point()
    if not fits:
        raise ModelError(
            "The model's input has the wrong form",
            expected=f"floating point images of shape (B, {channels or 'C'}, H, W) in [0, 1]",
            received=f"{images.dtype} of shape {tuple(images.shape)}",
            remedy=None
            if images.ndim != 4 or images.shape[1] == channels
            else f"Choose {channels} bands for this network (dataset.bands), or a network for these: model=custom, "
            f"model=smp model.channels={images.shape[1]}, or with backbones of mmsegmentation "
            f"+model.overrides.backbone.in_channels={images.shape[1]}",
        )


def check_labels(labels: Tensor, images: Tensor, num_classes: int) -> None:
    """Raise :class:`ModelError` unless ``labels`` are int64 ``B x H x W`` for ``images`` ``B x C x H x W``, with every
    value below ``num_classes`` or 255."""
    expected = (images.shape[0], *images.shape[-2:])
    if labels.dtype != torch.int64 or tuple(labels.shape) != expected:
        raise ModelError(
            "Labels do not fit the images",
            expected=f"int64 labels of shape {expected}",
            received=f"{labels.dtype} of shape {tuple(labels.shape)}",
        )
    valid = (labels == IGNORE_INDEX) | ((labels >= 0) & (labels < num_classes))
    if not bool(valid.all()):
        raise ModelError(
            "Labels outside the model's classes",
            expected=f"0..{num_classes - 1} or {IGNORE_INDEX}",
            received=labels[~valid].unique().tolist()[:5],
            remedy="Check num_classes and the label map of the data set",
        )


def class_ids(classes: Tensor) -> Tensor:
    """A map of classes as it is stored: uint8, on the CPU.

    Args:
        classes: integers of any shape, from 0 to 254, or 255 for none.

    Raises:
        ModelError: an id is outside of that, so that it would become another one.

    >>> class_ids(torch.tensor([3, 255])).tolist()
    [3, 255]
    """
    if classes.numel():
        low, high = (int(value) for value in classes.aminmax())
        if low < 0 or high > IGNORE_INDEX:
            raise ModelError(
                "A class cannot be stored", expected=f"ids from 0 to {MOST_CLASSES - 1}", received=f"{low} to {high}"
            )
    return classes.to("cpu", torch.uint8)
