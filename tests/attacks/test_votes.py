"""What votes show of a smoothed model's answer: nothing near a tie, and no pixel that is still right."""

import numpy as np
import torch

from certseg.attacks.votes import duels, shown_lost, shown_won

ERROR = 0.05


def drawn(probabilities, votes, generator):
    """Votes ``K x 1 x N`` of N pixels with given class probabilities ``N x K``."""
    return torch.from_numpy(np.stack([generator.multinomial(votes, p) for p in probabilities]).T[:, None].copy())


def test_duels_by_hand():
    votes = torch.tensor([[[5, 0, 3, 1]], [[2, 9, 4, 8]], [[3, 1, 3, 1]]])
    wanted = torch.tensor([[0, 0, 2, 255]])
    assert duels(votes, wanted).tolist() == [[[5, 0, 3, 0]], [[3, 9, 4, 0]]]


def test_pixels_near_a_tie_are_outvoted_but_not_lost():
    """Of a hundred votes .52 : .48 falls the other way for a third of the pixels, whose answer is right."""
    votes = drawn([[0.52, 0.48]] * 300, 100, np.random.default_rng(0))
    wanted = torch.zeros(1, 300, dtype=torch.int64)
    assert (votes.argmax(dim=0) != wanted).float().mean() > 0.2
    assert not shown_lost(duels(votes, wanted), wanted, 2, ERROR).any()
    clear = drawn([[0.02, 0.98]] * 300, 100, np.random.default_rng(0))
    assert shown_lost(duels(clear, wanted), wanted, 2, ERROR).all()
    unlabelled = torch.full_like(wanted, 255)
    assert not shown_lost(duels(clear, unlabelled), unlabelled, 2, ERROR).any()


def test_the_probability_of_a_pixel_wrongly_lost_or_won():
    """Ties between all of many classes are the worst case: the one with most votes is another each time."""
    generator, wrong, runs = np.random.default_rng(1), [0, 0], 400
    wanted = torch.zeros(1, 8, dtype=torch.int64)
    for _ in range(runs):
        tied = duels(drawn([[1 / 6] * 6] * 8, 60, generator), wanted)
        wrong[0] += bool(shown_lost(tied, wanted, 6, ERROR).any())
        wrong[1] += bool(shown_won(tied, wanted, ERROR).any())
    allowed = runs * ERROR + 4 * (runs * ERROR) ** 0.5
    assert 0 < wrong[0] <= allowed, "more classes than one are tested, and all are counted"
    assert wrong[1] <= allowed


def test_what_is_won_beats_every_other_class():
    votes = torch.tensor([[[60, 60]], [[0, 50]], [[40, 0]]])
    wanted = torch.zeros(1, 2, dtype=torch.int64)
    assert shown_won(duels(votes * 3, wanted), wanted, ERROR).tolist() == [[True, False]]
