"""From a data set's samples to training batches whose content depends on (seed, iteration) alone.

Draw number ``d`` of a training takes one image: the ``d mod n``-th of a permutation made from (seed, ``d div n``),
augmented with randomness made from (seed, ``d``). Neither the process that loads it, nor the number of processes, nor
a resume changes what a draw is, and resuming at any iteration costs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import mmcv.transforms as mmcv_transforms
import numpy as np
import torch
from mmseg.datasets.transforms import PhotoMetricDistortion, RandomCrop
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from certseg.errors import ConfigError, DataError
from certseg.training.recipe import Augmentation, Recipe
from certseg.types import IGNORE_INDEX, MOST_CLASSES, Sample, SegmentationDataset, checked_sample, class_ids

log = logging.getLogger(__name__)
CACHE_BYTES = 2**30
_ROUNDING = 1e-3  # of a 255th, in float32
ORDER, AUGMENT, STEP, VALIDATE = range(4)
"""Streams of randomness that must not coincide; the second entry of every :func:`derive_seed`."""


def derive_seed(seed: int, *path: int) -> int:
    """A 32-bit seed that is a function of ``seed`` and ``path``, independent between different paths.

    >>> derive_seed(0, AUGMENT, 7) == derive_seed(0, AUGMENT, 7) != derive_seed(0, AUGMENT, 8)
    True
    """
    return int(np.random.SeedSequence((seed, *path)).generate_state(1)[0])


class DrawSampler(Sampler[tuple[int, int]]):
    """Yields ``(image index, draw number)`` of this process's share of every batch, from any iteration on.

    Args:
        size: number of images in the training set.
        batch_size: images per step over all processes.
        iterations: steps of the whole training.
        seed: seed of the training.
        rank: number of this process, from 0; by default the only one.
        world_size: number of processes, which divides ``batch_size``; 1 by default.

    >>> draws = list(DrawSampler(size=3, batch_size=2, iterations=3, seed=0))
    >>> [draw for _, draw in draws], sorted(index for index, _ in draws)  # two passes over three images
    ([0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2])
    """

    def __init__(self, size: int, batch_size: int, iterations: int, seed: int, rank: int = 0, world_size: int = 1):
        self._size, self._batch_size, self._iterations, self._seed = size, batch_size, iterations, seed
        self._share = batch_size // world_size
        self._offset = rank * self._share
        self._skipped = 0
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        """Draws of this process over the whole training."""
        return self._iterations * self._share

    def skip(self, draws: int) -> None:
        """Start after this process's first ``draws`` draws (called by mmengine's loop on resume)."""
        self._skipped = draws

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Draws from the current position to the end of the training."""
        for step in range(self._skipped // self._share, self._iterations):
            first = step * self._batch_size + self._offset
            for draw in range(first, first + self._share):
                yield self._index(draw), draw

    def _index(self, draw: int) -> int:
        epoch, position = divmod(draw, self._size)
        if epoch != self._epoch:
            generator = np.random.default_rng(derive_seed(self._seed, ORDER, epoch))
            self._epoch, self._order = epoch, generator.permutation(self._size)
        return int(self._order[position])


class TrainingImages(Dataset):
    """Augmented images and labels, decoded once and kept while the set is small.

    ``training[(index, draw)]`` is a dict of ``images`` and ``labels`` ``H x W`` uint8. Images are ``H x W x C`` uint8
    where the values of the first one that is not all of one colour are 255ths, as those of the usual files are, or
    where their colours are distorted, which rounds to 8 bits; else ``C x H x W`` float32 in [0, 1].

    Args:
        source: the training split.
        recipe: the recipe of the training, of which crop and augmentation count.
        seed: seed of the training.
        num_classes: number of classes; labels outside [0, num_classes) other than 255 are an error.

    Raises:
        DataError: the split is empty, or a label is outside its domain (on reading).
        ConfigError: there are over 255 classes.
    """

    def __init__(self, source: SegmentationDataset, recipe: Recipe, seed: int, num_classes: int):
        if len(source) == 0:
            raise DataError(
                f"The training split {source.name}/{source.split} has no images", remedy="Check dataset.root"
            )
        if num_classes > MOST_CLASSES:
            raise ConfigError(f"Training takes at most {MOST_CLASSES} classes", received=num_classes)
        self._source, self._seed, self._num_classes = source, seed, num_classes
        self._scale = recipe.augmentation.scale
        first = checked_sample(source[0], 0)
        self._is_deep = not recipe.augmentation.photometric and _has_more_than_8_bits(first, source)
        image, labels = self._decode(first)
        if recipe.augmentation.photometric and image.shape[2] != 3:
            raise ConfigError(
                "training.augmentation.photometric changes the colours of RGB images alone",
                received=f"{image.shape[2]} channels",
                remedy="Set it to false",
            )
        crop = recipe.crop_of(image.shape[:2])
        if crop != recipe.crop and crop is not None and recipe.crop is not None:
            log.info("training.crop %dx%d is cut down to the images' %dx%d", *recipe.crop, *crop)
        self._transforms = _transforms(crop, recipe.augmentation)
        self._keep = len(source) * (image.nbytes + labels.nbytes) <= CACHE_BYTES
        self._cache = {0: (image, labels)} if self._keep else {}

    def __len__(self) -> int:
        """Images in the split."""
        return len(self._source)

    def fill(self) -> None:
        """Decode all images now if they fit, so that worker processes share them."""
        if self._keep:
            for index in range(len(self)):
                self._read(index)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        """Image ``key[0]`` as draw number ``key[1]`` sees it."""
        index, draw = key
        image, labels = self._read(index)
        np.random.seed(derive_seed(self._seed, AUGMENT, draw))  # noqa: NPY002 - the transforms use this generator
        sample: dict[str, Any] = {"img": image, "gt_seg_map": labels}
        sample |= {"img_shape": image.shape[:2], "seg_fields": ["gt_seg_map"]}
        if self._scale is not None:
            factor = np.random.uniform(*self._scale)  # noqa: NPY002 - as above
            sample = mmcv_transforms.Resize(scale_factor=float(factor), keep_ratio=True)(sample)
        for transform in self._transforms:
            sample = transform(sample)
        height, width = np.shape(sample["gt_seg_map"])
        found = np.reshape(sample["img"], (height, width, -1))  # some transforms leave a single channel out
        found = found.transpose(2, 0, 1) if self._is_deep else found
        parts = {"images": found, "labels": np.asarray(sample["gt_seg_map"])}
        return {name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in parts.items()}

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index in self._cache:
            return self._cache[index]
        pair = self._decode(checked_sample(self._source[index], index))
        if self._keep:
            self._cache[index] = pair
        return pair

    def _decode(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        check_sample_labels(sample, self._num_classes)
        pixels = sample.image.float() if self._is_deep else (sample.image * 255).round().to(torch.uint8)
        image = pixels.permute(1, 2, 0).contiguous().numpy()
        return image, class_ids(sample.target).numpy()


def _has_more_than_8_bits(first: Sample, source: SegmentationDataset) -> bool:
    """Whether the first image of more than two values has some between those of 8 bits; ``first`` is the first of
    ``source``."""
    for index in range(len(source)):
        values = (source[index] if index else first).image * 255
        if values.unique().numel() > 2:  # others may be all that a window cuts off
            return bool((values - values.round()).abs().max() > _ROUNDING)
    return False


class ValidationImages(Dataset):
    """Whole images of the validation split, undistorted, with the index that seeds their noise.

    Args:
        source: the validation split.
        limit: number of images, the first of the split; None for all.
        num_classes: number of classes; labels outside [0, num_classes) other than 255 are an error.

    Raises:
        DataError: the split is empty, or a label is outside its domain (on reading).
    """

    def __init__(self, source: SegmentationDataset, limit: int | None, num_classes: int):
        self._source, self._num_classes = source, num_classes
        self._length = len(source) if limit is None else min(limit, len(source))
        if self._length == 0:
            raise DataError(
                f"The validation split {source.name}/{source.split} has no images",
                remedy="Check dataset.root, or set training.validations=0",
            )

    def __len__(self) -> int:
        """Images validated on."""
        return self._length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """A dict of ``images`` ``3 x H x W`` float32, ``labels`` ``H x W`` int64 and ``indices``, the image's index."""
        sample = self._source[index]
        check_sample_labels(sample, self._num_classes)
        return {"images": sample.image.float(), "labels": sample.target, "indices": torch.tensor(index)}


def check_sample_labels(sample: Sample, num_classes: int) -> None:
    """Raise :class:`DataError` unless every label is a class id below ``num_classes`` or void."""
    labelled = sample.target[sample.target != IGNORE_INDEX]
    if labelled.numel() and (int(labelled.min()) < 0 or int(labelled.max()) >= num_classes):
        raise DataError(
            f"Image {sample.name!r} has labels outside the data set's classes",
            expected=f"0 to {num_classes - 1}, or {IGNORE_INDEX} for void",
            received=f"{int(labelled.min())} to {int(labelled.max())}",
            remedy="Check the label files with scripts/check_dataset.py",
        )


def collate(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack samples into one batch.

    Raises:
        DataError: the images differ in size.
    """
    shapes = {tuple(sample["labels"].shape) for sample in samples}
    if len(shapes) > 1:
        raise DataError(
            "The training images of one batch differ in size",
            received=", ".join(f"{h}x{w}" for h, w in sorted(shapes)),
            remedy="Set training.crop=[height,width], which pads smaller images",
        )
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def _transforms(crop: tuple[int, int] | None, augmentation: Augmentation) -> list:
    transforms = []
    if crop is not None:
        height, width = crop
        transforms.append(RandomCrop((height, width), augmentation.cat_max_ratio, IGNORE_INDEX))
        transforms.append(_PadTo(size=(width, height), pad_val={"img": 0, "seg": IGNORE_INDEX}))
    if augmentation.flip > 0:
        transforms.append(mmcv_transforms.RandomFlip(prob=float(augmentation.flip)))
    if augmentation.photometric:
        # Written for BGR; on RGB the same distribution, because its hue shift is symmetric.
        transforms.append(PhotoMetricDistortion())
    return transforms


class _PadTo(mmcv_transforms.Pad):
    """mmcv's Pad, skipped when there is nothing to pad."""

    def transform(self, results: dict) -> dict:
        """Pad to the crop on the right and at the bottom."""
        if results["img"].shape[1::-1] == self.size:
            return results
        if results["img"].ndim == 2 or results["img"].shape[2] <= 4:
            return super().transform(results)
        height, width = results["img"].shape[:2]  # of more channels than OpenCV pads
        bottom, right = max(0, self.size[1] - height), max(0, self.size[0] - width)
        image = np.pad(results["img"], ((0, bottom), (0, right), (0, 0)))
        labels = np.pad(results["gt_seg_map"], ((0, bottom), (0, right)), constant_values=IGNORE_INDEX)
        return {**results, "img": image, "gt_seg_map": labels}
