"""Losses: what attacks maximise and training minimises."""

from certseg.losses.adversarial import cross_entropy, masked_cross_entropy

__all__ = ["cross_entropy", "masked_cross_entropy"]
