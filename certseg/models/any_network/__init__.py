"""Networks of other libraries and of one's own as segmenters: wrapped as they are, or built by name."""

from certseg.models.any_network.exported import ONNXNetwork, onnx_network, torchscript_network
from certseg.models.any_network.libraries import (
    custom_network,
    smp_network,
    torchvision_network,
    transformers_network,
)
from certseg.models.any_network.wrapped import Wrapped

__all__ = [
    "ONNXNetwork",
    "Wrapped",
    "custom_network",
    "onnx_network",
    "smp_network",
    "torchscript_network",
    "torchvision_network",
    "transformers_network",
]
