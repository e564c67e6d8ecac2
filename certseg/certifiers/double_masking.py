"""Double masking for every pixel: recovery that keeps most of the clean accuracy.

After PatchCleanser (Xiang et al. 2022, "PatchCleanser: Certifiably Robust Defense against Adversarial Patches for Any
Image Classifier"), whose guarantee holds for any classifier and therefore for each pixel's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from certseg.certifiers.masked import MaskedPredictions
from certseg.certifiers.patches import PatchCertifier
from certseg.certifiers.voting import unanimous
from certseg.decisions import NO_CLASS
from certseg.errors import ConfigError
from certseg.masks import MaskSet, check_covering, covering_masks
from certseg.types import Inpainter, Patch


class PatchDoubleMasking(PatchCertifier):
    """Certify every pixel that gets one class under all pairs of masks.

    Let f be the network, M masks of which one hides the patch, wherever it lies, and S_mn(x) the prediction on x masked
    by both m and n and inpainted; S_mm is m's own class. A prediction whose softmax probability is below
    ``min_probability`` is no class. The predictor D believes a mask m at pixel i if S_mn gives it the same class for
    all n. The first mask that is believed and contradicts f_i(x) decides; if there is none, D_i(x) = f_i(x).

    Claim. If at x all S_mn, m <= n, give pixel i the class c, then D_i(x') = c for every x' that differs from x inside
    one patch alone; also D_i(x) = c. Deterministic.

    Proof. Let p hide the patch of x'. Then S_pn(x') = S_pn(x) = c at pixel i for all n, p among them, so p is believed.
    Suppose D_i(x') = c' != c. If a mask m of class c' decided, it was believed; but S_mp(x') = c is not c', a
    contradiction. If none did, f_i(x') = c'; but p contradicts it and is believed, a contradiction. []

    PatchCleanser falls back on the majority of the single masks, nearly all of which show the patch; the proof holds
    for whatever stands there, and the network is more often right on clean images. ``min_probability`` trades
    certified pixels for clean accuracy: what an inpainter puts in the place of a small object looks like an attack
    undone, and is believed unless the network is in doubt.

    All K (K + 1) / 2 pairs are needed for the certificate, of which the K single masks are the first round; an answer
    alone (:meth:`predict`) needs the pairs of those masks that contradict the network somewhere.

    Args:
        patch: the threat, one patch.
        inpainter: g.
        masks: ``block``, ``column`` or ``row`` (:func:`certseg.masks.covering_masks`).
        num_masks: of blocks in each direction, of columns or of rows.
        min_probability: smallest softmax probability of a masked prediction that counts, in [0, 1).
        big_classes: see :class:`PatchCertifier`.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    name = "patch_double_masking"
    asks_image = asks_pairs = True

    def __init__(
        self, *, patch: Patch, inpainter: Inpainter | None, masks: str = "block", num_masks: int = 3,
        min_probability: float = 0.0, big_classes: str | Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(patch, inpainter, big_classes)
        check_covering(masks, None, None, num_masks)
        if num_masks is None:
            raise ConfigError("certifier.num_masks must be set for double masking", remedy="Use 3 blocks a direction")
        if patch.count != 1:
            raise ConfigError("Double masking certifies against one patch", received=str(patch))
        is_number = isinstance(min_probability, (int, float)) and not isinstance(min_probability, bool)
        if not is_number or not 0 <= min_probability < 1:
            raise ConfigError("certifier.min_probability must be a number in [0, 1)", received=min_probability)
        self.kind, self.num_masks, self.min_probability = masks, num_masks, float(min_probability)

    @property
    def predictor(self) -> str:
        """The answer of both rounds."""
        number = f"{self.num_masks} x {self.num_masks}" if self.kind == "block" else str(self.num_masks)
        sure = f", probability at least {self.min_probability:g}" if self.min_probability else ""
        return f"double_masked({self._words(f'{number} {self.kind} masks{sure}')})"

    def _mask_settings(self) -> dict[str, object]:
        return {"masks": self.kind, "num_masks": self.num_masks, "min_probability": self.min_probability}

    def _make_masks(self, size: tuple[int, int]) -> MaskSet:
        return covering_masks(self.kind, size, self.threat, num_masks=self.num_masks)

    def _checked(self, masks: MaskSet) -> MaskSet:
        assert masks.covers, "a patch that no mask hides"
        return masks

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
        asked = contradicts.nonzero().flatten().tolist()
        return _decide(own, first, self._second_round(predictions, hidden, first, asked))

    def _second_round(
        self, predictions: MaskedPredictions, hidden: Tensor, first: Tensor, asked: Sequence[int]
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
        pairs = sorted({(min(m, n), max(m, n)) for m in asked for n in range(len(hidden)) if m != n})
        done = 0
        step = 64  # masks held at once
        for start in range(0, len(pairs), step):
            part = pairs[start : start + step]
            joined = torch.stack([hidden[m] | hidden[n] for m, n in part])
            for classes in predictions.batches(joined, self.min_probability):
                with predictions.watch("statistics"):
                    for (m, n), both in zip(pairs[done : done + len(classes)], classes):
                        confirmed[m] &= both == first[m]
                        confirmed[n] &= both == first[n]
                done += len(classes)
        return confirmed


def _decide(own: Tensor, first: Tensor, confirmed: Tensor) -> Tensor:
    """The answer ``H x W`` of both rounds, from the network's own classes, those of the masks, and where the masks are
    confirmed. A mask that agrees with the network is never asked: its class would be the answer anyway."""
    answer, decided = own.long(), torch.zeros_like(own, dtype=torch.bool)
    for mask, is_confirmed in zip(first, confirmed):
        believed = is_confirmed & (mask != own) & (mask != NO_CLASS)
        answer = torch.where(believed & ~decided, mask.long(), answer)
        decided |= believed
    return answer
