import doctest

import torch
from support.linear_pixels import image_with_margins, two_classes

import certseg
from certseg.attacks import PGD
from certseg.certifiers import SegCertify
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
    assert not model.training
    again = certseg.certify(model, image, SegCertify(sigma=0.25), seed=1)
    assert torch.equal(certificate.certified, again.certified)
    target = torch.zeros(3, 4).long()
    weak = certseg.attack(model, image, target, L2(0.1), PGD(steps=3))
    strong = certseg.attack(model, image, target, L2(3.0), PGD(steps=20))
    assert (weak.prediction == 0).all()
    assert (strong.prediction == 1).all()
