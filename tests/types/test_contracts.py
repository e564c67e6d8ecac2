import pytest
import torch
from support.linear_pixels import two_classes
from torch import nn

from certseg.errors import ModelError
from certseg.types import segmenter_of


class Own(nn.Module):
    """A model that says of its classes what it was told to."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes


def test_a_module_with_classes_is_a_segmenter_as_it_is():
    network = two_classes()
    assert segmenter_of(network) is network


def test_what_is_no_segmenter_is_refused_with_a_remedy():
    for network, received in (
        (nn.Conv2d(3, 2, 1), "a network without it"),
        (Own("two"), "num_classes='two'"),
        (Own(True), "num_classes=True"),
        (Own(0), "num_classes=0"),
        (Own(1.0), "num_classes=1.0"),
        (Own(torch.tensor(2)), r"num_classes=tensor\(2\)"),
    ):
        message = rf"{type(network).__name__} is no segmenter.*Expected: .*num_classes.*Received: {received}\. Set self"
        with pytest.raises(ModelError, match=message):
            segmenter_of(network)


def test_the_largest_of_one_logit_says_nothing():
    with pytest.raises(ModelError, match=r"from 2 to 255\. Received: num_classes=1\. .*certseg\.wrap"):
        segmenter_of(Own(1))


@pytest.mark.parametrize(
    ("network", "words"),
    [(nn.DataParallel(Own(2)), "model.module"), (7, "cannot be called"), (None, "cannot be called")],
    ids=["wrapper", "number", "nothing"],
)
def test_what_hides_its_network_is_refused_with_another(network, words):
    with pytest.raises(ModelError, match=words):
        segmenter_of(network)
