"""Lipschitz networks: their layers, the parts of architectures, and the segmenters made of them."""

from certseg.lipschitz.networks.segmenter import LipschitzNetwork
from certseg.lipschitz.networks.staged import StagedNetwork

__all__ = ["LipschitzNetwork", "StagedNetwork"]
