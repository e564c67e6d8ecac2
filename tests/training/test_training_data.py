"""Draws, augmentation and batches: functions of (seed, draw), image and labels always together."""

import numpy as np
import pytest
import torch
from support.training_fakes import Bands
from torch.utils.data import DataLoader

from certseg.errors import ConfigError, DataError
from certseg.training import Augmentation, Recipe
from certseg.training.data import DrawSampler, TrainingImages, ValidationImages, collate, derive_seed
from certseg.types import IGNORE_INDEX, Sample


class Coordinates(Bands):
    """Red and green name a pixel's row and column; the label is a function of both."""

    def __getitem__(self, index):
        height, width = self._size
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        image = torch.stack([rows, columns, torch.full_like(rows, index)]).float() / 255
        return Sample(f"c{index}", image, (rows * 7 + columns * 3) % 3)


def images(source=None, seed=0, **kwargs):
    return TrainingImages(Bands() if source is None else source, Recipe(**kwargs), seed, num_classes=3)


def test_every_epoch_visits_every_image_once_in_another_order():
    draws = list(DrawSampler(size=5, batch_size=4, iterations=10, seed=3))
    assert [draw for _, draw in draws] == list(range(40))
    epochs = [tuple(index for index, _ in draws[k : k + 5]) for k in range(0, 40, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len(set(epochs)) > 1


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_every_batch_and_a_resume_continues_it(world):
    whole = list(DrawSampler(size=7, batch_size=4, iterations=6, seed=1))
    samplers = [DrawSampler(7, 4, 6, 1, rank, world) for rank in range(world)]
    share = 4 // world
    assert all(len(sampler) == 6 * share for sampler in samplers)
    for skipped in (0, 4):
        for sampler in samplers:
            sampler.skip(skipped * share)
        parts = [list(sampler) for sampler in samplers]
        merged = [draw for step in range(6 - skipped) for part in parts for draw in part[step * share :][:share]]
        assert merged == whole[skipped * 4 :]


def test_seeds_of_different_paths_differ():
    assert derive_seed(5, 1, 2) == derive_seed(5, 1, 2)
    assert len({derive_seed(seed, stream, k) for seed in range(5) for stream in range(4) for k in range(50)}) == 1000


def test_a_draw_does_not_depend_on_what_was_drawn_before():
    settings = {
        "crop": (16, 16),
        "augmentation": Augmentation(scale=(0.5, 2.0), flip=0.5, photometric=True, cat_max_ratio=0.75),
    }
    forwards, backwards = images(**settings), images(**settings)
    keys = [(index, draw) for draw in range(3) for index in range(6)]
    there = {key: forwards[key] for key in keys}
    back = {key: backwards[key] for key in reversed(keys)}
    assert all(torch.equal(there[key][name], back[key][name]) for key in keys for name in ("images", "labels"))
    assert any(not torch.equal(there[0, 0]["images"], there[0, draw]["images"]) for draw in (1, 2))
    assert not torch.equal(images(seed=1, **settings)[0, 0]["images"], there[0, 0]["images"])


@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
def test_crop_and_flip_keep_labels_on_their_pixels(flip):
    source = Coordinates(size=(40, 60))
    training = images(source, crop=(16, 24), augmentation=Augmentation(flip=flip))
    directions = set()
    for draw in range(20):
        sample = training[draw % 6, draw]
        rows, columns, index = (sample["images"][..., channel].long() for channel in range(3))
        assert torch.equal(sample["labels"].long(), (rows * 7 + columns * 3) % 3)
        assert int(index[0, 0]) == draw % 6
        step = set((columns[:, 1:] - columns[:, :-1]).flatten().tolist())
        assert len(step) == 1
        directions |= step
    assert directions == {0.0: {1}, 1.0: {-1}, 0.5: {1, -1}}[flip]


def test_scaling_keeps_labels_near_their_pixels():
    half = torch.zeros(40, 60, dtype=torch.int64)
    half[:, 30:] = 1

    class Halves(Bands):
        def __getitem__(self, index):
            return Sample("half", half.float().expand(3, -1, -1).contiguous(), half)

    augmentation = Augmentation(scale=(0.5, 2.0), flip=0.5)
    training = images(Halves(size=(40, 60)), crop=(40, 60), augmentation=augmentation)
    for draw in range(20):
        sample = training[0, draw]
        labelled = sample["labels"] != IGNORE_INDEX
        bright = sample["images"][..., 0] > 127
        wrong = (bright.long() != sample["labels"].long()) & labelled
        assert wrong.sum() <= 40  # one column of pixels on the border between the classes


def test_padding_is_void_and_black():
    class Shrinking(Bands):
        """The first image is 40 x 32, the others 24 x 32."""

        def __getitem__(self, index):
            self._size = (24, 32) if index else (40, 32)
            return super().__getitem__(index)

    training = images(Shrinking(), crop=(40, 20), augmentation=Augmentation(flip=0.0))
    sample = training[1, 0]
    assert sample["images"].shape == (40, 20, 3)
    assert bool((sample["labels"][24:] == IGNORE_INDEX).all())
    assert bool((sample["images"][24:] == 0).all())
    assert bool((sample["images"][:24] > 0).any())


@pytest.mark.parametrize(
    ("crop", "scale", "expected"),
    [((240, 16), None, (24, 16)), ((240, 320), None, (24, 32)), ((240, 40), (0.5, 2.0), (48, 40))],
)
def test_a_crop_beyond_the_images_is_cut_down(crop, scale, expected):
    sample = images(crop=crop, augmentation=Augmentation(scale=scale))[0, 0]  # images are 24 x 32
    assert sample["labels"].shape == expected


def test_images_are_read_once_while_they_fit(monkeypatch):
    source = Bands()
    training = images(source)
    for draw in range(20):
        _ = training[draw % 6, draw]
    assert source.reads == len(source)
    monkeypatch.setattr("certseg.training.data.CACHE_BYTES", 100)
    source = Bands()
    training = images(source)
    training.fill()
    assert source.reads == 1
    for draw in range(12):
        _ = training[draw % 6, draw]
    assert source.reads == 13


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")  # fork under Python 3.12
def test_worker_processes_give_the_same_batches():
    training = images(crop=(16, 16), augmentation=Augmentation(flip=0.5, photometric=True))

    def batches(workers):
        sampler = DrawSampler(len(training), 4, 3, seed=0)
        loader = DataLoader(training, 4, sampler=sampler, num_workers=workers, collate_fn=collate)
        return torch.cat([batch["images"] for batch in loader])

    assert torch.equal(batches(0), batches(1))


def test_errors_say_what_to_do():
    with pytest.raises(DataError, match="no images"):
        images(Bands(count=0))
    with pytest.raises(DataError, match="no images"):
        ValidationImages(Bands(count=0), None, 3)
    with pytest.raises(ConfigError, match="at most 255 classes"):
        TrainingImages(Bands(), Recipe(), 0, num_classes=256)
    with pytest.raises(DataError, match=r"train0.*Expected: 0 to 1, or 255"):
        TrainingImages(Bands(), Recipe(), 0, num_classes=2)
    with pytest.raises(DataError, match=r"differ in size.*training\.crop"):
        collate([{"images": torch.zeros(h, 4, 3), "labels": torch.zeros(h, 4)} for h in (4, 5)])


def test_validation_images_are_whole_and_limited():
    validation = ValidationImages(Bands(), limit=2, num_classes=3)
    assert len(validation) == 2
    sample, original = validation[1], Bands()[1]
    assert torch.equal(sample["images"], original.image)
    assert torch.equal(sample["labels"], original.target)
    assert len(ValidationImages(Bands(), limit=100, num_classes=3)) == 6


def test_eight_bit_rounding_is_exact_for_eight_bit_images():
    sample, original = images(augmentation=Augmentation(flip=0.0))[2, 0], Bands()[2]
    restored = sample["images"].permute(2, 0, 1).float() / 255
    assert torch.equal(restored, original.image)
    assert sample["labels"].numpy().astype(np.int64).tolist() == original.target.tolist()
