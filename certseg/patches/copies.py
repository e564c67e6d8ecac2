"""What a network says on masked, inpainted copies of an image, many in one pass."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certseg.compute.decisions import NO_CLASS, decide, enlarged_winner, winner
from certseg.compute.forward import WorkingBatch, check_frozen, check_logits
from certseg.compute.hardware import Hardware, Stopwatch
from certseg.errors import ModelError
from certseg.patches.masks import erase
from certseg.types import IGNORE_INDEX, Inpainter, Passes, Segmenter, check_image, class_ids, coarse_logits_of


@dataclass(frozen=True)
class MaskedViews:
    """Masked copies of an image, to be looked at.

    Args:
        hidden: ``N x H x W`` bool, what each mask hides.
        images: ``N x 3 x H x W`` in [0, 1], the inpainted copies.
        classes: ``N x H x W`` int16, the class that the segmenter predicts on each copy;
            :data:`certseg.compute.decisions.NO_CLASS` where it predicts none.
    """

    hidden: Tensor
    images: Tensor
    classes: Tensor

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """What is stored of the views: ``views_hidden``, ``views_inpainted`` (8 bits, 0 where the image itself is
        visible) and ``views_classes`` (8 bits, 255 where no class is predicted)."""
        filled = erase(self.images, ~self.hidden)
        return {
            "views_hidden": self.hidden.numpy(),
            "views_inpainted": (filled.clamp(0.0, 1.0) * 255).round().to(torch.uint8).numpy(),
            "views_classes": class_ids(self.classes.where(self.classes != NO_CLASS, IGNORE_INDEX)).numpy(),
        }


class MaskedPredictions:
    """Predictions S = f(g(x without hidden pixels)) of one image x, with segmenter f and inpainter g.

    Hidden pixels are set to 0 before g gets the image, so S is a function of the visible pixels alone, whatever g and f
    are. The precision is the segmenter's own, whatever ``hardware.precision`` says. On the CPU the segmenter's
    ``coarse_logits``, if it has that method, are used in the place of logits at image resolution.

    Args:
        segmenter: the model f, in eval mode on the hardware's device.
        inpainter: what fills hidden pixels, g; None leaves them black.
        image: ``3 x H x W`` in [0, 1].
        name: the image's name, for messages.
        hardware: device and number of copies per forward pass, which is halved when memory runs out.

    Raises:
        DataError: the image is not in [0, 1].
        ModelError: batch normalisation or dropout of the segmenter is in training mode, or batch normalisation has no
            running statistics.
    """

    def __init__(
        self, segmenter: Segmenter, inpainter: Inpainter | None, image: Tensor, name: str, hardware: Hardware
    ) -> None:
        check_image(image, name)
        check_frozen(segmenter)
        self._segmenter, self._inpainter, self._name = segmenter, inpainter, name
        self._may_be_coarse = hardware.torch_device.type == "cpu" and not hardware.compile
        self._order = torch.channels_last if hardware.channels_last else torch.contiguous_format
        self._image = image.to(hardware.torch_device, torch.float32)
        self._batch = WorkingBatch(segmenter, tuple(image.shape), hardware, "masked")
        self._watch = Stopwatch(hardware.torch_device)
        self._forward = 0

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        height, width = self._image.shape[-2:]
        return height, width

    @property
    def num_classes(self) -> int:
        """The number of classes that the segmenter knows."""
        return self._segmenter.num_classes

    @property
    def device(self) -> torch.device:
        """Where predictions are made."""
        return self._image.device

    @property
    def batch_size(self) -> int:
        """Copies per forward pass, as long as memory suffices."""
        return self._batch.size

    @property
    def watch(self) -> Stopwatch:
        """The clock, with parts ``inpainting`` and ``network``."""
        return self._watch

    @property
    def passes(self) -> Passes:
        """Forward passes spent, counted in images."""
        return Passes(forward=self._forward)

    @property
    def flags(self) -> tuple[str, ...]:
        """What a reader of the image's row should know."""
        return tuple(sorted(self._batch.flags))

    def unmasked(self) -> Tensor:
        """The class with the largest logit at each pixel of the image itself, ``H x W`` int16. Of tied classes it is
        the first, as in every prediction of a network itself (:func:`certseg.compute.decisions.decide`)."""
        images = self._image[None].contiguous(memory_format=self._order)
        with self._watch("network"), torch.inference_mode():
            logits = self._segmenter(images)
            check_logits(logits, images, self._segmenter.num_classes)
            self._require_finite(logits.sum(dtype=torch.float64))
            classes = decide(logits)[0]
        self._forward += 1
        return classes[0].to(torch.int16)

    def of(self, hidden: Tensor, min_probability: float = 0.0) -> Tensor:
        """:meth:`batches` of all masks in one tensor, ``K x H x W`` int16."""
        return torch.cat(list(self.batches(hidden, min_probability)))

    def batches(self, hidden: Tensor, min_probability: float = 0.0) -> Iterator[Tensor]:
        """Predictions for all masks, batch by batch in the order of the masks.

        Args:
            hidden: ``K x H x W`` bool, True where a mask hides the image.
            min_probability: softmax probability in [0, 1] below which a prediction does not count. Above 0 logits at
                image resolution are computed for it.

        Yields:
            ``B x H x W`` int16 classes, :data:`certseg.compute.decisions.NO_CLASS` where the largest logit is tied or
            its probability too small.

        Raises:
            ModelError: the segmenter or the inpainter returned a wrong shape, NaN or infinite values.
        """
        done = 0
        while done < len(hidden):
            predict = functools.partial(self._predict, hidden, min_probability, done)
            (classes, total), size = self._batch.run(predict, len(hidden) - done)
            self._require_finite(total)
            self._forward += size
            done += size
            yield classes

    def views(self, hidden: Tensor, min_probability: float = 0.0) -> MaskedViews:
        """The masked copies themselves, to be looked at, and what :meth:`batches` says of them."""
        with torch.inference_mode():
            images = torch.cat([self._copies(hidden[k : k + 1]) for k in range(len(hidden))])
        return MaskedViews(hidden.cpu(), images.cpu(), self.of(hidden, min_probability).cpu())

    def _predict(self, hidden: Tensor, min_probability: float, first: int, number: int) -> tuple[Tensor, Tensor]:
        """Predictions for ``number`` of the masks, from mask ``first`` on, and a number that is finite only if their
        logits are."""
        with torch.inference_mode():
            with self._watch("inpainting"):
                images = self._copies(hidden[first : first + number])
            with self._watch("network"):
                may_be_coarse = self._may_be_coarse and min_probability <= 0
                coarse = coarse_logits_of(self._segmenter, images) if may_be_coarse else None
                if coarse is None:
                    logits = self._segmenter(images)
                    check_logits(logits, images, self._segmenter.num_classes)
                    classes, total = winner(logits)
                    return _likely(classes, logits, min_probability), total
                shape = tuple(coarse.logits.shape)
                if len(shape) != 4 or shape[:2] != (len(images), self._segmenter.num_classes) or 0 in shape:
                    raise ModelError("The model's coarse_logits returned another shape", received=shape)
                return enlarged_winner(coarse.logits, self.size, coarse.align_corners)

    def _copies(self, hidden: Tensor) -> Tensor:
        """What the segmenter is given for masks ``B x H x W``: ``B x 3 x H x W``."""
        hidden = hidden.to(self._image.device)
        images = erase(self._image.expand(len(hidden), -1, -1, -1), hidden)
        if self._inpainter is not None:
            images = _filled(self._inpainter, images, hidden)
        return images.contiguous(memory_format=self._order)

    def _require_finite(self, total: Tensor) -> None:
        if not torch.isfinite(total):
            raise ModelError(
                f"The model returned NaN or infinite logits on image {self._name!r}", remedy="Check the checkpoint"
            )


def _filled(inpainter: Inpainter, erased: Tensor, hidden: Tensor) -> Tensor:
    images = inpainter(erased, hidden)
    if images.shape != erased.shape:
        raise ModelError(
            "The inpainter must return images of the shape it was given",
            expected=tuple(erased.shape),
            received=tuple(images.shape),
        )
    return images


def _likely(classes: Tensor, logits: Tensor, min_probability: float) -> Tensor:
    """``classes``, NO_CLASS where the largest probability is below ``min_probability``."""
    if min_probability <= 0.0:
        return classes
    probability = (logits.amax(dim=1) - logits.logsumexp(dim=1)).exp()
    return classes.masked_fill_(~(probability >= min_probability), NO_CLASS)
