"""Threads for work that releases Python's lock but that torch itself leaves on one core."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def for_each(number: int, work: Callable[[int], object]) -> None:
    """Call ``work(0) .. work(number - 1)``, on as many threads as torch uses.

    Raises:
        Exception: whatever the first failing call raised.
    """
    threads = torch.get_num_threads()
    if number > 1 and threads > 1:
        list(_pool(threads).map(work, range(number)))
    else:
        for index in range(number):
            work(index)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="certseg")
