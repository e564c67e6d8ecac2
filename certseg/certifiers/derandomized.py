"""Derandomized smoothing as a baseline: DRS-S and DRS-E (seed 003, appendix G, after Levine and Feizi 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from certseg.certifiers.patch_certifier import PatchCertifier
from certseg.checks import check_count
from certseg.errors import ConfigError
from certseg.patches.copies import MaskedPredictions
from certseg.patches.masks import MaskSet, column_ablations
from certseg.patches.voting import leads_by, majority, patterns
from certseg.types import Inpainter, Patch

WIDTH, STRIDE = 19 / 224, 10 / 224  # of the image's width (Salman et al. 2021, as the paper scales them)


class DerandomizedSmoothing(PatchCertifier):
    """Vote over predictions from single columns of the image; certify where the lead is larger than patches can undo.

    Claim. For every certified pixel i and every x' that differs from x inside the patches of ``patch`` alone, the
    majority at x' is that at x. Deterministic.

    Proof. Let T be the largest number of columns that the patches can touch together (computed exactly; for one patch
    about (w' + width - 1) / stride), and let c lead every class c' by 2 T votes, by one more where c' < c. Suppose the
    majority at x' is c' != c. At most T votes differ between x and x', so c lost at most T and c' won at most T: c has
    at least as many votes as c', and more if c' < c. A contradiction. []

    Args:
        patch: the patches that are certified against.
        inpainter: None leaves all but the column black (DRS-S); with one the image is restored from the column first
            (DRS-E).
        width: width of the visible column in pixels; None is 19/224 of the image's, rounded.
        stride: distance in pixels from one column to the next; None is 10/224 of the image's width, rounded.
        big_classes: see :class:`PatchCertifier`.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    def __init__(
        self,
        *,
        patch: Patch,
        inpainter: Inpainter | None = None,
        width: int | None = None,
        stride: int | None = None,
        big_classes: str | Sequence[int] | None = None,
    ) -> None:
        super().__init__(patch, inpainter, big_classes)
        for name, value in (("width", width), ("stride", stride)):
            check_count(f"certifier.{name}", value, optional=True)
        self.width, self.stride = width, stride
        self.name = "drs_s" if inpainter is None else "drs_e"

    @property
    def predictor(self) -> str:
        """The vote of the columns."""
        options = {"width": self.width, "stride": self.stride}
        words = [f"{key} {value}" for key, value in options.items() if value is not None]
        return f"columns({self._words(' '.join(['single columns', *words]))})"

    def _mask_settings(self) -> dict[str, object]:
        options = {"width": self.width, "stride": self.stride}
        return {name: value for name, value in options.items() if value is not None}

    def _make_masks(self, size: tuple[int, int]) -> MaskSet:
        width = max(1, round(size[1] * WIDTH)) if self.width is None else self.width
        stride = max(1, round(size[1] * STRIDE)) if self.stride is None else self.stride
        return column_ablations(size, self.threat, width, stride)

    def _checked(self, masks: MaskSet) -> MaskSet:
        if masks.num_masks < 2 * masks.most_touched:
            raise ConfigError(
                f"{masks.num_masks} columns certify nothing: the patches can touch {masks.most_touched} of them",
                remedy="Use narrower columns, a smaller stride or a smaller patch",
            )
        return masks

    def _certify(self, predictions: MaskedPredictions, masks: MaskSet) -> tuple[Tensor, dict[str, Tensor]]:
        maps = predictions.of(masks.hidden(predictions.device))
        with predictions.watch("statistics"):
            votes, where = patterns(maps)
            classes = majority(votes, predictions.num_classes)
            leads = leads_by(votes, classes, 2 * masks.most_touched, predictions.num_classes)
        return classes[where], {"margin": leads[where]}

    def _predict(self, predictions: MaskedPredictions, masks: MaskSet) -> Tensor:
        votes, where = patterns(predictions.of(masks.hidden(predictions.device)))
        return majority(votes, predictions.num_classes)[where]
