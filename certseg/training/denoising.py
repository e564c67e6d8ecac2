"""Training a denoiser in front of a segmenter that stays as it is: :class:`DenoiserObjective`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certseg.checks import check_choice
from certseg.errors import ConfigError
from certseg.models import Denoised
from certseg.training.objectives import GaussianNoise
from certseg.types import IGNORE_INDEX

LOSSES = ("stability", "mse")


@dataclass(frozen=True)
class DenoiserObjective(GaussianNoise[Denoised]):
    """Trains the denoiser ``D`` alone, for a frozen segmenter ``f`` (Salman et al. 2020, "Denoised Smoothing: A
    Provable Defense for Pretrained Classifiers").

    - ``stability``: cross-entropy between ``f(D(x + noise))`` and the class that ``f(x)`` predicts, averaged over the
      labelled pixels; 0 where there are none. The segmenter is run twice and differentiated once.
    - ``mse``: squared error of ``D(x + noise)`` against ``x``, averaged over all values. The segmenter is not run, so
      the denoiser suits any segmenter. The paper also trains with ``mse`` first and goes on with ``stability``.

    The segmenter is in eval mode and keeps its weights and batch statistics to the bit.

    Args:
        sigma: standard deviation of the noise on the [0, 1] image scale.
        clean_share: probability with which an image of the batch gets no noise.
        sampling: ``fixed`` uses ``sigma`` for every noisy image; ``uniform`` draws each image's standard deviation
            from [0, sigma].
        loss: the loss of a step, ``stability`` or ``mse``.

    Raises:
        ConfigError: a value is outside its domain.
    """

    loss: str = "stability"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("training.objective.loss", self.loss, LOSSES)

    def prepare(self, network: nn.Module) -> None:
        """Freeze the segmenter behind the denoiser.

        Raises:
            ConfigError: there is no denoiser, or it has nothing to train.
        """
        if not isinstance(network, Denoised):
            raise ConfigError(
                "This training needs a denoiser in front of the segmenter", remedy="Choose one: model/denoiser=dncnn"
            )
        if not any(parameter.requires_grad for parameter in network.denoiser.parameters()):
            raise ConfigError("The denoiser has no parameters to train", remedy="Choose another: model/denoiser=dncnn")
        network.freeze_segmenter()

    def __call__(self, network: Denoised, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss of noisy images, ``loss_stability`` or ``loss_mse``."""
        denoised = network.denoise(self.perturb(images))
        if self.loss == "mse":
            return {"loss_mse": F.mse_loss(denoised, images)}
        with torch.no_grad():
            classes = network.segmenter(images).argmax(1)
        labelled = labels != IGNORE_INDEX
        errors = F.cross_entropy(network.segmenter(denoised), classes, reduction="none")  # B x H x W
        return {"loss_stability": (errors * labelled).sum() / labelled.sum().clamp(min=1)}
