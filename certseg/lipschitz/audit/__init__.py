"""The audit of a network: its Lipschitz constant, proven layer by layer from the weights.

>>> import torch
>>> from torch import nn
>>> from certseg.lipschitz.audit import audit
>>> network = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU()).eval()
>>> _ = network[0].weight.data.zero_()
>>> network[0].weight.data[0] = 2.0
>>> round(audit(network, (8, 8)).constant, 4)  # 2 sqrt(3)
3.4641
"""

from certseg.lipschitz.audit.baking import bake
from certseg.lipschitz.audit.certificate import Audit, ConstantCertificate, audit, fingerprint
from certseg.lipschitz.audit.precision import check_arithmetic, full_precision
from certseg.lipschitz.audit.probing import local_norm
from certseg.lipschitz.audit.state import state_of
from certseg.lipschitz.audit.walk import LayerBound

__all__ = [
    "Audit",
    "ConstantCertificate",
    "LayerBound",
    "audit",
    "bake",
    "check_arithmetic",
    "fingerprint",
    "full_precision",
    "local_norm",
    "state_of",
]
