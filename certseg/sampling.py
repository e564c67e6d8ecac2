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
        self._image = image.to(hardware.torch_device, torch.float32)
        self._noise = noise
        self._stream = stream
        self._hardware = hardware
        self._batch = hardware.noise_batch
        self._buffer = torch.empty(0)
        self._non_finite = torch.zeros((), dtype=torch.int64, device=hardware.torch_device)
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
        """How often each class was predicted in samples ``first .. first + number - 1``: ``K x H x W`` int32."""
        counts = torch.zeros(self._segmenter.num_classes, *self.shape, dtype=torch.int32, device=self._image.device)
        one = torch.ones(1, dtype=torch.int32, device=self._image.device)

        def count(logits: Tensor) -> None:
            top, winner = logits.max(dim=1)
            self._note_non_finite(top)
            for b in range(logits.shape[0]):
                counts.scatter_add_(0, winner[b : b + 1], one.expand(1, *self.shape))

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
        index = classes.to(self._image.device)[None, None]

        def count(logits: Tensor) -> None:
            chosen = logits.gather(1, index.expand(logits.shape[0], -1, -1, -1))[:, 0]
            others = logits.scatter_(1, index.expand(logits.shape[0], -1, -1, -1), float("-inf")).amax(dim=1)
            margin = chosen.sub_(others)
            self._note_non_finite(margin)
            for hit in margin > 0:
                counts.add_(hit)

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
        if self._non_finite.item():
            raise ModelError(
                f"The model returned NaN or infinite logits on noisy copies of image {self._stream.name!r}",
                received=f"{int(self._non_finite)} pixels",
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
                self._buffer = torch.empty(size, *self._image.shape, device=self._image.device)
        noisy = self._buffer[:size]
        self._stream.fill(noisy, self._noise, first)
        noisy += self._image
        if self._hardware.channels_last:
            noisy = noisy.contiguous(memory_format=torch.channels_last)
        with self._hardware.autocast():
            logits = self._segmenter(noisy)
        check_logits(logits, noisy, self._segmenter)
        self.forward_passes += size
        return logits

    def _note_non_finite(self, values: Tensor) -> None:
        self._non_finite += (~torch.isfinite(values)).sum()


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
