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
from certseg.certifiers.checked import certify_checked
from certseg.certifiers.premise import RANDOM, VARYING
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ModelError
from certseg.evaluation import CertificationStage
from certseg.types import Certifier, LipschitzBound, Patch, Sample

SIZE = (24, 32)
PATCH = Patch(height=3, width=3)
IMAGE = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0))
CPU = Hardware(device="cpu", noise_batch=8)
ONE_BY_ONE = Hardware(device="cpu", noise_batch=1)


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


def depth_of_the_batch(logits):
    return logits + float(torch.rand(()) < 0.5) * logits.flip(1)


def dropping_beside_batch_statistics(logits):
    return F.dropout(logits - logits.mean(dim=(0, 2, 3), keepdim=True), 0.1, training=True)


def dropping_beside_a_masked_class(logits):
    return torch.cat([F.dropout(logits[:, :2], 0.5, training=True), torch.full_like(logits[:, :1], -1e4)], dim=1)


def dropping_on_a_high_level(logits):
    return F.dropout(logits, 0.1, training=True) + 1e4


def random_crop(logits):
    shift = int(torch.randint(1, 5, ()))
    return torch.roll(logits, shift, dims=-1)


def batch_statistics(logits):
    return (logits - logits.mean(dim=(0, 2, 3), keepdim=True)) / logits.std(dim=(0, 2, 3), keepdim=True)


def first_of_batch(logits):
    return torch.cat([logits[:, :1] + logits[:1].mean(), logits[:, 1:]], dim=1)


def fixed(logits):
    return logits


INDEPENDENT_HABITS = (always_dropping, stochastic_depth)
SHARED_HABITS = (random_crop, depth_of_the_batch)
HIDDEN_HABITS = (dropping_beside_a_masked_class, dropping_on_a_high_level)
RANDOM_HABITS = (*INDEPENDENT_HABITS, *SHARED_HABITS, *HIDDEN_HABITS)
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


@pytest.mark.parametrize(
    "habit", [*INDEPENDENT_HABITS, *SHARED_HABITS, dropping_beside_batch_statistics], ids=lambda habit: habit.__name__
)
def test_a_random_network_is_sampled_one_copy_per_pass(habit):
    with pytest.raises(ModelError, match=r"The network is random.*hardware.noise_batch=1"):
        certseg.certify(Network(habit), IMAGE, SegCertify(sigma=0.1, n=60), hardware=CPU)


@pytest.mark.parametrize("habit", [*INDEPENDENT_HABITS, *SHARED_HABITS], ids=lambda habit: habit.__name__)
def test_smoothing_says_that_the_network_is_random(habit):
    assert RANDOM in certseg.certify(Network(habit), IMAGE, SegCertify(sigma=0.1, n=60), hardware=ONE_BY_ONE).flags


def test_a_random_inpainter_is_refused_too():
    class Dice:
        name, settings = "dice", {}

        def __call__(self, images, hidden):
            return torch.where(hidden[:, None], torch.rand_like(images), images)

    network = Network(fixed)
    certseg.certify(network, IMAGE, DemaskedRecovery(patch=PATCH, inpainter=None), hardware=CPU)
    with pytest.raises(ModelError, match="gives one image one answer"):
        certseg.certify(network, IMAGE, DemaskedRecovery(patch=PATCH, inpainter=Dice()), hardware=CPU)


class Switched(Network):
    """Random once it is told to be."""

    def __init__(self, often=1.0):
        super().__init__(self.maybe)
        self.is_random, self.often = False, often

    def maybe(self, logits):
        changes = self.is_random and float(torch.rand(())) < self.often
        return logits.flip(1) if changes else logits


@pytest.mark.parametrize("kind", ["recovery", "lipschitz"])
def test_a_network_that_has_changed_is_looked_at_again(kind):
    network, certifier = Switched(0.5), deterministic()[kind]
    certseg.certify(network, IMAGE, certifier, hardware=CPU)
    network.is_random = True
    with pytest.raises(ModelError, match="gives one image one answer"):
        certseg.certify(network, IMAGE, certifier, hardware=CPU)


def test_what_happens_rarely_is_seen_over_a_data_set():
    torch.manual_seed(0)
    network, certifier = Switched(0.03), deterministic()["recovery"]
    network.is_random = True

    def certify_many():
        for _ in range(100):
            certseg.certify(network, IMAGE, certifier, hardware=CPU)

    with pytest.raises(ModelError, match=r"gives one image one answer|depends on the other images"):
        certify_many()


def test_a_network_that_cannot_be_referred_to_is_looked_at_each_time():
    class Plain:
        __slots__ = ("calls",)
        __hash__ = None
        num_classes = 3

        def __init__(self):
            self.calls = 0

        def __call__(self, images):
            self.calls += 1
            return images * torch.tensor([1.0, 2.0, 3.0])[:, None, None]

    network, certifier = Plain(), deterministic()["recovery"]
    calls = []
    for _ in range(2):
        before = network.calls
        certify_checked(certifier, network, IMAGE, stream=NoiseStream(0, "a"), hardware=CPU)
        calls.append(network.calls - before)
    assert calls[0] == calls[1] > 10


def test_rounding_is_no_randomness():
    noise = torch.Generator().manual_seed(0)

    def rounded(logits):
        jitter = torch.rand(logits.shape, generator=noise) - 0.5
        return logits + 1e-6 * float(logits.abs().amax()) * jitter

    certseg.certify(Network(rounded), IMAGE, DemaskedRecovery(patch=PATCH, inpainter=None), hardware=CPU)


def test_a_run_refuses_and_flags_alike():
    sample = Sample("a", IMAGE, torch.zeros(SIZE, dtype=torch.int64))
    names = ("a", "b", "c")
    refused = CertificationStage(deterministic()["recovery"], Network(always_dropping), names, seed=0, hardware=CPU)
    with pytest.raises(ModelError, match="gives one image one answer"):
        refused.run(sample)
    smoothed = SegCertify(sigma=0.1, n=60)
    flagged = CertificationStage(smoothed, Network(always_dropping), names, seed=0, hardware=ONE_BY_ONE)
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


def test_a_certifier_without_weak_references_is_told_apart():
    class Slotted(Certifier):
        __slots__ = ()
        name, settings = "slotted", {}
        guarantee = DemaskedRecovery(patch=PATCH, inpainter=None).guarantee

        def certify(self, segmenter, image, *, stream, hardware):
            return DemaskedRecovery(patch=PATCH, inpainter=None).certify(
                segmenter, image, stream=stream, hardware=hardware
            )

    network = Network(fixed)
    for _ in range(2):
        assert certseg.certify(network, IMAGE, Slotted(), hardware=CPU).flags == ()


def undecided_in_larger_batches(logits):
    """Two classes that rounding alone tells apart, at one pixel, and otherwise in a batch of several."""
    base = torch.tensor([3.0, 1.0, 0.0])[:, None, None].expand_as(logits).clone()
    base[:, 1, 0, 0] = 3.0 - 1e-6 if len(logits) == 1 else 3.0 + 1e-6
    return base


def test_decisions_by_rounding_that_vary_with_the_batch_are_flagged():
    """What the claim takes for one answer to equal copies is then seen not to be; certificates without sampling allow
    for rounding by themselves."""
    network = Network(undecided_in_larger_batches)
    certifier = SegCertify(sigma=0.25, n0=2, n=100)
    assert VARYING in certseg.certify(network, IMAGE, certifier, hardware=CPU).flags
    assert VARYING not in certseg.certify(Network(fixed), IMAGE, certifier, hardware=CPU).flags
    certificate = certseg.certify(network, IMAGE, DemaskedDetection(patch=PATCH, inpainter=None), hardware=CPU)
    assert VARYING not in certificate.flags
