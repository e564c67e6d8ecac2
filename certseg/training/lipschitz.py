"""Training of Lipschitz networks: losses that trade accuracy for margins, since logits cannot simply be scaled up.

:class:`LipschitzObjective` minimises one of :data:`LOSSES` and measures :class:`CertifiedAccuracies` in validation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certseg.checks import check_choice, check_number, checked_numbers
from certseg.errors import ModelError
from certseg.lipschitz.worst_case import CollectiveCounts, budgets_of, flip_costs
from certseg.training.objectives import Objective
from certseg.types import IGNORE_INDEX, LipschitzSegmenter


@dataclass(frozen=True)
class CertifiedAccuracies:
    """Collective certified pixel accuracy at each of ``radii``, and where it comes from; adds up over images.

    Args:
        radii: l2 norms on the [0, 1] image scale, over one whole image.
        counts: what is certified at each of the radii.
        cost: squared feature distance that changes the class of a correct labelled pixel, summed over all of them.
        constant: the largest Lipschitz constant of an image's size.
    """

    radii: tuple[float, ...]
    counts: CollectiveCounts
    cost: float
    constant: float

    def __add__(self, other: CertifiedAccuracies) -> CertifiedAccuracies:
        return CertifiedAccuracies(
            self.radii, self.counts + other.counts, self.cost + other.cost, max(self.constant, other.constant)
        )

    def figures(self) -> dict[str, float]:
        """``pixel_accuracy@<radius>/pooled``, shares in [0, 1]; ``cost/pooled``, the mean cost, NaN without a correct
        pixel; ``lipschitz_constant``."""
        names = (f"pixel_accuracy@{radius:g}/pooled" for radius in self.radii)
        return {
            **dict(zip(names, self.counts.accuracy(), strict=True)),
            "cost/pooled": self.cost / self.counts.correct if self.counts.correct else math.nan,
            "lipschitz_constant": self.constant,
        }


@dataclass(frozen=True)
class LipschitzObjective(Objective[LipschitzSegmenter]):
    """A loss on the logits of a network whose Lipschitz constant is bounded by construction.

    With u the logits of a labelled pixel, y its class and K classes, one of

    - ``tau_cross_entropy``: CE(tau u, y) / tau, averaged over labelled pixels. A small tau rewards margins far beyond
      the decision boundary and so radii, a large one clean accuracy (the seed: 8 and 20).
    - ``cosine``: 1 - u_y / ||u||, averaged over labelled pixels: the angle between u and the unit vector of its class.
    - ``hkr``: hinge and Kantorovich-Rubinstein terms, one class against the rest (Serrurier et al. 2021, "Achieving
      robustness in classification using optimal transport with hinge regularization", section 4):
      ``alpha * mean over pixels of sum_k max(0, margin / 2 - s_k u_k) + (1 - alpha) * mean over the classes present of
      (mean of u_k off class k - mean of u_k on class k)`` with s_k = 1 for k = y, else -1.

    ``margin_mean`` (u_y less the largest other logit, averaged) and ``acc_seg`` (in percent) are logged. Validation
    audits the network and reports ``certified/pixel_accuracy@<radius>/pooled``, collectively certified,
    ``certified/cost/pooled``, the mean squared feature distance to another class of correct pixels, and
    ``certified/lipschitz_constant``.

    Args:
        loss: the loss to minimise, one of the three above.
        tau: temperature of ``tau_cross_entropy``, positive.
        margin: margin of ``hkr`` in units of the logits, positive.
        alpha: weight of the hinge in ``hkr``, in [0, 1].
        radii: l2 norms on the [0, 1] image scale, over one whole image, at which validation certifies; empty for never.

    Raises:
        ConfigError: a value is outside its domain.
    """

    loss: str = "tau_cross_entropy"
    tau: float = 30.0
    margin: float = 0.5
    alpha: float = 0.9
    radii: tuple[float, ...] = (0.1, 0.25, 1.0)

    def __post_init__(self) -> None:
        check_choice("training.objective.loss", self.loss, LOSSES)
        for name in ("tau", "margin"):
            check_number(f"training.objective.{name}", getattr(self, name), "(0, inf)")
        check_number("training.objective.alpha", self.alpha, "[0, 1]")
        object.__setattr__(self, "radii", checked_numbers("training.objective.radii", self.radii, "(0, inf)"))

    def prepare(self, network: nn.Module) -> None:
        """Refuse a segmenter whose constant nobody bounds: its logits would simply grow.

        Raises:
            ModelError: the network has no method ``certified_bound``.
        """
        if not isinstance(network, LipschitzSegmenter):
            raise ModelError(
                "training=lipschitz needs a network with a Lipschitz constant",
                received=type(network).__name__,
                remedy="Choose model=lip_deeplabv3 or model=lip_upernet, without a denoiser",
            )

    def __call__(self, network: LipschitzSegmenter, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of the images as they are."""
        logits = network(images)
        logits = logits.float() if logits.element_size() < 4 else logits
        labelled = labels != IGNORE_INDEX
        pixels = labelled.sum().clamp(min=1)
        loss = LOSSES[self.loss](self, logits, labels)
        with torch.no_grad():
            own, other = _own_and_other(logits, labels)
            margin = ((own - other) * labelled).sum() / pixels
            hits = ((logits.argmax(dim=1) == labels) & labelled).sum() * 100.0 / pixels
        return {f"loss_{self.loss}": loss, "margin_mean": margin, "acc_seg": hits}

    def measure(self, network: LipschitzSegmenter, logits: Tensor, target: Tensor) -> dict[str, CertifiedAccuracies]:
        """Certify one validation image.

        Args:
            network: the network, in eval mode.
            logits: ``K x H x W`` of the image.
            target: ``H x W`` labels.

        Raises:
            ModelError: nothing can be proven about the network.
        """
        if not self.radii:
            return {}
        bound = network.certified_bound((target.shape[0], target.shape[1]))
        classes, costs = flip_costs(logits, bound)
        labelled = target != IGNORE_INDEX
        budgets = budgets_of(bound, self.radii, costs.device)
        correct = labelled & (classes == target)
        counts = CollectiveCounts.of(costs, correct, labelled, budgets)
        return {"certified": CertifiedAccuracies(self.radii, counts, float(costs[correct].sum()), bound.constant)}


def tau_cross_entropy(objective: LipschitzObjective, logits: Tensor, labels: Tensor) -> Tensor:
    """CE(tau u, y) / tau over the labelled pixels, 0 if there are none; logits ``B x K x H x W``."""
    total = F.cross_entropy(objective.tau * logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (objective.tau * (labels != IGNORE_INDEX).sum().clamp(min=1))


def cosine(objective: LipschitzObjective, logits: Tensor, labels: Tensor) -> Tensor:
    """1 - u_y / ||u|| over the labelled pixels, 0 if there are none."""
    labelled = labels != IGNORE_INDEX
    own, _ = _own_and_other(F.normalize(logits, dim=1), labels)
    return ((1.0 - own) * labelled).sum() / labelled.sum().clamp(min=1)


def hkr(objective: LipschitzObjective, logits: Tensor, labels: Tensor) -> Tensor:
    """Hinge and Kantorovich-Rubinstein terms over the labelled pixels, 0 if there are none."""
    rows = logits.permute(0, 2, 3, 1)[labels != IGNORE_INDEX]  # n x K
    if len(rows) == 0:
        return logits.sum() * 0.0
    is_own = F.one_hot(labels[labels != IGNORE_INDEX], logits.shape[1]).to(rows)
    hinge = (objective.margin / 2 - (2 * is_own - 1) * rows).clamp_min(0).sum(dim=1).mean()
    on, off = is_own.sum(dim=0), (1 - is_own).sum(dim=0)
    distances = (rows * (1 - is_own)).sum(dim=0) / off.clamp(min=1) - (rows * is_own).sum(dim=0) / on.clamp(min=1)
    both = (on > 0) & (off > 0)
    distance = (distances * both).sum() / both.sum().clamp(min=1)
    return objective.alpha * hinge + (1.0 - objective.alpha) * distance


LOSSES = {"tau_cross_entropy": tau_cross_entropy, "cosine": cosine, "hkr": hkr}


def _own_and_other(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """``B x H x W``: the logit of the labelled class (class 0 where there is none) and the largest other one."""
    index = labels.masked_fill(labels == IGNORE_INDEX, 0)[:, None]
    other = logits.scatter(1, index, float("-inf")).amax(dim=1)
    return logits.gather(1, index)[:, 0], other
