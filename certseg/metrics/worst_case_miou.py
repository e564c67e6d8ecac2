"""The lowest mean IoU an attacker can reach when certified pixels are fixed and all others are his."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from certseg.metrics.certified import CertifiedCounts

_GOLDEN = (5**0.5 - 1) / 2


def worst_case_miou(counts: CertifiedCounts, tolerated: int = 0) -> float:
    """Sound lower bound on the pooled mean IoU under any attack that respects the certificate.

    Claim: let every certified pixel but at most T keep its class, and let those and every other labelled pixel take any
    class. Then the mean over the classes present in the labels of IoU_c is at least the value returned.

    Proof. Let x_c be the number of pixels turned into class c although labelled otherwise, and y_c that of tolerated
    pixels which were certified correctly as c. Then IoU_c >= (a_c - y_c) / (P_c + f_c + x_c) with a_c certified
    correct, P_c labelled, f_c certified wrongly as c, since the intersection keeps a_c - y_c and the union is at most
    P_c + f_c + x_c. A pixel takes one class, so sum x_c <= U + T (U all free pixels), sum y_c <= T,
    0 <= x_c <= u_c = U + T - free_c and 0 <= y_c <= a_c. For any nu, mu >= 0 weak duality gives
    min sum (a_c - y_c) / (D_c + x_c) >= min over x, y of [sum (a_c - y_c) / (D_c + x_c) + nu (sum x_c - U - T)
    + mu (sum y_c - T)], D_c = P_c + f_c. A term is linear in y_c, so its minimum has y_c = 0, where
    x_c = clip(sqrt(a_c / nu) - D_c, 0, u_c) and the term is m_c(nu), or y_c = a_c, where it is mu a_c. Each nu and mu
    give a bound. For T = 0 mu drops out and nu is bisected, for T > 0 both are searched: of mu the best is one of
    m_c / a_c, for the sum of min(m_c, mu a_c) - mu T is concave and piecewise linear. []

    Args:
        counts: certified counts summed over the data set, or those of one image for the bound of that image.
        tolerated: how many certified pixels may be wrong, T: in the whole data set, or in that image.

    Returns:
        A value in [0, 1], NaN where no pixel is labelled.
    """
    present = counts.target > 0
    if not present.any():
        return float("nan")
    kept = counts.correct[present].astype(np.float64)
    denominator = (counts.target + counts.wrong_as)[present].astype(np.float64)
    turned = float(counts.free.sum()) + tolerated
    limit = turned - counts.free[present].astype(np.float64)

    def minimiser(nu: float) -> np.ndarray:
        x: np.ndarray = np.clip(np.sqrt(kept / nu) - denominator, 0.0, limit)
        return x

    def dual(nu: float) -> float:
        x = minimiser(nu) if nu > 0 else limit
        shares = kept / (denominator + x)
        if not tolerated:
            return float(shares.sum() + nu * (x.sum() - turned))
        return _less_tolerated(shares + nu * x, kept, tolerated) - nu * turned

    low, high = 0.0, float((kept / denominator**2).max())  # at ``high`` every x_c is 0
    best = dual(0.0)
    if high > 0 and tolerated:
        best = max(best, _largest(dual, high))
    elif limit.sum() > turned and high > 0:
        for _ in range(200):
            middle = 0.5 * (low + high)
            best = max(best, dual(middle))
            if minimiser(middle).sum() > turned:
                low = middle
            else:
                high = middle
    return max(best, 0.0) / int(present.sum())


def _less_tolerated(terms: np.ndarray, kept: np.ndarray, tolerated: int) -> float:
    """The largest over mu >= 0 of ``sum min(terms, mu kept) - mu tolerated``."""
    some = kept > 0  # where nothing is kept the term is 0
    found = (float(np.minimum(terms, mu * kept)[some].sum() - mu * tolerated) for mu in terms[some] / kept[some])
    return max([0.0, *found])


def _largest(function: Callable[[float], float], high: float) -> float:
    """The largest value found of a concave function on [0, high], by the golden section."""
    left, right = 0.0, high
    best = max(function(left), function(right))
    for _ in range(100):
        first, second = right - _GOLDEN * (right - left), left + _GOLDEN * (right - left)
        values = function(first), function(second)
        best = max(best, *values)
        if values[0] < values[1]:
            left = first
        else:
            right = second
    return best
