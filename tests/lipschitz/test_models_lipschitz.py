"""Lipschitz networks as segmenters: what is trained, evaluated and certified is one function with a proven constant."""

import copy
import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from certseg.datasets import Streets
from certseg.errors import ConfigError, ModelError
from certseg.lipschitz import layers
from certseg.lipschitz.audit import local_norm
from certseg.models import LipDeepLabV3, LipschitzNetwork, LipUPerNet, load_checkpoint, save_checkpoint
from certseg.models.mmseg_library import model_registry
from certseg.types import LipschitzSegmenter, Segmenter

ROOT = Path(__file__).resolve().parents[2]
SMALL = [[8, 1], [16, 1]]
SIZE = (13, 18)
KINDS = {
    "deeplab": (LipDeepLabV3, {"rates": [2, 4]}),
    "deeplab with skips": (LipDeepLabV3, {"skips": True, "rates": [2], "width": 6, "activation": "groupsort2"}),
    "K-Lipschitz": (LipDeepLabV3, {"constant": 3.0, "rates": [2], "head": "constrained"}),
    "upernet": (LipUPerNet, {"bins": [1, 2]}),
    "spectral": (LipDeepLabV3, {"convolution": "spectral", "rates": [2]}),
    "spectral upernet": (LipUPerNet, {"convolution": "spectral", "bins": [1, 3], "position_bias": False}),
    "float32": (LipDeepLabV3, {"arithmetic": "float32", "rates": [2]}),
    "residual": (LipDeepLabV3, {"residual": True, "rates": [2], "size": [[8, 2], [16, 2]]}),
    "residual upernet": (LipUPerNet, {"residual": True, "bins": [1, 2], "size": [[8, 2], [16, 2]]}),
    "split pyramid": (LipDeepLabV3, {"aspp": "split", "rates": [1, 2], "spread": None}),
    "free": (LipDeepLabV3, {"convolution": "free", "activation": "relu", "rates": [2]}),
}


@pytest.fixture(autouse=True)
def seeded(one_thread):
    torch.manual_seed(0)


def build(kind, **changes):
    target, settings = KINDS[kind]
    return target(num_classes=5, name="x", **{"size": SMALL, **settings, **changes})


def stepped(network, steps=3):
    """After some optimiser steps on random labels."""
    images, labels = torch.rand(2, 3, *SIZE), torch.randint(0, 5, (2, *SIZE))
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.01)
    network.train()
    for _ in range(steps):
        optimiser.zero_grad()
        network.loss(images, labels)["loss_ce"].backward()
        optimiser.step()
    return network.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_lipschitz_with_the_proven_constant(kind):
    network = stepped(build(kind))
    assert isinstance(network, Segmenter)
    assert isinstance(network, LipschitzSegmenter)
    bound = network.certified_bound(SIZE)
    if network.constant is not None:
        assert bound.constant <= network.constant * (1 + 1e-9)
        if "spectral" not in kind and "residual" not in kind:
            assert bound.constant >= network.constant * (1 - 1e-3)
    first, second = torch.rand(1, 3, *SIZE), torch.rand(1, 3, *SIZE)
    assert local_norm(network.features, first, steps=5) <= bound.constant * (1 + 1e-6)
    features = network.features(torch.cat([first, second])).double()
    assert float((features[0] - features[1]).norm()) <= bound.constant * float((first - second).norm())
    logits = network(first)
    assert logits.shape == (1, 5, *SIZE)
    rest = logits.double() - torch.einsum("kd,bdhw->bkhw", bound.head, network.features(first).double())
    offset = network(second).double() - torch.einsum("kd,bdhw->bkhw", bound.head, network.features(second).double())
    assert torch.allclose(rest, offset, atol=1e-5)  # depends on class and position only


@pytest.mark.parametrize("kind", ["deeplab", "upernet", "spectral", "free"])
def test_baking_keeps_the_function(kind):
    network = stepped(build(kind))
    images = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        parametrized = network.offset(network.head(network.body(images)))
    assert torch.allclose(network(images).float(), parametrized, atol=0.02 * float(parametrized.std()))
    assert torch.equal(network(images), network(images))


def test_evaluation_follows_the_weights():
    network = stepped(build("deeplab"))
    image = torch.rand(1, 3, *SIZE)
    before, bound = network(image), network.certified_bound(SIZE)
    assert network.certified_bound(SIZE) is bound
    with torch.no_grad():
        network.head.weight[0] *= 2
    assert not torch.equal(network(image), before)
    assert float(network.certified_bound(SIZE).head[0].norm()) == pytest.approx(2 * float(bound.head[0].norm()))
    copied = copy.deepcopy(network)
    assert torch.equal(copied(image), network(image))
    with torch.no_grad():
        copied.head.bias += 1
    assert torch.allclose(copied(image), network(image) + 1)


def test_a_checkpoint_gives_the_same_network_in_another_memory_order(tmp_path):
    network = stepped(build("deeplab"))
    save_checkpoint(tmp_path / "model.pt", network, {})
    assert not [key for key in network.state_dict() if "held" in key]
    fresh = build("deeplab").to(memory_format=torch.channels_last)
    load_checkpoint(fresh, tmp_path / "model.pt")
    image = torch.rand(1, 3, *SIZE)
    assert torch.allclose(fresh.eval()(image), network(image), atol=1e-12)
    assert fresh.certificate(SIZE).weights == network.certificate(SIZE).weights


def test_attacks_differentiate_through_what_a_prediction_has_baked():
    network = stepped(build("deeplab"))
    image = torch.rand(1, 3, *SIZE)
    with torch.inference_mode():
        network(image)
    image.requires_grad_()
    network(image).square().sum().backward()
    assert image.grad.dtype == torch.float32
    assert float(image.grad.norm()) > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(image).dtype == torch.float64


def test_a_compiled_network_gives_the_same_logits_and_follows_its_weights():
    network, image = build("deeplab", size=[[8, 1]]).eval(), torch.rand(1, 3, *SIZE)
    before = network(image)
    network.compile(backend="eager")
    assert torch.allclose(network(image), before, atol=1e-12)
    with torch.no_grad():
        network.head.bias += 1
    assert torch.allclose(network(image), before + 1, atol=1e-12)
    assert network.certified_bound(SIZE).constant == pytest.approx(1.0, abs=1e-3)


def test_rounding_stays_within_the_slack():
    network = stepped(build("float32"))
    bound = network.certified_bound(SIZE)
    assert bound.flags == ("calibrated",)
    exact = build("float32", arithmetic="float64").eval()
    exact.load_state_dict(network.state_dict())
    assert 0 < exact.certified_bound(SIZE).slack < 1e-6
    image = torch.rand(1, 3, *SIZE)
    seen = float((network(image).double() - exact(image)).abs().max())
    assert seen <= bound.slack + 1e-4  # float32 weights are scaled down by their own bounds
    assert network(image).dtype == torch.float32


def test_nothing_is_proven_in_training_mode_or_above_the_claim():
    network = build("deeplab")
    with pytest.raises(ModelError, match="training mode"):
        network.certified_bound(SIZE)
    network.body.insert(1, layers.Scale(2.0))
    with pytest.raises(ModelError, match="above the one it is built for"):
        network.eval().certified_bound(SIZE)
    network.body[1] = nn.GELU()
    with pytest.raises(ModelError, match="GELU"):
        network.certified_bound(SIZE)


def test_the_loss_is_the_tempered_cross_entropy_of_labelled_pixels():
    network = build("deeplab", tau=7.0).train()
    images, labels = torch.rand(2, 3, *SIZE), torch.randint(0, 5, (2, *SIZE))
    labels[0] = 255
    output = network.loss_and_logits(images, labels)
    expected = nn.functional.cross_entropy(7.0 * output.logits[1:], labels[1:]).detach() / 7.0
    assert float(output.losses["loss_ce"].detach()) == pytest.approx(float(expected), rel=1e-5)
    assert not network.loss(images, torch.full_like(labels, 255))["loss_ce"].detach()
    with pytest.raises(ModelError, match="classes"):
        network.loss(images, labels.clamp(max=9) + 5)
    with pytest.raises(ModelError, match="fit the images"):
        network.loss(images, labels[:, :5])
    with pytest.raises(ModelError, match="wrong form"):
        network(images[:, :2])


@pytest.mark.parametrize(
    "bad",
    [
        {"size": "XS"},
        {"size": [[6, 2]]},
        {"size": []},
        {"convolution": "round"},
        {"activation": "gelu"},
        {"head": "none"},
        {"arithmetic": "bfloat16"},
        {"constant": 0},
        {"tau": -1.0},
        {"width": 3},
        {"rates": [0]},
        {"num_classes": 1},
        {"name": "a b"},
        {"residual": 1},
        {"spread": 0},
        {"spread": True},
        {"spread": float("inf")},
        {"residual": True, "convolution": "free"},
        {"aspp": "sum"},
        {"aspp": "split", "rates": list(range(1, 9))},
    ],
    ids=str,
)
def test_bad_settings(bad):
    with pytest.raises(ConfigError):
        LipDeepLabV3(**{"num_classes": 5, "name": "x", "size": SMALL, **bad})


@pytest.mark.parametrize("kind", ["deeplab", "residual"])
def test_orthogonal_weights_begin_with_one_scale(kind):
    def scales(network):
        convolutions = [m for m in network.body.modules() if hasattr(m, "limit")]
        return [
            float(p.detach().pow(2).mean().sqrt())
            for convolution in convolutions
            for name, p in convolution.named_parameters()
            if name.endswith(".original") and p.requires_grad
        ]

    assert scales(build(kind, spread=0.2)) == pytest.approx([0.2] * len(scales(build(kind))))
    begun = scales(build(kind, spread=None))
    assert max(begun) > 2 * min(begun)  # what this is for
    torch.manual_seed(1)
    first = build(kind, spread=None)
    torch.manual_seed(1)
    second = build(kind, spread=0.5)  # only their direction counts
    image = torch.rand(1, 3, *SIZE)
    assert torch.allclose(first.eval()(image), second.eval()(image), atol=1e-5)


def test_a_split_pyramid_keeps_the_norm_that_a_concatenated_one_loses():
    kept = {}
    for aspp in ("concat", "split"):
        torch.manual_seed(0)
        network = build("deeplab", aspp=aspp, rates=[1, 1, 1], size=[[16, 1]]).eval()
        image = torch.rand(1, 3, 32, 32)
        step = 1e-3 * torch.randn(image.shape)
        kept[aspp] = float((network.features(image + step) - network.features(image)).norm() / step.norm())
    assert kept["split"] > 1.4 * kept["concat"]


def channels_of(network):
    return [m.out_channels for m in network.body.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]


@pytest.mark.parametrize(
    ("size", "channels", "convolutions"),
    [("S", [32, 64, 128], 19), ("M1", [64, 128, 256], 25), ("M2", [64, 128, 256, 512], 31)],
)
def test_sizes_are_the_papers(size, channels, convolutions):
    with torch.device("meta"):
        network = LipDeepLabV3(num_classes=19, name="x", size=size, convolution="free")
    assert channels_of(network) == channels
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    assert sum(isinstance(module, kinds) for module in network.modules()) == convolutions
    assert network.head.in_channels == channels[0] // 2  # 16 for S, as in the paper's checkpoint


@pytest.mark.parametrize("name", ["lip_deeplabv3", "lip_upernet"])
def test_presets_build(name):
    text = (ROOT / "configs" / "model" / f"{name}.yaml").read_text()
    settings = yaml.safe_load(text)
    target = {"LipDeepLabV3": LipDeepLabV3, "LipUPerNet": LipUPerNet}[settings.pop("_target_").split(".")[-1]]
    settings = {key: value for key, value in settings.items() if not key.endswith(("checkpoint", "_classes"))}
    network = target(num_classes=8, **settings)
    assert isinstance(network, LipschitzNetwork)
    millions = sum(p.numel() for p in network.parameters() if p.requires_grad) / 1e6
    assert f"{millions:.1f} M parameters" in text


@pytest.mark.parametrize(("name", "kind"), [("lip_deeplabv3", LipDeepLabV3), ("lip_upernet", LipUPerNet)])
def test_mmsegmentation_finds_them_in_its_registry(name, kind):
    network = model_registry().build({"type": name, "num_classes": 3, "name": "x", "size": [[8, 1]]})
    assert type(network) is kind
    assert network.eval().certified_bound((8, 8)).head.shape == (3, 4)


def test_the_script_prints_and_writes_the_certificate(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("audit_lipschitz", ROOT / "scripts" / "audit_lipschitz.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    network = stepped(build("deeplab"))
    path = tmp_path / "model.pt"
    assert script.main([]) == 2
    assert script.main([f"checkpoint={path}"]) == 2
    save_checkpoint(path, network, {})
    assert script.main([f"checkpoint={path}"]) == 2
    assert "does not say which network" in capsys.readouterr().err
    model = {"name": "x", "size": SMALL, "rates": [2, 4]}
    for told in ({}, {"class": "lip_deeplabv3"}, {"_target_": "certseg.models.LipDeepLabV3"}):  # nobody, today, before
        save_checkpoint(path, network, {"classes": list("abcde"), "identity": {"model": model | told}})
        assert script.main([f"checkpoint={path}", "size=[13,18]", "images=1"]) == (0 if told else 2)
    printed = capsys.readouterr().out
    scene = script.images_of({**script.DEFAULTS, "images": 1})
    assert scene[0] == (128, 256)
    assert torch.equal(scene[1][0], Streets(split="test", size=[128, 256])[0].image)
    content = json.loads((tmp_path / "certificate.json").read_text())
    assert content["weights"] == network.certificate(SIZE).weights
    assert content["constant"] == network.certified_bound(SIZE).constant
    assert f"{content['constant']:.12g}" in printed
    assert 0 < content["local_norms"][0] <= content["constant"]
    assert len(content["layers"]) > 8
    assert content["output"] == [network.head.in_channels, *SIZE]
    assert torch.equal(torch.tensor(content["offset"]), network.offset.map[0])
    assert torch.equal(torch.tensor(content["bias"]), network.head.bias)
    for settings in (["dataset=roads"], ["dataset=camvid", f"root={tmp_path}"]):
        assert script.main([f"checkpoint={path}", *settings]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) <= 3
    assert math.isclose(content["slack"], network.certified_bound(SIZE).slack)
    assert script.main([f"checkpoint={path}", "sise=3"]) == 2
