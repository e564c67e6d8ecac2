"""One limit on the number of classes, for maps keep ids in a byte and 255 stands for none."""

import pytest
import torch
from torch import nn

import certseg
from certseg.attacks import DAG, PGD
from certseg.certifiers import SegCertify
from certseg.compute.hardware import Hardware
from certseg.errors import ModelError
from certseg.evaluation import AttackStage, CertificationStage, MinimumNormStage, PredictionStage
from certseg.types import IGNORE_INDEX, MOST_CLASSES, Linf, Sample, class_ids, segmenter_of

CPU = Hardware(device="cpu")


class Constant(nn.Module):
    """Answers its last class everywhere."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes, self.scale = num_classes, nn.Parameter(torch.tensor(1e-3))

    def forward(self, images):
        logits = self.scale * images.mean(dim=1, keepdim=True).expand(-1, self.num_classes, -1, -1)
        return logits + torch.arange(self.num_classes)[:, None, None]


def stages(network):
    names = tuple(f"c{number}" for number in range(network.num_classes))
    common = {"seed": 0, "hardware": CPU}
    return [
        PredictionStage(network, names, CPU),
        CertificationStage(SegCertify(sigma=0.1, n0=5, n=50), network, names, **common),
        AttackStage("pgd", PGD(1), Linf(0.01), network, names, settings={}, **common),
        MinimumNormStage("dag", DAG(), network, names, settings={}, **common),
    ]


def test_a_network_of_more_classes_is_refused():
    """Class 280 was stored as 24."""
    assert segmenter_of(Constant(MOST_CLASSES)).num_classes == IGNORE_INDEX == 255
    for number in (256, 300):
        with pytest.raises(ModelError, match=rf"from 2 to 255.*num_classes={number}"):
            segmenter_of(Constant(number))
        with pytest.raises(ModelError, match="from 2 to 255"):
            stages(Constant(number))
        with pytest.raises(ModelError, match="from 2 to 255"):
            certseg.certify(Constant(number), torch.rand(3, 4, 4), SegCertify(sigma=0.1))


def test_the_last_class_there_may_be_is_stored_as_it_is():
    sample = Sample("a", torch.full((3, 3, 3), 0.5), torch.full((3, 3), 254))
    for stage in stages(Constant(MOST_CLASSES)):
        _, maps = stage.run(sample)
        stored = maps["classes" if stage.kind == "certifier" else "prediction"]
        assert stored.dtype == "uint8"
        assert (stored == 254).all()


def test_an_id_that_would_become_another_is_refused():
    assert class_ids(torch.tensor([[0, 254, 255]])).tolist() == [[0, 254, 255]]
    assert class_ids(torch.empty(0, dtype=torch.int64)).dtype == torch.uint8
    for wrong in (280, -1):
        with pytest.raises(ModelError, match="ids from 0 to 254"):
            class_ids(torch.tensor([wrong]))
