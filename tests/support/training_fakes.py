"""A small segmenter and an in-memory data set for the tests of certseg.training; importable by subprocesses."""

import logging
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from certseg.compute.hardware import Hardware, rank
from certseg.training import Augmentation, NoiseObjective, Recipe, train
from certseg.types import IGNORE_INDEX, Sample, TrainingOutput

CLASSES = ("dark", "middle", "bright")


class Bands:
    """Images whose class is their brightness: learnable in a few steps, different for every index."""

    name = "bands"
    class_names = CLASSES
    palette = ((0, 0, 0), (128, 128, 128), (255, 255, 255))

    def __init__(self, count=6, size=(24, 32), split="train", seed=0):
        self.split, self._count, self._size, self._seed = split, count, size, seed
        self.reads = 0

    def __len__(self):
        return self._count

    def names(self):
        return tuple(f"{self.split}{index}" for index in range(self._count))

    def fingerprint(self):
        return f"{self.split}-{self._count}-{self._size}-{self._seed}"

    def __getitem__(self, index):
        self.reads += 1
        generator = np.random.default_rng((self._seed, index))
        height, width = self._size
        target = np.repeat(generator.integers(0, 3, (height // 4, width // 4)), 4, 0).repeat(4, 1)
        grey = (40 + 85 * target + generator.integers(-15, 16, target.shape)).astype(np.float32)
        target = np.where(generator.random(target.shape) < 0.02, IGNORE_INDEX, target)
        image = torch.from_numpy(np.stack([grey] * 3)) / 255
        return Sample(self.names()[index], image, torch.from_numpy(target.astype(np.int64)))


class TinySegmenter(nn.Module):
    """Three convolutions with batch normalisation and dropout, whose randomness a resume has to restore."""

    def __init__(self, num_classes=3, width=8, seed=0):
        super().__init__()
        self.num_classes = num_classes
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(3, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Dropout(0.1),
                nn.Conv2d(width, num_classes, 3, padding=1),
            )
            self.unused = nn.Linear(2, 2)  # networks of mmsegmentation have parts that no loss reaches

    def forward(self, images):
        return self.body(images)

    def loss(self, images, labels):
        return self.loss_and_logits(images, labels).losses

    def loss_and_logits(self, images, labels):
        logits = self(images)
        hits = (logits.argmax(1) == labels).float().mean()
        losses = {"loss_ce": F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX), "acc": hits}
        return TrainingOutput(losses, logits, labels)


class SlowSegmenter(TinySegmenter):
    """Takes 20 ms longer per step, so that a test can kill the training in the middle."""

    def loss(self, images, labels):
        time.sleep(0.02)
        return super().loss(images, labels)


IDENTITY = {"data": "bands", "model": "tiny", "seed": 0}
RECIPE = Recipe(
    name="noise",
    objective=NoiseObjective(0.1),
    iterations=60,
    batch_size=4,
    crop=(16, 24),
    checkpoint_interval=7,
    augmentation=Augmentation(photometric=True),
    validations=4,
)


def train_bands(directory, segmenter=None, recipe=RECIPE, train_set=None, identity=IDENTITY, workers=0, **kwargs):
    """Train on the bands with one CPU thread; returns the segmenter and the report."""
    hardware = Hardware(device="cpu", threads=1, workers=workers)
    hardware.setup(0)
    segmenter = TinySegmenter() if segmenter is None else segmenter
    train_set = Bands() if train_set is None else train_set
    kwargs = {"val_set": Bands(count=3, split="val", seed=1), "seed": 0, **kwargs}
    report = train(
        segmenter, train_set, recipe=recipe, directory=directory, hardware=hardware, identity=identity, **kwargs
    )
    return segmenter, report


if __name__ == "__main__":  # a training in a process of its own: one that gets killed, or a rank under torchrun
    logging.basicConfig(level=logging.INFO)
    network, done = train_bands(sys.argv[1], SlowSegmenter())
    torch.save({"weights": network.state_dict(), "figures": done.figures}, f"{sys.argv[1]}/rank{rank()}.pt")
