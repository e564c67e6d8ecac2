"""The segmenter as mmengine's runner drives it, and the metric it is validated with."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn

from certseg.compute.hardware import PRECISIONS
from certseg.metrics import ClassCounts
from certseg.training.data import VALIDATE, derive_seed
from certseg.training.objectives import Objective


class ToUnitRange(BaseDataPreprocessor):
    """Moves a batch to the device and turns 8-bit images `B x H x W x 3` into float32 `B x 3 x H x W` in [0, 1].

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
        objective: what a step minimises.
        seed: seeds the noise of validation images.
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
        self, images: Tensor, labels: Tensor | None = None, indices: Tensor | None = None, mode: str = "tensor"
    ) -> Tensor | dict[str, Tensor] | list[dict[str, ClassCounts]]:
        """Losses (``loss``), counts per image and view (``predict``) or logits (``tensor``)."""
        with self._precision(images.device):
            if mode == "loss":
                return self._objective(self.segmenter, images, labels)
            if mode == "predict":
                return self._count(images, labels, indices)
            return self.segmenter(images)

    def _precision(self, device: torch.device) -> contextlib.AbstractContextManager:
        if self._autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=PRECISIONS[self._autocast])

    def _count(self, images: Tensor, labels: Tensor, indices: Tensor) -> list[dict[str, ClassCounts]]:
        classes = self.segmenter.num_classes
        counts = []
        for image, target, index in zip(images, labels, indices.tolist()):
            generator = torch.Generator().manual_seed(derive_seed(self._seed, VALIDATE, index))
            if hasattr(self._objective, "validate"):  # of a network that predicts no classes
                counts.append(self._objective.validate(self.segmenter, image[None], generator))
                continue
            views = self._objective.views(image[None], generator)
            logits = {name: self.segmenter(view)[0] for name, view in views.items()}
            counts.append({name: ClassCounts.from_maps(u.argmax(0), target, classes) for name, u in logits.items()})
            if hasattr(self._objective, "measure"):
                counts[-1] |= self._objective.measure(self.segmenter, logits["clean"], target)
        return counts


class ViewMetric(BaseMetric):
    """Pixel accuracy and mIoU, pooled over the validation images, one pair per view.

    Figures are named ``<view>/pixel_accuracy/pooled`` and ``<view>/miou/pooled``, as shares in [0, 1]. What an
    objective measures besides (its ``measure``) or instead (``validate``) adds up over images and has ``figures()`` of
    its own.
    """

    def __init__(self) -> None:
        super().__init__(collect_device="gpu", prefix="val")  # "gpu" gathers over the process group, gloo included
        self.prefix = None

    def process(self, data_batch: dict, data_samples: Sequence[dict[str, ClassCounts]]) -> None:
        """Keep the counts of a batch."""
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[dict[str, ClassCounts]]) -> dict[str, float]:
        """Figures of all counts together."""
        figures = {}
        for view in results[0]:
            total = sum((counts[view] for counts in results[1:]), start=results[0][view])
            if not isinstance(total, ClassCounts):
                figures |= {f"{view}/{name}": value for name, value in total.figures().items()}
                continue
            figures[f"{view}/pixel_accuracy/pooled"] = total.accuracy()
            figures[f"{view}/miou/pooled"] = total.miou()
        return figures
