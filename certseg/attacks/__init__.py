"""Attacks: how far accuracy can be driven down within a threat, measured."""

from certseg.attacks.pgd import Smoothing, pgd

__all__ = ["Smoothing", "pgd"]
