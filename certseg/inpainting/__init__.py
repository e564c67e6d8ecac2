"""Inpainters: what was behind a mask, guessed from what is visible."""

from certseg.inpainting.base import Inpainting
from certseg.inpainting.constant import Black, MeanColour
from certseg.inpainting.opencv import NavierStokes, Telea
from certseg.inpainting.torchscript import TorchScript

__all__ = ["Black", "Inpainting", "MeanColour", "NavierStokes", "Telea", "TorchScript"]
