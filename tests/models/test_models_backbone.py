"""Backbones from classifiers and segmenters: every dialect of ConvNeXt's names, nothing missing, nothing left over."""

import re
from pathlib import Path

import pytest
import timm
import torch
import yaml
from torch import nn

from certseg.errors import CheckpointError, ConfigError, ModelError
from certseg.models import MMSegSegmenter, backbone_weights, load_backbone, mmseg_library
from certseg.models.convnext import ConvStem, ConvStemConvNeXt
from certseg.models.denoiser import Denoised, DnCNN

PRESETS = Path(__file__).resolve().parents[2] / "configs" / "model"
SMALL = {"depths": (1, 1, 2, 1), "dims": (8, 16, 32, 64)}
STEM = (4, 8)


def classifier(stem, name="convnext_tiny", channels=STEM, **settings):
    """timm's, with random weights; small unless the settings say otherwise."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=10, ls_init_value=0.5, **(settings or SMALL))
    if stem == "conv":
        network.stem = nn.Sequential()
        network.stem.stem = ConvStem(channels)  # the robust classifiers' nesting
    return network


def renamed(weights, *rules):
    for pattern, name in rules:
        weights = {re.sub(pattern, name, key): value for key, value in weights.items()}
    return weights


AUTHORS = (
    (r"^stem\.(?:stem\.)?", "downsample_layers.0."),
    (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
    (r"\.blocks\.", "."),
    (r"conv_dw", "dwconv"),
    (r"mlp\.fc", "pwconv"),
    (r"^head\.norm", "norm"),
    (r"head\.fc", "head"),
)
DIALECTS = {
    "timm": (),
    "authors": AUTHORS,
    "mmpretrain": (
        *AUTHORS,
        ("dwconv", "depthwise_conv"),
        ("pwconv", "pointwise_conv"),
        ("^norm", "norm3"),
        (r"^(?!head)", "backbone."),
        ("^head", "head.fc"),
    ),
    "data parallel": ((r"^", "module."),),
    "attacked while trained": ((r"^", "module.base_model."),),
    "normalised": ((r"^", "model."),),
    "segmenter": ((r"^head", "decode_head"), (r"^(?!decode)", "network.backbone.")),
}


class Holder(nn.Module):
    """A segmenter, as far as loading its backbone goes."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.decode_head = nn.Conv2d(4, 2, 1)


def backbone(stem, **changes):
    """As the presets have it, but small."""
    preset = PRESETS / ("upernet_convnext_t_convstem.yaml" if stem == "conv" else "upernet_convnext_t.yaml")
    settings = yaml.safe_load(preset.read_text())["overrides"]["backbone"]
    assert settings.pop("_delete_")
    small = {**SMALL, "stem_channels": STEM} if stem == "conv" else {**SMALL, "pretrained": False}
    settings = {**settings, **(changes or small)}
    torch.manual_seed(1)
    return mmseg_library._registry()[0].get(settings.pop("type"))(**settings).eval()


def stored(path, weights, group="model"):
    torch.save({group: weights, "epoch": 3} if group else weights, path)
    return path


def features(network, stem, images):
    """Of a classifier's stages."""
    x, found = (network.stem.stem if stem == "conv" else network.stem)(images), []
    for stage in network.stages:
        x = stage(x)
        found.append(x)
    return found


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_a_backbone_computes_what_the_classifier_does(stem, dialect, tmp_path):
    source, holder = classifier(stem).eval(), Holder(backbone(stem))
    head = holder.decode_head.weight.clone()
    group = "state_dict" if dialect in ("mmpretrain", "segmenter") else "model" if dialect == "authors" else None
    path = stored(tmp_path / "c.pth", renamed(source.state_dict(), *DIALECTS[dialect]), group)
    load_backbone(holder, path)
    images = torch.rand(1, 3, 67, 64)
    with torch.no_grad():
        expected, found = features(source, stem, images), holder.backbone(images)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert torch.equal(holder.decode_head.weight, head)


def test_every_tensor_is_filled_from_the_one_it_belongs_to():
    source, wanted = classifier("conv").state_dict(), backbone("conv").state_dict()
    weights = backbone_weights(source, wanted)
    assert weights.keys() == wanted.keys()
    assert all(weights[name].shape == value.shape for name, value in wanted.items())
    taken = [value.data_ptr() for value in weights.values()]
    assert len(set(taken)) == len(taken)
    left = {name for name, value in source.items() if value.data_ptr() not in taken}
    assert left == {"head.norm.weight", "head.norm.bias", "head.fc.weight", "head.fc.bias"}


def test_linear_layers_and_pointwise_convolutions_are_the_same(tmp_path):
    holder = Holder(backbone("patch"))
    source = classifier("patch", conv_mlp=True, **SMALL)  # as some of timm's variants have them
    load_backbone(holder, stored(tmp_path / "c.pth", source.state_dict(), None))
    expected = source.stages[1].blocks[0].mlp.fc1.weight[:, :, 0, 0]
    assert torch.equal(holder.backbone.timm_model["stages_1"].blocks[0].mlp.fc1.weight, expected)


def without(weights, name):
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: without(w, "stages.2.blocks.1.gamma"), r"1 missing \(timm_model\.stages_2\.blocks\.1\.gamma\)"),
        (
            lambda w: {**w, "stem.0.weight": torch.zeros(8, 1, 4, 4)},
            r"stem_0\.weight \(8, 1, 4, 4\) instead of \(8, 3, 4, 4\)",
        ),
        (lambda w: {**w, "stages.2.blocks.2.gamma": torch.ones(32)}, r"1 unexpected \(stages\.2\.blocks\.2\.gamma\)"),
        (
            lambda w: classifier("conv").state_dict(),
            r"unexpected \(stem\.stem\.3\.weight, .*stem_0\.weight \(4, 3, 3, 3\) instead of \(8, 3, 4, 4\)",
        ),
        (lambda w: timm.create_model("resnet10t").state_dict(), r"missing .*unexpected"),
    ],
    ids=["missing", "another shape", "deeper", "another stem", "another network"],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(change, message, tmp_path):
    holder = Holder(backbone("patch"))
    before = {name: value.clone() for name, value in holder.state_dict().items()}
    path = stored(tmp_path / "c.pth", change(classifier("patch").state_dict()), None)
    with pytest.raises(CheckpointError, match=rf"does not fit the backbone.*{message}.*model\.backbone_checkpoint"):
        load_backbone(holder, path)
    assert all(torch.equal(value, before[name]) for name, value in holder.state_dict().items())


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_names_and_shapes_of_the_published_size(dialect, stem):
    with torch.device("meta"):
        wanted = backbone(stem, pretrained=False, drop_path_rate=0.0).state_dict()
        source = classifier(stem, channels=(48, 96), drop_path_rate=0.0).state_dict()
    weights = backbone_weights(renamed(source, *DIALECTS[dialect]), wanted)
    assert len(wanted) == (182 if stem == "conv" else 178)
    assert {name: value.shape for name, value in weights.items()} == {n: v.shape for n, v in wanted.items()}


def test_a_deeper_network_is_not_cut_down():
    """ConvNeXt-S has every tensor of ConvNeXt-T in the same shape, and more."""
    with torch.device("meta"):
        small = timm.create_model("convnext_small").state_dict()
        wanted = timm.create_model("convnext_tiny", features_only=True).state_dict()
    weights = backbone_weights(small, wanted)
    assert wanted.keys() < weights.keys()
    assert len(weights) - len(wanted) == 18 * 9


def test_files_are_read_without_running_code(tmp_path):
    holder = Holder(backbone("patch"))
    with pytest.raises(CheckpointError, match=r"no checkpoint .*Check model\.backbone_checkpoint"):
        load_backbone(holder, tmp_path / "none.pth")
    path = tmp_path / "c.pth"
    torch.save({"model": classifier("patch").state_dict(), "args": Path("x")}, path)
    with pytest.raises(CheckpointError, match=r"set model\.trust_backbone_checkpoint=true"):
        load_backbone(holder, path)
    load_backbone(holder, path, trust=True)


def test_a_segmenters_own_backbone_under_its_own_names(tmp_path):
    """Not only ConvNeXt: a checkpoint of certseg, of a network with another number of classes, behind a denoiser."""
    config = yaml.safe_load((PRESETS / "upernet_tiny.yaml").read_text())["config"]
    first, second = (MMSegSegmenter(num_classes=n, config=config, name="tiny") for n in (3, 5))
    path = stored(tmp_path / "c.pth", Denoised(DnCNN(), first).state_dict(), "state_dict")
    head = second.network.decode_head.conv_seg.weight.clone()
    load_backbone(Denoised(DnCNN(), second), path)
    assert all(
        torch.equal(a, b) for a, b in zip(first.backbone.state_dict().values(), second.backbone.state_dict().values())
    )
    assert torch.equal(second.network.decode_head.conv_seg.weight, head)


def test_a_segmenter_without_a_backbone_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"Conv2d has no part that it calls its backbone.*freeze_backbone"):
        load_backbone(nn.Conv2d(3, 2, 1), tmp_path / "c.pth")


# --- the convolutional stem


def test_the_classifier_with_the_stem_has_as_many_parameters_as_the_published_one():
    with torch.device("meta"):
        network = timm.create_model("convnext_tiny")
        network.stem = ConvStem()
    assert sum(parameter.numel() for parameter in network.parameters()) == 28_627_432


@pytest.mark.parametrize(("channels", "size"), [((8, 16), (64, 61)), ((8, 12, 16), (5, 7))])
def test_the_stem_divides_the_sides_by_four(channels, size):
    out = ConvStem(channels)(torch.rand(2, 3, *size))
    assert out.shape == (2, 16, *(-(-side // 4) for side in size))


def test_a_stem_layer_by_layer():
    torch.manual_seed(0)
    stem, images = ConvStem((4, 6)), torch.rand(1, 3, 9, 8)
    x = images
    for index in (0, 3):
        x = nn.functional.conv2d(x, stem[index].weight, stem[index].bias, stride=2, padding=1)
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        x = nn.functional.gelu(x)  # weight and bias of the normalisation begin at 1 and 0
    torch.testing.assert_close(stem(images), x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stem_channels": (4, 9)}, "end in 8"),
        ({"stem_channels": (8,)}, "at least two"),
        ({"stem_channels": (0, 8)}, "positive integers"),
        ({"model_name": "resnet10t"}, "no patchify stem"),
    ],
    ids=str,
)
def test_a_stem_that_does_not_fit(settings, message):
    dims = {} if "model_name" in settings else SMALL
    with pytest.raises(ModelError, match=message):
        ConvStemConvNeXt(**{"model_name": "convnext_tiny", "stem_channels": STEM, **settings, **dims})


def test_a_backbone_that_saw_other_images_is_refused(tmp_path):
    source, holder = classifier("patch"), Holder(backbone("patch"))
    holder.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
    holder.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
    for scale in (1, 255):
        for part in ("normalize.", "normalizer.", ""):
            same = {f"{part}mean": scale * holder.mean.flatten(), f"{part}std": scale * holder.std}
            load_backbone(holder, stored(tmp_path / "same.pth", source.state_dict() | same))
    other = {"module.normalize.mean": torch.zeros(3), "module.normalize.std": torch.ones(3)}
    weights = {f"module.{name}": value for name, value in source.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"another mean.*0\.485.*0\.0.*data_preprocessor"):
        load_backbone(holder, stored(tmp_path / "other.pth", weights | other))


def test_two_tensors_of_one_name_are_refused(tmp_path):
    weights = classifier("patch").state_dict()
    name = next(iter(weights))
    path = stored(tmp_path / "c.pth", weights | {f"module.{name}": weights[name]})
    with pytest.raises(CheckpointError, match="one name"):
        load_backbone(Holder(backbone("patch")), path)
