"""Certificates against patches: masks, masked copies, inpainting, votes."""
