"""Lipschitz networks: blocks whose constant is known, bounds of their norms, and the audit of a whole network.

>>> import torch
>>> from torch import nn
>>> from certseg.lipschitz import audit
>>> network = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU()).eval()
>>> _ = network[0].weight.data.zero_()
>>> network[0].weight.data[0] = 2.0
>>> round(audit(network, (8, 8)).constant, 4)  # 2 sqrt(3)
3.4641
"""

from certseg.lipschitz.audit import Audit, ConstantCertificate, audit, fingerprint
from certseg.lipschitz.baking import bake
from certseg.lipschitz.norms import NormBound, convolution_norm
from certseg.lipschitz.precision import check_arithmetic, full_precision
from certseg.lipschitz.probing import local_norm
from certseg.lipschitz.state import state_of
from certseg.lipschitz.walk import LayerBound

__all__ = [
    "Audit",
    "ConstantCertificate",
    "LayerBound",
    "NormBound",
    "audit",
    "bake",
    "check_arithmetic",
    "convolution_norm",
    "fingerprint",
    "full_precision",
    "local_norm",
    "state_of",
]
