import pytest
import torch
import torch.nn.functional as F

from certseg.compute.decisions import NO_CLASS, enlarged_winner, winner

SIZES = [
    ((45, 60), (360, 480)),
    ((7, 5), (33, 41)),
    ((9, 9), (9, 9)),
    ((12, 10), (5, 6)),
    ((1, 1), (4, 3)),
    ((3, 4), (1, 1)),
    ((2, 3), (2, 31)),
]


def random_logits(*shape, classes=5):
    return torch.randn(2, classes, *shape, generator=torch.Generator().manual_seed(0))


def by_definition(logits):
    top = logits.max(dim=1, keepdim=True)
    unique = (logits == top.values).sum(dim=1) == 1
    return torch.where(unique, top.indices[:, 0], NO_CLASS).to(torch.int16)


@pytest.mark.parametrize("classes", [2, 3, 19, 300])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (23, 31)])
def test_winner_is_the_unique_maximum(classes, shape):
    logits = random_logits(*shape, classes=classes).mul(4).round().div(4)  # many ties
    found, check = winner(logits)
    assert torch.equal(found, by_definition(logits))
    assert torch.isfinite(check)
    if classes > 2 and shape != (1, 1):
        assert (found == NO_CLASS).any()
    assert torch.equal(winner(logits.contiguous(memory_format=torch.channels_last))[0], found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_winner_of_other_precisions(dtype):
    logits = random_logits(6, 5).to(dtype)
    assert torch.equal(winner(logits)[0], by_definition(logits.float()))


@pytest.mark.parametrize("k", [0, 2, 4])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_reported(k, value):
    logits = random_logits(6, 5)
    logits[1, k, 3, 2] = value
    assert not torch.isfinite(winner(logits)[1])
    assert not torch.isfinite(enlarged_winner(logits, (17, 13))[1])
    logits[1, k, 3, 2] = float("-inf")  # between it and its neighbours there is no bilinear value
    assert not torch.isfinite(enlarged_winner(logits, (17, 13))[1])


def test_a_class_that_is_ruled_out_is_no_error():
    logits = random_logits(6, 5)
    logits[:, 3] = float("-inf")
    for found, check in (winner(logits), enlarged_winner(logits, (17, 13))):
        assert torch.isfinite(check)
        assert not (found == 3).any()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("coarse", "fine"), SIZES)
def test_enlarged_winner_is_the_winner_of_the_enlargement(coarse, fine, align_corners):
    logits = random_logits(*coarse)
    enlarged = F.interpolate(logits, size=fine, mode="bilinear", align_corners=align_corners)
    (found, check), expected = enlarged_winner(logits, fine, align_corners), by_definition(enlarged)
    assert torch.isfinite(check)
    top = enlarged.topk(2, dim=1).values
    clear = top[:, 0] - top[:, 1] > 1e-5  # closer ones may fall either way by rounding
    assert clear.float().mean() > 0.99
    assert torch.equal(found[clear], expected[clear])


def test_enlarged_winner_knows_ties_and_classes_that_win_between_the_corners():
    tied = torch.zeros(1, 3, 2, 2)
    assert (enlarged_winner(tied, (6, 6))[0] == NO_CLASS).all()
    middle = torch.tensor([[4.0, 0.0], [0.0, 4.0], [2.6, 2.6]])[None, :, None]  # 1 x 3 x 1 x 2: class 2 wins halfway
    assert enlarged_winner(middle, (1, 8))[0].tolist() == [[[0, 0, 0, 2, 2, 1, 1, 1]]]
