"""The settings of a training, :class:`Recipe` and :class:`Augmentation`, validated before anything is built."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from certseg.checks import (
    check_choice,
    check_count,
    check_flag,
    check_number,
    checked_size,
    is_number,
    is_word,
    require,
)
from certseg.compute.hardware import PRECISIONS
from certseg.errors import ConfigError
from certseg.training.objectives import CleanObjective, Objective


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image and its labels, applied in this order by mmcv's and mmseg's transforms.

    Args:
        scale: smallest and largest factor by which image and labels are resized, or None to keep their size.
        cat_max_ratio: a crop in which one class covers more than this share is redrawn, up to ten times; 1 accepts
            every crop.
        flip: probability of a left-right flip.
        photometric: whether brightness, contrast, saturation and hue are random too (mmseg's
            ``PhotoMetricDistortion``).

    Raises:
        ConfigError: a value is outside its domain.
    """

    scale: tuple[float, float] | None = None
    cat_max_ratio: float = 1.0
    flip: float = 0.5
    photometric: bool = False

    def __post_init__(self) -> None:
        place = "training.augmentation"
        require(f"{place}.scale", self.scale, "null or [smallest, largest] factor", self._is_scale())
        check_number(f"{place}.cat_max_ratio", self.cat_max_ratio, "(0, 1]")
        check_number(f"{place}.flip", self.flip, "[0, 1]")
        check_flag(f"{place}.photometric", self.photometric)
        if self.scale is not None:
            object.__setattr__(self, "scale", tuple(float(factor) for factor in self.scale))

    def _is_scale(self) -> bool:
        if self.scale is None:
            return True
        factors = self.scale if isinstance(self.scale, (list, tuple)) else ()
        return len(factors) == 2 and all(map(is_number, factors)) and 0 < factors[0] <= factors[1]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what weights a training ends with, apart from data, model and seed.

    Args:
        name: short name used in folders and tables, such as ``clean`` or ``noise``.
        objective: what a step minimises, a :class:`certseg.training.Objective`.
        from_checkpoint: start from the weights of ``model.checkpoint`` instead of fresh ones. A run does so before it
            calls :func:`certseg.training.train`, which itself starts from the weights it is given.
        freeze_backbone: train the other parts alone. The backbone's parameters get no gradients any more, and its batch
            normalisation stays in eval mode, so that it keeps weights and statistics to the bit.
        ema: share in (0, 1) of itself that a moving average of weights and batch statistics keeps in every step; it
            starts at those after the first step, and is validated and saved in the place of the last ones. None, the
            default, for the last ones.
        iterations: number of optimiser steps, at least 1.
        batch_size: images per step over all processes together.
        crop: height and width of the training crop, None for whole images. A side longer than that of the split's first
            image (at its largest scale) is cut down to it; images smaller than the crop are padded with void.
        lr: peak learning rate of AdamW.
        weight_decay: decoupled weight decay of AdamW.
        warmup: share of the iterations over which the rate rises linearly from 1 % of its peak.
        power: exponent of the polynomial decay of the rate after the warm-up.
        clip: largest gradient norm, None for no clipping.
        augmentation: random changes of the training images.
        precision: ``float32``, ``bfloat16`` or ``float16`` (automatic mixed precision; float16 needs a GPU).
        validations: how many times to validate, spread evenly, the last after the last step; 0 for never.
        val_images: validate on the first so many images only, None for all.
        checkpoint_interval: iterations between checkpoints to resume from.

    Raises:
        ConfigError: a value is outside its domain.

    >>> recipe = Recipe(iterations=100, warmup=0.1, validations=4)
    >>> recipe.warmup_iterations, recipe.validation_interval
    (10, 25)
    """

    name: str = "clean"
    objective: Objective = field(default_factory=CleanObjective)
    from_checkpoint: bool = False
    freeze_backbone: bool = False
    ema: float | None = None
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
        require("training.name", self.name, "a word of letters, digits, '.', '_' and '-'", is_word(self.name))
        for name in ("objective", "augmentation"):
            expected = f"a certseg.training.{name.capitalize()}, see configs/training/"
            require(f"training.{name}", getattr(self, name), expected, self._is_built(name))
        for name in ("from_checkpoint", "freeze_backbone"):
            check_flag(f"training.{name}", getattr(self, name))
        check_number("training.ema", self.ema, "(0, 1)", what="a share", optional=True)
        for name in ("iterations", "batch_size", "checkpoint_interval"):
            check_count(f"training.{name}", getattr(self, name))
        check_count("training.validations", self.validations, 0)
        check_count("training.val_images", self.val_images, optional=True)
        check_number("training.lr", self.lr, "(0, inf)")
        for name in ("weight_decay", "power"):
            check_number(f"training.{name}", getattr(self, name), "[0, inf)")
        check_number("training.warmup", self.warmup, "[0, 1)", what="a share")
        check_number("training.clip", self.clip, "(0, inf)", optional=True)
        check_choice("training.precision", self.precision, PRECISIONS)
        self._check_crop()

    def crop_of(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """The crop for a split whose first image has this height and width: cut down to it at its largest scale, for
        padding all images would be waste. None where whole images are trained on."""
        if self.crop is None:
            return None
        largest = self.augmentation.scale[1] if self.augmentation.scale else 1.0
        height, width = (min(side, max(1, round(full * largest))) for side, full in zip(self.crop, size))
        return height, width

    def _is_built(self, name: str) -> bool:
        value = getattr(self, name)
        return isinstance(value, Augmentation if name == "augmentation" else Objective)

    def _check_crop(self) -> None:
        if self.crop is None:
            if self.augmentation.scale is not None:
                raise ConfigError(
                    "Random scales give images of different sizes, which cannot be put into one batch",
                    remedy="Set training.crop=[height,width] or training.augmentation.scale=null",
                )
            return
        object.__setattr__(self, "crop", checked_size("training.crop", self.crop, optional=True))

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
