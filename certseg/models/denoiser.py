"""A denoiser in front of a segmenter: the base classifier of denoised smoothing is ``f(D(x + noise))``.

The certificate of the smoothed model holds for any deterministic base classifier that looks at one image at a time, so
it holds for the pair as it does for the segmenter alone (Salman et al. 2020, "Denoised Smoothing: A Provable Defense
for Pretrained Classifiers").
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from certseg.checks import check_count
from certseg.errors import ConfigError, ModelError
from certseg.models.checkpoint import Weights, fill, read_weights
from certseg.types import CoarseLogits, TrainingOutput, coarse_logits_of, segmenter_of
from certseg.types.trainable import explained, trainable

_PARTS = ("denoiser.", "segmenter.")


class DnCNN(nn.Module):
    """A residual denoiser: convolutions that predict the noise, which is subtracted from the image.

    The stack is conv-ReLU, then ``depth - 2`` times conv-BN-ReLU, then conv, all 3 x 3 (Zhang et al. 2017, "Beyond a
    Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising"; 17 or 20 layers of 64 channels there). It
    works on blocks of ``shrink x shrink`` pixels stacked into channels, which loses nothing and costs ``shrink**2``
    times less (Zhang, Zuo and Zhang 2018, "FFDNet"). The last convolution begins at zero: an untrained denoiser changes
    no image.

    Args:
        depth: number of convolutions, at least 2.
        width: number of channels between the convolutions.
        shrink: side of the blocks in pixels; 1 works on pixels.
        channels: number of the images' channels.

    Raises:
        ConfigError: an argument is outside its domain.

    >>> import torch
    >>> images = torch.rand(1, 3, 5, 7)
    >>> bool((DnCNN()(images) == images).all())  # as long as it is untrained
    True
    """

    def __init__(self, depth: int = 4, width: int = 16, shrink: int = 2, channels: int = 3):
        super().__init__()
        for name, value, least in (
            ("depth", depth, 2),
            ("width", width, 1),
            ("shrink", shrink, 1),
            ("channels", channels, 1),
        ):
            check_count(f"model.denoiser.{name}", value, least)
        self.shrink = shrink
        inputs = channels * shrink**2
        layers: list[nn.Module] = [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers.append(nn.Conv2d(width, width, 3, padding=1, bias=False))
            layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        last = nn.Conv2d(width, inputs, 3, padding=1)
        self.body = nn.Sequential(*layers, last)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Denoised images ``B x C x H x W`` of images ``B x C x H x W``; neither is clipped to [0, 1]."""
        height, width = images.shape[-2:]
        bottom, right = -height % self.shrink, -width % self.shrink
        padded = F.pad(images, (0, right, 0, bottom), mode="replicate") if bottom or right else images
        noise = F.pixel_shuffle(self.body(F.pixel_unshuffle(padded, self.shrink)), self.shrink)
        return images - noise[..., :height, :width]


class Denoised(nn.Module):
    """A segmenter that sees what a denoiser makes of the image: logits ``f(D(x))``, differentiable through both.

    Training either trains both together, or after :meth:`freeze_segmenter` the denoiser alone.

    Args:
        denoiser: maps images ``B x 3 x H x W`` to images of the same shape, each on its own.
        segmenter: a :class:`certseg.types.Segmenter`; trained only if it has a ``loss`` of its own.

    Raises:
        ConfigError: ``denoiser`` is no module.
        ModelError: ``segmenter`` does not say its ``num_classes``.
    """

    def __init__(self, denoiser: nn.Module, segmenter: nn.Module):
        super().__init__()
        if not isinstance(denoiser, nn.Module):
            raise ConfigError(
                "The denoiser must be a torch.nn.Module that maps images to images",
                received=type(denoiser).__name__,
                remedy="Check model.denoiser._target_",
            )
        self.num_classes = segmenter_of(segmenter).num_classes
        self.denoiser = denoiser
        self.segmenter = segmenter
        self._is_frozen = False
        self._without_coarse: set[tuple[int, int]] = set()

    def denoise(self, images: Tensor) -> Tensor:
        """Denoised images ``B x 3 x H x W``.

        Raises:
            ModelError: the denoiser returned something else.
        """
        denoised = self.denoiser(images)
        if not isinstance(denoised, Tensor) or denoised.shape != images.shape:
            is_tensor = isinstance(denoised, Tensor)
            raise ModelError(
                "The denoiser must return images of the shape it was given",
                expected=f"a tensor of shape {tuple(images.shape)}",
                received=f"shape {tuple(denoised.shape)}" if is_tensor else type(denoised).__name__,
            )
        return denoised

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``B x num_classes x H x W`` of images ``B x 3 x H x W``."""
        return self.segmenter(self.denoise(images))

    def coarse_logits(self, images: Tensor) -> CoarseLogits | None:
        """The segmenter's logits at its own resolution if it gives them, else None (see :class:`CoarseLogits`)."""
        size = (images.shape[-2], images.shape[-1])
        if size in self._without_coarse:
            return None
        logits = coarse_logits_of(segmenter_of(self.segmenter), self.denoise(images))
        if logits is None:
            self._without_coarse.add(size)  # the next time the denoiser is not run in vain
        return logits

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The segmenter's own losses, by name, of images ``B x 3 x H x W`` that are denoised first.

        Args:
            images: ``B x 3 x H x W`` in [0, 1], or noisy ones around it.
            labels: ``B x H x W`` int64 in 0..num_classes - 1, or 255 where there is no label.

        Raises:
            ModelError: the segmenter has no loss of its own, or refuses images or labels.
        """
        return trainable(self.segmenter).loss(self.denoise(images), labels)

    def loss_and_logits(self, images: Tensor, labels: Tensor) -> TrainingOutput:
        """The segmenter's own losses and the logits they come from, of images that are denoised first.

        Args:
            images: ``B x 3 x H x W`` in [0, 1], or noisy ones around it.
            labels: ``B x H x W`` int64 in 0..num_classes - 1, or 255 where there is no label.

        Raises:
            ModelError: the segmenter hides its logits, or refuses images or labels.
        """
        return explained(self.segmenter).loss_and_logits(self.denoise(images), labels)

    def freeze_segmenter(self) -> None:
        """From now on train the denoiser alone: the segmenter's parameters get no gradients, and :meth:`train` leaves
        it in eval mode, so that its batch statistics stay as they are."""
        self._is_frozen = True
        for parameter in self.segmenter.parameters():
            parameter.requires_grad_(False)
        self.segmenter.eval()

    def train(self, mode: bool = True) -> Denoised:
        """Set training mode, of the denoiser alone once the segmenter is frozen."""
        super().train(mode)
        if self._is_frozen:
            self.segmenter.eval()
        return self


def inner_segmenter(network: nn.Module) -> nn.Module:
    """The segmenter behind the denoisers of ``network``: itself where none stands in front of it."""
    while isinstance(network, Denoised):
        network = network.segmenter
    return network


def load_denoised(
    denoised: Denoised, path: str | os.PathLike, *, trust: bool = False, tell: Callable[[str], object] | None = None
) -> set[str]:
    """Load a checkpoint of both parts, or of the segmenter alone, in any form :func:`load_checkpoint` reads.

    Args:
        denoised: the pair to fill with what the file holds.
        path: the checkpoint file.
        trust: allow the file to run code while it is unpickled. Only for files whose source you trust.
        tell: called with one sentence where the names in the file were changed; None to tell nobody.

    Returns:
        The parts that were filled: ``segmenter``, and ``denoiser`` if the file has its weights.

    Raises:
        CheckpointError: the file is missing, corrupt, needs ``trust``, or does not fit the pair.
    """
    weights = read_weights(path, trust=trust)
    if not _is_whole(weights, denoised.segmenter):
        fill(denoised.segmenter, weights, path, tell)
        return {"segmenter"}
    if any(name.startswith("denoiser.") for name in weights.tensors):
        fill(denoised, weights, path)
        return {"segmenter", "denoiser"}
    fill(denoised.segmenter, _part(weights, "segmenter."), path)
    return {"segmenter"}


def load_denoiser(denoiser: nn.Module, path: str | os.PathLike, *, trust: bool = False) -> None:
    """Load a checkpoint of the denoiser alone, or its part of one of :class:`Denoised`.

    Args:
        denoiser: the denoiser to fill.
        path: the checkpoint file: a state dict, also under ``state_dict``, or a file certseg wrote.
        trust: allow the file to run code while it is unpickled. Only for files whose source you trust.

    Raises:
        CheckpointError: the file is missing, corrupt, needs ``trust``, or does not fit the denoiser.
    """
    weights = read_weights(path, trust=trust, setting="model.denoiser.checkpoint")
    fill(denoiser, _part(weights, "denoiser.") if _is_whole(weights, denoiser) else weights, path)


def _is_whole(weights: Weights, part: nn.Module) -> bool:
    """Whether these are the weights of a :class:`Denoised` and not of ``part`` itself."""
    names = weights.tensors.keys()
    return all(name.startswith(_PARTS) for name in names) and not names <= part.state_dict().keys()


def _part(weights: Weights, prefix: str) -> Weights:
    """The entries below ``prefix``, without it."""
    part = {name.removeprefix(prefix): value for name, value in weights.tensors.items() if name.startswith(prefix)}
    return replace(weights, tensors=part)
