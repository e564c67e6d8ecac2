"""What the votes on an adversarial image show of a smoothed model's answer there, and what they leave open.

The answer of a smoothed model is the most likely class under noise. A majority of some votes is an estimate of it: near
a tie it falls either way. A bound of what an attacker can do counts a pixel only where the votes show its answer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from certseg.smoothing.statistics import holm, sign_test
from certseg.types import IGNORE_INDEX


def duels(votes: Tensor, wanted: Tensor) -> Tensor:
    """Votes for one class at each pixel, and the most for any other.

    Args:
        votes: ``K x H x W`` integers, the votes for each class.
        wanted: ``H x W`` int64, the class asked about at each pixel, 255 for none.

    Returns:
        ``2 x H x W`` int32: votes for the class, most votes for another; both 0 where none is asked about.
    """
    asked = wanted != IGNORE_INDEX
    index = wanted.where(asked, torch.zeros_like(wanted))[None]
    own = votes.gather(0, index)
    most = votes.scatter(0, index, torch.full_like(own, -1)).amax(dim=0, keepdim=True)
    return (torch.cat([own, most]) * asked).to(torch.int32)


def shown_lost(duel: Tensor, wanted: Tensor, num_classes: int, error: float) -> Tensor:
    """The pixels whose answer is shown to be another class than the wanted one.

    Claim. With probability at least ``1 - error`` over the votes, the most likely class of every returned pixel is
    another. Proof: where it is the wanted class, that is at least as likely as each of the ``K - 1`` others, so the
    smallest of their sign tests' p-values, that of the class with most votes, is valid once it is multiplied by
    ``K - 1``; Holm's correction holds for all pixels together. []

    Args:
        duel: ``2 x H x W``, what :func:`duels` counted.
        wanted: ``H x W`` int64, the class asked about, 255 for none.
        num_classes: the number of classes, K.
        error: probability of a wrong pixel among those returned, in (0, 1).

    Returns:
        ``H x W`` bool.
    """
    return _rejected(duel.flip(0), wanted, num_classes - 1, error)


def shown_won(duel: Tensor, wanted: Tensor, error: float) -> Tensor:
    """The pixels whose answer is shown to be the wanted class. Arguments are those of :func:`shown_lost`.

    Claim. With probability at least ``1 - error`` over the votes, the most likely class of every returned pixel is the
    wanted one. Proof: where it is not, some other class is at least as likely, and the sign test against it has a
    p-value no larger than that against the class with most votes. []
    """
    return _rejected(duel, wanted, 1, error)


def _rejected(duel: Tensor, wanted: Tensor, tests: int, error: float) -> Tensor:
    asked = wanted != IGNORE_INDEX
    found = torch.zeros_like(asked)
    first, second = (part[asked].numpy() for part in duel)
    found[asked] = torch.from_numpy(holm(tests * sign_test(first, second), error))
    return found
