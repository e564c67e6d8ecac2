"""Masks against patches, by brute force over every position of the patch."""

from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch
from support.mask_positions import checked, largest, pixels, sets_of, touched_at_every_position

from certseg.errors import ConfigError
from certseg.patches.masks import MaskSet, column_ablations, covering_masks, erase, recovery_masks
from certseg.patches.masks.mask_set import maximal
from certseg.patches.masks.recovery import ASSIGNMENTS, least_masks


def random_geometry(rng):
    size = tuple(int(v) for v in rng.integers(5, 34, 2))
    return size, tuple(int(rng.integers(1, side // 2 + 1)) for side in size)


@pytest.mark.parametrize("kind", ASSIGNMENTS)
def test_recovery_masks_on_random_geometries(kind):
    rng, made, divided = np.random.default_rng(0), 0, 0
    while made < 80:
        size, patch = random_geometry(rng)
        rows, columns = (-(-side // part) for side, part in zip(size, patch))
        number = int(rng.integers(2, 12))
        if {"column": columns, "row": rows, "three": (rows * columns) // 3, "four": min(rows, columns)}[kind] < number:
            continue  # too narrow for a column or row in each mask; for the others this leaves room to spare
        if kind == "four" and number in (2, 3, 5, 7, 11):
            continue
        masks = recovery_masks(kind, size, pixels(*patch), number)
        made += 1
        divided += size[0] % patch[0] == 0 and size[1] % patch[1] == 0
        hidden = masks.hidden()
        assert hidden.shape == (number, *size)
        assert ((~hidden).sum(dim=0) == 1).all()  # every pixel is visible once
        checked(masks, patch)
        assert masks.most_touched <= min(ASSIGNMENTS[kind][1], number)
    assert divided < 40


@pytest.mark.parametrize("kind", ASSIGNMENTS)
def test_with_room_the_papers_T_is_reached(kind):
    masks = recovery_masks(kind, (41, 47), pixels(4, 5))
    assert (masks.num_masks, masks.most_touched) == (least_masks(kind, 1), ASSIGNMENTS[kind][1])
    assert least_masks(kind, 1) == {"column": 5, "row": 5, "three": 7, "four": 9}[kind]


def test_three_masks_need_the_restart_of_every_row():
    """Numbering on without it gives T = 4."""
    shown = (np.arange(100).reshape(10, 10) + 1) // 2 % 7
    edges = np.arange(0, 41, 4)
    broken = MaskSet(edges, edges, shown[None] == np.arange(7)[:, None, None], (4, 4))
    assert broken.most_touched == 4
    checked(broken, (4, 4))
    assert recovery_masks("three", (40, 40), pixels(4, 4)).most_touched == 3


def test_blocks_smaller_than_the_patch_are_caught():
    edges = np.arange(0, 41, 4)
    shown = np.broadcast_to(np.arange(10) % 5, (10, 10))
    for side, most in ((4, 2), (5, 2), (6, 3)):
        masks = MaskSet(edges, edges, shown[None] == np.arange(5)[:, None, None], (side, side))
        assert masks.most_touched == most
        checked(masks, (side, side))


@pytest.mark.parametrize("kind", ["column", "row", "block"])
@pytest.mark.parametrize("by", ["narrowest", "width", "stride", "number"])
def test_covering_masks_on_random_geometries(kind, by):
    rng = np.random.default_rng(1)
    for _ in range(20):
        size, patch = random_geometry(rng)
        axis = kind == "column"
        room = size[axis] - patch[axis] + 1
        options = {}
        if by in ("width", "stride") and kind != "block":
            options["width"] = int(rng.integers(patch[axis], size[axis] + 1))
        if by == "stride" and kind != "block":
            options["stride"] = int(rng.integers(1, options["width"] - patch[axis] + 2))
        if by == "number":
            most = min(room, *(s - p + 1 for s, p in zip(size, patch))) if kind == "block" else room
            options["num_masks"] = int(rng.integers(1, min(most, 6) + 1))
        masks = covering_masks(kind, size, pixels(*patch), **options)
        everywhere = touched_at_every_position(masks.hidden(), patch)
        assert not everywhere.all(axis=1).any()  # some mask hides the patch entirely, wherever it is
        assert masks.covers
        if masks.num_masks < 300:
            checked(masks, patch)
        if by == "number":
            most = options["num_masks"]
            assert masks.num_masks <= (most**2 if kind == "block" else most)
        if "width" in options:
            assert (masks.hidden().sum(dim=(1, 2)) == options["width"] * size[1 - axis]).all()


def test_strips_that_leave_the_border_uncovered_are_caught():
    starts = np.arange(0, 24 - 9 + 1, 6)  # no last strip: 0, 6, 12 of 24
    edges = np.unique([0, 24, *starts, *(starts + 9)])
    visible = ~((edges[None, :-1] >= starts[:, None]) & (edges[None, 1:] <= starts[:, None] + 9))[:, None]
    broken = MaskSet([0, 24], edges, visible, (4, 4))
    assert not broken.covers
    checked(broken, (4, 4))
    assert covering_masks("column", (24, 24), pixels(4, 4), width=9).covers


def test_column_ablations_wrap_around():
    rng = np.random.default_rng(2)
    for _ in range(60):
        size, patch = random_geometry(rng)
        width, stride = (int(v) for v in rng.integers(1, size[1] + 1, 2))
        masks = column_ablations(size, pixels(*patch), width, stride)
        checked(masks, patch)
        assert ((~masks.hidden()).sum(dim=(1, 2)) == width * size[0]).all()
        formula = -(-(patch[1] + width - 1) // stride)
        assert masks.most_touched <= min(masks.num_masks, formula + bool(size[1] % stride))
    exact = column_ablations((20, 60), pixels(3, 8), 6, 5)
    assert exact.most_touched == -(-(8 + 6 - 1) // 5)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", [*ASSIGNMENTS, "ablation", "covering"])
def test_several_patches_touch_unions(kind, count):
    rng, made = np.random.default_rng(3), 0
    while made < 8:
        size, patch = random_geometry(rng)
        try:
            if kind == "ablation":
                masks = column_ablations(size, pixels(*patch, count), 4, 3)
            elif kind == "covering":
                masks = covering_masks("column", size, pixels(*patch, count), num_masks=4)
            else:
                masks = recovery_masks(kind, size, pixels(*patch, count), 6)
        except ConfigError:
            continue
        made += 1
        single = np.unique(touched_at_every_position(masks.hidden(), patch), axis=0)
        unions = {tuple(np.flatnonzero(np.any(rows, axis=0))) for rows in combinations_with_replacement(single, count)}
        assert sets_of(masks.touched) == largest(unions)
        assert len(masks.touched) == len(sets_of(masks.touched))
        if kind == "covering":
            assert masks.covers


def test_maximal_sets_in_chunks(monkeypatch):
    monkeypatch.setattr("certseg.patches.masks.mask_set._CHUNK", 7)
    sets = np.random.default_rng(0).random((60, 8)) < 0.4
    assert sets_of(maximal(sets)) == largest(sets_of(sets))


def test_what_does_not_fit_is_said():
    with pytest.raises(ConfigError, match=r"4 masks of kind column do not fit.*2 x 3 blocks"):
        recovery_masks("column", (20, 30), pixels(10, 10), 4)
    with pytest.raises(ConfigError, match="does not fit into an image of 9 x 30"):
        recovery_masks("column", (9, 30), pixels(10, 10))
    with pytest.raises(ConfigError, match="Use 12"):
        recovery_masks("four", (99, 99), pixels(3, 3), 11)
    with pytest.raises(ConfigError, match="at most 11"):
        covering_masks("row", (20, 30), pixels(10, 10), num_masks=12)
    with pytest.raises(ConfigError, match="at most 3"):
        covering_masks("column", (20, 30), pixels(10, 10), width=12, stride=4)
    with pytest.raises(ConfigError, match="10 to 30 pixels"):
        covering_masks("column", (20, 30), pixels(10, 10), width=31)
    with pytest.raises(ConfigError, match="width of 30 pixels"):
        column_ablations((20, 30), pixels(10, 10), 31, 4)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("diagonal", {}),
        ("block", {"width": 12}),
        ("row", {"width": 12, "num_masks": 2}),
        ("row", {"stride": 2}),
        ("row", {"num_masks": 0}),
        ("row", {"width": 1.5}),
        ("column", {"width": 9}),
    ],
    ids=str,
)
def test_covering_settings_are_checked(kind, options):
    with pytest.raises(ConfigError):
        covering_masks(kind, (20, 30), pixels(10, 10), **options)


@pytest.mark.parametrize(("kind", "number"), [("diagonal", 5), ("row", 1), ("row", 2.0), ("four", 7), ("four", 3)])
def test_recovery_settings_are_checked(kind, number):
    with pytest.raises(ConfigError):
        recovery_masks(kind, (99, 99), pixels(3, 3), number)


@pytest.mark.parametrize(
    ("rows", "columns", "visible", "patch"),
    [
        ([0, 4], [0, 4], np.zeros((0, 1, 1)), (1, 1)),
        ([0, 4], [0, 2, 4], np.zeros((3, 1, 1)), (1, 1)),
        ([1, 4], [0, 4], np.zeros((3, 1, 1)), (1, 1)),
        ([0, 4], [0, 4], np.zeros((3, 1, 1)), (5, 1)),
    ],
)
def test_masks_that_are_none(rows, columns, visible, patch):
    with pytest.raises(ConfigError):
        MaskSet(rows, columns, visible, patch)


def test_erased_pixels_are_zero_whatever_they_held():
    images = torch.rand(2, 3, 4, 5)
    hidden = torch.rand(2, 4, 5) < 0.5
    spoilt = images.clone()
    spoilt[hidden[:, None].expand_as(images)] = torch.nan
    assert torch.equal(erase(images, hidden), erase(spoilt, hidden))
    assert torch.equal(erase(images, hidden), images * ~hidden[:, None])
    assert torch.equal(erase(images.double(), hidden), images.double() * ~hidden[:, None])
    assert torch.equal(erase(images[:1].expand(2, -1, -1, -1), hidden), images[:1] * ~hidden[:, None])
    variable = images.clone().requires_grad_()
    erased = erase(variable, hidden)
    assert torch.equal(erased, erase(images, hidden))
    erased.sum().backward()
    assert torch.equal(variable.grad, (~hidden[:, None]).float().expand_as(images))
