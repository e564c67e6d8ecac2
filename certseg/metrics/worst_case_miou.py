"""The lowest mean IoU an attacker can reach when certified pixels are fixed and all others are his."""

from __future__ import annotations

import numpy as np

from certseg.metrics.certified import CertifiedCounts


def worst_case_miou(counts: CertifiedCounts) -> float:
    """Sound lower bound on the pooled mean IoU under any attack that respects the certificate.

    Claim: let every certified pixel keep its class and every other labelled pixel take any class. Then the mean over
    the classes present in the labels of IoU_c is at least the value returned.

    Proof. Let x_c be the number of free pixels turned into class c although labelled otherwise. Then
    IoU_c >= a_c / (P_c + f_c + x_c) with a_c certified correct, P_c labelled, f_c certified wrongly as c, since the
    intersection keeps a_c and the union is at most P_c + f_c + x_c. A free pixel takes one class, so sum x_c <= U (all
    free pixels), and 0 <= x_c <= u_c = U - free_c. For any nu >= 0 weak duality gives
    min sum a_c / (D_c + x_c) >= min_{0 <= x <= u} [sum a_c / (D_c + x_c) + nu (sum x_c - U)], D_c = P_c + f_c, whose
    minimiser is x_c = clip(sqrt(a_c / nu) - D_c, 0, u_c). The value returned is this dual at a bisected nu, so it is
    a bound whatever the accuracy of the bisection; at the optimum it equals the relaxed minimum. []

    Args:
        counts: certified counts summed over the data set, or those of one image for the bound of that image.

    Returns:
        A value in [0, 1], NaN where no pixel is labelled.
    """
    present = counts.target > 0
    if not present.any():
        return float("nan")
    kept = counts.correct[present].astype(np.float64)
    denominator = (counts.target + counts.wrong_as)[present].astype(np.float64)
    all_free = float(counts.free.sum())
    limit = all_free - counts.free[present].astype(np.float64)

    def minimiser(nu: float) -> np.ndarray:
        x: np.ndarray = np.clip(np.sqrt(kept / nu) - denominator, 0.0, limit)
        return x

    def dual(nu: float) -> float:
        x = minimiser(nu) if nu > 0 else limit
        return float((kept / (denominator + x)).sum() + nu * (x.sum() - all_free))

    low, high = 0.0, float((kept / denominator**2).max())  # at ``high`` every x_c is 0
    best = dual(0.0)
    if limit.sum() > all_free and high > 0:
        for _ in range(200):
            middle = 0.5 * (low + high)
            best = max(best, dual(middle))
            if minimiser(middle).sum() > all_free:
                low = middle
            else:
                high = middle
    return max(best, 0.0) / int(present.sum())
