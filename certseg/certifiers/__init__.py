"""Certifiers: what provably survives every attack of a threat."""

from certseg.certifiers.segcertify import SegCertify

__all__ = ["SegCertify"]
