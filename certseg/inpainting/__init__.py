"""Inpainters: what was behind a mask, guessed from what is visible."""

from certseg.inpainting.base import Inpainting
from certseg.inpainting.constant import Black, MeanColour
from certseg.inpainting.learned import Learned
from certseg.inpainting.opencv import NavierStokes, Telea
from certseg.inpainting.torchscript import TorchScript
from certseg.inpainting.unet import MaskedUNet, pyramid_fill

__all__ = [
    "Black",
    "Inpainting",
    "Learned",
    "MaskedUNet",
    "MeanColour",
    "NavierStokes",
    "Telea",
    "TorchScript",
    "pyramid_fill",
]
