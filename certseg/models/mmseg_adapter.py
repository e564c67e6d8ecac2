"""The adapter from mmsegmentation networks to :class:`certseg.types.Segmenter`: :class:`MMSegSegmenter`."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certseg.checks import check_choice, check_count, check_word, checked_size, is_number
from certseg.errors import ConfigError, ModelError
from certseg.models import inference as infer
from certseg.models.mmseg_config import normalisation
from certseg.models.mmseg_library import EncoderDecoder, build, data_samples, has_plain_resize, model_config
from certseg.models.training_output import recorded_logits
from certseg.types import IGNORE_INDEX, CoarseLogits, TrainingOutput
from certseg.types.images import check_images, check_labels


class MMSegSegmenter(nn.Module):
    """An mmsegmentation network that maps images in [0, 1] to logits of the same resolution.

    Normalisation, rescaling, mirroring and sliding windows happen inside and are differentiable. With one scale and no
    flip the logits of the network come back as they are; otherwise the log of the mean of the softmax probabilities.

    Args:
        num_classes: number of classes of the data set; at least 2.
        config: a model config in mmsegmentation's form, or the name of a config shipped with mmsegmentation, with or
            without ``.py``, such as ``upernet/upernet_r50_4xb2-40k_cityscapes-512x1024``. Pretrained weights named in
            it are not fetched.
        name: how results and their folders call the model: letters, digits, ``.``, ``_`` and ``-``.
        scales: the network sees the image at ``round(scale * H) x round(scale * W)`` for each scale; the logits are
            resized back bilinearly.
        flip: also run each scale mirrored left to right.
        inference: ``whole``, or ``slide`` for overlapping windows at the scaled resolution.
        crop_size: ``[height, width]`` of the windows; by default that of the config's ``test_cfg``.
        stride: ``[vertical, horizontal]`` steps of the windows; by default that of the config's ``test_cfg`` if
            ``crop_size`` comes from there, else two thirds of the window.
        overrides: entries merged into the model config, nested or with dotted keys (``backbone.depth: 18``,
            ``auxiliary_head.0.channels: 64``); ``_delete_: true`` replaces an entry instead of merging into it.
            ``backbone.in_channels`` makes a network for images of other channels than three, which are all normalised
            by the mean of the statistics.

    Raises:
        ConfigError: an argument is outside its domain.
        ModelError: the config is unknown or cannot be built.
    """

    mean: Tensor
    std: Tensor
    network: EncoderDecoder

    def __init__(
        self,
        *,
        num_classes: int,
        config: Mapping | str,
        name: str,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        inference: str = "whole",
        crop_size: Sequence[int] | None = None,
        stride: Sequence[int] | None = None,
        overrides: Mapping | None = None,
    ):
        super().__init__()
        check_count("num_classes", num_classes, 2, remedy="A segmentation model needs at least two classes")
        check_word("model.name", name)
        _check_arguments(scales, inference)
        self.num_classes = num_classes
        self.name = name
        self.scales = tuple(float(scale) for scale in scales)
        self.flip = bool(flip)
        model = model_config(config, overrides)
        self._window = _windows(model.get("test_cfg"), crop_size, stride) if inference == "slide" else None
        statistics = normalisation(model.pop("data_preprocessor", None))
        self.channels = int(model.get("backbone", {}).get("in_channels", 3))
        self._rgb = statistics.rgb or self.channels != 3
        for key in ("mean", "std"):
            values = torch.tensor(getattr(statistics, key)).view(1, 3, 1, 1) / 255
            if self.channels != 3:  # for which there are no statistics
                values = values.mean(dim=1, keepdim=True)
            self.register_buffer(key, values, persistent=False)
        self.network = build(model, num_classes)
        for module in self.network.modules():
            for name, part in module.named_children():
                if name == "conv_seg":
                    part.register_forward_hook(_planes)
        self._input_size, self._divisor = _input_rule(self.network)
        self._shortest = _least(self.network)
        self._plain_resize = has_plain_resize(self.network)
        self._needs_edges = any(type(module).__name__ == "PIDHead" for module in self.network.modules())
        # mmsegmentation warns about every resize of a network with align_corners
        self._warns = any(getattr(module, "align_corners", False) for module in self.network.modules())

    @property
    def backbone(self) -> nn.Module:
        """The part of the network that computes features."""
        return self.network.backbone

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``B x num_classes x H x W`` of RGB images ``B x 3 x H x W`` in [0, 1].

        Raises:
            ModelError: ``images`` has another shape.
        """
        check_images(images, self.channels)
        with _quiet_resize(self._warns):
            if len(self.scales) == 1 and not self.flip:
                return self._at_scale(images, self.scales[0])
            logits = [self._at_scale(images, scale) for scale in self.scales]
            if self.flip:
                mirrored = images.flip(-1)
                logits += [self._at_scale(mirrored, scale).flip(-1) for scale in self.scales]
            return infer.log_mean_softmax(logits)

    def coarse_logits(self, images: Tensor) -> CoarseLogits | None:
        """The network's own logits where :meth:`forward` enlarges them and does nothing else, else None.

        Args:
            images: ``B x 3 x H x W`` in [0, 1].

        Raises:
            ModelError: ``images`` has another shape.
        """
        check_images(images, self.channels)
        if len(self.scales) > 1 or self.flip or self._window is not None or not self._plain_resize:
            return None
        inputs = self._normalise(infer.rescale(images, self.scales[0]))
        if any(self._padding(inputs.shape[-2:])):
            return None
        head = self.network.decode_head
        with _quiet_resize(self._warns):
            logits = head(self.network.extract_feat(inputs))
        return CoarseLogits(logits, head.align_corners)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Training losses of all heads; call ``train()`` first.

        With one scale the loss is computed at that scale: images are resized as in ``forward``, labels to their
        nearest pixel. With several scales the network is trained at scale 1. Mirroring and windows play no part.

        Args:
            images: ``B x 3 x H x W`` in [0, 1].
            labels: ``B x H x W`` int64 in 0..num_classes - 1, or 255 where there is no label.

        Returns:
            Scalars: ``loss_<head>_...``, to be added up, and ``acc_<head>_...``, pixel accuracies in percent.

        Raises:
            ModelError: shapes or labels are not as stated, or the batch is too small for batch normalisation.
        """
        return self._losses(*self._training_inputs(images, labels))

    def loss_and_logits(self, images: Tensor, labels: Tensor) -> TrainingOutput:
        """The losses of :meth:`loss` and the logits they come from, for one forward pass.

        The logits are those of the head that predicts, at the resolution of the loss (``scale * H`` by ``scale * W``,
        padded where the network needs it), and in training mode.

        Args:
            images: ``B x 3 x H x W`` in [0, 1].
            labels: ``B x H x W`` int64 in 0..num_classes - 1, or 255 where there is no label.

        Raises:
            ModelError: the network's head does not say which of several outputs is the prediction, or :meth:`loss`
                refuses images or labels.
        """
        inputs, labels = self._training_inputs(images, labels)
        with recorded_logits(self.network) as found:
            losses = self._losses(inputs, labels)
        size, align = labels.shape[-2:], self.network.align_corners  # enlarged as mmsegmentation does for the loss
        return TrainingOutput(losses, F.interpolate(found[-1], size, mode="bilinear", align_corners=align), labels)

    def _training_inputs(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        check_images(images, self.channels)
        check_labels(labels, images, self.num_classes)
        scale = self.scales[0] if len(self.scales) == 1 else 1.0
        inputs = self._normalise(infer.rescale(images, scale))
        labels = infer.rescale_labels(labels, scale)
        bottom, right = self._padding(inputs.shape[-2:])
        return F.pad(inputs, (0, right, 0, bottom)), F.pad(labels, (0, right, 0, bottom), value=IGNORE_INDEX)

    def _losses(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        try:
            with _quiet_resize(self._warns):
                losses = self.network.loss(inputs, data_samples(labels, self._needs_edges))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ModelError(
                f"The batch normalisation of {self.name} needs more than one value per channel",
                received=f"a batch of {inputs.shape[0]}",
                remedy="Train with a batch size of at least 2 per process",
            ) from error
        return _flat_losses(losses)

    def _at_scale(self, images: Tensor, scale: float) -> Tensor:
        size = images.shape[-2:]
        inputs = self._normalise(infer.rescale(images, scale))
        if self._window is None:
            return self._logits(inputs, size)
        crop_size, stride = self._window
        logits = infer.slide(lambda x: self._logits(x, x.shape[-2:]), inputs, self.num_classes, crop_size, stride)
        return infer.resize_logits(logits, size)

    def _normalise(self, images: Tensor) -> Tensor:
        return ((images if self._rgb else images.flip(1)) - self.mean) / self.std

    def _logits(self, inputs: Tensor, size: Sequence[int]) -> Tensor:
        """Logits of normalised ``inputs``, resized from the network's own resolution straight to ``size``."""
        height, width = inputs.shape[-2:]
        bottom, right = self._padding((height, width))
        if not (bottom or right):
            return infer.resize_logits(self._encode_decode(inputs, size), size)
        inputs = F.pad(inputs, (0, right, 0, bottom))  # with the mean colour, as mmsegmentation pads
        logits = self._encode_decode(inputs, inputs.shape[-2:])
        return infer.resize_logits(logits[..., :height, :width], size)

    def _encode_decode(self, inputs: Tensor, size: Sequence[int]) -> Tensor:
        size = torch.Size(size)  # the type by which mmsegmentation knows that it is the size to resize to
        meta = {"img_shape": size, "ori_shape": size, "pad_shape": size}
        try:
            return self.network.encode_decode(inputs, [meta] * inputs.shape[0])
        except (AttributeError, TypeError) as error:
            if not self.training:
                raise
            raise ModelError(  # heads with several outputs in training
                f"{self.name} gives logits only in eval mode", remedy="Call eval() before and train() after"
            ) from error

    def _padding(self, size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns to add below and to the right so that the network accepts ``size``."""
        if self._input_size is None:
            bottom, right = (-(-max(side, self._shortest) // self._divisor) * self._divisor - side for side in size)
            return bottom, right
        bottom, right = (wanted - side for wanted, side in zip(self._input_size, size))
        if bottom < 0 or right < 0:
            raise ModelError(
                f"{self.name} takes inputs of at most {self._input_size[0]}x{self._input_size[1]} pixels",
                received=f"{size[0]}x{size[1]} pixels after scaling",
                remedy="Set model.inference=slide with this crop_size, training crops of at most this size, "
                "or model.overrides.backbone.img_size",
            )
        return bottom, right


def _check_arguments(scales: Sequence[float], inference: str) -> None:
    if isinstance(scales, str) or not isinstance(scales, Sequence) or not scales:
        raise ConfigError("model.scales must be a non-empty list", expected="such as [0.5]", received=scales)
    if not all(is_number(scale, "(0, 8]") for scale in scales):
        raise ConfigError("model.scales must be positive numbers up to 8", received=list(scales))
    check_choice("model.inference", inference, ("whole", "slide"))


def _windows(test_cfg: Mapping | None, crop_size: Any, stride: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    test_cfg = test_cfg or {}
    if crop_size is None:
        crop_size, stride = test_cfg.get("crop_size"), stride or test_cfg.get("stride")
    if crop_size is None:
        raise ConfigError("model.inference=slide needs model.crop_size", expected="[height, width] in pixels")
    crop = checked_size("model.crop_size", crop_size)
    step = checked_size("model.stride", stride or [max(1, side * 2 // 3) for side in crop])
    if step[0] > crop[0] or step[1] > crop[1]:
        raise ConfigError("model.stride leaves pixels that no window sees", received=f"{step} with crop_size {crop}")
    return crop, step


def _planes(module: nn.Module, inputs: tuple, logits: Tensor) -> Tensor:
    """Class by class in memory also where the network computes in channels-last order, for the resize that follows and
    for whoever compares classes."""
    return logits.contiguous()


def _least(network: EncoderDecoder) -> int:
    """The shortest side that the backbone takes: with a shorter one nothing is left for its last stage."""
    kinds = {type(module).__name__ for module in network.backbone.modules()}
    if "ConvNeXtBlock" in kinds:
        return 32
    return 29 if kinds & {"MixVisionTransformer", "ConvStemConvNeXt"} else 1


def _input_rule(network: EncoderDecoder) -> tuple[tuple[int, int] | None, int]:
    """The one input size the backbone accepts, if there is only one, and the number its input sides must divide by."""
    backbone = network.backbone
    kind = type(backbone).__name__
    if kind in ("BEiT", "MAE"):  # relative positions are learned for one grid
        height, width = backbone.img_size
        return (height, width), 1
    if kind == "UNet":
        return None, 2 ** (int(backbone.num_stages) - 1)
    if kind in ("DDRNet", "PIDNet"):  # branches of different strides are added at 1/8 of the input
        return None, 8
    return None, 1


def _flat_losses(losses: Mapping[str, Tensor | list[Tensor]]) -> dict[str, Tensor]:
    """Rename mmsegmentation's ``decode.loss_ce`` to ``loss_decode_ce`` and ``decode.acc_seg`` to ``acc_decode_seg``."""
    flat = {}
    for key, value in losses.items():
        kind = "loss" if "loss" in key else "acc"
        words = [part.removeprefix(f"{kind}_") for part in key.split(".")]
        first, *rest = (part.mean() for part in (value if isinstance(value, (list, tuple)) else [value]))
        flat["_".join([kind, *words])] = sum(rest, start=first)
    return flat


@contextlib.contextmanager
def _quiet_resize(active: bool) -> Iterator[None]:
    if not active:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="When align_corners=True")
        yield
