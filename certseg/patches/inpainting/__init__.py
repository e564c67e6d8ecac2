"""Inpainters: what was behind a mask, guessed from what is visible."""

from certseg.patches.inpainting.base import Inpainting
from certseg.patches.inpainting.constant import Black, MeanColour
from certseg.patches.inpainting.learned import Learned
from certseg.patches.inpainting.opencv import NavierStokes, Telea
from certseg.patches.inpainting.torchscript import TorchScript
from certseg.patches.inpainting.unet import MaskedUNet, pyramid_fill

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
