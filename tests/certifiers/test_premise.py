"""Networks that are no fixed functions: deterministic certificates refuse them whatever their modules are called,
sampled ones say that the network is random, and nobody certifies an answer that depends on the batch."""

import pytest
import torch
import torch.nn.functional as F
from support.linear_pixels import two_classes

import certseg
from certseg.certifiers import (
    DemaskedDetection,
    DemaskedRecovery,
    DerandomizedSmoothing,
    Lipschitz,
    PatchDoubleMasking,
    SegCertify,
)
from certseg.certifiers.premise import RANDOM, ROUNDING
from certseg.compute.hardware import Hardware
from certseg.errors import ModelError
from certseg.evaluation import CertificationStage
from certseg.types import LipschitzBound, Patch, Sample

SIZE = (24, 32)
PATCH = Patch(height=3, width=3)
IMAGE = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0))
CPU = Hardware(device="cpu", noise_batch=8)


class Network(torch.nn.Module):
    """A convolution, and behind it whatever ``habit`` does."""

    num_classes = 3

    def __init__(self, habit):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.habit = torch.nn.Conv2d(3, 3, 3, padding=1), habit
        self.eval()

    def forward(self, images):
        return self.habit(self.layer(images))

    def certified_bound(self, size):
        return LipschitzBound(10.0)


def always_dropping(logits):
    return F.dropout(logits, 0.1, training=True)


def stochastic_depth(logits):
    kept = (torch.rand(len(logits), 1, 1, 1) < 0.5).float()
    return logits + kept * logits.flip(1)


def random_crop(logits):
    shift = int(torch.randint(1, 5, ()))
    return torch.roll(logits, shift, dims=-1)


def batch_statistics(logits):
    return (logits - logits.mean(dim=(0, 2, 3), keepdim=True)) / logits.std(dim=(0, 2, 3), keepdim=True)


def first_of_batch(logits):
    return logits + logits[:1].mean()


def fixed(logits):
    return logits


RANDOM_HABITS = (always_dropping, stochastic_depth, random_crop)
BATCH_HABITS = (batch_statistics, first_of_batch)


def deterministic():
    patches = {"patch": PATCH, "inpainter": None}
    return {
        "recovery": DemaskedRecovery(**patches),
        "detection": DemaskedDetection(**patches, num_masks=4),
        "double": PatchDoubleMasking(**patches),
        "drs": DerandomizedSmoothing(patch=PATCH),
        "lipschitz": Lipschitz(radius=0.1, radii=()),
    }


@pytest.mark.parametrize("habit", RANDOM_HABITS, ids=lambda habit: habit.__name__)
@pytest.mark.parametrize("kind", deterministic())
def test_deterministic_certificates_of_random_networks_are_refused(kind, habit):
    with pytest.raises(ModelError, match=r"gives one image one answer.*certifier=segcertify"):
        certseg.certify(Network(habit), IMAGE, deterministic()[kind], hardware=CPU)


@pytest.mark.parametrize("habit", BATCH_HABITS, ids=lambda habit: habit.__name__)
@pytest.mark.parametrize("kind", [*deterministic(), "segcertify"])
def test_an_answer_that_depends_on_the_batch_is_never_certified(kind, habit):
    certifier = (deterministic() | {"segcertify": SegCertify(sigma=0.1, n=60)})[kind]
    with pytest.raises(ModelError, match=r"depends on the other images in its batch"):
        certseg.certify(Network(habit), IMAGE, certifier, hardware=CPU)


@pytest.mark.parametrize("kind", [*deterministic(), "segcertify"])
def test_fixed_networks_pass_without_a_flag(kind):
    certifier = (deterministic() | {"segcertify": SegCertify(sigma=0.1, n=60)})[kind]
    assert RANDOM not in certseg.certify(Network(fixed), IMAGE, certifier, hardware=CPU).flags


@pytest.mark.parametrize("habit", RANDOM_HABITS, ids=lambda habit: habit.__name__)
def test_smoothing_says_that_the_network_is_random(habit):
    assert RANDOM in certseg.certify(Network(habit), IMAGE, SegCertify(sigma=0.1, n=60), hardware=CPU).flags


def test_a_random_inpainter_is_refused_too():
    class Dice:
        name, settings = "dice", {}

        def __call__(self, images, hidden):
            return torch.where(hidden[:, None], torch.rand_like(images), images)

    with pytest.raises(ModelError, match="gives one image one answer"):
        certseg.certify(Network(fixed), IMAGE, DemaskedRecovery(patch=PATCH, inpainter=Dice()), hardware=CPU)


def test_rounding_is_no_randomness():
    noise = torch.Generator().manual_seed(0)

    def rounded(logits):
        jitter = torch.rand(logits.shape, generator=noise) - 0.5
        return logits + 0.1 * ROUNDING * float(logits.abs().amax()) * jitter

    certseg.certify(Network(rounded), IMAGE, DemaskedRecovery(patch=PATCH, inpainter=None), hardware=CPU)


def test_a_run_refuses_and_flags_alike():
    sample = Sample("a", IMAGE, torch.zeros(SIZE, dtype=torch.int64))
    names = ("a", "b", "c")
    refused = CertificationStage(deterministic()["recovery"], Network(always_dropping), names, seed=0, hardware=CPU)
    with pytest.raises(ModelError, match="gives one image one answer"):
        refused.run(sample)
    smoothed = SegCertify(sigma=0.1, n=60)
    flagged = CertificationStage(smoothed, Network(always_dropping), names, seed=0, hardware=CPU)
    assert RANDOM in flagged.run(sample)[0]["flags"]


def test_a_network_is_looked_at_once_for_each_shape():
    class Counting(torch.nn.Module):
        num_classes = 2

        def __init__(self):
            super().__init__()
            self.inner, self.images = two_classes(), 0

        def forward(self, images):
            self.images += len(images)
            return self.inner(images)

    model, certifier = Counting(), SegCertify(sigma=0.1, n=60)
    for height, passes in ((6, 10), (6, 0), (7, 10), (6, 0)):
        before = model.images
        certificate = certseg.certify(model, torch.rand(3, height, 8), certifier, hardware=CPU)
        assert model.images - before - certificate.passes.forward == passes
