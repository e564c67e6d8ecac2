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
from certseg.certifiers.voting import majority, patterns, unanimous
from certseg.decisions import NO_CLASS
from certseg.errors import ConfigError
from certseg.masks import MaskSet, check_covering, covering_masks
from certseg.types import Inpainter, Patch


class PatchDoubleMasking(PatchCertifier):
    """Certify every pixel that gets one class under all pairs of masks.

    Let M be masks of which one hides the patch, wherever it lies, and S_mn(x) the prediction on x masked by both m and
    n and inpainted; S_mm is m's own class. The predictor D decides each pixel i in two rounds. First, if all masks' own
    classes agree, that is D_i(x). Else a mask m whose class is not that of the majority is believed if S_mn gives pixel
    i the same class for all n. The first such m decides, and if there is none the majority, the smaller of equals.

    Claim. If at x all S_mn, m <= n, give pixel i the class c, then D_i(x') = c for every x' that differs from x inside
    one patch alone; also D_i(x) = c. Deterministic.

    Proof. Let p hide the patch of x'. Then S_pn(x') = S_pn(x) = c at pixel i for all n, p among them: p's own class is
    c, and p is believed if it is asked. Suppose D_i(x') = c' != c. The masks do not agree on c', for p has c. So either
    a mask m of class c' was believed; but S_mp(x') = c is not c', a contradiction. Or nobody was, and c' is the
    majority; but p dissents from it and is believed, a contradiction. []

    All K (K + 1) / 2 pairs are needed for the certificate, of which the K single masks are the first round; an answer
    alone (:meth:`predict`) needs the pairs of those masks that dissent somewhere.

    Args:
        patch: the threat, one patch.
        inpainter: g.
        masks: ``block``, ``column`` or ``row`` (:func:`certseg.masks.covering_masks`).
        num_masks: of blocks in each direction, of columns or of rows.
        big_classes: see :class:`PatchCertifier`.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    name = "patch_double_masking"

    def __init__(
        self, *, patch: Patch, inpainter: Inpainter | None, masks: str = "block", num_masks: int = 3,
        big_classes: str | Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(patch, inpainter, big_classes)
        check_covering(masks, None, None, num_masks)
        if num_masks is None:
            raise ConfigError("certifier.num_masks must be set for double masking", remedy="Use 3 blocks a direction")
        if patch.count != 1:
            raise ConfigError("Double masking certifies against one patch", received=str(patch))
        self.kind, self.num_masks = masks, num_masks

    @property
    def predictor(self) -> str:
        """The answer of both rounds."""
        number = f"{self.num_masks} x {self.num_masks}" if self.kind == "block" else str(self.num_masks)
        return f"double_masked({self._words(f'{number} {self.kind} masks')})"

    def _mask_settings(self) -> dict[str, object]:
        return {"masks": self.kind, "num_masks": self.num_masks}

    def _make_masks(self, size: tuple[int, int]) -> MaskSet:
        return covering_masks(self.kind, size, self.threat, num_masks=self.num_masks)

    def _checked(self, masks: MaskSet) -> MaskSet:
        assert masks.covers, "a patch that no mask hides"
        return masks

    def _certify(self, predictions: MaskedPredictions, masks: MaskSet) -> tuple[Tensor, dict[str, Tensor]]:
        hidden = masks.hidden(predictions.device)
        first = predictions.of(hidden)
        confirmed = _second_round(predictions, hidden, first, range(len(hidden)))
        with predictions.watch("statistics"):
            classes = _decide(first, confirmed, _majority(first, predictions.num_classes))
            certified = unanimous(first) & confirmed.all(dim=0)
        return classes, {"pairs": certified}

    def _predict(self, predictions: MaskedPredictions, masks: MaskSet) -> Tensor:
        hidden = masks.hidden(predictions.device)
        first = predictions.of(hidden)
        most = _majority(first, predictions.num_classes)
        dissents = (first != most).flatten(1).any(dim=1)
        confirmed = _second_round(predictions, hidden, first, dissents.nonzero().flatten().tolist())
        return _decide(first, confirmed, most)


def _majority(first: Tensor, num_classes: int) -> Tensor:
    votes, where = patterns(first)
    return majority(votes, num_classes)[where]


def _second_round(predictions: MaskedPredictions, hidden: Tensor, first: Tensor, asked: Sequence[int]) -> Tensor:
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
        for classes in predictions.batches(joined):
            with predictions.watch("statistics"):
                for (m, n), both in zip(pairs[done : done + len(classes)], classes):
                    confirmed[m] &= both == first[m]
                    confirmed[n] &= both == first[n]
            done += len(classes)
    return confirmed


def _decide(first: Tensor, confirmed: Tensor, most: Tensor) -> Tensor:
    """The answer ``H x W`` of both rounds, from the masks' own classes, where they are confirmed, and the majority. A
    mask that agrees with the majority is never asked: its class would be the answer anyway."""
    believed = confirmed & (first != most)
    decided = torch.zeros_like(believed[0])
    answer = most.clone()
    for mask, mine in zip(first, believed):
        answer = torch.where(mine & ~decided, mask.long(), answer)
        decided |= mine
    return answer
