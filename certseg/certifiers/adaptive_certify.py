"""AdaptiveCertify (Anani et al. 2024, "Adaptive Hierarchical Certification for Segmentation using Randomized
Smoothing"): where a pixel fluctuates between car and truck, certify "vehicle"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from certseg.certifiers.segcertify import Guess, SegCertify
from certseg.checks import is_number
from certseg.errors import ConfigError
from certseg.types import Guarantee
from certseg.types.hierarchy import Hierarchy


class AdaptiveCertify(SegCertify):
    """SegCertify on the finest level of a hierarchy of classes on which a pixel looks stable.

    Claim. Let f be the base model and, for a level l, whose groups partition the classes, let
    g_i^l(x) = argmax over groups G of P[f_i(x + e) in G], e ~ N(0, sigma^2 I), be the smoothed group model. With
    probability at least ``1 - alpha`` over the sampling, all pixels of the returned map hold together: for every
    certified pixel i with level l_i and group G_i and every perturbation d with ||d||_2 <= R = sigma * Phi^-1(tau),
    g_i^{l_i}(x + d) = G_i. On level 0 this is SegCertify's claim. On other levels nothing is said about the class:
    with .3 for each of two classes of the group and .4 for one outside, the most likely class is outside. Joint
    confidence, other noise and the weaker corrections as in :class:`SegCertify`.

    Proof. Level and group are functions of the first ``n0`` samples. Given these, H0: P[f_i(x + e) in G_i] <= tau
    is a fixed hypothesis about the fresh samples, and the correction bounds the probability of a false rejection by
    alpha, whatever the first samples were. Where H0 is false, the event f_i in G_i has a probability above tau at x,
    hence above Phi(Phi^-1(tau) - ||d|| / sigma) >= 1/2 at x + d (Neyman-Pearson; Cohen et al. 2019, Theorem 1, for the
    two events "in G_i" and "not in G_i"). The other groups of the level are disjoint from G_i and have less each. []

    The rule. The group of a pixel on a level is the one that the ``n0`` samples drew most often. The pixel takes the
    finest level on which this number exceeds that of the next group by more than ``lead * n0``, the coarsest where
    there is none, and is then said to have the level on which its group first stands. (The paper compares the mean
    softmax posteriors of the two most likely classes with a threshold for each level.) The returned class is the most
    frequent one of the group.

    Args:
        hierarchy: what each level joins, finest first, as :meth:`certseg.types.hierarchy.Hierarchy.of` takes it.
        class_names: the names of the data set's classes, in the order of the model's.
        lead: share of the ``n0`` samples in [0, 1), one for all levels or a list with one for each but the coarsest.
        options: the arguments of :class:`SegCertify`, of which ``sigma`` is needed.

    Raises:
        ConfigError: an argument is outside its domain, or the hierarchy does not fit the classes.
    """

    name = "adaptive_certify"

    def __init__(
        self,
        *,
        hierarchy: Sequence[Mapping[str, Sequence[str]]],
        class_names: Sequence[str],
        lead: float | Sequence[float] = 0.6,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if hierarchy is None:
            raise ConfigError(
                f"certifier={self.name} needs a hierarchy of classes, and the data set has none",
                remedy="Give certifier.hierarchy, for example '[{vehicle: [car, truck]}]', or use certifier=segcertify",
            )
        self.hierarchy = Hierarchy.of(class_names, hierarchy)
        self.lead = _leads(lead, self.hierarchy.num_levels - 1)

    @property
    def guarantee(self) -> Guarantee:
        """That of :class:`SegCertify`, about groups of classes."""
        return replace(super().guarantee, hierarchy=self.hierarchy.names)

    @property
    def settings(self) -> dict[str, object]:
        """Everything that decides the result and is not at a default that switches it off."""
        return {**super().settings, "lead": ", ".join(map(str, self.lead)), "hierarchy": str(self.hierarchy)}

    @property
    def samples_identity(self) -> dict[str, object]:
        """What decides :meth:`sample`, in plain values."""
        return {**super().samples_identity, "lead": self.lead, "hierarchy": self.hierarchy.names}

    def _guess(self, counts: Tensor) -> Guess:
        """Class, level and group of each pixel by the rule that the docstring of the class states."""
        hierarchy = self.hierarchy
        if len(counts) != hierarchy.num_classes:
            raise ConfigError(
                "The model's classes are not those of the hierarchy",
                expected=f"{hierarchy.num_classes} classes",
                received=len(counts),
            )
        table, members = hierarchy.table.to(counts.device), hierarchy.members.to(counts.device)
        chosen, _ = _first_of_groups(counts, table[-1])
        for lead, groups in reversed([*zip(self.lead, table)]):  # from coarse to fine, without the coarsest
            group, ahead = _first_of_groups(counts, groups)
            chosen = torch.where(ahead.double() / self.n0 > lead, group, chosen)
        inside = torch.where(members.T[:, chosen], counts, -1)
        classes, levels = inside.argmax(dim=0), hierarchy.levels.to(counts.device)[chosen]
        return Guess(classes, hierarchy.ids(classes, levels), levels, hierarchy.members)


def _first_of_groups(counts: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """The group drawn most often and by how many samples it is ahead of the next, both ``H x W``.

    Args:
        counts: ``K x H x W`` int32, how often each class was drawn.
        groups: ``(K,)`` int64, the group of each class; two groups at least.
    """
    known, index = groups.unique(return_inverse=True)
    votes = counts.new_zeros(len(known), *counts.shape[1:]).index_add_(0, index, counts)
    top, first = votes.max(dim=0)
    second = votes.scatter_(0, first[None], -1).amax(dim=0)
    return known[first], top - second


def _leads(lead: float | Sequence[float], number: int) -> tuple[float, ...]:
    """One lead for each of ``number`` levels."""
    leads = tuple(lead) if isinstance(lead, Sequence) and not isinstance(lead, str) else (lead,) * number
    if not all(is_number(entry, "[0, 1)") for entry in leads):
        raise ConfigError("certifier.lead must be a share of the samples in [0, 1)", received=lead)
    if len(leads) != number:
        raise ConfigError(
            "certifier.lead must be one number, or one for each level but the coarsest",
            expected=f"{number} numbers",
            received=lead,
        )
    return tuple(float(entry) for entry in leads)
