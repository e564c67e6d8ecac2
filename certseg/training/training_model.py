"""The segmenter as mmengine's runner drives it (:class:`TrainingModel`), and its validation (:class:`ViewMetric`)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn

from certseg.compute.hardware import PRECISIONS
from certseg.training.data import VALIDATE, derive_seed
from certseg.training.objectives import Measurement, Objective
from certseg.types.trainable import check_losses


class ToUnitRange(BaseDataPreprocessor):
    """Moves a batch to the device and turns 8-bit images `B x H x W x C` into float32 `B x C x H x W` in [0, 1]; images
    of other types are `B x C x H x W` already.

    Args:
        channels_last: keep the memory order of the 8-bit images, for networks in channels-last order.
    """

    def __init__(self, channels_last: bool = False):
        super().__init__()
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, data: dict[str, Tensor], training: bool = False) -> dict[str, Tensor]:
        """The batch with float images and int64 labels on the model's device."""
        data = self.cast_data(data)
        images, labels = data["images"], data["labels"]
        if images.dtype == torch.uint8:
            images = images.permute(0, 3, 1, 2).contiguous(memory_format=self._format).float() / 255
        return {**data, "images": images, "labels": labels.long()}


class TrainingModel(BaseModel):
    """mmengine's view of a segmenter: losses from the objective, predictions on the objective's views.

    Args:
        segmenter: the module to train, not copied.
        objective: what a step minimises; its ``prepare`` has accepted the segmenter.
        seed: seed of the training, from which the noise of validation images comes.
        autocast: dtype name in which the forward pass runs; None leaves precision to the optimiser wrapper.
        channels_last: memory order of the training images.
        frozen: modules of the segmenter that stay in eval mode.
    """

    def __init__(
        self,
        segmenter: nn.Module,
        objective: Objective,
        seed: int,
        autocast: str | None = None,
        channels_last: bool = False,
        frozen: Sequence[nn.Module] = (),
    ):
        super().__init__(data_preprocessor=ToUnitRange(channels_last))
        self.segmenter = segmenter
        self._objective, self._seed, self._autocast = objective, seed, autocast
        self._frozen = tuple(frozen)

    def init_weights(self) -> None:
        """Keep the segmenter's weights: mmengine would reinitialise its parts, or download pretrained ones."""

    def train(self, mode: bool = True) -> TrainingModel:
        """Set training mode, except of what is frozen."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(
        self, images: Tensor, labels: Tensor, indices: Tensor | None = None, mode: str = "tensor"
    ) -> Tensor | dict[str, Tensor] | list[Mapping[str, Measurement]]:
        """Losses (``loss``), what was measured on each image (``predict``) or logits (``tensor``).

        Args:
            images: ``B x 3 x H x W`` in [0, 1].
            labels: ``B x H x W`` int64, 255 where there is no label.
            indices: ``B`` positions of the images in the validation set, which seed their noise; by default 0 to B - 1.
            mode: ``loss``, ``predict`` or ``tensor``.
        """
        with self._precision(images.device):
            if mode == "loss":
                losses = self._objective(self.segmenter, images, labels)
                check_losses(losses)
                return losses
            if mode == "predict":
                return self._measured(images, labels, torch.arange(len(images)) if indices is None else indices)
            return self.segmenter(images)

    def _precision(self, device: torch.device) -> contextlib.AbstractContextManager:
        if self._autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=PRECISIONS[self._autocast])

    def _measured(self, images: Tensor, labels: Tensor, indices: Tensor) -> list[Mapping[str, Measurement]]:
        seeds = (derive_seed(self._seed, VALIDATE, index) for index in indices.tolist())
        return [
            self._objective.validate(self.segmenter, image[None], target, torch.Generator().manual_seed(seed))
            for image, target, seed in zip(images, labels, seeds)
        ]


class ViewMetric(BaseMetric):
    """What the objective measures, added up over the validation images.

    Figures are named ``<measurement>/<figure>``: by default ``<view>/pixel_accuracy/pooled`` and
    ``<view>/miou/pooled``, shares in [0, 1], one pair per view of the objective.
    """

    def __init__(self) -> None:
        super().__init__(collect_device="gpu", prefix="val")  # "gpu" gathers over the process group, gloo included
        self.prefix = None

    def process(self, data_batch: dict, data_samples: Sequence[Mapping[str, Measurement]]) -> None:
        """Keep what was measured on the images of a batch."""
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[Mapping[str, Measurement]]) -> dict[str, float]:
        """Figures of all images together."""
        figures: dict[str, float] = {}
        for name, first in results[0].items():
            total = sum((measured[name] for measured in results[1:]), start=first)
            figures |= {f"{name}/{figure}": value for figure, value in total.figures().items()}
        return figures
