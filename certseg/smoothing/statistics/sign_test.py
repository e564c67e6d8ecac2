"""Which of two classes is the more likely one, by the votes for each: the sign test, and Holm's correction over pixels.

Of votes for one of two classes the number for the first is binomial with a probability of at most 1/2 where the second
is at least as likely, whatever the other votes are.
"""

import numpy as np


def sign_test(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """P-values of "the second class is at least as likely as the first": ``P[Bin(first + second, 1/2) >= first]``.

    Args:
        first: non-negative integers of any shape, the votes for the first class.
        second: integers of the same shape, the votes for the second.

    Returns:
        float64 of the same shape.

    >>> sign_test(np.array([10, 5]), np.array([0, 5])).round(4).tolist()
    [0.001, 0.623]
    """
    from scipy.stats import binom  # takes most of a second to import, and a finished run has no need of it

    width = int(max(first.max(initial=0), second.max(initial=0))) + 1
    codes, place = np.unique(first.astype(np.int64) * width + second, return_inverse=True)
    wins, losses = codes // width, codes % width
    values: np.ndarray = binom.sf(wins - 1, wins + losses, 0.5)[place].reshape(first.shape)
    return values


def holm(p_values: np.ndarray, alpha: float) -> np.ndarray:
    """The null hypotheses that Holm (1979) rejects: with probability at least ``1 - alpha`` none of them is true,
    whatever the dependence between the tests.

    Args:
        p_values: of any shape, one for each test.
        alpha: the probability of rejecting any true null hypothesis, in (0, 1).

    Returns:
        bool of the same shape.

    >>> holm(np.array([0.01, 0.02, 0.5]), alpha=0.05).tolist()
    [True, True, False]
    """
    values, counts = np.unique(p_values, return_counts=True)
    rejected, threshold = 0, -1.0
    for value, count in zip(values, counts, strict=True):  # within a tie the level only grows
        if value > alpha / (p_values.size - rejected):
            break
        rejected, threshold = rejected + int(count), float(value)
    found: np.ndarray = p_values <= threshold
    return found
