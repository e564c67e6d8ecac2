"""Forward passes: networks that may be run, logits that are what they must be, batches that fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from certseg.compute.hardware import Hardware
from certseg.compute.remembered import Remembered
from certseg.errors import ModelError

Result = TypeVar("Result")


_MEMORY_ERRORS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


def check_logits(logits: Tensor, images: Tensor, num_classes: int) -> None:
    """Raise :class:`ModelError` unless ``logits`` is ``B x num_classes x H x W`` for ``images`` ``B x 3 x H x W``."""
    expected = (images.shape[0], num_classes, *images.shape[-2:])
    if tuple(logits.shape) != expected:
        raise ModelError(
            "The model did not return logits at image resolution", expected=expected, received=tuple(logits.shape)
        )


def check_frozen(segmenter: object) -> None:
    """Raise :class:`ModelError` if the segmenter has batch normalisation or dropout in training mode, or batch
    normalisation without running statistics: its outputs for one image then depend on chance or on the other images of
    the batch, and nothing is certified by them. Layers of other kinds are not looked at."""
    modules = list(segmenter.modules()) if isinstance(segmenter, nn.Module) else []
    moving = [module for module in modules if module.training and isinstance(module, (_BatchNorm, _DropoutNd))]
    if moving:
        raise ModelError(
            "A network in training mode cannot be certified",
            expected="eval mode",
            received=f"{type(moving[0]).__name__} in training mode",
            remedy="Call eval()",
        )
    batchwise = [module for module in modules if isinstance(module, _BatchNorm) and module.running_mean is None]
    if batchwise:
        raise ModelError(
            "A network that normalises by the statistics of its batch cannot be certified",
            expected="batch normalisation with running statistics",
            received=f"{type(batchwise[0]).__name__} without",
        )


def halving(batch: int, work: Callable[[int], Result]) -> tuple[Result, int]:
    """``work(batch)``, repeated with half the batch whenever it runs out of memory.

    Args:
        batch: the number of images to try first, at least 1.
        work: what to do with a number of images. It must leave nothing half done when it raises: it returns what it
            adds, and the caller adds it.

    Returns:
        What ``work`` returned, and the batch with which it did.

    Raises:
        RuntimeError: ``work`` failed for another reason, or a single image does not fit into memory.

    >>> halving(8, lambda batch: f"{batch} images fit")
    ('8 images fit', 8)
    """
    while True:
        try:
            return work(batch), batch
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if batch == 1 or not _is_out_of_memory(error):
                raise
        batch //= 2  # after the handler: its error keeps the tensors of the failed attempt alive
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _MEMORY_ERRORS)


class WorkingBatch:
    """How many copies of an image fit through a segmenter at once: ``hardware.noise_batch``, halved when memory runs
    out and remembered for the life of the segmenter, so that the next image of this shape starts with what worked.

    Args:
        segmenter: the model.
        shape: the shape of one image, ``(3, H, W)``.
        hardware: gives the batch to start with.
        task: what is done with the copies: ``sampling`` by default. Tasks that take more memory, such as ``gradient``,
            are remembered apart.
    """

    _known: Remembered[int] = Remembered()

    def __init__(self, segmenter: object, shape: tuple[int, ...], hardware: Hardware, task: str = "sampling") -> None:
        self._batches = self._known.of(segmenter)
        self._key = (tuple(shape), hardware, task)
        self._first = hardware.noise_batch

    @property
    def size(self) -> int:
        """The number of copies that is tried next."""
        return self._batches.get(self._key, self._first)

    @property
    def flags(self) -> set[str]:
        """``noise_batch_reduced_to_<size>`` where memory ran out, for this image or one of its shape before it."""
        return {f"noise_batch_reduced_to_{self.size}"} if self.size < self._first else set()

    def run(self, work: Callable[[int], Result], most: int | None = None) -> tuple[Result, int]:
        """:func:`halving` of ``work``, started with :attr:`size` copies or with ``most`` if that is less."""
        start = self.size if most is None else min(self.size, most)
        result, batch = halving(start, work)
        if batch < start:
            self._batches[self._key] = batch
        return result, batch
