"""The settings of a training, validated before anything is built."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field

from certseg.errors import ConfigError
from certseg.hardware import PRECISIONS
from certseg.training.objectives import CleanObjective, Objective


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image and its labels, applied in this order by mmcv's and mmseg's transforms.

    Args:
        scale: smallest and largest factor by which image and labels are resized, or None.
        cat_max_ratio: a crop in which one class covers more than this share is redrawn, up to ten times; 1 accepts
            every crop.
        flip: probability of a left-right flip.
        photometric: random brightness, contrast, saturation and hue (mmseg's ``PhotoMetricDistortion``).

    Raises:
        ConfigError: a value is outside its domain.
    """

    scale: tuple[float, float] | None = None
    cat_max_ratio: float = 1.0
    flip: float = 0.5
    photometric: bool = False

    def __post_init__(self) -> None:
        if self.scale is not None:
            scale = tuple(float(s) for s in self.scale)
            if len(scale) != 2 or not 0 < scale[0] <= scale[1] < math.inf:
                raise ConfigError(
                    "augmentation.scale must hold the smallest and the largest resize factor",
                    expected="null or two numbers such as [0.5, 2.0]",
                    received=self.scale,
                )
            object.__setattr__(self, "scale", scale)
        _require("augmentation.cat_max_ratio", self.cat_max_ratio, "in (0, 1]", 0 < self.cat_max_ratio <= 1)
        _require("augmentation.flip", self.flip, "in [0, 1]", 0 <= self.flip <= 1)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what weights a training ends with, apart from data, model and seed.

    Args:
        name: short name used in folders and tables, such as ``clean`` or ``noise``.
        objective: what a step minimises.
        iterations: optimiser steps.
        batch_size: images per step over all processes together.
        crop: height and width of the training crop, None for whole images. A side longer than that of the split's first
            image (at its largest scale) is cut down to it; images smaller than the crop are padded with void.
        lr: peak learning rate of AdamW.
        weight_decay: decoupled weight decay of AdamW.
        warmup: share of the iterations over which the rate rises linearly from 1 % of its peak.
        power: exponent of the polynomial decay after the warm-up.
        clip: largest gradient norm, None for no clipping.
        augmentation: random changes of the training images.
        precision: ``float32``, ``bfloat16`` or ``float16`` (automatic mixed precision; float16 needs a GPU).
        validations: how many times to validate, spread evenly, the last after the last step; 0 for never.
        val_images: validate on the first so many images only, None for all.
        checkpoint_interval: iterations between checkpoints to resume from.

    Raises:
        ConfigError: a value is outside its domain.
    """

    name: str = "clean"
    objective: Objective = field(default_factory=CleanObjective)
    iterations: int = 1000
    batch_size: int = 8
    crop: tuple[int, int] | None = None
    lr: float = 5e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    power: float = 0.9
    clip: float | None = 5.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: str = "float32"
    validations: int = 3
    val_images: int | None = None
    checkpoint_interval: int = 200

    def __post_init__(self) -> None:
        valid_name = isinstance(self.name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name)
        _require("training.name", self.name, "letters, digits, '.', '_' and '-'", bool(valid_name))
        for name in ("objective", "augmentation"):
            _require(f"training.{name}", getattr(self, name), "an object, see configs/training/", self._is_built(name))
        for name in ("iterations", "batch_size", "checkpoint_interval"):
            _require(f"training.{name}", getattr(self, name), "a positive integer", _is_count(getattr(self, name), 1))
        _require("training.validations", self.validations, "an integer >= 0", _is_count(self.validations, 0))
        limit = self.val_images
        _require("training.val_images", limit, "null or a positive integer", limit is None or _is_count(limit, 1))
        _require("training.lr", self.lr, "a finite positive number", 0 < self.lr < math.inf)
        _require("training.weight_decay", self.weight_decay, "a number >= 0", 0 <= self.weight_decay < math.inf)
        _require("training.warmup", self.warmup, "a share in [0, 1)", 0 <= self.warmup < 1)
        _require("training.power", self.power, "a number >= 0", 0 <= self.power < math.inf)
        clip = self.clip
        _require("training.clip", clip, "null or a positive number", clip is None or 0 < clip < math.inf)
        _require("training.precision", self.precision, ", ".join(PRECISIONS), self.precision in PRECISIONS)
        self._check_crop()

    def _is_built(self, name: str) -> bool:
        value = getattr(self, name)
        return isinstance(value, Augmentation) if name == "augmentation" else callable(value)

    def _check_crop(self) -> None:
        if self.crop is None:
            if self.augmentation.scale is not None:
                raise ConfigError(
                    "Random scales give images of different sizes, which cannot be put into one batch",
                    remedy="Set training.crop=[height,width] or training.augmentation.scale=null",
                )
            return
        crop = tuple(self.crop)
        if len(crop) != 2 or not all(_is_count(side, 1) for side in crop):
            raise ConfigError("training.crop must be null or [height, width] in pixels", received=self.crop)
        object.__setattr__(self, "crop", crop)

    @property
    def warmup_iterations(self) -> int:
        """Steps over which the learning rate rises."""
        return round(self.warmup * self.iterations)

    @property
    def validation_interval(self) -> int:
        """Steps between validations; larger than ``iterations`` when there is none."""
        return math.ceil(self.iterations / self.validations) if self.validations else self.iterations + 1

    def settings(self) -> dict:
        """The settings that change the trained weights, as plain types (neither validation nor checkpoints)."""
        settings = dataclasses.asdict(self)
        for name in ("validations", "val_images", "checkpoint_interval"):
            settings.pop(name)
        settings["objective"] = {"kind": type(self.objective).__name__, **_fields(self.objective)}
        return settings


def _fields(objective: Objective) -> dict:
    return dataclasses.asdict(objective) if dataclasses.is_dataclass(objective) else dict(vars(objective))


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _require(name: str, value: object, expected: str, holds: bool) -> None:
    if not holds:
        raise ConfigError(f"Invalid {name}", expected=expected, received=repr(value))
