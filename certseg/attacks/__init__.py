"""Attacks: how far accuracy can be driven down within a threat, measured."""

from certseg.attacks.pgd import PGD, Smoothing

__all__ = ["PGD", "Smoothing"]
