"""Votes over masked predictions: every vote, every reachable set of masks, every answer an attacker could make them."""

from itertools import product

import numpy as np
import pytest
import torch

from certseg.compute.decisions import NO_CLASS
from certseg.patches import voting
from certseg.patches.voting import is_won, leads_by, majority, patterns, unanimous

CLASSES = 3


def all_votes(num_masks, values=CLASSES):
    """Every vector of votes: ``K x P``, with votes for nothing among them."""
    choices = [NO_CLASS, *range(values)]
    return torch.tensor(list(product(choices, repeat=num_masks)), dtype=torch.int16).T.contiguous()


def winner_of(vector):
    counts = [sum(v == c for v in vector) for c in range(CLASSES)]
    return counts.index(max(counts))


def changeable(votes, touched):
    """By brute force: the pixels whose winner some set of masks can change by some answers of its own."""
    found = []
    for vector in votes.T.tolist():
        winner = winner_of(vector)
        others = (
            [answer[list(members).index(k)] if k in members else v for k, v in enumerate(vector)]
            for members in (tuple(np.flatnonzero(row)) for row in touched)
            for answer in product(range(CLASSES), repeat=len(members))
        )
        found.append(any(winner_of(other) != winner for other in others))
    return torch.tensor(found)


FAMILIES = {
    "none": np.zeros((1, 4), dtype=bool),
    "single": np.eye(4, dtype=bool),
    "neighbours": np.eye(5, dtype=bool) | np.roll(np.eye(5, dtype=bool), 1, axis=1),
    "uneven": np.array([[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 1]], dtype=bool),
    "all": np.ones((1, 3), dtype=bool),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tight_rule_is_exact(family):
    touched = FAMILIES[family]
    votes = all_votes(touched.shape[1])
    classes = majority(votes, CLASSES)
    assert classes.tolist() == [winner_of(vector) for vector in votes.T.tolist()]
    won = is_won(votes, classes, touched)
    assert torch.equal(won, ~changeable(votes, touched))
    if family not in ("all", "none"):
        assert 0 < won.float().mean() < 1
        most = int(touched.sum(axis=1).max())
        if len(votes) > 2 * most:
            assert (won | ~unanimous(votes)).all()  # never below unanimity
            assert (won & ~unanimous(votes)).any()  # and above it


@pytest.mark.parametrize("seed", range(4))
def test_random_families_of_seven_masks(seed):
    rng = np.random.default_rng(seed)
    touched = rng.random((3, 7)) < 0.3
    votes = torch.from_numpy(np.where(rng.random((7, 300)) < 0.75, 1, rng.integers(-1, CLASSES, (7, 300))))
    votes = votes.to(torch.int16)
    won = is_won(votes, majority(votes, CLASSES), touched)
    assert torch.equal(won, ~changeable(votes, touched))


@pytest.mark.parametrize("broken", ["one mask fewer", "ties to the larger class", "no tie rule"])
def test_broken_rules_are_caught(broken, monkeypatch):
    touched = FAMILIES["neighbours"]
    votes = all_votes(5)
    classes = majority(votes, CLASSES)

    def rule(votes, classes, touched):
        won = torch.ones(votes.shape[1], dtype=torch.bool)
        for row in touched:
            lost = int(row.sum()) - (broken == "one mask fewer")
            counts = torch.stack([(votes[~row] == c).sum(dim=0) for c in range(CLASSES)])
            own = counts.gather(0, classes[None].long())[0]
            for c in range(CLASSES):
                behind = {"ties to the larger class": classes < c, "no tie rule": classes < -1}.get(broken, classes > c)
                won &= (own >= counts[c] + lost + behind) | (classes == c)
        return won

    wrong = rule(votes, classes, touched)
    assert (wrong & changeable(votes, touched)).any()


def test_pixels_are_decided_in_chunks(monkeypatch):
    votes, touched = all_votes(5), FAMILIES["neighbours"]
    classes = majority(votes, CLASSES)
    whole = is_won(votes, classes, touched)
    monkeypatch.setattr(voting, "_CHUNK", 7 * 25)
    assert torch.equal(is_won(votes, classes, touched), whole)


@pytest.mark.parametrize(("num_masks", "values"), [(3, 2), (5, 40), (40, 150), (9, 171)])
def test_patterns_stand_for_all_pixels(num_masks, values):
    generator = torch.Generator().manual_seed(0)
    few = torch.randint(-1, values, (num_masks, 50), generator=generator).to(torch.int16)
    which = torch.randint(50, (12, 17), generator=generator)
    maps = few[:, which]
    votes, where = patterns(maps)
    assert torch.equal(votes[:, where], maps)
    assert votes.shape[1] == len(torch.unique(maps.flatten(1), dim=1).T)
    nothing, where = patterns(torch.full((3, 2, 2), NO_CLASS, dtype=torch.int16))
    assert torch.equal(nothing[:, where], torch.full((3, 2, 2), NO_CLASS, dtype=torch.int16))


@pytest.mark.parametrize("table", [1 << 20, 300, 1])
@pytest.mark.parametrize(("num_masks", "values", "different"), [(5, 11, 40), (20, 11, 700), (12, 32000, 60)])
def test_patterns_are_in_order_however_they_are_ranked(num_masks, values, different, table, monkeypatch):
    monkeypatch.setattr(voting, "_TABLE", table)
    generator = torch.Generator().manual_seed(0)
    few = torch.randint(-1, values, (num_masks, different), generator=generator).to(torch.int16)
    maps = few[:, torch.randint(different, (40, 50), generator=generator)]
    votes, where = patterns(maps)
    expected, index = torch.unique(maps.flatten(1), dim=1, return_inverse=True)
    assert torch.equal(votes, expected)
    assert torch.equal(where.flatten(), index)


def test_majority_of_many_masks_and_of_many_classes():
    generator = torch.Generator().manual_seed(0)
    for num_masks, num_classes in ((3, 150), (40, 5)):
        votes = torch.randint(-1, num_classes, (num_masks, 9, 11), generator=generator).to(torch.int16)
        votes[:, 0] = NO_CLASS
        counts = torch.stack([(votes == c).sum(dim=0) for c in range(num_classes)])
        assert torch.equal(majority(votes, num_classes), counts.argmax(dim=0))  # the first of equals


def test_a_lead_outlasts_as_many_changes():
    votes = all_votes(5)
    classes = majority(votes, CLASSES)
    any_one, any_two = (
        np.array([[i in s for i in range(5)] for s in sets])
        for sets in ([{i} for i in range(5)], [{i, j} for i in range(5) for j in range(i)])
    )
    for touched, most in ((any_one, 1), (any_two, 2)):
        leads = leads_by(votes, classes, 2 * most, CLASSES)
        assert leads.any()
        assert not (leads & changeable(votes, touched)).any()
        assert (leads_by(votes, classes, 2 * most - 1, CLASSES) & changeable(votes, touched)).any()
