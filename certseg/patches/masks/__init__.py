"""Masks against patches: pure geometry, with the sets of masks that a patch can touch."""

from certseg.patches.masks.ablation import column_ablations
from certseg.patches.masks.covering import COVERINGS, check_covering, covering_masks
from certseg.patches.masks.mask_set import MaskSet, erase
from certseg.patches.masks.recovery import ASSIGNMENTS, check_recovery, least_masks, recovery_masks

__all__ = [
    "ASSIGNMENTS",
    "COVERINGS",
    "MaskSet",
    "check_covering",
    "check_recovery",
    "column_ablations",
    "covering_masks",
    "erase",
    "least_masks",
    "recovery_masks",
]
