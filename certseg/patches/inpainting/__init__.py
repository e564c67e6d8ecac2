"""Inpainters guess what is behind a mask from what is visible.

``constant`` colours, the classical methods of ``opencv``, a network of one's own (``unet``, read by ``learned``) and
networks of others as ``torchscript``; ``base`` makes sure that none of them sees a hidden pixel.
"""

from certseg.patches.inpainting.base import Inpainting
from certseg.patches.inpainting.classical import NavierStokes, Telea
from certseg.patches.inpainting.constant import Black, MeanColour
from certseg.patches.inpainting.learned import Learned
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
