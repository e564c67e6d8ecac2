"""ConvNeXt with a convolutional stem, the backbone of the most robust ImageNet classifiers of its size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from certseg.checks import is_count
from certseg.errors import ModelError


class ConvStem(nn.Sequential):
    """Convolutions in place of ConvNeXt's patchify stem (Singh, Croce and Hein 2023, "Revisiting Adversarial Training
    for ImageNet"): 3 x 3, each with layer normalisation over the channels and GELU; the first two have stride 2.

    Maps ``B x 3 x H x W`` to ``B x channels[-1] x ceil(H / 4) x ceil(W / 4)``.

    Args:
        channels: output channels of each convolution, at least two of them: (48, 96) for tiny and small,
            (64, 96, 128) for base.

    Raises:
        ModelError: there are fewer than two, or one is no positive integer.
    """

    def __init__(self, channels: Sequence[int] = (48, 96)):
        if len(channels) < 2 or not all(is_count(c) for c in channels):
            raise ModelError("stem_channels must be at least two positive integers", received=list(channels))
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(zip((3, *channels), channels)):
            convolution = nn.Conv2d(inputs, outputs, 3, stride=2 if index < 2 else 1, padding=1)
            nn.init.trunc_normal_(convolution.weight, std=0.02)  # as ConvNeXt draws all its convolutions
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
            layers += [convolution, LayerNorm2d(outputs, eps=1e-6), nn.GELU()]
        super().__init__(*layers)


class ConvStemConvNeXt(nn.Module):
    """timm's ConvNeXt behind a :class:`ConvStem`, as a backbone for mmsegmentation; nothing is downloaded.

    Args:
        model_name: timm's name of the network, such as ``convnext_tiny``.
        stem_channels: output channels of the stem's convolutions; the last must be the width of the first stage.
        settings: further arguments of timm's model, such as ``drop_path_rate`` and ``out_indices``.

    Raises:
        ModelError: the model is no ConvNeXt, or the stem does not fit it.
    """

    def __init__(self, model_name: str, stem_channels: Sequence[int] = (48, 96), **settings: Any):
        super().__init__()
        settings = {**settings, "pretrained": False, "features_only": True}
        features: Any = timm.create_model(model_name, **settings)  # timm's extractor: parts by name, and a forward
        if not {"stem_0", "stem_1"} <= features.keys():
            raise ModelError(f"{model_name} has no patchify stem to replace", expected="a ConvNeXt of timm")
        width = features.pop("stem_0").out_channels
        features.pop("stem_1")
        if stem_channels[-1] != width:
            raise ModelError(
                f"The stem does not fit {model_name}",
                expected=f"stem_channels that end in {width}",
                received=list(stem_channels),
            )
        self.timm_model: nn.Module = features
        self.stem = ConvStem(stem_channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of the stages in ``out_indices``, of strides 4, 8, 16 and 32."""
        return self.timm_model(self.stem(images))
