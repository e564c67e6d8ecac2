"""Majority votes over masked predictions, and which pixels' winner no attacker within reach can change.

Throughout, ``votes`` is ``K x P`` int16: the class that each of K masked predictions says of each of P pixels,
:data:`certseg.compute.decisions.NO_CLASS` where it says none. Ties go to the smaller class. Most pixels of an image
share their votes with others, so :func:`patterns` first reduces an image to the pixels whose votes differ.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from certseg.compute.decisions import NO_CLASS

_CHUNK = 1 << 26  # bytes of pairwise comparisons at once
_TABLE = 1 << 20  # numbers that are ranked through a table of all of them


def patterns(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The different votes among the pixels of ``maps`` (``K x H x W`` int16), and which of them each pixel has.

    Returns:
        The P different columns of votes, ``K x P`` int16, and for each pixel the index of its own, ``H x W`` int64.
        Whatever is computed for the P columns and indexed by the latter is a map of the image.
    """
    votes = maps.flatten(1)
    values = int(votes.max()) + 2  # from NO_CLASS on
    keys, bound, most = torch.zeros_like(votes[0], dtype=torch.int64), 1, _TABLE
    for vote in votes:
        if bound > most // values:
            bound, keys = _ranked(keys, bound)
            if bound > most // values:
                most = 2**62  # too many different votes for tables
        keys = keys * values + (vote - NO_CLASS)
        bound *= values
    number, where = _ranked(keys, bound)
    places = torch.arange(len(where), device=where.device)
    pixel = torch.zeros(number, dtype=torch.int64, device=where.device).scatter_(0, where, places)
    return votes[:, pixel], where.view(maps.shape[1:])


def _ranked(keys: Tensor, bound: int) -> tuple[int, Tensor]:
    """How many different ``keys`` (int64 below ``bound``, not negative) there are, and the rank of each among them."""
    if bound > _TABLE:
        different, ranks = torch.unique(keys, return_inverse=True)
        return len(different), ranks
    upto = torch.zeros(bound, dtype=torch.int64, device=keys.device).index_fill_(0, keys, 1).cumsum_(0)
    return int(upto[-1]), upto.sub_(1).index_select(0, keys)


def majority(votes: Tensor, num_classes: int) -> Tensor:
    """The class with most votes at each pixel, ``(P,)`` int64: the smallest of tied ones, 0 where no class has a vote.

    >>> majority(torch.tensor([[2, 0, -1], [2, 1, -1], [1, 1, -1]]), num_classes=3).tolist()
    [2, 1, 0]
    """
    best = torch.zeros(votes.shape[1:], dtype=torch.int32, device=votes.device)
    classes = torch.zeros_like(best)
    for candidate in range(num_classes) if num_classes <= len(votes) else votes:
        number = (votes == candidate).sum(dim=0, dtype=torch.int32)
        better = (number > best) | ((number == best) & (candidate < classes))
        if isinstance(candidate, Tensor):
            better &= candidate != NO_CLASS
        best = torch.where(better, number, best)
        classes = torch.where(better, candidate, classes)
    return classes.long()


def unanimous(votes: Tensor) -> Tensor:
    """The pixels of which all masked predictions say the same class, ``(P,)`` bool.

    >>> unanimous(torch.tensor([[2, 0, -1], [2, 1, -1]])).tolist()
    [True, False, False]
    """
    return (votes == votes[0]).all(dim=0) & (votes[0] != NO_CLASS)


def is_won(votes: Tensor, classes: Tensor, touched: np.ndarray) -> Tensor:
    """The pixels whose majority no placement of the attacker's rectangles can change: the tight rule.

    With A the masks that a placement touches, the votes outside A stay, and those in A may become anything. So class c
    wins under every such attack exactly if for every A and every other class c', n(c) > n(c') + |A|, with n the votes
    outside A and ``>=`` in the place of ``>`` where c < c'. Sets within another set of the family ask for less.

    Args:
        votes: ``K x P`` int16, what each masked prediction says of each pixel.
        classes: ``(P,)`` int64, the :func:`majority` of the votes.
        touched: ``F x K`` bool, the sets A of masks that one placement can touch together
            (:attr:`certseg.patches.masks.MaskSet.touched`).

    Returns:
        ``(P,)`` bool.
    """
    number = max(1, _CHUNK // len(votes) ** 2)
    pairs = zip(votes.split(number, dim=1), classes.split(number))
    return torch.cat([_is_won(part, own, touched) for part, own in pairs])


def _is_won(votes: Tensor, classes: Tensor, touched: np.ndarray) -> Tensor:
    """:func:`is_won` of so many pixels that all comparisons fit into memory."""
    same = votes[:, None] == votes[None]  # K x K x P
    other = (votes != classes) & (votes != NO_CLASS)
    smaller = votes < classes
    won = torch.ones(votes.shape[1], dtype=torch.bool, device=votes.device)
    for row in touched:
        outside = torch.from_numpy(np.flatnonzero(~row)).to(votes.device)
        lost = int(row.sum())
        own = (votes[outside] == classes).sum(dim=0, dtype=torch.int16)
        rivals = same[outside][:, outside].sum(dim=1, dtype=torch.int16) + lost + smaller[outside]  # c' < c wins a tie
        won &= ~((rivals > own) & other[outside]).any(dim=0)
        won &= own >= lost + (classes > 0).to(own.dtype)  # against a class nobody outside votes for
    return won


def leads_by(votes: Tensor, classes: Tensor, margin: int, num_classes: int) -> Tensor:
    """The pixels whose class leads by a margin, ``(P,)`` bool.

    Args:
        votes: ``K x P`` int16, what each masked prediction says of each pixel.
        classes: ``(P,)`` int64, the class of each pixel that shall lead.
        margin: votes that it needs more than every larger class; than every smaller one, which wins ties, it needs one
            vote more than that.
        num_classes: the number of classes.
    """
    own = (votes == classes).sum(dim=0, dtype=torch.int32)
    leads = torch.ones_like(classes, dtype=torch.bool)
    for candidate in range(num_classes):
        rival = (votes == candidate).sum(dim=0, dtype=torch.int32) + (candidate < classes)
        leads &= (own - rival >= margin) | (classes == candidate)
    return leads
