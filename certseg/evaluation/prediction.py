"""The network's own prediction on clean images: what there is to lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import reduce
from operator import add
from typing import Any

import torch

from certseg.compute.forward import check_logits
from certseg.compute.hardware import Hardware, Stopwatch
from certseg.errors import ModelError
from certseg.evaluation.loop import by_class
from certseg.evaluation.network import NetworkStage
from certseg.metrics import OBJECTS, ClassCounts, LabelCounts, ObjectCounts
from certseg.metrics.over_images import image_mean
from certseg.types import Maps, Passes, Row, Sample, Segmenter, class_ids


class PredictionStage(NetworkStage):
    """Predict every image once, without noise and without an attacker.

    Args:
        segmenter: the network; None for a stage that only summarises.
        class_names: the names of the data set's classes, in the order of their ids.
        hardware: the device that images are predicted on.
        with_objects: whether rows are to tell what becomes of each labelled object.
    """

    kind = "prediction"
    name = "prediction"

    def __init__(
        self,
        segmenter: Segmenter | None,
        class_names: Sequence[str],
        hardware: Hardware,
        *,
        with_objects: bool = False,
    ) -> None:
        super().__init__(segmenter)
        self._with_objects = with_objects
        self._class_names, self._hardware = class_names, hardware

    def run(self, sample: Sample) -> tuple[Row, Maps]:
        """Accuracy, per-class counts and the predicted map of one image."""
        device = self._hardware.torch_device
        watch = Stopwatch(device)
        images = sample.image[None].to(device)
        with watch("forward"), torch.inference_mode():
            logits = self._segmenter(images)
            check_logits(logits, images, self._segmenter.num_classes)
            prediction = logits.argmax(dim=1)[0].cpu()
            finite = bool(torch.isfinite(logits).all())
        if not finite:
            raise ModelError(
                f"The model returned NaN or infinite logits on image {sample.name!r}", remedy="Check the checkpoint"
            )
        counts = ClassCounts.from_maps(prediction, sample.target, len(self._class_names))
        row: Row = {
            "figures": {"accuracy": counts.accuracy()},
            "counts": counts.to_json(),
            "seconds": watch.seconds,
            "passes": asdict(Passes(1)),
            "flags": [],
        }
        if self._with_objects:
            row[OBJECTS] = ObjectCounts.of_prediction(sample, prediction, len(self._class_names)).to_json()
        return row, {"prediction": class_ids(prediction).numpy()}

    def summarise(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Accuracy and mean IoU over the data set, and in words what its labels do not let them say."""
        counts = reduce(add, (ClassCounts.from_json(row["counts"]) for row in rows))
        labels = LabelCounts(counts.target, None, len(rows))
        return {
            "labels": {
                "obstacle": labels.obstacle(self._class_names),
                "absent": labels.absent(self._class_names),
                "doubt": labels.doubt(self._class_names, int(counts.true_positive.sum())),
                "pixels": dict(zip(self._class_names, counts.target.tolist(), strict=True)),
            },
            "predictor": "base",
            "threat": None,
            "confidence": None,
            "figures": {
                "accuracy/image_mean": image_mean(rows, "accuracy"),
                "accuracy/pooled": counts.accuracy(),
                "miou/pooled": counts.miou(),
            },
            "class_iou": {"prediction": by_class(self._class_names, counts.iou())},
            "settings": {},
        }
