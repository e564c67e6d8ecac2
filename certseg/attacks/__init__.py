"""Attacks: how far accuracy can be driven down within a threat, measured."""

from certseg.attacks.apgd import APGD
from certseg.attacks.defence import Defence
from certseg.attacks.minimum_norm import ASMA, DAG, PDPGD, ALMAProx, MinimumNormAttack, MinimumNormResult
from certseg.attacks.objective import Smoothing
from certseg.attacks.patch import PatchPGD
from certseg.attacks.patch_result import PatchResult
from certseg.attacks.pgd import PGD
from certseg.attacks.sea import SEA
from certseg.attacks.square import Square
from certseg.attacks.transfer import Transfer

__all__ = [
    "APGD",
    "ASMA",
    "DAG",
    "PDPGD",
    "PGD",
    "SEA",
    "ALMAProx",
    "Defence",
    "MinimumNormAttack",
    "MinimumNormResult",
    "PatchPGD",
    "PatchResult",
    "Smoothing",
    "Square",
    "Transfer",
]
