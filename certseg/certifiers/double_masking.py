"""Double masking for every pixel: recovery that keeps most of the clean accuracy.

After PatchCleanser (Xiang et al. 2022, "PatchCleanser: Certifiably Robust Defense against Adversarial Patches for Any
Image Classifier"), whose guarantee holds for any classifier and therefore for each pixel's.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from itertools import combinations

import torch
from torch import Tensor

from certseg.certifiers.patch_certifier import PatchCertifier, require_cover
from certseg.checks import check_number
from certseg.compute.decisions import NO_CLASS
from certseg.errors import ConfigError
from certseg.patches.copies import MaskedPredictions
from certseg.patches.masks import MaskSet, check_covering, covering_masks
from certseg.patches.voting import unanimous
from certseg.types import Inpainter, Patch


class PatchDoubleMasking(PatchCertifier):
    """Certify every pixel that gets one class under all pairs of masks.

    Let f be the network, M masks of which one hides the patch, wherever it lies, and S_mn(x) the prediction on x masked
    by both m and n and inpainted; S_mm is m's own class. A prediction whose softmax probability is below
    ``min_probability`` is no class. A mask m is believed at pixel i if S_mn gives it the same class for all n in M. Two
    masks m and n that are believed agree, for both have the class S_mn. The predictor D_i(x) is their class, and f_i(x)
    if none is believed.

    Claim. If at x all S_mn, m <= n, give pixel i the class c, then D_i(x') = c for every x' that differs from x inside
    one patch alone; also D_i(x) = c. Deterministic.

    Proof. Let p hide the patch of x'. Then S_pn(x') = S_pn(x) = c at pixel i for all n, so p is believed at x', and
    whoever else is agrees with it. []

    PatchCleanser falls back on the majority of the single masks, nearly all of which show the patch; the proof holds
    for whatever stands there, and without an attack the network's own class is the natural one. ``min_probability``
    trades certified pixels for clean accuracy: what an inpainter puts in the place of a small object looks like an
    attack undone, and is believed unless the network is in doubt.

    All K (K + 1) / 2 pairs are needed for the certificate, of which the K single masks are the first round; an answer
    alone (:meth:`predict`) needs the pairs of those masks that contradict the network somewhere: only they can change
    its answer. They are computed in the batches of the certificate, unless memory runs out in between (a flag).

    Args:
        patch: the patch that is certified against, a single one.
        inpainter: the inpainter g, which fills in hidden pixels; None leaves them black.
        masks: ``block``, ``column`` or ``row`` (:func:`certseg.patches.masks.covering_masks`).
        num_masks: number of blocks in each direction, or of columns or rows.
        min_probability: smallest softmax probability of a masked prediction that counts, in [0, 1).
        big_classes: see :class:`PatchCertifier`.

    Raises:
        ConfigError: an argument is outside its domain. Images in which two masks hide everything are refused when they
            are met.
    """

    name = "patch_double_masking"
    asks_image = asks_pairs = True

    def __init__(
        self,
        *,
        patch: Patch,
        inpainter: Inpainter | None,
        masks: str = "block",
        num_masks: int = 3,
        min_probability: float = 0.0,
        big_classes: str | Sequence[int] | None = None,
    ) -> None:
        super().__init__(patch, inpainter, big_classes)
        check_covering(masks, None, None, num_masks)
        if num_masks is None:
            raise ConfigError("certifier.num_masks must be set for double masking", remedy="Use 3 blocks a direction")
        if patch.count != 1:
            raise ConfigError("Double masking certifies against one patch", received=str(patch))
        check_number("certifier.min_probability", min_probability, "[0, 1)")
        self.kind, self.num_masks, self.min_probability = masks, num_masks, float(min_probability)

    @property
    def predictor(self) -> str:
        """The answer of both rounds."""
        number = f"{self.num_masks} x {self.num_masks}" if self.kind == "block" else str(self.num_masks)
        sure = f", probability at least {self.min_probability!r}" if self.min_probability else ""
        return f"double_masked({self._words(f'{number} {self.kind} masks{sure}')})"

    def _mask_settings(self) -> dict[str, object]:
        return {"masks": self.kind, "num_masks": self.num_masks, "min_probability": self.min_probability}

    def _make_masks(self, size: tuple[int, int]) -> MaskSet:
        return covering_masks(self.kind, size, self.threat, num_masks=self.num_masks)

    def _checked(self, masks: MaskSet) -> MaskSet:
        return require_cover(masks, together=2)

    def _certify(self, predictions: MaskedPredictions, masks: MaskSet) -> tuple[Tensor, dict[str, Tensor]]:
        hidden = masks.hidden(predictions.device)
        own, first = predictions.unmasked(), predictions.of(hidden, self.min_probability)
        confirmed = self._second_round(predictions, hidden, first, range(len(hidden)))
        with predictions.watch("statistics"):
            classes = _decide(own, first, confirmed)
            certified = unanimous(first) & confirmed.all(dim=0)
        return classes, {"pairs": certified}

    def _predict(self, predictions: MaskedPredictions, masks: MaskSet) -> Tensor:
        hidden = masks.hidden(predictions.device)
        own, first = predictions.unmasked(), predictions.of(hidden, self.min_probability)
        contradicts = ((first != own) & (first != NO_CLASS)).flatten(1).any(dim=1)
        asked = set(contradicts.nonzero().flatten().tolist())
        return _decide(own, first, self._second_round(predictions, hidden, first, asked))

    def _second_round(
        self, predictions: MaskedPredictions, hidden: Tensor, first: Tensor, asked: Container[int]
    ) -> Tensor:
        """Where each mask that is asked is confirmed: all its pairs give the class that it gives alone.

        Args:
            hidden: ``K x H x W`` bool masks.
            first: ``K x H x W`` classes of single masks.
            asked: the masks to confirm.

        Returns:
            ``K x H x W`` bool; of masks that are not asked it says nothing.
        """
        confirmed = first != NO_CLASS
        pairs = list(combinations(range(len(hidden)), 2))
        size = predictions.batch_size  # the same pairs stand together whoever is asked: networks round by batches
        for start in range(0, len(pairs), size):
            part = pairs[start : start + size]
            if not any(m in asked or n in asked for m, n in part):
                continue
            both = predictions.of(torch.stack([hidden[m] | hidden[n] for m, n in part]), self.min_probability)
            with predictions.watch("statistics"):
                for (m, n), classes in zip(part, both):
                    confirmed[m] &= classes == first[m]
                    confirmed[n] &= classes == first[n]
        return confirmed


def _decide(own: Tensor, first: Tensor, confirmed: Tensor) -> Tensor:
    """The answer ``H x W`` of both rounds, from the network's own classes, those of the masks, and where the masks are
    confirmed. A mask that agrees with the network is not asked: its class is the answer unless others are believed."""
    answer = own.long()
    for mask, believed in zip(first, confirmed & (first != own)):
        answer = torch.where(believed, mask.long(), answer)
    return answer
