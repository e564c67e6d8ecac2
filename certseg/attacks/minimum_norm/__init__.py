"""Attacks that look for the smallest l2 perturbation with which a goal is met, instead of for the worst in a ball."""

from certseg.attacks.minimum_norm.alma_prox import ALMAProx
from certseg.attacks.minimum_norm.asma import ASMA
from certseg.attacks.minimum_norm.dag import DAG
from certseg.attacks.minimum_norm.minimum_norm_attack import MinimumNormAttack
from certseg.attacks.minimum_norm.pdpgd import PDPGD
from certseg.types import MinimumNormResult

__all__ = ["ASMA", "DAG", "PDPGD", "ALMAProx", "MinimumNormAttack", "MinimumNormResult"]
