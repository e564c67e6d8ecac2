"""What a certifier gives back is looked at before anything is counted from it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.linear_pixels import two_classes
from support.stores import Memory

import certseg
from certseg.compute.hardware import Hardware
from certseg.errors import ConfigError
from certseg.evaluation import CertificationStage
from certseg.types import L2, Certificate, Certifier, Guarantee, Passes, Promise, Sample, Samples
from certseg.types.hierarchy import Hierarchy

CPU = Hardware(device="cpu")
IMAGE = torch.full((3, 6, 8), 0.5)
CLASSES = torch.zeros(6, 8, dtype=torch.int64)
MASK = torch.ones(6, 8, dtype=torch.bool)
GUARANTEE = Guarantee(Promise.EVERY_PIXEL, "base", L2(0.1), confidence=1.0)
GROUPS = Hierarchy((("a", "b", "c"), ("a", "rest", "rest"))).names
GROUPED = replace(GUARANTEE, hierarchy=GROUPS)
RIGHT = Certificate(CLASSES, MASK, GUARANTEE, Passes(1))


class Told(Certifier):
    """Gives back what it is told to; ``sampled`` does so through samples that are kept."""

    name = "told"
    settings = {}

    def __init__(self, found, guarantee=GUARANTEE):
        self.found, self._guarantee = found, guarantee

    @property
    def guarantee(self):
        return self._guarantee

    def certify(self, segmenter, image, *, stream, hardware):
        return self.found


class Kept(Told):
    samples_identity = {}

    def sampling(self):
        return self

    def sample(self, segmenter, image, *, stream, hardware):
        return Samples(CLASSES, torch.tensor(3, dtype=torch.int16), Passes(1), {})

    def from_samples(self, samples):
        return self.found


WRONG = [
    (None, r"no certificate.*NoneType"),
    ((CLASSES, MASK), "no certificate.*tuple"),
    (replace(RIGHT, certified=MASK.long()), r"'certified' does not fit.*torch\.bool.*torch\.int64"),
    (replace(RIGHT, certified=MASK.float()), "'certified' does not fit"),
    (replace(RIGHT, certified=torch.tensor(True)), r"'certified' does not fit.*shape \(6, 8\)"),
    (replace(RIGHT, certified=MASK[:1]), "'certified' does not fit"),
    (replace(RIGHT, certified=MASK[None]), "'certified' does not fit"),
    (replace(RIGHT, certified=MASK.numpy()), "'certified' does not fit.*numpy"),
    (replace(RIGHT, classes=CLASSES.float()), "'classes' does not fit"),
    (replace(RIGHT, classes=CLASSES[:, :4]), "'classes' does not fit"),
    (replace(RIGHT, classes=np.zeros((6, 8))), "'classes' does not fit"),
    (replace(RIGHT, classes=CLASSES + 255), "class that does not exist.*0 to 1.*255 to 255"),
    (replace(RIGHT, classes=CLASSES - 1), "class that does not exist"),
    (replace(RIGHT, guarantee=replace(GUARANTEE, threat=L2(0.2))), "another guarantee than it announces"),
    (replace(RIGHT, levels=CLASSES.to(torch.uint8)), "certifies classes, but.*has levels"),
    (replace(RIGHT, passes=1), "no count of passes"),
    (replace(RIGHT, seconds=0.1), "no seconds"),
]


@pytest.mark.parametrize(("found", "words"), WRONG)
def test_one_line_says_what_does_not_fit(found, words):
    with pytest.raises(ConfigError, match=words):
        certseg.certify(two_classes(), IMAGE, Told(found), hardware=CPU)


@pytest.mark.parametrize(("found", "words"), WRONG)
def test_what_is_decided_from_samples_is_looked_at_too(found, words):
    shelf = Memory()
    for _ in ("drawn", "found again"):
        stage = CertificationStage(Kept(found), two_classes(), ("a", "b"), seed=0, hardware=CPU, samples=shelf)
        with pytest.raises(ConfigError, match=words):
            stage.run(Sample("x", IMAGE, CLASSES))


def test_what_fits_is_given_back_as_it_is():
    assert certseg.certify(two_classes(), IMAGE, Told(RIGHT), hardware=CPU) == RIGHT
    grouped = replace(RIGHT, guarantee=GROUPED, levels=torch.ones(6, 8, dtype=torch.uint8))
    assert certseg.certify(two_classes(), IMAGE, Told(grouped, GROUPED), hardware=CPU).levels is grouped.levels


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        (None, "has no levels"),
        (CLASSES, r"'levels' does not fit.*torch\.uint8"),
        (torch.full((6, 8), 2, dtype=torch.uint8), "level that does not exist.*0 to 1"),
    ],
)
def test_levels_are_those_of_the_hierarchy(levels, words):
    grouped = replace(RIGHT, guarantee=GROUPED, levels=levels)
    with pytest.raises(ConfigError, match=words):
        certseg.certify(two_classes(), IMAGE, Told(grouped, GROUPED), hardware=CPU)


def test_a_certifier_works_on_a_copy_of_the_image():
    class Blackens(Told):
        def certify(self, segmenter, image, *, stream, hardware):
            image.zero_()
            return self.found

    image = IMAGE.clone()
    certseg.certify(two_classes(), image, Blackens(RIGHT), hardware=CPU)
    assert torch.equal(image, IMAGE)


@pytest.mark.parametrize("certifier", [Told, object(), lambda *_: None])
def test_what_is_no_certifier_is_told_so(certifier):
    with pytest.raises(ConfigError, match=r"no certifier.*certseg\.types\.Certifier"):
        certseg.certify(two_classes(), IMAGE, certifier, hardware=CPU)
