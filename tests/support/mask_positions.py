"""Masks against every position of a patch, by brute force."""

import numpy as np

from certseg.types import Patch


def pixels(height, width, count=1):
    return Patch(height=height, width=width, count=count)


def touched_at_every_position(hidden, patch):
    """The set of touched masks at each position of one patch, from the pixels: ``positions x K``."""
    visible = ~np.asarray(hidden)
    windows = np.lib.stride_tricks.sliding_window_view(visible, patch, axis=(1, 2))
    return windows.any(axis=(3, 4)).reshape(len(visible), -1).T


def sets_of(rows):
    return {tuple(np.flatnonzero(row)) for row in rows}


def largest(family):
    return {a for a in family if not any(set(a) < set(b) for b in family)}


def checked(masks, patch):
    """Compare family, T and coverage of one patch with brute force."""
    everywhere = touched_at_every_position(masks.hidden(), patch)
    assert sets_of(masks.touched) == largest(sets_of(everywhere))
    assert masks.most_touched == everywhere.sum(axis=1).max()
    assert masks.covers == (everywhere.sum(axis=1).max() < masks.num_masks)
    return everywhere
