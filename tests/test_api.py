import doctest

import numpy as np
import pytest
import torch
from support.linear_pixels import image_with_margins, two_classes

import certseg
from certseg.attacks import PGD
from certseg.certifiers import SegCertify
from certseg.errors import CertsegError, DataError, ModelError
from certseg.types import L2


def test_the_package_docstring_runs():
    torch.manual_seed(0)
    assert doctest.testmod(certseg).failed == 0


class Brightness:
    """A segmenter that is no torch module: it finds pixels dark or bright."""

    num_classes = 2

    def __call__(self, images):
        bright = 10.0 * (images.mean(dim=1) - 0.5)
        return torch.stack([-bright, bright], dim=1)


def test_a_model_need_not_be_a_torch_module():
    image = torch.full((3, 4, 4), 0.9)
    certificate = certseg.certify(Brightness(), image, SegCertify(sigma=0.25))
    assert certificate.certified.all()
    result = certseg.attack(Brightness(), image, certificate.classes, L2(0.1), PGD(steps=2))
    assert (result.prediction == 1).all()


def test_certify_and_attack_meet():
    model = two_classes().train()
    image = image_with_margins(model, torch.full((3, 4), 0.4))
    certificate = certseg.certify(model, image, SegCertify(sigma=0.25), seed=1)
    assert certificate.certified.all()
    assert model.training  # as it came
    again = certseg.certify(model, image, SegCertify(sigma=0.25), seed=1)
    assert torch.equal(certificate.certified, again.certified)
    target = torch.zeros(3, 4).long()
    weak = certseg.attack(model, image, target, L2(0.1), PGD(steps=3))
    strong = certseg.attack(model, image, target, L2(3.0), PGD(steps=20))
    assert (weak.prediction == 0).all()
    assert (strong.prediction == 1).all()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4, 3), np.uint8), "torch.from_numpy"),
        (torch.zeros(4, 5, 3), "channels first"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), "channels first.*divide 8-bit values by 255"),
        (torch.zeros(3, 4, 5, dtype=torch.uint8), "Divide 8-bit"),
        (torch.zeros(4, 5), "expand"),
        (torch.zeros(2, 3, 4, 5), r"image\[0\]"),
        (torch.zeros(3, 0, 5), "at least one pixel"),
        (torch.full((3, 4, 5), 200.0), "255"),
        (torch.full((3, 4, 5), torch.nan), "nan"),
        (None, "no tensor"),
    ],
    ids=lambda value: str(getattr(value, "shape", "")) + str(getattr(value, "dtype", "")),
)
def test_what_is_no_image_is_one_line_with_its_remedy(image, words):
    for call in (
        lambda: certseg.certify(Brightness(), image, SegCertify(sigma=0.25)),
        lambda: certseg.attack(Brightness(), image, torch.zeros(4, 5).long(), L2(0.1), PGD(steps=2)),
    ):
        with pytest.raises(DataError, match=words) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "target", [np.zeros((4, 5)), torch.zeros(5, 4).long(), torch.zeros(4, 5), torch.full((4, 5), 2)]
)
def test_what_are_no_labels_is_one_line(target):
    with pytest.raises(DataError, match="target"):
        certseg.attack(Brightness(), torch.zeros(3, 4, 5), target, L2(0.1), PGD(steps=2))


def test_a_model_that_does_not_say_its_classes_is_one_line():
    model, image = torch.nn.Conv2d(3, 1, 1), torch.zeros(3, 4, 5)
    for num_classes in (None, 1):
        if num_classes:
            model.num_classes = num_classes
        for call in (
            lambda: certseg.certify(model, image, SegCertify(sigma=0.25)),
            lambda: certseg.attack(model, image, torch.zeros(4, 5).long(), L2(0.1), PGD(steps=2)),
        ):
            with pytest.raises(ModelError, match="is no segmenter"):
                call()


def test_every_part_of_a_model_gets_its_mode_back_also_after_an_error():
    model = torch.nn.Sequential(two_classes(), torch.nn.Identity(), torch.nn.Identity())
    model.num_classes = 2
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    certseg.certify(model, torch.rand(3, 4, 5), SegCertify(sigma=0.25))
    assert [module.training for module in model.modules()] == modes
    model.num_classes = 3
    with pytest.raises(CertsegError):
        certseg.certify(model, torch.rand(3, 4, 5), SegCertify(sigma=0.25))
    assert [module.training for module in model.modules()] == modes
