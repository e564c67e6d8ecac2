"""The procedural streets: determinism, splits, labels, sizes."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from certseg.datasets import Streets, evenly_spaced
from certseg.errors import ConfigError, DataError
from certseg.types import IGNORE_INDEX

PRINT = """
import hashlib
from certseg.datasets import Streets
sample = Streets("val", size=(32, 64), seed=3)[7]
digest = hashlib.sha256(sample.image.numpy().tobytes() + sample.target.numpy().tobytes())
print(digest.hexdigest())
"""


def same(first, second) -> bool:
    return torch.equal(first.image, second.image) and torch.equal(first.target, second.target)


@pytest.fixture(scope="module")
def scenes():
    dataset = Streets("train", count=24, size=(64, 128))
    return dataset, [dataset[i] for i in range(24)]


def test_counts_names_and_classes():
    assert {split: len(Streets(split)) for split in ("train", "val", "test")} == {"train": 300, "val": 50, "test": 100}
    dataset = Streets("test", count=3)
    assert dataset.names() == ("test_0000", "test_0001", "test_0002")
    assert len(dataset.class_names) == len(dataset.palette) == len(set(dataset.palette)) == 8
    assert dataset.name == "streets"
    assert evenly_spaced(dataset, 2).names() == ("test_0000", "test_0001")


def test_every_class_is_drawn_and_the_bonnet_is_ignored(scenes):
    _, samples = scenes
    counts = sum(torch.bincount(s.target.flatten(), minlength=256) for s in samples)
    shares = counts / counts.sum()
    assert (shares[:8] > 0.002).all()
    assert 0.005 < shares[IGNORE_INDEX] < 0.1
    assert shares[8:IGNORE_INDEX].sum() == 0
    bonnets = [s for s in samples if (s.target == IGNORE_INDEX).any()]
    assert 0 < len(bonnets) < len(samples)
    assert all((s.target[:48] != IGNORE_INDEX).all() for s in bonnets)


def test_pixels_are_varied_8_bit_values(scenes):
    _, samples = scenes
    levels = samples[0].image * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    brightness = torch.tensor([float(s.image.mean()) for s in samples])
    assert brightness.std() > 0.04  # weather and time of day
    assert all(float(s.image.std()) > 0.04 for s in samples)


def test_sky_lies_above_the_road(scenes):
    _, samples = scenes
    rows = torch.arange(64.0)[:, None].expand(64, 128)
    sky, road = (torch.cat([rows[s.target == label] for s in samples]).mean() for label in (5, 0))
    assert sky < 28 < 40 < road


def test_same_again_and_in_another_order(scenes):
    dataset, samples = scenes
    again = Streets("train", count=300, size=(64, 128))
    assert all(same(samples[i], again[i]) for i in (17, 3, 0))
    assert same(dataset[3], samples[3])
    assert same(dataset[-1], samples[23])


def test_same_in_another_process():
    sample = Streets("val", size=(32, 64), seed=3)[7]
    here = hashlib.sha256(sample.image.numpy().tobytes() + sample.target.numpy().tobytes()).hexdigest()
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", PRINT], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == here


def test_changing_a_sample_leaves_the_memory_alone():
    dataset = Streets("val", size=(32, 64))
    first = dataset[0].image.clone()
    dataset[0].image.zero_()
    dataset[0].target.zero_()
    assert torch.equal(dataset[0].image, first)
    assert dataset[0].target.any()


def test_splits_and_seeds_share_no_scene():
    prints = set()
    for split in ("train", "val", "test"):
        for seed in (0, 1):
            dataset = Streets(split, count=5, size=(32, 64), seed=seed)
            prints |= {dataset[i].image.numpy().tobytes() for i in range(5)}
    assert len(prints) == 30


@pytest.mark.parametrize("size", [(16, 16), (33, 47), (96, 64), (64, 256)])
def test_any_size(size):
    sample = Streets("test", size=size)[0]
    assert sample.image.shape == (3, *size)
    assert np.isin([0, 5], sample.target.numpy()).all()


def test_fingerprint():
    base = {"split": "test", "size": (32, 64), "count": 4, "seed": 0}
    first = Streets(**base).fingerprint()
    assert Streets(**{**base, "size": [32, 64]}).fingerprint() == first
    for change in ({"split": "val"}, {"size": (32, 32)}, {"count": 5}, {"seed": 1}):
        assert Streets(**{**base, **change}).fingerprint() != first


@pytest.mark.parametrize(
    "options",
    [{"size": None}, {"size": (8, 64)}, {"size": (64,)}, {"count": 0}, {"count": 1.5}, {"seed": -1}, {"seed": True}],
)
def test_bad_options(options):
    with pytest.raises(ConfigError, match=r"dataset\."):
        Streets(**options)


def test_unknown_split_and_index():
    with pytest.raises(DataError, match="train or val or test"):
        Streets("validation")
    with pytest.raises(IndexError):
        Streets(count=2, size=(32, 64))[2]
