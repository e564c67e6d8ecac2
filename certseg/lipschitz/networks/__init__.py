"""Lipschitz networks: their layers, architectures and the segmenters made of them."""

from certseg.lipschitz.networks.architectures import LipDeepLabV3, LipUPerNet
from certseg.lipschitz.networks.segmenter import LipschitzNetwork

__all__ = ["LipDeepLabV3", "LipUPerNet", "LipschitzNetwork"]
