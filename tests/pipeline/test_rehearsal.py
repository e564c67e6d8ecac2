"""What could never come out of a training is found before it."""

import pytest
import torch
from support.linear_pixels import two_classes
from support.pipeline_runs import SMALL, configuration
from torch import nn

from certseg.certifiers import Lipschitz
from certseg.compute.hardware import Hardware
from certseg.errors import ConfigError, ModelError
from certseg.pipeline import run
from certseg.pipeline.rehearsal import rehearse

CPU = Hardware(device="cpu")
PLAIN = [word for word in SMALL if not word.startswith("certifier.")]


LARGE_KERNEL = (
    "model=custom",
    "model.network._target_=torch.nn.Conv2d",
    "model.classes_argument=out_channels",
    "+model.network.in_channels=3",
    "+model.network.kernel_size=12",
)
"""A network that takes no image of less than 12 pixels a side."""


class Particular(nn.Module):
    """Fails on images below a size, answers at half of it where asked to, and draws random numbers."""

    def __init__(self, least=1, halved=False):
        super().__init__()
        self.num_classes, self.least, self.halved = 2, least, halved
        self.layer, self.norm = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)

    def forward(self, images):
        if min(images.shape[-2:]) < self.least:
            raise ValueError("too small\nat layer 7")
        logits = self.norm(self.layer(images)) + torch.rand(1)
        return logits[..., ::2, ::2] if self.halved else logits


class Detached(Particular):
    """Answers without a gradient."""

    def forward(self, images):
        return super().forward(images).detach()


def test_what_works_leaves_no_trace():
    network = Particular().train()
    network.norm.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    rehearse(network, None, [(4, 5), (4, 5), (6, 7)], CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert (network.training, network.norm.training, network.layer.training) == (True, False, True)


@pytest.mark.parametrize(
    ("network", "certifier", "words"),
    [
        (
            Particular(least=33),
            None,
            r"cannot take images of 4 x 5 pixels.*ValueError: too small \(test_rehearsal\.py, line \d+\)",
        ),
        (Particular(halved=True), None, "logits at image resolution"),
        (nn.Conv2d(3, 2, 1), None, "no segmenter"),
        (two_classes(), Lipschitz(radius=0.1), "audited Lipschitz constant"),
        (Detached(), None, "no gradient"),
    ],
    ids=["size", "resolution", "classes", "certifier", "gradient"],
)
def test_what_cannot_work_is_one_line(network, certifier, words):
    with pytest.raises(ModelError, match=words):
        rehearse(network, certifier, [(40, 50), (4, 5)], CPU)


@pytest.mark.parametrize(
    ("overrides", "kind", "words"),
    [
        (("certifier=lipschitz",), ModelError, "audited Lipschitz constant"),
        (("certifier=none", *LARGE_KERNEL, "training.crop=[10,10]"), ModelError, "10 x 10 pixels"),
        (("certifier=none", "attack=targeted", "attack.goal=8"), ConfigError, "attack.goal is no class.* 0 to 7"),
        (("certifier=none", "attack=targeted", "attack.goal=-1"), ConfigError, "attack.goal is no class"),
        (("certifier=none", "attack=targeted", "attack.goal=rode"), ConfigError, "attack.goal is no class.*road"),
        (("certifier=none", "pictures=true"), ConfigError, "pictures must be a non-negative integer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_run_finds_it_before_its_training(overrides, kind, words, tmp_path):
    base = [word for word in PLAIN if "model=custom" not in overrides or not word.startswith("model.scales")]
    with pytest.raises(kind, match=words):
        run(configuration(tmp_path, *overrides, base=base), tmp_path / "report")
    assert not list(tmp_path.rglob("*.pt"))
    assert not list(tmp_path.rglob("history.jsonl"))
