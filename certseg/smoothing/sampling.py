"""Predictions of a network under noise, counted as they come, so that memory does not grow with the number of samples.

The base classifier predicts the class of the unique maximum of the logits (:mod:`certseg.compute.decisions`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from certseg.compute.decisions import enlarged_winner, winner
from certseg.compute.forward import WorkingBatch, check_frozen, check_logits
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ModelError
from certseg.smoothing.noise import Noise
from certseg.types import Passes, Segmenter, coarse_logits_of


class NoisySampler:
    """Runs ``segmenter`` on noisy copies of one image.

    Args:
        segmenter: the base model, in eval mode on the hardware's device. On the CPU its ``coarse_logits``, if it has
            that method (:class:`certseg.types.CoarseLogits`), are used in place of logits at image resolution.
        image: ``3 x H x W`` in [0, 1]; noise is added at this resolution and not clipped.
        noise: the smoothing distribution, with the lattice that images are rounded to if it has one.
        stream: where the noise of each sample comes from.
        hardware: device, precision and number of copies per forward pass. When memory runs out the number is halved
            and the batch repeated (:class:`WorkingBatch`).
        is_point: whether the image is a point between those of the lattice, such as the end of an attack, about which
            nothing is certified: it is then not rounded (:meth:`certseg.smoothing.noise.Noise.copies_around`).
    """

    def __init__(
        self,
        segmenter: Segmenter,
        image: Tensor,
        noise: Noise,
        stream: NoiseStream,
        hardware: Hardware,
        *,
        is_point: bool = False,
    ) -> None:
        check_frozen(segmenter)
        self._segmenter = segmenter
        self._may_be_coarse = hardware.torch_device.type == "cpu" and not hardware.compile
        self._order = torch.channels_last if hardware.channels_last else torch.contiguous_format
        self._image = image.to(hardware.torch_device, torch.float32)[None].contiguous(memory_format=self._order)
        self._copies = noise.copies_around if is_point else noise.copies
        self._noise_flags = noise.flags(self._image[0])
        self._stream = stream
        self._hardware = hardware
        self._batch = WorkingBatch(segmenter, tuple(image.shape), hardware)
        self._buffer = torch.empty(0)
        self._total = torch.zeros((), dtype=torch.float64, device=hardware.torch_device)
        self.forward_passes = 0

    @property
    def flags(self) -> set[str]:
        """What a reader of the image's row should know."""
        return self._batch.flags | self._noise_flags

    @property
    def passes(self) -> Passes:
        """Forward passes spent, counted in images."""
        return Passes(forward=self.forward_passes)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image."""
        height, width = self._image.shape[-2:]
        return height, width

    def maps(self, first: int, number: int) -> Iterator[Tensor]:
        """What the base classifier predicts on samples ``first .. first + number - 1``, batch by batch.

        Yields:
            ``B x H x W`` int16 classes, :data:`certseg.compute.decisions.NO_CLASS` where the largest logit is tied.

        Raises:
            ModelError: the logits have the wrong shape, or some are NaN or infinite; NaN and infinity are noticed
                after the last batch.
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
            choice: ``H x W`` int64, the class chosen at each pixel; with ``groups`` the group chosen there.
            first: index of the first sample.
            number: how many samples to draw, at least 1.
            groups: ``G x K`` bool, the classes of each group: a prediction then counts if its class is in the pixel's
                group. None counts single classes.

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
            coarse = coarse_logits_of(self._segmenter, images) if self._may_be_coarse else None
            if coarse is not None:  # the enlargement, a good part of a small network's time, is spared
                _check_coarse(coarse.logits, size, self._segmenter)
                return enlarged_winner(coarse.logits, self.shape, coarse.align_corners)
            logits = self._segmenter(images)
            check_logits(logits, images, self._segmenter.num_classes)
            return winner(logits)

    def _zeros(self, number: int, *planes: int) -> Tensor:
        kind = torch.int16 if number < 2**15 else torch.int32
        return torch.zeros(*planes, *self.shape, dtype=kind, device=self._image.device)

    def _noisy(self, first: int, size: int) -> Tensor:
        if self._buffer.shape[0] != size:
            self._buffer = torch.empty(0)  # given back before the next one is taken
            with torch.inference_mode(False):  # the threads that fill it are not in inference mode
                self._buffer = torch.empty_like(self._image.expand(size, -1, -1, -1), memory_format=self._order)
        self._copies(self._image[0], self._stream, first, self._buffer)
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
