"""Learned inpainters from a TorchScript file, such as exports of LaMa and ZITS."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from certseg.checks import check_count
from certseg.errors import CheckpointError, ConfigError, ModelError
from certseg.patches.inpainting.base import Inpainting


class TorchScript(Inpainting):
    """A module called as ``module(image, mask)``, with ``image`` ``B x 3 x H x W`` in [0, 1] (hidden pixels 0) and
    ``mask`` ``B x 1 x H x W`` float, 1 where hidden; it returns images in [0, 1]. Sides are enlarged to a multiple by
    repeating the border, and the result is cut.

    Args:
        path: the file that ``torch.jit.save`` wrote.
        multiple: number that must divide both sides of the images the module gets, at least 1; LaMa needs 8.
        name: what tables call the inpainter.

    Raises:
        ConfigError: ``path`` is not set or ``multiple`` is not a positive integer.
        CheckpointError: the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str] | None, multiple: int = 8, name: str = "torchscript") -> None:
        if path is None:
            raise ConfigError(
                "An inpainter from a TorchScript file needs the file",
                remedy="Set certifier.inpainter.path, or choose certifier/inpainter=telea",
            )
        check_count("The multiple of an inpainter's sides", multiple)
        self.name, self.multiple = name, multiple
        try:
            self._digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            self._module = torch.jit.load(str(path), map_location="cpu").eval()
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"Cannot read the TorchScript file {path}", received=str(error).splitlines()[0]
            ) from error
        self._device = torch.device("cpu")

    @property
    def settings(self) -> dict[str, object]:
        """The multiple and the sha256 of the file, which decide the result."""
        return {"multiple": self.multiple, "file": self._digest}

    def _fill(self, erased: Tensor, hidden: Tensor) -> Tensor:
        if self._device != erased.device:
            self._module, self._device = self._module.to(erased.device), erased.device
        height, width = erased.shape[-2:]
        border = (0, -width % self.multiple, 0, -height % self.multiple)
        image, mask = (F.pad(part, border, mode="replicate") for part in (erased, hidden[:, None].to(erased.dtype)))
        try:
            # after its first calls an optimised module may round in another way
            with torch.no_grad(), torch.jit.optimized_execution(False):
                filled = self._module(image, mask)
        except (RuntimeError, torch.jit.Error) as error:
            if "out of memory" in str(error):  # for those who try again with fewer images
                raise torch.OutOfMemoryError(str(error)) from error
            raise ModelError(
                f"The TorchScript inpainter {self.name} failed on images of {height} x {width}",
                expected="a module that is called as module(image, mask)",
                received=(str(error).strip().splitlines() or [""])[-1],
            ) from error
        if not isinstance(filled, Tensor) or filled.shape != image.shape:
            raise ModelError(
                f"The TorchScript inpainter {self.name} must return images of the shape it was given",
                expected=tuple(image.shape),
                received=tuple(filled.shape) if isinstance(filled, Tensor) else type(filled).__name__,
            )
        return filled[..., :height, :width]
