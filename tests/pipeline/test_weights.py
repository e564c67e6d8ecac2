import pytest
from support.linear_pixels import two_classes
from torch import nn

from certseg.compute.hardware import Hardware
from certseg.errors import ModelError
from certseg.pipeline.places import Identity
from certseg.pipeline.weights import Network


def test_a_network_of_a_run_is_a_segmenter_or_an_error():
    cpu = Hardware(device="cpu")
    network = Network(two_classes, cpu, Identity({}), "own")
    assert not network.segmenter.training
    assert not any(parameter.requires_grad for parameter in network.segmenter.parameters())
    with pytest.raises(ModelError, match="Conv2d is no segmenter"):
        Network(lambda: nn.Conv2d(3, 2, 1), cpu, Identity({}), "own").segmenter  # noqa: B018 - it is built when asked
