"""Runs in step: what is asked together, who leaves when, and answers that do not fit."""

import pytest

from certseg.attacks.side_by_side import side_by_side


def counting(name, rounds):
    total = 0
    for number in range(rounds):
        total += yield (name, number)
    return name, total


def test_every_round_asks_all_runs_that_go_on_in_their_order():
    rounds = []

    def answer(subjects, questions):
        rounds.append((list(subjects), list(questions)))
        return [len(rounds)] * len(questions)

    runs = [counting("a", 1), counting("b", 3), counting("c", 2)]
    assert side_by_side(runs, ["A", "B", "C"], answer) == [("a", 1), ("b", 6), ("c", 3)]
    assert rounds == [
        (["A", "B", "C"], [("a", 0), ("b", 0), ("c", 0)]),
        (["B", "C"], [("b", 1), ("c", 1)]),
        (["B"], [("b", 2)]),
    ]


def test_no_runs_ask_nothing():
    assert side_by_side([], [], lambda subjects, questions: pytest.fail("asked")) == []


def test_one_answer_too_few_is_no_answer():
    with pytest.raises(ValueError, match="zip"):
        side_by_side([counting("a", 1), counting("b", 1)], [0, 0], lambda subjects, questions: [1])
