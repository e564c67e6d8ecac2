"""Masks against the golden vectors of the official implementations."""

import numpy as np
import torch
from support.mask_positions import checked, pixels
from support.shared import SHARED, needs_shared

from certseg.errors import ConfigError
from certseg.patches.masks import MaskSet, covering_masks, recovery_masks
from certseg.patches.masks.covering import strip_width, strips
from certseg.patches.masks.recovery import ASSIGNMENTS

MASKS = SHARED / "golden" / "masks.npz"


@needs_shared("golden", "masks.npz")
def test_golden_stacks_of_random_masks():
    golden = np.load(MASKS)
    for name in (f"random{i}" for i in range(6)):
        shown, patch = golden[f"{name}/masks"], tuple(golden[f"{name}/patch"])
        masks = MaskSet(np.arange(shown.shape[1] + 1), np.arange(shown.shape[2] + 1), shown, patch)
        assert masks.most_touched == golden[f"{name}/T"]
        assert masks.covers == golden[f"{name}/detection_ok"]
        assert (checked(masks, patch).sum(axis=1) == golden[f"{name}/affected_counts"].ravel()).all()


@needs_shared("golden", "masks.npz")
def test_golden_assignments():
    golden = np.load(MASKS)
    for case in {key.split("/")[1] for key in golden.files if key.startswith("recovery/")}:
        size, patch = (tuple(int(v) for v in part.split("x")) for part in case.split("_"))
        for kind in ASSIGNMENTS:
            leaf = f"recovery/{case}/{'four_tile' if kind == 'four' else kind}"
            expected, number = golden[f"{leaf}/mu"], int(golden[f"{leaf}/K"])
            assert (ASSIGNMENTS[kind][0](*expected.shape, number) + 1 == expected).all(), leaf
            try:
                masks = recovery_masks(kind, size, pixels(*patch), number)
            except ConfigError:  # a mask that shows nothing
                assert len(np.unique(expected)) < number
                continue
            assert masks.most_touched == golden[f"{leaf}/T"]


@needs_shared("golden", "masks.npz")
def test_golden_strips():
    golden = np.load(MASKS)
    for leaf in {key.rsplit("/", 1)[0] for key in golden.files if key.startswith("detection/")}:
        _, case, wide = leaf.split("/")
        size, patch = (tuple(int(v) for v in part.split("x")) for part in case.split("_"))
        assert strips(size[1], patch[1], int(wide.removeprefix("wide"))).tolist() == golden[f"{leaf}/starts"].tolist()


@needs_shared("golden", "masks.npz")
def test_golden_double_masking_sets():
    golden = np.load(MASKS)
    for leaf in {key.rsplit("/", 1)[0] for key in golden.files if key.startswith("patchcleanser/")}:
        _, case, number = leaf.split("/")
        size, patch = (tuple(int(v) for v in part.split("x")) for part in case.split("_"))
        number = int(number.removeprefix("num"))
        sides = [strip_width(length, side, number) for length, side in zip(size, patch)]
        assert sides == golden[f"{leaf}/mask_size"].tolist()
        masks = MaskSet(*grid_of(size, patch, sides), patch)
        shape = tuple(golden[f"{leaf}/shape"])
        official = np.unpackbits(golden[f"{leaf}/masks_packed"])[: np.prod(shape)].reshape(shape).astype(bool)
        hidden = np.asarray(masks.hidden())
        if official.mean() > 0.5:
            official = ~official  # True = visible there
        assert {m.tobytes() for m in hidden} == {m.tobytes() for m in official}
        if number <= min(s - p + 1 for s, p in zip(size, patch)):
            ours = covering_masks("block", size, pixels(*patch), num_masks=number)
            assert torch.equal(ours.hidden(), masks.hidden())
        assert masks.covers == bool(golden[f"{leaf}/covering"])


def grid_of(size, patch, sides):
    """Grid and visible cells of all pairs of a row strip and a column strip, pixel by pixel."""
    rows, columns = (strips(length, side, wide) for length, side, wide in zip(size, patch, sides))
    hidden = np.zeros((len(rows), len(columns), *size), dtype=bool)
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            hidden[i, j, top : top + sides[0], left : left + sides[1]] = True
    return np.arange(size[0] + 1), np.arange(size[1] + 1), ~hidden.reshape(-1, *size)
