"""scripts/compare_attacks.py: the same network, images, budget and passes for both sides."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch

from certseg.compute.hardware import Hardware
from certseg.errors import CertsegError

pytestmark = pytest.mark.usefixtures("one_thread")

PATH = Path(__file__).parents[2] / "scripts" / "compare_attacks.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("compare_attacks", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def library(monkeypatch):
    """torchattacks as far as it is used: every attack adds ``reach`` times the radius and looks once at the network."""
    module = types.ModuleType("torchattacks")
    module.reach, module.labels = 1.0, []

    class Attack:
        def __init__(self, network, eps, alpha=None, steps=1):
            self.network, self.eps = network, eps

        def __call__(self, images, labels):
            self.network(images)
            module.labels.append(labels)
            return (images + module.reach * self.eps).clamp(0, 1)

    for name in ("FGSM", "PGD", "MIFGSM", "NIFGSM"):
        setattr(module, name, Attack)
    monkeypatch.setitem(sys.modules, "torchattacks", module)
    return module


def test_without_the_library_one_line_says_what_to_do(script, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    assert script.main(["model.checkpoint=none.pt"]) == 2
    assert "uv pip install --no-deps torchattacks" in capsys.readouterr().err


def run(script, monkeypatch, passes=47):
    """On two street scenes and a network that sees sky wherever it does not see something else more clearly."""
    generator = torch.Generator().manual_seed(0)
    network = torch.nn.Conv2d(3, 8, 3, padding=1)
    network.num_classes = 8
    with torch.no_grad():
        network.weight.copy_(torch.randn(network.weight.shape, generator=generator))
        network.bias.zero_()
        network.bias[5] = 2.0
    monkeypatch.setattr(script, "obtain", lambda *_: types.SimpleNamespace(segmenter=network))
    monkeypatch.setattr(script, "build", lambda *_: Hardware(device="cpu"))
    with script.initialize_config_dir(str(script.CONFIGS), version_base="1.3"):
        overrides = ["attack=sea", "dataset.size=[32,64]", "dataset.limit=2"]
        spec = script.parse(script.compose("config", overrides=overrides))
    from certseg.pipeline import trainings

    monkeypatch.setattr(script, "build_dataset", trainings.build_dataset)
    return {row[0]: row for row in script.compare(spec, passes)}


def test_both_sides_see_the_same_and_spend_alike(script, library, monkeypatch):
    rows = run(script, monkeypatch)
    assert rows["torchattacks PGD, alpha 2/255"][2] == 1
    for name in ("certseg PGD", "certseg SegPGD", "certseg APGD", "certseg SEA"):
        assert 35 <= rows[name][2] <= 47 + 5, "within the passes, but for the predictions at the end"
    assert 0 < rows["certseg SEA"][1] <= rows["torchattacks FGSM"][1]
    labels = torch.cat([part.flatten() for part in library.labels])
    assert labels.min() >= -100
    assert labels.max() < 8


def test_an_attack_outside_the_ball_is_not_compared(script, library, monkeypatch):
    library.reach = 1.5
    with pytest.raises(CertsegError, match="left the ball"):
        run(script, monkeypatch)
