"""What a network is to do after its training, tried before: a training is long, and this takes a pass or two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from certseg.compute.atomic import first_line, place_of
from certseg.compute.forward import check_logits
from certseg.compute.hardware import Hardware
from certseg.errors import CertsegError, ModelError
from certseg.types import Certifier, Segmenter, Sides, segmenter_of


def rehearse(
    network: nn.Module, certifier: Certifier | None, sizes: Sequence[Sides], hardware: Hardware, channels: int = 3
) -> None:
    """Try on a network with any weights what has to work with trained ones.

    Weights, modes and the state of torch's random numbers are afterwards what they were.

    Args:
        network: the network, which is moved to the hardware's device.
        certifier: what is to certify it; None for nothing.
        sizes: heights and widths of the images that it will be given, that of the training first.
        hardware: the device that is computed on.
        channels: number of the images' channels.

    Raises:
        ModelError: the network does not say its number of classes, cannot take images of one of the sizes, does not
            answer with logits of that size, has no gradient, or cannot be certified by the certifier.
    """
    segmenter = segmenter_of(network)
    if certifier is not None:
        certifier.check_model(segmenter)
    device = hardware.torch_device
    network.to(device)
    modes = [(module, module.training) for module in network.modules()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            network.eval()
            if not _logits(segmenter, (channels, *sizes[0]), device).requires_grad:
                raise ModelError(
                    "The network cannot be trained, nor anything in front of it: its answer has no gradient",
                    remedy="Use it as it is, or in a form that has one, such as model=torchscript",
                )
            with torch.no_grad():
                for size in set(sizes[1:]) - {sizes[0]}:
                    _logits(segmenter, (channels, *size), device)
        finally:
            network.train(modes[0][1])
            for module, mode in modes:
                module.training = mode


def _logits(segmenter: Segmenter, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """The network's answer to a grey image, once it is known to be logits."""
    images = torch.full((1, *shape), 0.5, device=device, requires_grad=True)
    try:
        logits = segmenter(images)
    except CertsegError:
        raise
    except Exception as error:  # whatever a network of anybody's raises
        raise ModelError(
            f"The network cannot take images of {shape[1]} x {shape[2]} pixels in {shape[0]} channels",
            received=f"{first_line(error)}{place_of(error)}",
            remedy="Choose another dataset.size, training.crop or model; certseg.wrap pads what is too small or does "
            "not divide",
        ) from error
    check_logits(logits, images, segmenter.num_classes)
    return logits
