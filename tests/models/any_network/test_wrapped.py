"""Any network as a segmenter: what it answers with, its sizes, its colours, its one channel."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import certseg
from certseg.certifiers import DemaskedRecovery, SegCertify
from certseg.compute.hardware import Hardware
from certseg.errors import ConfigError, ModelError
from certseg.models import Wrapped
from certseg.patches.inpainting import Black
from certseg.types import Patch, coarse_logits_of

IMAGES = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))


class Answers(nn.Module):
    """A convolution whose answer is dressed by a function, at a stride."""

    def __init__(self, dress=lambda tensor: tensor, classes=4, stride=1, least=1, divisor=1):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.dress = nn.Conv2d(3, classes, 3, stride=stride, padding=1), dress
        self.least, self.divisor = least, divisor

    def forward(self, images):
        if min(images.shape[-2:]) < self.least or any(side % self.divisor for side in images.shape[-2:]):
            raise RuntimeError(f"cannot take {tuple(images.shape)}")
        return self.dress(self.layer(images))


DRESSES = {
    "tensor": lambda tensor: tensor,
    "out": lambda tensor: {"out": tensor, "aux": tensor + 1},
    "logits": lambda tensor: {"loss": None, "logits": tensor},
    "object": lambda tensor: SimpleNamespace(logits=tensor, hidden_states=None),
    "tuple": lambda tensor: (tensor, tensor + 1),
    "list": lambda tensor: [tensor],
}


@pytest.mark.parametrize("dress", DRESSES.values(), ids=DRESSES)
def test_every_form_of_answer_gives_the_same_logits(dress):
    wrapped = certseg.wrap(Answers(dress))
    assert wrapped.num_classes == 4
    assert torch.equal(wrapped(IMAGES), Answers().layer(IMAGES))


@pytest.mark.parametrize(
    ("dress", "words"),
    [
        (lambda tensor: None, "NoneType"),
        (lambda tensor: {"masks": tensor}, "dict with masks"),
        (lambda tensor: [], "list"),
        (lambda tensor: tensor.mean((2, 3)), r"shape \(1, 4\)"),
        (lambda tensor: SimpleNamespace(scores=tensor), "SimpleNamespace"),
    ],
)
def test_answers_without_a_map_of_scores_are_one_line(dress, words):
    with pytest.raises(ModelError, match=f"holds no map of scores.*{words}"):
        certseg.wrap(Answers(dress))


def test_another_number_of_classes_is_one_line():
    with pytest.raises(ModelError, match=r"Expected: 3 channels\. Received: 4 channels"):
        certseg.wrap(Answers(), 3)(IMAGES)


@pytest.mark.parametrize("dress", [DRESSES["tensor"], lambda tensor: tensor[:, 0]], ids=["channel", "none"])
def test_one_logit_is_two_classes_by_its_sign(dress):
    wrapped, bare = certseg.wrap(Answers(dress, classes=1)), Answers(classes=1)
    assert wrapped.num_classes == 2
    logits, logit = wrapped(IMAGES), bare(IMAGES)
    assert torch.equal(logits.argmax(1), (logit[:, 0] > 0).long())
    assert torch.allclose(logits.softmax(1)[:, 1], logit[:, 0].sigmoid(), atol=1e-6)


def test_probabilities_become_their_logarithms():
    wrapped = certseg.wrap(Answers(lambda tensor: tensor.softmax(1)), outputs="probabilities")
    assert torch.allclose(wrapped(IMAGES).softmax(1), Answers()(IMAGES).softmax(1), atol=1e-6)
    one = certseg.wrap(Answers(torch.sigmoid, classes=1), outputs="probabilities")
    assert torch.allclose(one(IMAGES).softmax(1)[:, 1], Answers(classes=1)(IMAGES)[:, 0].sigmoid(), atol=1e-6)
    certain = certseg.wrap(Answers(lambda tensor: (tensor > 0).float()), outputs="probabilities")
    assert torch.isfinite(certain(IMAGES)).all()


def test_colours_are_normalised():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    wrapped = certseg.wrap(Answers(), normalise=[mean, std])
    shifted = (IMAGES - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(wrapped(IMAGES), Answers()(shifted), atol=1e-6)
    half = certseg.wrap(Answers(), normalise="half")
    assert torch.allclose(half(IMAGES), Answers()(2 * IMAGES - 1), atol=1e-6)
    assert list(wrapped.state_dict()) == ["network.layer.weight", "network.layer.bias"]


def test_sides_that_do_not_fit_are_lengthened_by_their_last_pixels():
    wrapped = certseg.wrap(Answers(least=33, divisor=16), least=33, divisor=16)
    padded = F.pad(IMAGES, (0, 24, 0, 28), mode="replicate")
    assert torch.equal(wrapped(IMAGES), Answers()(padded)[..., :20, :24])
    assert coarse_logits_of(wrapped, IMAGES) is None
    with pytest.raises(ModelError, match="divisor or least"):
        certseg.wrap(Answers(least=100))


def test_coarse_logits_are_enlarged_and_offered():
    wrapped = certseg.wrap(Answers(stride=4))
    coarse = coarse_logits_of(wrapped, IMAGES)
    assert tuple(coarse.logits.shape) == (2, 4, 5, 6)
    enlarged = F.interpolate(coarse.logits, size=(20, 24), mode="bilinear", align_corners=coarse.align_corners)
    assert torch.equal(enlarged, wrapped(IMAGES))
    full = certseg.wrap(Answers())
    assert coarse_logits_of(full, IMAGES) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(full, "_logits", lambda inputs: pytest.fail("asked in vain"))
        assert coarse_logits_of(full, IMAGES) is None


def test_gradients_reach_the_image():
    image = IMAGES.clone().requires_grad_()
    certseg.wrap(Answers(stride=2), normalise="imagenet", divisor=8)(image).sum().backward()
    assert image.grad.abs().sum() > 0


def test_its_loss_is_the_cross_entropy_of_labelled_pixels():
    wrapped = certseg.wrap(Answers())
    labels = torch.randint(0, 4, (2, 20, 24))
    labels[0, :7] = 255
    (loss,) = wrapped.loss(IMAGES, labels).values()
    assert torch.allclose(loss, F.cross_entropy(wrapped(IMAGES), labels, ignore_index=255))
    (nothing,) = wrapped.loss(IMAGES, torch.full_like(labels, 255)).values()
    assert float(nothing.detach()) == 0.0
    with pytest.raises(ModelError, match="classes"):
        wrapped.loss(IMAGES, labels.clamp_max(254).clamp_min(9))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"normalise": "imagnet"}, "imagenet"),
        ({"normalise": [[0, 0, 0], [1, 0, 1]]}, "normalisation"),
        ({"normalise": [0.5, 0.5]}, "normalisation"),
        ({"outputs": "scores"}, "outputs"),
        ({"divisor": 0}, "divisor"),
        ({"least": -1}, "least"),
        ({"num_classes": 1}, "num_classes"),
        ({"name": "../up"}, "name"),
    ],
)
def test_options_outside_their_domain(options, words):
    with pytest.raises(ConfigError, match=words):
        certseg.wrap(Answers(), **options)


def test_what_is_no_module_is_one_line():
    with pytest.raises(ModelError, match="no network"):
        certseg.wrap("resnet18")


PATCHES = DemaskedRecovery(patch=Patch(share=0.01), inpainter=Black())


@pytest.mark.parametrize("certifier", [SegCertify(sigma=0.25, n=60), PATCHES], ids=["l2", "patch"])
def test_certificates_are_those_of_the_bare_network(certifier):
    """Of one that is a segmenter as it is."""
    bare = Answers()
    bare.num_classes = 4
    cpu = Hardware(device="cpu")
    first = certseg.certify(bare, IMAGES[0], certifier, hardware=cpu)
    second = certseg.certify(Wrapped(Answers(DRESSES["out"])), IMAGES[0], certifier, hardware=cpu)
    assert torch.equal(first.classes, second.classes)
    assert torch.equal(first.certified, second.certified)


@pytest.mark.parametrize(
    ("dress", "classes", "told"),
    [
        (torch.sigmoid, 1, r"all of them lie in \[0, 1\]"),
        (lambda tensor: tensor.softmax(1), 4, "those of a pixel add up to 1"),
    ],
    ids=["sigmoid", "softmax"],
)
def test_probabilities_are_not_taken_for_logits_without_a_word(dress, classes, told):
    with pytest.raises(ModelError, match=f"{told}.*outputs=probabilities"):
        certseg.certify(certseg.wrap(Answers(dress, classes)), IMAGES[0], SegCertify(sigma=0.25, n=100))
    with torch.no_grad():
        as_told = certseg.wrap(Answers(dress, classes), outputs="logits").eval()(IMAGES)
        assert torch.equal(as_told[:, -1], dress(Answers(classes=classes).layer(IMAGES))[:, -1])
        fresh = certseg.wrap(Answers(dress, classes)).train()  # in a training nobody knows yet
        fresh(IMAGES)
        fresh.eval()(torch.full_like(IMAGES, 0.5))  # no picture


def test_logits_are_not_taken_for_probabilities():
    with pytest.raises(ModelError, match=r"are no probabilities.*outputs=logits"):
        certseg.wrap(Answers(), outputs="probabilities")(IMAGES)


@pytest.mark.parametrize("keepdim", [True, False])
def test_class_ids_are_no_scores(keepdim):
    with pytest.raises(ModelError, match="the ids of classes, not with their scores"):
        certseg.wrap(Answers(lambda tensor: tensor.argmax(1, keepdim=keepdim)), 4)(IMAGES)


def test_an_answer_without_its_batch_is_refused():
    """Three classes of one image would be read as one class of three images."""
    for num_classes in (None, 2):
        with pytest.raises(ModelError, match=r"another number of images.*scores of 1\. Received: shape \(4, 1, "):
            certseg.wrap(Answers(lambda tensor: tensor.squeeze(0)), num_classes)(IMAGES[:1])


def test_the_queries_of_a_detector_are_no_map():
    def queries(tensor):
        return SimpleNamespace(logits=tensor.flatten(2)[..., :17].transpose(1, 2))  # B x Q x C

    with pytest.raises(ModelError, match=r"holds no map of scores.*shape \(1, 17, 4\)"):
        certseg.wrap(Answers(queries))


def test_a_single_channel_is_called_one():
    with pytest.raises(ModelError, match=r"Expected: 3 channels\. Received: a single channel"):
        certseg.wrap(Answers(classes=1), 3)(IMAGES)
    assert "shown colours less 0.5, 0.5, 0.5 over 0.5, 0.5, 0.5; its answers are taken for logits" in (
        certseg.wrap(Answers(), normalise="half").told
    )
