"""Runs of an attack on several images that go through a network together."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Result = TypeVar("Result")
Subject = TypeVar("Subject")


def side_by_side(
    runs: Sequence[Generator[Question, Answer, Result]],
    subjects: Sequence[Subject],
    answer: Callable[[Sequence[Subject], Sequence[Question]], Sequence[Answer]],
) -> list[Result]:
    """Advance all runs in step, those that have ended leaving the batch, and return what each found.

    Args:
        runs: each yields a question, is sent the answer, and returns its result.
        subjects: whom each run asks.
        answer: is given the subjects of the runs that still ask and their questions, in the order of the runs, and
            returns one answer for each.

    >>> def grown(number, rounds):
    ...     for _ in range(rounds):
    ...         number = yield number
    ...     return number
    >>> def multiply(factors, numbers):
    ...     return [factor * number for factor, number in zip(factors, numbers)]
    >>> side_by_side([grown(1, 3), grown(5, 1)], [2, 10], multiply)
    [8, 50]
    """
    asked = {index: next(run) for index, run in enumerate(runs)}
    found: dict[int, Result] = {}
    while asked:
        places = list(asked)
        replies = answer([subjects[index] for index in places], list(asked.values()))
        for index, reply in zip(places, replies, strict=True):
            try:
                asked[index] = runs[index].send(reply)
            except StopIteration as end:
                found[index] = end.value
                del asked[index]
    return [found[index] for index in range(len(runs))]
