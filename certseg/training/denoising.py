"""Training a denoiser in front of a segmenter that stays as it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from certseg.checks import check_choice
from certseg.errors import ConfigError
from certseg.models import Denoised
from certseg.training.objectives import NoiseObjective
from certseg.types import IGNORE_INDEX

LOSSES = ("stability", "mse")


@dataclass(frozen=True)
class DenoiserObjective(NoiseObjective):
    """Trains the denoiser ``D`` alone, for a frozen segmenter ``f`` (Salman et al. 2020, "Denoised Smoothing: A
    Provable Defense for Pretrained Classifiers").

    - ``stability``: cross-entropy between ``f(D(x + noise))`` and the class that ``f(x)`` predicts, averaged over the
      labelled pixels; 0 where there are none. The segmenter is run twice and differentiated once.
    - ``mse``: squared error of ``D(x + noise)`` against ``x``, averaged over all values. The segmenter is not run, and
      the denoiser suits any. The paper also trains with ``mse`` first and with ``stability`` from there.

    The segmenter is in eval mode and keeps its weights and batch statistics to the bit.

    Args:
        sigma: as of :class:`NoiseObjective`.
        clean_share: as of :class:`NoiseObjective`.
        sampling: as of :class:`NoiseObjective`.
        loss: ``stability`` or ``mse``.

    Raises:
        ConfigError: a value is outside its domain.
    """

    loss: str = "stability"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("training.objective.loss", self.loss, LOSSES)

    def prepare(self, segmenter: Denoised) -> None:
        """Freeze the segmenter behind the denoiser.

        Raises:
            ConfigError: there is no denoiser, or it has nothing to train.
        """
        if not isinstance(segmenter, Denoised):
            raise ConfigError(
                "This training needs a denoiser in front of the segmenter", remedy="Choose one: model/denoiser=dncnn"
            )
        if not any(parameter.requires_grad for parameter in segmenter.denoiser.parameters()):
            raise ConfigError("The denoiser has no parameters to train", remedy="Choose another: model/denoiser=dncnn")
        segmenter.freeze_segmenter()

    def __call__(self, segmenter: Denoised, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss of noisy images, ``loss_stability`` or ``loss_mse``."""
        denoised = segmenter.denoise(self.perturb(images))
        if self.loss == "mse":
            return {"loss_mse": F.mse_loss(denoised, images)}
        with torch.no_grad():
            classes = segmenter.segmenter(images).argmax(1)
        labelled = labels != IGNORE_INDEX
        errors = F.cross_entropy(segmenter.segmenter(denoised), classes, reduction="none")  # B x H x W
        return {"loss_stability": (errors * labelled).sum() / labelled.sum().clamp(min=1)}
