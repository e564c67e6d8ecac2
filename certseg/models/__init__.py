"""Segmentation models behind the :class:`certseg.types.Segmenter` protocol, denoisers in front of them, checkpoints.

:class:`MMSegSegmenter` adapts every network of mmsegmentation; :class:`LipDeepLabV3` and :class:`LipUPerNet` have a
proven Lipschitz constant; :class:`Wrapped` is around any other. :class:`Denoised` puts a denoiser in front of any of
them, and :class:`Reordered` puts their classes into another order.
"""

from certseg.lipschitz.networks import LipschitzNetwork
from certseg.models.any_network import (
    Wrapped,
    custom_network,
    onnx_network,
    smp_network,
    torchscript_network,
    torchvision_network,
    transformers_network,
)
from certseg.models.backbone import backbone_of, backbone_weights, freeze_backbone, load_backbone
from certseg.models.checkpoint import load_checkpoint, save_checkpoint
from certseg.models.denoiser import Denoised, DnCNN, load_denoised, load_denoiser
from certseg.models.lip_deeplabv3 import LipDeepLabV3
from certseg.models.lip_upernet import LipUPerNet
from certseg.models.mmseg_adapter import MMSegSegmenter
from certseg.models.mmseg_library import shipped_configs
from certseg.models.reordered import Reordered, reordered
from certseg.types import TrainingOutput

__all__ = [
    "Denoised",
    "DnCNN",
    "LipDeepLabV3",
    "LipUPerNet",
    "LipschitzNetwork",
    "MMSegSegmenter",
    "Reordered",
    "TrainingOutput",
    "Wrapped",
    "backbone_of",
    "backbone_weights",
    "custom_network",
    "freeze_backbone",
    "load_backbone",
    "load_checkpoint",
    "load_denoised",
    "load_denoiser",
    "onnx_network",
    "reordered",
    "save_checkpoint",
    "shipped_configs",
    "smp_network",
    "torchscript_network",
    "torchvision_network",
    "transformers_network",
]
