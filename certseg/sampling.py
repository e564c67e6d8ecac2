"""Predictions of a network under noise, counted as they come. Memory does not grow with the number of samples.

The base classifier f is the unique maximum of the logits, see :mod:`certseg.decisions`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from certseg.decisions import enlarged_winner, winner
from certseg.errors import ModelError
from certseg.hardware import Hardware
from certseg.noise import Noise, NoiseStream
from certseg.types import Passes, Segmenter

Result = TypeVar("Result")
_MEMORY_ERRORS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


def check_logits(logits: Tensor, images: Tensor, segmenter: Segmenter) -> None:
    """Raise :class:`ModelError` unless ``logits`` is ``B x num_classes x H x W`` for ``images`` ``B x 3 x H x W``."""
    expected = (images.shape[0], segmenter.num_classes, *images.shape[-2:])
    if tuple(logits.shape) != expected:
        raise ModelError(
            "The model did not return logits at image resolution", expected=expected, received=tuple(logits.shape)
        )


def check_frozen(segmenter: Segmenter) -> None:
    """Raise :class:`ModelError` if the segmenter has batch normalisation or dropout in training mode, or batch
    normalisation without running statistics: its outputs for one image then depend on chance or on the others of the
    batch, and nothing is certified by them. Layers of other kinds are not known here."""
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
        work: must leave nothing half done when it raises: it returns what it adds, and the caller adds it.

    Returns:
        What ``work`` returned, and the batch with which it did.

    Raises:
        RuntimeError: another error, or one image does not fit.
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
        segmenter: the model; hashable, as modules are.
        shape: of the image.
        hardware: gives the batch to start with.
        task: what is done with the copies. ``gradient`` takes more memory than ``sampling`` and is remembered apart.
    """

    _known: WeakKeyDictionary[Segmenter, dict[tuple[object, ...], int]] = WeakKeyDictionary()

    def __init__(
        self, segmenter: Segmenter, shape: tuple[int, ...], hardware: Hardware, task: str = "sampling"
    ) -> None:
        self._batches = self._known.setdefault(segmenter, {})
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


class NoisySampler:
    """Runs ``segmenter`` on noisy copies of one image.

    Args:
        segmenter: the base model, in eval mode on the hardware's device. On the CPU its ``coarse_logits``, if it has
            that method (:class:`certseg.types.CoarseLogits`), are used in place of logits at image resolution.
        image: ``3 x H x W`` in [0, 1]; noise is added at this resolution and not clipped.
        noise: the smoothing distribution.
        stream: where the noise of each sample comes from.
        hardware: device, precision and number of copies per forward pass. When memory runs out the number is halved
            and the batch repeated (:class:`WorkingBatch`).
    """

    def __init__(
        self, segmenter: Segmenter, image: Tensor, noise: Noise, stream: NoiseStream, hardware: Hardware
    ) -> None:
        check_frozen(segmenter)
        self._segmenter = segmenter
        on_cpu = hardware.torch_device.type == "cpu"
        self._coarse = getattr(segmenter, "coarse_logits", None) if on_cpu and not hardware.compile else None
        self._order = torch.channels_last if hardware.channels_last else torch.contiguous_format
        self._image = image.to(hardware.torch_device, torch.float32)[None].contiguous(memory_format=self._order)
        self._noise = noise
        self._stream = stream
        self._hardware = hardware
        self._batch = WorkingBatch(segmenter, tuple(image.shape), hardware)
        self._buffer = torch.empty(0)
        self._total = torch.zeros((), dtype=torch.float64, device=hardware.torch_device)
        self.forward_passes = 0

    @property
    def flags(self) -> set[str]:
        """What a reader of the image's row should know."""
        return self._batch.flags

    @property
    def passes(self) -> Passes:
        """Forward passes spent, counted in images."""
        return Passes(forward=self.forward_passes)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image."""
        return tuple(self._image.shape[-2:])

    def maps(self, first: int, number: int) -> Iterator[Tensor]:
        """What the base classifier says on samples ``first .. first + number - 1``, batch by batch.

        Yields:
            ``B x H x W`` int16 classes, :data:`certseg.decisions.NO_CLASS` where the largest logit is tied.

        Raises:
            ModelError: the logits are misshapen, or NaN or infinite; the latter is raised after the last batch.
        """
        done = 0
        while done < number:
            start = first + done
            (classes, total), size = self._batch.run(functools.partial(self._decide, start), number - done)
            self._total += total  # one NaN or infinity stays for good: cheaper than a look at each value
            self.forward_passes += size
            done += size
            yield classes
        if not torch.isfinite(self._total):
            raise ModelError(
                f"The model returned NaN or infinite logits on noisy copies of image {self._stream.name!r}",
                remedy="Check the checkpoint, or use hardware.precision=float32",
            )

    def class_counts(self, first: int, number: int) -> Tensor:
        """How often each class was the unique prediction in samples ``first .. first + number - 1``: ``K x H x W``
        int16, int32 from 2^15 samples on."""
        counts = self._zeros(number, self._segmenter.num_classes)
        for maps in self.maps(first, number):
            for k, count in enumerate(counts):
                count += _number(maps == k)
        return counts

    def agreement(self, choice: Tensor, first: int, number: int, groups: Tensor | None = None) -> Tensor:
        """How often the unique prediction in samples ``first .. first + number - 1`` was the chosen one.

        Args:
            choice: ``H x W`` int64 classes; with ``groups`` the chosen group of each pixel.
            groups: ``G x K`` bool, the classes of each group; a prediction counts if its class is in the pixel's group.

        Returns:
            ``H x W`` counts in ``0 .. number``: int16, int32 from 2^15 samples on.
        """
        counts = self._zeros(number)
        if groups is None:
            choice = choice.to(self._image.device, torch.int16)
            for maps in self.maps(first, number):
                counts += _number(maps == choice)
            return counts
        table = torch.nn.functional.pad(groups.to(self._image.device), (0, 1))  # its last column, False, is NO_CLASS's
        start = choice.to(self._image.device, torch.int32) * table.shape[1]
        for maps in self.maps(first, number):
            index = torch.where(maps < 0, table.shape[1] - 1, maps) + start
            counts += _number(table.flatten()[index])
        return counts

    def _decide(self, first: int, size: int) -> tuple[Tensor, Tensor]:
        """Predictions on a batch, and a number that is finite only if the logits are."""
        with torch.inference_mode(), self._hardware.autocast():
            images = self._noisy(first, size)
            coarse = None if self._coarse is None else self._coarse(images)
            if coarse is not None:  # the enlargement, a good part of a small network's time, is spared
                _check_coarse(coarse.logits, size, self._segmenter)
                return enlarged_winner(coarse.logits, self.shape, coarse.align_corners)
            logits = self._segmenter(images)
            check_logits(logits, images, self._segmenter)
            return winner(logits)

    def _zeros(self, number: int, *planes: int) -> Tensor:
        kind = torch.int16 if number < 2**15 else torch.int32
        return torch.zeros(*planes, *self.shape, dtype=kind, device=self._image.device)

    def _noisy(self, first: int, size: int) -> Tensor:
        if self._buffer.shape[0] != size:
            self._buffer = torch.empty(0)  # given back before the next one is taken
            with torch.inference_mode(False):  # the threads that fill it are not in inference mode
                self._buffer = torch.empty_like(self._image.expand(size, -1, -1, -1), memory_format=self._order)
        self._stream.fill(self._buffer, self._noise, first, onto=self._image[0])
        return self._buffer


def _check_coarse(logits: Tensor, batch: int, segmenter: Segmenter) -> None:
    if logits.ndim != 4 or tuple(logits.shape[:2]) != (batch, segmenter.num_classes) or not logits.numel():
        raise ModelError(
            "The model's coarse_logits returned another shape",
            expected=f"({batch}, {segmenter.num_classes}, h, w)",
            received=tuple(logits.shape),
        )


def _number(hits: Tensor) -> Tensor:
    """Number of true entries along the first dimension, in the smallest integers that hold it: 20 times faster on the
    CPU."""
    return hits.view(torch.uint8).sum(dim=0, dtype=torch.uint8 if hits.shape[0] < 256 else torch.int32)
