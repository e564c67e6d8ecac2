"""Certifiers: what provably survives every attack of a threat."""

from certseg.certifiers.adaptive_certify import AdaptiveCertify
from certseg.certifiers.all_or_nothing import IndivClass, JointClass
from certseg.certifiers.demasked import DemaskedDetection, DemaskedRecovery
from certseg.certifiers.derandomized import DerandomizedSmoothing
from certseg.certifiers.double_masking import PatchDoubleMasking
from certseg.certifiers.lipschitz import Lipschitz, LipschitzCertificate
from certseg.certifiers.patch_certifier import PatchCertificate
from certseg.certifiers.segcertify import SegCertify
from certseg.types import Samples

__all__ = [
    "AdaptiveCertify",
    "DemaskedDetection",
    "DemaskedRecovery",
    "DerandomizedSmoothing",
    "IndivClass",
    "JointClass",
    "Lipschitz",
    "LipschitzCertificate",
    "PatchCertificate",
    "PatchDoubleMasking",
    "Samples",
    "SegCertify",
]
