"""Networks in files that carry their own program: TorchScript and ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from certseg.compute.atomic import first_line
from certseg.compute.extras import library
from certseg.errors import CheckpointError, ModelError
from certseg.models.any_network.wrapped import Wrapped
from certseg.models.checkpoint_files import is_torchscript

_EXTERNAL = b"\x0a\x08location\x12"  # how an entry begins that says in which other file a tensor lies


def torchscript_network(*, num_classes: int, name: str, file: str, **options: Any) -> Wrapped:
    """A network that was saved as TorchScript, with its weights (``model=torchscript``). Its code runs when it is
    loaded: only files whose source is trusted are to be given.

    Args:
        num_classes: number of classes of the data set.
        name: how results and their folders call the network.
        file: the file.
        options: normalise, outputs, divisor and least of :class:`Wrapped`.

    Raises:
        CheckpointError: the file is missing or no TorchScript.
    """
    path = _existing(file)
    if not is_torchscript(path):
        other = " It is ONNX: use model=onnx." if path.suffix == ".onnx" else ""
        raise CheckpointError(
            f"{path} is no TorchScript file",
            expected="what torch.jit.save writes",
            remedy=f"Weights alone are given by model.checkpoint=... beside their network.{other}",
        )
    try:
        network = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:  # whatever a damaged file provokes in the reader
        raise CheckpointError(f"{path} cannot be loaded as TorchScript", received=first_line(error)) from error
    return Wrapped(_Scripted(network), num_classes, name=name, **options)


class _Scripted(nn.Module):
    """A TorchScript module that computes every pass alike: its optimiser would change the second and later ones."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Any:
        with torch.jit.optimized_execution(False):
            return self.module(images)


def onnx_network(*, num_classes: int, name: str, file: str, **options: Any) -> Wrapped:
    """A network in ONNX form (``model=onnx``), with its weights, run by onnxruntime on the CPU. It has no gradient:
    certificates need none, and of the attacks those that search without one.

    Args:
        num_classes: number of classes of the data set.
        name: how results and their folders call the network.
        file: the file.
        options: normalise, outputs, divisor and least of :class:`Wrapped`.

    Raises:
        DependencyError: onnxruntime is missing.
        CheckpointError: the file is missing or no ONNX.
    """
    return Wrapped(ONNXNetwork(file), num_classes, name=name, **options)


class ONNXNetwork(nn.Module):
    """A network in ONNX form: images ``B x 3 x h x w`` to the first of its outputs, on the CPU, without gradients.

    Args:
        file: the file, whose network has one input.

    Raises:
        DependencyError: onnxruntime is missing.
        CheckpointError: the file is missing, no ONNX, has several inputs, or its weights in another file.
    """

    def __init__(self, file: str):
        super().__init__()
        runtime, path = library("onnxruntime", "this model"), _existing(file)
        content = path.read_bytes()
        if _EXTERNAL in content:
            raise CheckpointError(
                f"The weights of {path} lie in another file, whose change would go unnoticed",
                expected="one file with everything",
                remedy="Export it with external_data=False",
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common base
            raise CheckpointError(
                f"{path} cannot be loaded as ONNX", received=first_line(error), remedy="Export the network again"
            ) from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(entry.name for entry in inputs)
            raise CheckpointError(f"{path} needs several inputs", expected="one, the images", received=names)
        self._input, shape = inputs[0].name, inputs[0].shape
        self._one_by_one = list(shape[:1]) == [1]  # an unknown rank has no entries

    def forward(self, images: Tensor) -> Tensor:
        """The first output for images ``B x 3 x h x w``.

        Raises:
            ModelError: the network cannot take them, for example because it was exported for another size.
        """
        array = images.detach().cpu().numpy()
        try:
            parts = np.split(array, len(array)) if self._one_by_one else [array]
            found = [self._session.run(None, {self._input: np.ascontiguousarray(part)})[0] for part in parts]
        except Exception as error:  # its errors have no common base
            raise ModelError(
                f"The ONNX network cannot take images of shape {tuple(images.shape)}",
                received=first_line(error),
                remedy="Export it with dynamic axes for batch, height and width, or set dataset.size to its own",
            ) from error
        return torch.from_numpy(np.concatenate(found)).to(images.device)


def _existing(file: str) -> Path:
    path = Path(file)
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}", remedy="Check model.file")
    return path
