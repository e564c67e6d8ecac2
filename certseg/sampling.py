"""Predictions of a network under noise, counted as they come. Memory does not grow with the number of samples.

The base classifier f is the *unique* maximum of the logits: where the largest logit is tied, no class is counted.
A tie therefore never helps a certificate, and whichever class a tie-breaking rule would choose has at least the
probability counted here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

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
        segmenter: the base model, in eval mode on the hardware's device. Each call must return a fresh tensor:
            :meth:`agreement` overwrites it, which saves a copy of the logits.
        image: ``3 x H x W`` in [0, 1]; noise is added at this resolution and not clipped.
        noise: the smoothing distribution.
        stream: where the noise of each sample comes from.
        hardware: device, precision and number of copies per forward pass. When memory runs out the number is halved
            and the batch repeated (:class:`WorkingBatch`).
    """

    def __init__(
        self, segmenter: Segmenter, image: Tensor, noise: Noise, stream: NoiseStream, hardware: Hardware
    ) -> None:
        self._segmenter = segmenter
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

    def class_counts(self, first: int, number: int) -> Tensor:
        """How often each class was the unique prediction in samples ``first .. first + number - 1``:
        ``K x H x W`` int32."""
        counts = torch.zeros(self._segmenter.num_classes, *self.shape, dtype=torch.int32, device=self._image.device)

        def count(logits: Tensor) -> tuple[Tensor, Tensor]:
            top = logits.amax(dim=1, keepdim=True)  # several times faster than argmax on the CPU
            hits = logits == top
            hits &= _number(hits, dim=1).unsqueeze(1) == 1
            return _number(hits, dim=0), top

        self._run(first, number, counts, count)
        return counts

    def agreement(self, classes: Tensor, first: int, number: int) -> Tensor:
        """How often ``classes`` was the unique prediction in samples ``first .. first + number - 1``.

        Overwrites the tensors that the segmenter returns.

        Args:
            classes: ``H x W`` int64.

        Returns:
            ``H x W`` int32 counts in ``0 .. number``.
        """
        counts = torch.zeros(self.shape, dtype=torch.int32, device=self._image.device)
        classes = classes.to(self._image.device).flatten()
        index = classes * classes.numel() + torch.arange(classes.numel(), device=classes.device)

        def count(logits: Tensor) -> tuple[Tensor, Tensor]:
            flat = logits.contiguous().flatten(1)
            chosen = flat.gather(1, index.expand(flat.shape[0], -1))
            others = flat.index_fill_(1, index, float("-inf")).view(logits.shape).amax(dim=1)
            margin = _wide(chosen).view_as(others).sub_(others)
            return _number(margin > 0, dim=0), margin

        self._run(first, number, counts, count)
        return counts

    def _run(self, first: int, number: int, counts: Tensor, count: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        """Add to ``counts`` what ``count`` makes of the logits of every batch: hits to add, and values that are finite
        only if the logits are."""
        done = 0

        def work(size: int) -> tuple[Tensor, Tensor]:
            hits, values = count(self._forward(first + done, size))  # nothing here outlives the pass but its hits
            return hits, _wide(values).sum()

        with torch.inference_mode():
            while done < number:
                (hits, total), size = self._batch.run(work, number - done)
                counts += hits
                self._total += total  # one NaN or infinity stays for good: cheaper than a look at each value
                self.forward_passes += size
                done += size
        if not torch.isfinite(self._total):
            raise ModelError(
                f"The model returned NaN or infinite logits on noisy copies of image {self._stream.name!r}",
                remedy="Check the checkpoint, or use hardware.precision=float32",
            )

    def _forward(self, first: int, size: int) -> Tensor:
        if self._buffer.shape[0] != size:
            self._buffer = torch.empty(0)  # given back before the next one is taken
            with torch.inference_mode(False):  # the threads that fill it are not in inference mode
                self._buffer = torch.empty_like(self._image.expand(size, -1, -1, -1), memory_format=self._order)
        self._stream.fill(self._buffer, self._noise, first)
        self._buffer += self._image
        with self._hardware.autocast():
            logits = self._segmenter(self._buffer)
        check_logits(logits, self._buffer, self._segmenter)
        return logits


def _wide(values: Tensor) -> Tensor:
    """``values`` in float32 at least: float16 ends at 65504, which differences and sums of sound logits exceed."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _number(hits: Tensor, dim: int) -> Tensor:
    """Number of true entries along ``dim``, in the smallest integers that hold it: 20 times faster on the CPU."""
    return hits.view(torch.uint8).sum(dim=dim, dtype=torch.uint8 if hits.shape[dim] < 256 else torch.int32)
