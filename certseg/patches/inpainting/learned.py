"""The inpainter that ``training=inpainter`` trained."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from certseg.errors import CheckpointError, ConfigError
from certseg.patches.inpainting.base import Inpainting
from certseg.patches.inpainting.unet import MaskedUNet

PREFIX = "inpainter."
"""How the names of an inpainter's weights begin in a checkpoint."""
_TRAIN = "Give the model.pt that training=inpainter wrote"


class Learned(Inpainting):
    """Fills a whole batch by the :class:`MaskedUNet` of a checkpoint, which tells its architecture. Gradients flow
    through it to visible pixels.

    The network is given images whose hidden pixels are 0 and which pixels those are, and what it says about visible
    ones is thrown away (:class:`Inpainting`): the result cannot depend on a hidden pixel.

    Args:
        checkpoint: path of the ``model.pt`` that a training of the inpainter wrote.
        name: what tables call the inpainter.

    Raises:
        ConfigError: ``checkpoint`` is not set.
        CheckpointError: the file cannot be read, or holds something else.
    """

    def __init__(self, checkpoint: str | os.PathLike[str] | None, name: str = "learned") -> None:
        if checkpoint is None:
            raise ConfigError(
                "A learned inpainter needs its weights",
                remedy="Set certifier.inpainter.checkpoint to the model.pt that training=inpainter wrote, "
                "or choose certifier/inpainter=telea",
            )
        try:
            content = Path(checkpoint).read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"Cannot read the inpainter {checkpoint}", received=error.strerror, remedy=_TRAIN
            ) from error
        self.name = name
        self._digest = hashlib.sha256(content).hexdigest()
        self._network = network_of(content, checkpoint)
        self._device = torch.device("cpu")

    @property
    def settings(self) -> dict[str, object]:
        """The sha256 of the checkpoint, which decides the result."""
        return {"file": self._digest}

    def _fill(self, erased: Tensor, hidden: Tensor) -> Tensor:
        if self._device != erased.device:
            with torch.inference_mode(False):  # else attacks could not differentiate through these weights later
                self._network, self._device = self._network.to(erased.device), erased.device
        filled: Tensor = self._network(erased.to(torch.float32), hidden)
        return filled


def network_of(content: bytes, path: str | os.PathLike[str]) -> MaskedUNet:
    """The network of a checkpoint, on the CPU, in eval mode, without gradients of its weights. The file's bytes
    are read without running any code in them.

    Args:
        content: the bytes of the file.
        path: where the file lies, for messages.

    Raises:
        CheckpointError: the bytes are no checkpoint, or a checkpoint of something else.
    """
    try:
        stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken or hostile file provokes
        text = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(
            f"The inpainter {path} is no checkpoint", received=f"{type(error).__name__}: {text}", remedy=_TRAIN
        ) from error
    weights = stored.get("state_dict") if isinstance(stored, Mapping) else None
    weights = weights if isinstance(weights, Mapping) else {}
    own = {name.removeprefix(PREFIX): value for name, value in weights.items() if str(name).startswith(PREFIX)}
    architecture = own.get("architecture")
    if not isinstance(architecture, Tensor) or architecture.shape != (3,) or architecture.is_floating_point():
        raise CheckpointError(
            f"The checkpoint {path} holds no inpainter",
            expected=f"weights {PREFIX}*",
            received=", ".join(map(str, list(weights)[:3])) or "none",
            remedy=_TRAIN,
        )
    try:
        with torch.device("meta"):  # its weights come from the file
            network = MaskedUNet(*architecture.tolist())
        network.load_state_dict(own, assign=True)
    except (ConfigError, RuntimeError, AttributeError) as error:
        raise CheckpointError(
            f"The checkpoint {path} holds an inpainter of another architecture",
            received=" ".join(str(error).split())[:200],
            remedy="Train it again with this version: training=inpainter",
        ) from error
    return network.float().eval().requires_grad_(False)
