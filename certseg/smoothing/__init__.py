"""Randomized smoothing: distributions, sampling, when to stop, and the statistics of what was drawn."""
