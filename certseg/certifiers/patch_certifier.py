"""What all certificates against patches share: threat, inpainter, masks by image size, and figures over a data set."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from torch import Tensor

from certseg.checks import is_count
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError
from certseg.metrics import CertifiedCounts, ClassCounts
from certseg.metrics.recall import BIG_CLASSES, big_classes, mean_recall
from certseg.patches.copies import MaskedPredictions, MaskedViews
from certseg.patches.masks import MaskSet, erase
from certseg.types import (
    IGNORE_INDEX,
    Certificate,
    Certifier,
    Guarantee,
    Inpainter,
    Maps,
    Patch,
    Promise,
    Row,
    Score,
    Segmenter,
)


@dataclass(frozen=True)
class PatchCertificate(Certificate):
    """A certificate against patches.

    Args:
        by_rule: ``H x W`` bool by name of a rule: what each certifies; the first is ``certified``.
        patch: height and width of a rectangle in pixels.
        num_masks: masks of the first round.
    """

    by_rule: dict[str, Tensor] = field(default_factory=dict)
    patch: tuple[int, int] = (0, 0)
    num_masks: int = 0


class PatchCertifier(Certifier):
    """Deterministic certificates from masked predictions; see the subclasses for what each claims.

    They hold for any network and any inpainter that are functions of each image on its own, with finite results: on a
    device whose kernels round differently from call to call or by the other images of a batch, a logit tied up to
    rounding may fall either way, which no certificate of this kind covers. NaN and infinity raise an error.

    Args:
        patch: the patches that are certified against.
        inpainter: fills in hidden pixels; None leaves them black.
        big_classes: the classes of the recall over big classes: ``ade20k`` or ``coco_stuff10k`` (the lists of the
            paper), a list of class ids, or None for those that the paper's rule finds among the evaluated images.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    is_sampled = False
    promise = Promise.EVERY_PIXEL
    """What certificates of this kind promise."""
    asks_image = False
    """Whether the answer depends on what the network says of the image without masks."""
    asks_pairs = False
    """Whether it depends on copies masked by two of :meth:`masks`."""
    min_probability = 0.0
    """Smallest softmax probability of a masked prediction that counts."""

    def __init__(
        self, patch: Patch, inpainter: Inpainter | None, big_classes: str | Sequence[int] | None = None
    ) -> None:
        if not isinstance(patch, Patch):
            raise ConfigError("certifier.patch must be a patch threat", received=type(patch).__name__)
        if inpainter is not None and not (isinstance(inpainter, Inpainter) and callable(inpainter)):
            raise ConfigError(
                "certifier.inpainter must fill in images: inpainter(images, hidden), with name and settings",
                received=type(inpainter).__name__,
            )
        self._patch, self.inpainter, self._big = patch, inpainter, _checked_list(big_classes)
        self._masks: dict[tuple[int, int], MaskSet] = {}

    @property
    def threat(self) -> Patch:
        """The patches that certificates hold for."""
        return self._patch

    @property
    @abstractmethod
    def predictor(self) -> str:
        """The model the certificate is about: what an attack must attack."""

    @property
    def guarantee(self) -> Guarantee:
        """:attr:`promise` of the predictor against the patches, without any error probability."""
        return Guarantee(self.promise, self.predictor, self.threat, confidence=1.0, wording=self._wording())

    def _wording(self) -> str:
        """What is guaranteed, in words, where it is not the standard wording of the promise."""
        return ""

    @property
    def settings(self) -> dict[str, object]:
        """Everything that decides the rows."""
        patch = {f"patch_{name}": value for name, value in self.threat.to_json().items() if name != "norm"}
        filled = {} if self.inpainter is None else self.inpainter.settings
        return {
            **patch,
            **self._mask_settings(),
            "inpainter": "none" if self.inpainter is None else self.inpainter.name,
            **{f"inpainter_{name}": value for name, value in filled.items()},
        }

    def masks(self, size: tuple[int, int]) -> MaskSet:
        """The masks of the first round for images of this height and width.

        Raises:
            ConfigError: the image is too small for the patch or for the masks.
        """
        if size not in self._masks:
            self._masks[size] = self._checked(self._make_masks(size))
        return self._masks[size]

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise :class:`ConfigError` if no pixel of an image of this height and width could ever be certified."""
        height, width = size
        self.masks((height, width))

    def premise(self, segmenter: Segmenter, hardware: Hardware) -> Callable[[Tensor], Tensor]:
        """The network behind the inpainter, on what the first mask leaves of an image: both must be fixed functions."""

        def masked(images: Tensor) -> Tensor:
            height, width = images.shape[-2:]
            hidden = self.masks((height, width)).hidden(images.device)[:1].expand(len(images), -1, -1)
            erased = erase(images, hidden)
            return segmenter(erased if self.inpainter is None else self.inpainter(erased, hidden))

        return masked

    def certify(
        self, segmenter: Segmenter, image: Tensor, *, stream: NoiseStream, hardware: Hardware
    ) -> PatchCertificate:
        """Certify one image.

        Args:
            segmenter: the network, on the hardware's device.
            image: ``3 x H x W`` in [0, 1].
            stream: names the image; nothing is drawn from it.
            hardware: device and copies per forward pass. The network is run in its own precision.

        Returns:
            The certificate, its tensors on the CPU.

        Raises:
            ConfigError: the image is too small for the masks.
            DataError: the image is not in [0, 1].
            ModelError: network or inpainter returned something misshapen, NaN or infinite.
        """
        predictions = MaskedPredictions(segmenter, self.inpainter, image, stream.name, hardware)
        masks = self.masks(predictions.size)
        classes, by_rule = self._certify(predictions, masks)
        by_rule = {rule: certified.cpu() for rule, certified in by_rule.items()}
        certified = next(iter(by_rule.values()))
        return PatchCertificate(
            classes=classes.long().cpu(),
            certified=certified,
            guarantee=self.guarantee,
            passes=predictions.passes,
            seconds=dict(predictions.watch.seconds),
            flags=predictions.flags,
            by_rule=by_rule,
            patch=masks.patch,
            num_masks=masks.num_masks,
        )

    def predict(self, segmenter: Segmenter, image: Tensor, *, hardware: Hardware, name: str = "image") -> Tensor:
        """What :attr:`predictor` answers for an image, attacked or not: ``H x W`` int64 on the CPU.

        Args:
            segmenter: the network, on the hardware's device.
            image: ``3 x H x W`` in [0, 1].
            hardware: device and copies per forward pass. The network is run in its own precision.
            name: name of the image, for messages.

        Raises:
            ConfigError: the image is too small for the masks.
            DataError: the image is not in [0, 1].
            ModelError: network or inpainter returned something misshapen, NaN or infinite.
        """
        predictions = MaskedPredictions(segmenter, self.inpainter, image, name, hardware)
        return self._predict(predictions, self.masks(predictions.size)).long().cpu()

    def views(self, segmenter: Segmenter, image: Tensor, *, hardware: Hardware, name: str = "image") -> Maps:
        """Some masked copies of an image as they are stored (:attr:`certseg.patches.copies.MaskedViews.maps`); a
        ``name`` for messages. Errors are those of :meth:`certify`."""
        return self.masked_views(segmenter, image, hardware=hardware, name=name).maps

    def masked_views(
        self, segmenter: Segmenter, image: Tensor, *, hardware: Hardware, number: int = 3, name: str = "image"
    ) -> MaskedViews:
        """Masked copies of an image, inpainted, and what the network says of them, as certification sees them. Errors
        are those of :meth:`certify`.

        Args:
            segmenter: the network, on the hardware's device.
            image: ``3 x H x W`` in [0, 1].
            hardware: device and copies per forward pass.
            number: how many masks to show, at least 1, evenly spaced among those of the first round; all of them if
                there are fewer.
            name: name of the image, for messages.
        """
        if number < 1:
            raise ConfigError("The number of masks to be looked at must be positive", received=number)
        predictions = MaskedPredictions(segmenter, self.inpainter, image, name, hardware)
        masks = self.masks(predictions.size)
        chosen = np.unique(np.linspace(0, masks.num_masks - 1, number).round().astype(int)).tolist()
        return predictions.views(masks.hidden(predictions.device)[chosen], self.min_probability)

    def score(self, certificate: PatchCertificate, target: Tensor) -> Score:
        """What the labels ``H x W`` add to a row: figures and counts, in no time worth telling."""
        height, width = certificate.patch
        figures: dict[str, float | None] = {
            "patch_height": height,
            "patch_width": width,
            "masks": certificate.num_masks,
        }
        figures |= self._own_figures(certificate, target != IGNORE_INDEX, certificate.classes == target)
        return Score(figures, {"pixels": target.numel()})

    def summarise(self, rows: Sequence[Row], class_names: Sequence[str]) -> dict[str, Any]:
        """What the rows add to a summary: mean recall of the prediction and of what is certified, over all classes in
        the labels and over the big ones, and the certifier's own ``figures``."""
        images = [CertifiedCounts.from_json(row["counts"]["certified"]) for row in rows]
        certified = reduce(add, images)
        predicted = reduce(add, (ClassCounts.from_json(row["counts"]["prediction"]) for row in rows))
        if self._big is None:
            big = big_classes([image.target for image in images], [row["counts"]["pixels"] for row in rows])
        else:
            big = np.isin(np.arange(len(class_names)), self._big)
        figures = {}
        for stem, among in (("mean_recall", None), ("big_class_recall", big)):
            figures[f"prediction_{stem}/pooled"] = mean_recall(predicted.true_positive, predicted.target, among)
            figures[f"certified_{stem}/pooled"] = mean_recall(certified.correct, certified.target, among)
        return {
            "figures": figures | self._own_summary(rows),
            "class_iou": {},
            "big_classes": [name for name, is_big in zip(class_names, big, strict=True) if is_big],
        }

    def _own_figures(self, certificate: PatchCertificate, labelled: Tensor, correct: Tensor) -> dict[str, float]:
        """Figures of one image, from maps ``H x W`` bool: where there is a label, and where the class is the label."""
        return {}

    def _own_summary(self, rows: Sequence[Row]) -> dict[str, float]:
        """Figures over the data set."""
        return {}

    @abstractmethod
    def _mask_settings(self) -> dict[str, object]:
        """The settings of the masks and of the decision."""

    @abstractmethod
    def _make_masks(self, size: tuple[int, int]) -> MaskSet:
        """The masks of the first round."""

    def _checked(self, masks: MaskSet) -> MaskSet:
        """The masks, if they can certify anything.

        Raises:
            ConfigError: no pixel of an image of this size could ever be certified with them.
        """
        return masks

    @abstractmethod
    def _certify(self, predictions: MaskedPredictions, masks: MaskSet) -> tuple[Tensor, dict[str, Tensor]]:
        """The predicted classes ``H x W``, and by rule the certified pixels; the first rule decides."""

    @abstractmethod
    def _predict(self, predictions: MaskedPredictions, masks: MaskSet) -> Tensor:
        """The predicted classes ``H x W`` alone."""

    def _words(self, masks: str) -> str:
        """Masks, patch and inpainter, for :attr:`predictor`."""
        if self.inpainter is None:
            return f"{masks}, {self.threat}"
        settings = ", ".join(f"{key} {str(value)[:10]}" for key, value in self.inpainter.settings.items())
        return f"{masks}, {self.threat}, {self.inpainter.name}{f' ({settings})' if settings else ''}"


def require_cover(masks: MaskSet, together: int) -> MaskSet:
    """The masks, if one hides the patches wherever they lie and ``together`` (1 or 2) of them leave something visible.

    Raises:
        ConfigError: they hide everything, so that all copies look alike whatever the image is.
    """
    if not masks.covers:
        raise AssertionError("a patch that no mask hides")
    if not masks.shows(together):
        height, width = masks.size
        raise ConfigError(
            f"{'A mask hides' if together == 1 else 'Two masks hide'} all of an image of {height} x {width} pixels",
            expected="something to be visible",
            remedy="Use more and smaller masks (certifier.num_masks)",
        )
    return masks


def share(part: Tensor, whole: Tensor) -> float:
    """Share of the pixels of ``whole`` (bool) that are in ``part`` too; NaN where there are none."""
    total = int(whole.sum())
    return int((part & whole).sum()) / total if total else float("nan")


def _checked_list(big: str | Sequence[int] | None) -> tuple[int, ...] | None:
    if isinstance(big, str):
        if big not in BIG_CLASSES:
            expected = f"null, {', '.join(BIG_CLASSES)} or a list of class ids"
            raise ConfigError("Unknown certifier.big_classes", expected=expected, received=big)
        return BIG_CLASSES[big]
    if big is None or all(is_count(value, 0) for value in big):
        return None if big is None else tuple(big)
    raise ConfigError("certifier.big_classes must hold class ids", received=list(big))
