"""Demasked smoothing (Yatsura et al. 2023, "Certified Defences Against Adversarial Patch Attacks on Semantic
Segmentation"; seed 003): masked copies are inpainted, segmented and compared pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from certseg.certifiers.patch_certifier import PatchCertificate, PatchCertifier, require_cover, share
from certseg.checks import check_choice
from certseg.errors import ConfigError
from certseg.metrics.over_images import image_mean
from certseg.patches.copies import MaskedPredictions
from certseg.patches.masks import MaskSet, check_covering, check_recovery, covering_masks, recovery_masks
from certseg.patches.voting import is_won, majority, patterns, unanimous
from certseg.types import Inpainter, Patch, Promise, Row

RULES = ("tight", "unanimity")


class DemaskedRecovery(PatchCertifier):
    """Certify every pixel whose majority over masked predictions no patch can change.

    Let S_k(x) be the prediction on x masked by k and inpainted, and h_i(x) the class that most of S_1 .. S_K give to
    pixel i, the smaller of equals. A placement of the patches touches the set A of masks in which one of their pixels
    is visible. T is the size of the largest such set.

    Claim. For every certified pixel i and every x' that differs from x inside the patches of ``patch`` alone,
    h_i(x') = h_i(x). Deterministic.

    Proof, of the tight rule: n(c) > n(c') + |A| for c = h_i(x), every c' != c and every A, with n the votes of masks
    outside A, and ``>=`` where c < c'. Suppose h_i(x') = c' != c, and let A be touched by the patches of x'. A mask
    outside A shows nothing that differs between x and x', so its vote is the same. Hence at x' class c has at least
    n(c) votes and c' at most n(c') + |A|: more for c, or as many and c < c'. So the vote is not c', a contradiction. []

    Proof, of unanimity, for K >= 2 T + 1: if all K votes at x are for c, then n(c) = K - |A| >= T + 1 > |A| = n(c') +
    |A| for every A, which is the tight rule. So this never certifies more. []

    With two patches (``count=2``) the tight rule's certificate of x covers an input of which only an attacked version
    is seen (appendix C): for every x' with one patch, the pixel is certified against one patch at x' as well, by the
    same masks (``count=1`` with the ``num_masks`` that ``count=2`` has), with h_i(x') = h_i(x). Certified at x' in that
    way, the class at the unseen x is known, since x differs from x' by one patch. Unanimity does not outlast a patch.

    With the smallest number of masks, K = 2 T + 1, all votes outside A are needed and both rules certify the same but
    for ties. More masks show less each and take longer, but the tight rule then forgives votes that differ.

    Args:
        patch: the patches that are certified against.
        inpainter: the inpainter g, which fills in hidden pixels; None leaves them black.
        masks: ``column``, ``row``, ``three`` or ``four`` (:func:`certseg.patches.masks.recovery_masks`).
        num_masks: the number of masks K; None is the smallest that unanimity needs.
        rule: ``tight`` or ``unanimity`` decides; figures tell both.
        big_classes: see :class:`PatchCertifier`.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    name = "demasked_recovery"

    def __init__(
        self,
        *,
        patch: Patch,
        inpainter: Inpainter | None,
        masks: str = "column",
        num_masks: int | None = None,
        rule: str = "tight",
        big_classes: str | Sequence[int] | None = None,
    ) -> None:
        super().__init__(patch, inpainter, big_classes)
        check_choice("certifier.rule", rule, RULES)
        self.kind, self.rule = masks, rule
        self.num_masks = check_recovery(masks, num_masks, patch)

    @property
    def predictor(self) -> str:
        """The vote of the masked predictions."""
        return f"demasked({self._words(f'{self.num_masks} {self.kind} masks')})"

    def _mask_settings(self) -> dict[str, object]:
        return {"masks": self.kind, "num_masks": self.num_masks, "rule": self.rule}

    def _make_masks(self, size: tuple[int, int]) -> MaskSet:
        return recovery_masks(self.kind, size, self.threat, self.num_masks)

    def _checked(self, masks: MaskSet) -> MaskSet:
        return require_majority(masks)

    def _certify(self, predictions: MaskedPredictions, masks: MaskSet) -> tuple[Tensor, dict[str, Tensor]]:
        maps = predictions.of(masks.hidden(predictions.device))
        with predictions.watch("statistics"):
            votes, where = patterns(maps)
            classes = majority(votes, predictions.num_classes)
            found = {"tight": is_won(votes, classes, masks.touched), "unanimity": unanimous(votes)}
            by_rule = {rule: found[rule][where] for rule in sorted(RULES, key=self.rule.__ne__)}
        return classes[where], by_rule

    def _predict(self, predictions: MaskedPredictions, masks: MaskSet) -> Tensor:
        votes, where = patterns(predictions.of(masks.hidden(predictions.device)))
        return majority(votes, predictions.num_classes)[where]

    def _own_figures(self, certificate: PatchCertificate, labelled: Tensor, correct: Tensor) -> dict[str, float]:
        figures = {}
        for rule, certified in certificate.by_rule.items():
            figures[f"{rule}_certified_accuracy"] = share(certified & correct, labelled)
            figures[f"{rule}_certified_share"] = share(certified, torch.ones_like(certified))
        return figures

    def _own_summary(self, rows: Sequence[Row]) -> dict[str, float]:
        names = [f"{rule}_certified_{what}" for rule in RULES for what in ("accuracy", "share")]
        return {f"{name}/image_mean": image_mean(rows, name) for name in names}


class DemaskedDetection(PatchCertifier):
    """Certify every pixel at which the network agrees with all masked predictions: no patch changes it unnoticed.

    Let f be the network, S_k(x) the prediction on x masked by k and inpainted, and v_i(x) = 1 where
    f_i(x) = S_1i(x) = ... = S_Ki(x).

    Claim. For every certified pixel, that is v_i(x) = 1, and every x' that differs from x inside the patches of
    ``patch`` alone: v_i(x') = 0, an alert, or f_i(x') = f_i(x). Deterministic. The output stays f's own, also under
    attack.

    Proof. Suppose v_i(x') = 1 and f_i(x') != f_i(x). Wherever the patches lie, some mask k hides them entirely, so x
    and x' look alike in it and S_k(x) = S_k(x'). Then f_i(x) = S_ki(x) = S_ki(x') = f_i(x'), a contradiction. []

    Args:
        patch: the patches that are certified against. For ``count`` patches the masks for one are joined, so that their
            number grows with its power ``count``.
        inpainter: the inpainter g, which fills in hidden pixels; None leaves them black.
        masks: ``column``, ``row`` or ``block`` (:func:`certseg.patches.masks.covering_masks`).
        num_masks: number of columns or rows, or of blocks in each direction; None where ``width`` is given.
        width: width of the columns or rows in pixels, in the place of ``num_masks``.
        stride: distance in pixels from one column or row to the next; None is the largest that covers every place.
        big_classes: see :class:`PatchCertifier`.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    name = "demasked_detection"
    asks_image = True
    promise = Promise.UNTIL_ALERT

    def __init__(
        self,
        *,
        patch: Patch,
        inpainter: Inpainter | None,
        masks: str = "column",
        num_masks: int | None = 20,
        width: int | None = None,
        stride: int | None = None,
        big_classes: str | Sequence[int] | None = None,
    ) -> None:
        super().__init__(patch, inpainter, big_classes)
        check_covering(masks, width, stride, num_masks)
        self.kind, self.num_masks, self.width, self.stride = masks, num_masks, width, stride

    def _wording(self) -> str:
        return (
            f"for every certified pixel and every attack within the threat {self.threat} the network's class does not "
            "change unless the verification map raises an alert at this pixel"
        )

    @property
    def predictor(self) -> str:
        """The network together with its verification map."""
        options = {"width": self.width, "stride": self.stride}
        words = " ".join([self.kind, *(f"{key} {value}" for key, value in options.items() if value is not None)])
        number = "" if self.num_masks is None else f"{self.num_masks} "
        return f"verified({self._words(f'{number}{words} masks')})"

    def _mask_settings(self) -> dict[str, object]:
        options = {"num_masks": self.num_masks, "width": self.width, "stride": self.stride}
        return {"masks": self.kind, **{name: value for name, value in options.items() if value is not None}}

    def _make_masks(self, size: tuple[int, int]) -> MaskSet:
        return covering_masks(
            self.kind, size, self.threat, width=self.width, stride=self.stride, num_masks=self.num_masks
        )

    def _checked(self, masks: MaskSet) -> MaskSet:
        return require_cover(masks, together=1)

    def _certify(self, predictions: MaskedPredictions, masks: MaskSet) -> tuple[Tensor, dict[str, Tensor]]:
        classes = predictions.unmasked()
        agree = torch.ones_like(classes, dtype=torch.bool)
        for part in predictions.batches(masks.hidden(predictions.device)):
            with predictions.watch("statistics"):
                agree &= (part == classes).all(dim=0)
        return classes, {"detection": agree}

    def _predict(self, predictions: MaskedPredictions, masks: MaskSet) -> Tensor:
        return predictions.unmasked()

    def _own_figures(self, certificate: PatchCertificate, labelled: Tensor, correct: Tensor) -> dict[str, float]:
        return {
            "false_alert_ratio": share(correct & ~certificate.certified, labelled),
            "false_alert_rate": share(~certificate.certified, labelled & correct),
        }

    def _own_summary(self, rows: Sequence[Row]) -> dict[str, float]:
        """``false_alert_ratio``, which the paper's tables show, is the share of the labelled pixels that are correct
        and raise an alert: with the certified accuracy it adds up to the accuracy. ``false_alert_rate`` is the share of
        the correct pixels that raise one. An alert is no class, so nothing bounds the mean IoU of f(x') from below."""
        means = {f"{name}/image_mean": image_mean(rows, name) for name in ("false_alert_ratio", "false_alert_rate")}
        return means | {"worst_case_miou/pooled": float("nan")}


def require_majority(masks: MaskSet) -> MaskSet:
    """The masks, if a vote of all of them outlasts what a patch can touch: K >= 2 T + 1.

    Raises:
        ConfigError: there are fewer than 2 T + 1 masks.
    """
    if masks.num_masks <= 2 * masks.most_touched:
        raise ConfigError(
            f"{masks.num_masks} masks are too few: the patches can touch {masks.most_touched} of them at once",
            expected=f"at least {2 * masks.most_touched + 1} masks",
            remedy="Use more masks or a smaller patch",
        )
    return masks
