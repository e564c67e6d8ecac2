"""Certifiers: what provably survives every attack of a threat."""

from certseg.certifiers.all_or_nothing import IndivClass, JointClass
from certseg.certifiers.segcertify import Samples, SegCertify

__all__ = ["IndivClass", "JointClass", "Samples", "SegCertify"]
