"""Predictions of a network under noise, counted as they come. Memory does not grow with the number of samples.

The base classifier f is the *unique* maximum of the logits: where the largest logit is tied, no class is counted.
A tie therefore never helps a certificate, and whichever class a tie-breaking rule would choose has at least the
probability counted here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from certseg.errors import ModelError
from certseg.hardware import Hardware
from certseg.noise import Gaussian, NoiseStream
from certseg.types import Passes, Segmenter


def check_logits(logits: Tensor, images: Tensor, segmenter: Segmenter) -> None:
    """Raise :class:`ModelError` unless ``logits`` is ``B x num_classes x H x W`` for ``images`` ``B x 3 x H x W``."""
    expected = (images.shape[0], segmenter.num_classes, *images.shape[-2:])
    if tuple(logits.shape) != expected:
        raise ModelError(
            "The model did not return logits at image resolution", expected=expected, received=tuple(logits.shape)
        )


class NoisySampler:
    """Runs ``segmenter`` on noisy copies of one image.

    Args:
        segmenter: the base model, in eval mode on the hardware's device.
        image: ``3 x H x W`` in [0, 1]; noise is added at this resolution and not clipped.
        noise: the smoothing distribution.
        stream: where the noise of each sample comes from.
        hardware: device, precision and number of copies per forward pass. When memory runs out the number is halved
            and the batch repeated.
    """

    def __init__(
        self, segmenter: Segmenter, image: Tensor, noise: Gaussian, stream: NoiseStream, hardware: Hardware
    ) -> None:
        self._segmenter = segmenter
        self._order = torch.channels_last if hardware.channels_last else torch.contiguous_format
        self._image = image.to(hardware.torch_device, torch.float32)[None].contiguous(memory_format=self._order)
        self._noise = noise
        self._stream = stream
        self._hardware = hardware
        self._batch = hardware.noise_batch
        self._buffer = torch.empty(0)
        self._total = torch.zeros((), dtype=torch.float64, device=hardware.torch_device)
        self.forward_passes = 0
        self.flags: set[str] = set()

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

        def count(logits: Tensor) -> None:
            top = logits.amax(dim=1, keepdim=True)  # several times faster than argmax on the CPU
            self._note(top)
            hits = logits == top
            hits &= _number(hits, dim=1).unsqueeze(1) == 1
            counts.add_(_number(hits, dim=0))

        self._run(first, number, count)
        return counts

    def agreement(self, classes: Tensor, first: int, number: int) -> Tensor:
        """How often ``classes`` was the unique prediction in samples ``first .. first + number - 1``.

        Args:
            classes: ``H x W`` int64.

        Returns:
            ``H x W`` int32 counts in ``0 .. number``.
        """
        counts = torch.zeros(self.shape, dtype=torch.int32, device=self._image.device)
        classes = classes.to(self._image.device).flatten()
        index = classes * classes.numel() + torch.arange(classes.numel(), device=classes.device)

        def count(logits: Tensor) -> None:
            flat = logits.contiguous().flatten(1)
            chosen = flat.gather(1, index.expand(flat.shape[0], -1))
            others = flat.index_fill_(1, index, float("-inf")).view(logits.shape).amax(dim=1)
            margin = chosen.view_as(others).sub_(others)
            self._note(margin)
            counts.add_(_number(margin > 0, dim=0))

        self._run(first, number, count)
        return counts

    def _run(self, first: int, number: int, consume: Callable[[Tensor], None]) -> None:
        done = 0
        with torch.inference_mode():
            while done < number:
                size = min(self._batch, number - done)
                try:
                    logits = self._forward(first + done, size)
                except RuntimeError as error:  # torch.OutOfMemoryError is one
                    if size == 1 or not _is_out_of_memory(error):
                        raise
                    self._halve_batch(size)
                    continue
                consume(logits)
                done += size
        if not torch.isfinite(self._total):
            raise ModelError(
                f"The model returned NaN or infinite logits on noisy copies of image {self._stream.name!r}",
                remedy="Check the checkpoint, or use hardware.precision=float32",
            )

    def _halve_batch(self, size: int) -> None:
        self._batch = size // 2
        self._buffer = torch.empty(0)
        self.flags = {f"noise_batch_reduced_to_{self._batch}"}
        if self._image.device.type == "cuda":
            torch.cuda.empty_cache()

    def _forward(self, first: int, size: int) -> Tensor:
        if self._buffer.shape[0] < size:
            with torch.inference_mode(False):  # the threads that fill it are not in inference mode
                self._buffer = torch.empty_like(self._image.expand(size, -1, -1, -1), memory_format=self._order)
        noisy = self._buffer[:size]
        self._stream.fill(noisy, self._noise, first)
        noisy += self._image
        with self._hardware.autocast():
            logits = self._segmenter(noisy)
        check_logits(logits, noisy, self._segmenter)
        self.forward_passes += size
        return logits

    def _note(self, values: Tensor) -> None:
        """One NaN or infinity makes the running total NaN or infinite for good: cheaper than a look at each value."""
        self._total += values.sum()


def _number(hits: Tensor, dim: int) -> Tensor:
    """Number of true entries along ``dim``, in the smallest integers that hold it: 20 times faster on the CPU."""
    return hits.view(torch.uint8).sum(dim=dim, dtype=torch.uint8 if hits.shape[dim] < 256 else torch.int32)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
