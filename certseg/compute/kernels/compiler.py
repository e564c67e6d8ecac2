"""How the loops of this package are compiled."""

from __future__ import annotations

from collections.abc import Callable

import numba


def compiled(function: Callable) -> Callable:
    """``function`` compiled by numba without Python's lock; the machine code is kept on disk where that is possible."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder that can be written
        return numba.njit(nogil=True)(function)
