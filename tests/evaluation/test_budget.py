"""What an attack gives back is checked against what it was given: nobody's word is taken for it."""

from dataclasses import replace

import pytest
import torch
from support.linear_pixels import two_classes

import certseg
from certseg.compute.hardware import Hardware
from certseg.errors import ConfigError
from certseg.evaluation import AttackStage, MinimumNormStage
from certseg.evaluation.budget import check_budget
from certseg.types import (
    L2,
    Attack,
    AttackResult,
    Linf,
    MinimumNormResult,
    Passes,
    Patch,
    Sample,
    SmallestAttack,
)

IMAGE = torch.full((3, 6, 8), 0.5)
TARGET = torch.zeros(6, 8, dtype=torch.int64)


BALL = L2(0.1)


def result(adversarial, threat=BALL, predictor="base"):
    return AttackResult(adversarial, TARGET, threat, predictor, 0.0, Passes(1))


def painted(top, left, height, width):
    image = IMAGE.clone()
    image[:, top : top + height, left : left + width] = 1.0
    return image


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (result(IMAGE, predictor="smoothed"), "another model"),
        (result(IMAGE, threat=L2(0.2)), "another threat"),
        (result(IMAGE, threat=Linf(0.1)), "another threat"),
        (result(IMAGE[:, :5]), "did not end at an image"),
        (result(IMAGE + 0.6), "did not end at an image"),
        (result(IMAGE * float("nan")), "did not end at an image"),
        (None, "gave no result"),
        (result(IMAGE.double()), r"did not end at an image.*torch\.float64"),
        (result(IMAGE.numpy()), r"did not end at an image.*numpy"),
        (result(IMAGE + 0.008), r"another norm than it has.*0\.096.*Received: 0\.0"),
        (result(IMAGE + 0.05), r"left its budget.*at most 0\.1.*Received: 0\.6"),
    ],
)
def test_what_left_its_budget_is_refused(found, words):
    with pytest.raises(ConfigError, match=words):
        check_budget(found, IMAGE, "base", L2(0.1), "x")


def test_what_stayed_within_is_not():
    check_budget(result(IMAGE), IMAGE, "base", L2(0.1), "x")
    check_budget(replace(result(IMAGE + 0.008), norm=0.096), IMAGE, "base", L2(0.1), "x")
    patch = Patch(height=2, width=3)
    check_budget(result(painted(1, 1, 2, 3), patch), IMAGE, "base", patch, "x")
    with pytest.raises(ConfigError, match=r"left its patch.*at most 2 x 3 pixels"):
        check_budget(result(painted(1, 1, 3, 3), patch), IMAGE, "base", patch, "x")


class Overreach(Attack):
    norms = ("l2",)

    def __call__(self, segmenter, image, target, threat, *, stream, hardware, start=None):
        return replace(result(IMAGE + 0.05), threat=threat)


class Misnamed(SmallestAttack):
    norms = ("linf",)

    def __call__(self, segmenter, image, target, *, stream, hardware):
        return MinimumNormResult(IMAGE, TARGET, 0.0, True, 1.0, 0.0, 0, 48, Passes(1), predictor="another")


def test_stages_check_what_they_are_given():
    cpu, names = Hardware(device="cpu"), ("a", "b")
    stage = AttackStage("mine", Overreach(), L2(0.1), two_classes(), names, settings={}, seed=0, hardware=cpu)
    with pytest.raises(ConfigError, match="'x' left its budget"):
        stage.run(Sample("x", IMAGE, TARGET))
    smallest = MinimumNormStage("mine", Misnamed(), two_classes(), names, settings={}, seed=0, hardware=cpu)
    assert smallest.attempt.threat.norm == "linf"
    with pytest.raises(ConfigError, match="another model than announced"):
        smallest.run(Sample("x", IMAGE, TARGET))


class Answers(Attack):
    """Ends at the image itself, and says what it is told to say."""

    norms = ("l2",)

    def __init__(self, prediction, predictor="base"):
        self.prediction, self.predictor = prediction, predictor

    predictor = None

    def __call__(self, segmenter, image, target, threat, *, stream, hardware, start=None):
        return AttackResult(image, self.prediction, threat, self.predictor, 0.0, Passes(1))


CPU = Hardware(device="cpu")


def attacked(attack, network=None, image=IMAGE):
    network = network or two_classes()
    stage = AttackStage("mine", attack, L2(0.1), network, ("a", "b"), settings={}, seed=0, hardware=CPU)
    return stage.run(Sample("x", image, TARGET))


def truth(network, image=IMAGE):
    with torch.no_grad():
        return network(image[None]).argmax(dim=1)[0]


def test_what_an_attack_says_of_the_network_is_asked_of_the_network():
    image = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0))
    true = truth(two_classes(), image)
    assert attacked(Answers(true), image=image)
    assert attacked(Answers(true.to(torch.uint8)), image=image)
    for wrong in (1 - true, torch.where(torch.arange(8) == 3, 1 - true, true)):
        with pytest.raises(ConfigError, match="says that the network answers what it does not"):
            attacked(Answers(wrong), image=image)
        assert attacked(Answers(wrong, "voted"), image=image), "of another predictor there is no telling"


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        (TARGET[:5], r"does not fit.*\(6, 8\)"),
        (TARGET.float(), r"does not fit.*torch\.float32"),
        (TARGET.numpy(), "does not fit.*numpy"),
        (TARGET + 2, "class that does not exist.*0 to 1.*2 to 2"),
        (TARGET - 1, "class that does not exist"),
    ],
)
@pytest.mark.parametrize("predictor", ["base", "voted"])
def test_a_prediction_is_a_map_of_classes(prediction, words, predictor):
    with pytest.raises(ConfigError, match=words):
        attacked(Answers(prediction, predictor))


def test_a_network_that_answers_at_random_is_not_held_to_one_answer():
    class Coin(torch.nn.Module):
        num_classes = 2

        def forward(self, images):
            return torch.randn(len(images), 2, *images.shape[-2:])

    assert attacked(Answers(TARGET), Coin())


def test_a_tie_may_be_told_either_way():
    class Tie(torch.nn.Module):
        num_classes = 2

        def forward(self, images):
            return torch.ones(len(images), 2, *images.shape[-2:])

    assert attacked(Answers(TARGET), Tie())
    assert attacked(Answers(TARGET + 1), Tie())


class InPlace(Attack):
    """Works on the tensors it is given."""

    norms = ("l2",)

    def __call__(self, segmenter, image, target, threat, *, stream, hardware, start=None):
        image.add_(0.3)
        target.fill_(255)
        return AttackResult(image, truth(segmenter, image), threat, "base", 0.0, Passes(1))


def test_an_attack_has_no_hold_of_the_image_it_is_measured_against():
    with pytest.raises(ConfigError, match="left its budget"):
        attacked(InPlace(), image=IMAGE.clone())


class Smallest(SmallestAttack):
    norms = ("l2",)

    def __init__(self, distance, flip):
        self.distance, self.flip = distance, flip

    def __call__(self, segmenter, image, target, *, stream, hardware):
        found = image + 0.01
        prediction = truth(segmenter, found)
        prediction = 1 - prediction if self.flip else prediction
        return MinimumNormResult(found, prediction, self.distance, True, 1.0, self.distance, 0, 48, Passes(1))


def test_the_smallest_perturbation_is_measured_and_its_prediction_asked_for():
    def run(distance, flip=False):
        attack = Smallest(distance, flip)
        stage = MinimumNormStage("mine", attack, two_classes(), ("a", "b"), settings={}, seed=0, hardware=CPU)
        return stage.run(Sample("x", IMAGE, TARGET))

    assert run(0.12)
    with pytest.raises(ConfigError, match=r"another distance than it has.*0\.1"):
        run(0.06)
    with pytest.raises(ConfigError, match="says that the network answers what it does not"):
        run(0.12, flip=True)


def test_from_python_results_are_looked_at_as_in_a_run():
    image = IMAGE.clone()
    for attack, words in ((InPlace(), "left its budget"), (Answers(TARGET + 2), "class that does not exist")):
        with pytest.raises(ConfigError, match=words):
            certseg.attack(two_classes(), image, TARGET, L2(0.1), attack, hardware=CPU)
    assert torch.equal(image, IMAGE)
