"""Loops that are compiled on first use and release Python's lock; one call works on one image."""
