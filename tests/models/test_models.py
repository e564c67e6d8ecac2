"""The adapter from mmsegmentation to the Segmenter protocol, on small networks."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from support.pipeline_runs import configuration

from certseg.errors import ConfigError, ModelError
from certseg.models import MMSegSegmenter
from certseg.pipeline.settings import parse
from certseg.pipeline.weights import build_segmenter
from certseg.types import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

PRESET = Path(__file__).resolve().parents[2] / "configs" / "model" / "upernet_tiny.yaml"
TINY = yaml.safe_load(PRESET.read_text())["config"]
SMALL_UNET = {
    "backbone.base_channels": 4,
    "decode_head": {"in_channels": 4, "channels": 8},
    "auxiliary_head": {"in_channels": 8, "channels": 8},
}
SMALL_SHIPPED = {
    "segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024": {},
    "pspnet/pspnet_r18b-d8_4xb2-80k_cityscapes-769x769": {},  # align_corners, auxiliary head
    "ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024": {},  # sides must divide by 8
    "unet/unet-s5-d16_deeplabv3_4xb4-40k_drive-64x64": SMALL_UNET,  # sides must divide by 16
}
SMALL_BEIT = {
    "backbone": {"img_size": [64, 96], "num_layers": 4, "out_indices": [0, 1, 2, 3], "embed_dims": 48, "num_heads": 3},
    "neck.embed_dim": 48,
    "decode_head": {"in_channels": [48] * 4, "channels": 16},
    "auxiliary_head": None,
}


def build(config=TINY, num_classes=5, seed=0, **kwargs):
    torch.manual_seed(seed)
    return MMSegSegmenter(num_classes=num_classes, config=config, name="test", **kwargs).eval()


@pytest.fixture(scope="module")
def tiny():
    """upernet_tiny at scale 1 with statistics of its own in batch normalisation; tests leave it in eval mode."""
    segmenter = build().train()
    with torch.no_grad():
        segmenter(torch.rand(4, 3, 64, 96, generator=torch.Generator().manual_seed(1)))
    return segmenter.eval()


def at(segmenter, **settings):
    """A view of ``segmenter`` with other inference settings and the same weights."""
    other = build(**settings)
    other.load_state_dict(segmenter.state_dict())
    return other


def images(*shape, seed=2):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".hidden", "two words", "ü", "a\n", None, 5])
def test_a_name_is_a_plain_word(name):
    with pytest.raises(ConfigError, match=r"model\.name must be a plain word"):
        MMSegSegmenter(num_classes=5, config=TINY, name=name)


# --- protocol, shapes, gradients


def test_is_a_segmenter(tiny):
    assert isinstance(tiny, Segmenter)
    assert tiny.num_classes == 5
    assert tiny.name == "test"


@pytest.mark.parametrize("size", [(64, 96), (61, 83), (33, 47)])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.7, 1.5])
def test_logits_have_the_resolution_of_the_image(tiny, size, scale):
    assert at(tiny, scales=[scale])(images(2, 3, *size)).shape == (2, 5, *size)


@pytest.mark.parametrize("name", SMALL_SHIPPED)
def test_shipped_networks_on_odd_sizes(name):
    segmenter = build(name, num_classes=3, overrides=SMALL_SHIPPED[name])
    x = images(2, 3, 67, 93).requires_grad_()
    logits = segmenter(x)
    assert logits.shape == (2, 3, 67, 93)
    (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    assert gradient.isfinite().all()
    assert gradient.abs().amax(dim=(0, 1)).gt(0).float().mean() > 0.5  # reaches the pixels, the last rows included
    assert gradient[..., -8:, -8:].abs().max() > 0


def test_gradient_is_the_derivative(tiny):
    segmenter = copy.deepcopy(tiny).double()
    x = images(1, 3, 40, 56).double().requires_grad_()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weight = torch.randn(1, 5, 40, 56, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((segmenter(x) * weight).sum(), x)
    step = 1e-7
    with torch.no_grad():
        difference = ((segmenter(x + step * direction) - segmenter(x - step * direction)) * weight).sum() / (2 * step)
    assert torch.isclose(difference, (gradient * direction).sum(), rtol=1e-4)


def test_images_in_a_batch_do_not_interact(tiny):
    x = images(3, 3, 48, 64)
    assert torch.allclose(tiny(x)[1], tiny(x[1:2])[0], atol=1e-5)


@pytest.mark.parametrize(
    "bad", [torch.rand(3, 8, 8), torch.rand(1, 1, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)]
)
def test_wrong_input_is_one_clear_error(tiny, bad):
    with pytest.raises(ModelError, match=r"\(B, 3, H, W\)"):
        tiny(bad)


# --- normalisation


@pytest.mark.parametrize("swap", [True, False])
def test_normalisation_is_that_of_mmsegmentation(swap):
    """Against mmsegmentation's own data preprocessor on 8-bit BGR images, as it reads them."""
    config = copy.deepcopy(TINY)
    config["data_preprocessor"].update(bgr_to_rgb=swap, mean=[10.0, 100.0, 200.0], std=[30.0, 60.0, 90.0])
    segmenter = build(config)
    rgb = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    seen = []
    segmenter.network.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    segmenter(torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255)

    from mmseg.models import SegDataPreProcessor

    preprocess = SegDataPreProcessor(mean=[10.0, 100.0, 200.0], std=[30.0, 60.0, 90.0], bgr_to_rgb=swap, size_divisor=1)
    bgr = torch.from_numpy(rgb[..., ::-1].copy()).permute(2, 0, 1)
    assert torch.allclose(seen[0], preprocess({"inputs": [bgr]})["inputs"], atol=1e-5)


def test_channels_are_rgb():
    config = copy.deepcopy(TINY)
    config["data_preprocessor"].update(mean=[255.0, 0.0, 0.0], std=[255.0, 255.0, 255.0])
    segmenter = build(config)
    red = torch.zeros(1, 3, 32, 32)
    red[:, 0] = 1.0
    assert torch.equal(segmenter._normalise(red), torch.zeros(1, 3, 32, 32))


def test_statistics_are_not_weights(tiny):
    assert all(key.startswith("network.") for key in tiny.state_dict())


# --- scales, flips, windows


def test_half_scale_is_the_network_on_block_averages(tiny):
    x = images(2, 3, 64, 96)
    small = x.view(2, 3, 32, 2, 48, 2).mean(dim=(3, 5))
    feature = tiny.network.decode_head(tiny.network.backbone(tiny._normalise(small)))
    expected = F.interpolate(feature, size=(64, 96), mode="bilinear", align_corners=False)
    assert torch.allclose(at(tiny, scales=[0.5])(x), expected, atol=1e-5)


def test_flip_equals_averaging_by_hand_and_is_symmetric(tiny):
    flipping = at(tiny, flip=True)
    x = images(2, 3, 64, 96)
    by_hand = (tiny(x).softmax(1) + tiny(x.flip(-1)).flip(-1).softmax(1)) / 2
    assert torch.allclose(flipping(x).exp(), by_hand, atol=1e-6)
    assert torch.allclose(flipping(x), flipping(x.flip(-1)).flip(-1), atol=1e-5)
    assert not torch.allclose(tiny(x), tiny(x.flip(-1)).flip(-1), atol=1e-3)


def test_several_scales_average_probabilities(tiny):
    scales = [0.5, 1.0, 1.25]
    x = images(2, 3, 61, 83)
    by_hand = torch.stack([at(tiny, scales=[scale])(x).softmax(1) for scale in scales]).mean(0)
    result = at(tiny, scales=scales)(x)
    assert torch.allclose(result.exp(), by_hand, atol=1e-6)
    assert torch.allclose(result.exp().sum(1), torch.ones(2, 61, 83), atol=1e-5)


def test_the_same_scale_twice_changes_no_probability(tiny):
    x = images(1, 3, 48, 64)
    assert torch.allclose(at(tiny, scales=[1.0, 1.0])(x), tiny(x).log_softmax(1), atol=1e-5)


def test_one_window_equals_whole(tiny):
    x = images(2, 3, 61, 83)
    for crop in ([61, 83], [100, 100]):
        assert torch.allclose(at(tiny, inference="slide", crop_size=crop)(x), tiny(x), atol=1e-6)


def test_windows_by_hand(tiny):
    x = images(1, 3, 48, 80)
    left, right = tiny(x[..., :64]), tiny(x[..., 16:])
    expected = torch.cat([left[..., :16], (left[..., 16:] + right[..., :48]) / 2, right[..., 48:]], dim=-1)
    sliding = at(tiny, inference="slide", crop_size=[48, 64], stride=[48, 40])
    assert torch.allclose(sliding(x), expected, atol=1e-5)


def test_windows_of_the_shipped_config():
    shipped = build("hrnet/fcn_hr18s_4xb4-40k_pascal-context-480x480", inference="slide")
    assert shipped._window == ((480, 480), (320, 320))


@pytest.mark.parametrize("name", ["segformer_b0", "upernet_convnext_t", "upernet_convnext_t_convstem"])
def test_small_images_are_padded_where_nothing_would_be_left_of_them(name):
    model = build_segmenter(parse(configuration("outputs", f"model={name}", base=())).model, 3).eval()
    shortest = 32 if name == "upernet_convnext_t" else 29
    image = torch.rand(1, 3, 9, 40)
    with torch.no_grad():
        assert model(image).shape == (1, 3, 9, 40)
        mean = model.mean if model._rgb else model.mean.flip(1)
        padded = torch.cat([image, mean.expand(1, 3, 1, 1).expand(-1, -1, shortest - 9, 40)], dim=2)
        assert torch.allclose(model(image), model(padded)[:, :, :9], atol=1e-5)


def test_one_input_size_is_padded_or_windowed():
    config = "beit/beit-base_upernet_8xb2-160k_ade20k-640x640"
    whole = build(config, num_classes=3, overrides=SMALL_BEIT)
    assert whole(images(2, 3, 50, 77)).shape == (2, 3, 50, 77)
    with pytest.raises(ModelError, match=r"at most 64x96 .* 70x96"):
        whole(images(1, 3, 70, 96))
    sliding = build(config, num_classes=3, overrides=SMALL_BEIT, inference="slide", crop_size=[64, 96])
    assert sliding(images(1, 3, 70, 121)).shape == (1, 3, 70, 121)
    losses = whole.train().loss(images(2, 3, 50, 77), torch.zeros(2, 50, 77, dtype=torch.int64))
    assert losses["loss_decode_ce"].isfinite()


# --- loss


def test_loss_is_cross_entropy_over_labelled_pixels(tiny):
    segmenter = copy.deepcopy(tiny)  # in eval mode the loss has no randomness and can be computed from the logits
    x, labels = images(2, 3, 64, 96), torch.randint(0, 5, (2, 64, 96))
    labels[:, :20] = 255
    losses = segmenter.loss(x, labels)
    assert set(losses) == {"loss_decode_ce", "acc_decode_seg"}
    assert torch.isclose(losses["loss_decode_ce"], F.cross_entropy(tiny(x), labels, ignore_index=255), rtol=1e-4)


def test_ignored_pixels_have_no_gradient_through_the_loss(tiny):
    x = images(1, 3, 64, 64)
    labels = torch.full((1, 64, 64), 255)
    losses = copy.deepcopy(tiny).loss(x, labels)
    assert losses["loss_decode_ce"] == 0


def test_all_heads_train():
    segmenter = build("pspnet/pspnet_r18b-d8_4xb2-80k_cityscapes-769x769", num_classes=3).train()
    losses = segmenter.loss(images(2, 3, 65, 64), torch.randint(0, 3, (2, 65, 64)))
    assert set(losses) == {"loss_decode_ce", "acc_decode_seg", "loss_aux_ce", "acc_aux_seg"}
    sum(value for key, value in losses.items() if key.startswith("loss_")).backward()
    assert all(parameter.grad.isfinite().all() for parameter in segmenter.parameters())
    assert all(parameter.grad is not None for parameter in segmenter.parameters())


def test_boundary_loss_of_pidnet():
    segmenter = build("pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes", num_classes=3).train()
    labels = torch.zeros(2, 64, 64, dtype=torch.int64)
    labels[:, :, 32:] = 1
    losses = segmenter.loss(images(2, 3, 64, 64), labels)
    assert {"loss_decode_sem_i", "loss_decode_bd"} <= set(losses)
    assert losses["loss_decode_bd"].isfinite()
    with pytest.raises(ModelError, match="only in eval mode"):
        segmenter(images(2, 3, 64, 64))


def test_loss_at_half_scale_sees_half_the_pixels(tiny):
    segmenter = at(tiny, scales=[0.5])
    sizes = []
    segmenter.network.backbone.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape[-2:])))
    x, labels = images(2, 3, 128, 256), torch.randint(0, 5, (2, 128, 256))
    loss = segmenter.train().loss(x, labels)["loss_decode_ce"]
    loss.backward()
    assert sizes == [(64, 128)]
    assert loss.isfinite()


def test_training_reduces_the_loss():
    segmenter = build().train()
    x = images(4, 3, 32, 64)
    labels = (x[:, 0] > 0.5).long()
    optimiser = torch.optim.AdamW(segmenter.parameters(), lr=5e-3)
    history = []
    for _ in range(15):
        loss = segmenter.loss(x, labels)["loss_decode_ce"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(float(loss.detach()))
    assert history[-1] < 0.7 * history[0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(2, 32, 31, dtype=torch.int64), "do not fit"),
        (torch.zeros(2, 32, 32), "do not fit"),
        (torch.full((2, 32, 32), 5), r"outside the model's classes.*\[5\]"),
        (torch.full((2, 32, 32), -1), "outside the model's classes"),
    ],
)
def test_bad_labels(tiny, labels, message):
    with pytest.raises(ModelError, match=message):
        tiny.loss(images(2, 3, 32, 32), labels)


def test_batch_of_one_is_explained():
    with pytest.raises(ModelError, match="batch size of at least 2"):
        build().train().loss(images(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.int64))


# --- building


def test_weights_are_a_function_of_the_seed():
    first, again, other = build(seed=1).state_dict(), build(seed=1).state_dict(), build(seed=2).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(
        first["network.backbone.layer1.0.conv1.weight"], other["network.backbone.layer1.0.conv1.weight"]
    )


def test_building_and_running_is_quiet(capfd, caplog):
    small_swin = {
        "backbone": {"depths": [1, 1, 1, 1], "embed_dims": 24},
        "decode_head": {"in_channels": [24, 48, 96, 192], "channels": 16, "align_corners": True},  # warns on resize
        "auxiliary_head": None,
    }
    name = "swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512"
    build(name, overrides=small_swin)(images(1, 3, 64, 71))
    captured = capfd.readouterr()
    assert (captured.out, captured.err, caplog.records) == ("", "", [])


def test_synchronised_normalisation_becomes_that_of_one_process():
    """BEiT's neck synchronises by default, HRNet's config asks for it."""
    for config, overrides in (
        ("beit/beit-base_upernet_8xb2-160k_ade20k-640x640", SMALL_BEIT),
        ("hrnet/fcn_hr18s_4xb2-160k_cityscapes-512x1024", None),
    ):
        segmenter = build(config, overrides=overrides)
        norms = [module for module in segmenter.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
        assert all(isinstance(norm, torch.nn.BatchNorm2d) for norm in norms)
        assert all(norm.weight.requires_grad and norm.running_mean.shape == (norm.num_features,) for norm in norms)


def test_synchronised_normalisation_of_encodings():
    """EncNet normalises features of shape B x N x C, which BatchNorm2d refuses."""
    small = {"depth": 18, "base_channels": 4, "stem_channels": 4}
    heads = {"channels": 8, "num_codes": 4, "in_channels": [8, 16, 32]}
    torch.manual_seed(0)
    segmenter = build(
        "encnet/encnet_r50-d8_4xb2-40k_cityscapes-512x1024",
        num_classes=3,
        overrides={"backbone": small, "decode_head": heads, "auxiliary_head": {"in_channels": 16, "channels": 8}},
    )
    norm = segmenter.network.decode_head.enc_module.encoding[1]
    encodings = images(2, 4, 8)
    expected = torch.nn.BatchNorm1d(4)(encodings)
    torch.testing.assert_close(norm.train()(encodings), expected)
    with pytest.raises(ValueError, match="at least 2D"):
        norm(encodings[0, 0])
    losses = segmenter.train().loss(images(2, 3, 32, 64), torch.randint(0, 3, (2, 32, 64)))
    sum(value for key, value in losses.items() if key.startswith("loss_")).backward()
    assert norm.weight.grad.abs().max() > 0
    assert segmenter.eval()(images(1, 3, 33, 47)).shape == (1, 3, 33, 47)


def test_config_is_not_changed():
    config = copy.deepcopy(TINY)
    build(
        config,
        overrides={
            "backbone.base_channels": 8,
            "backbone.stem_channels": 8,
            "decode_head.in_channels": [8, 16, 32, 64],
        },
    )
    assert config == TINY


def test_overrides_nested_and_dotted():
    segmenter = build(overrides={"decode_head": {"channels": 24}, "decode_head.dropout_ratio": 0.0})
    assert segmenter.network.decode_head.channels == 24
    assert segmenter.network.decode_head.dropout_ratio == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "at least two classes"),
        ({"scales": []}, "non-empty"),
        ({"scales": [0.0]}, "positive numbers"),
        ({"scales": ["1"]}, "positive numbers"),
        ({"inference": "tiled"}, "whole or slide"),
        ({"inference": "slide"}, "crop_size"),
        ({"inference": "slide", "crop_size": [64]}, "two positive integers"),
        ({"inference": "slide", "crop_size": [64, 64], "stride": [65, 1]}, "no window sees"),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(**settings)


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ("upernet/upernet_r50_4xb2-40k_cityscape", None, "upernet/upernet_r50_4xb2-40k_cityscapes"),
        ("upernet_r18_4xb2-40k_cityscapes-512x1024.py", None, "upernet/upernet_r18_4xb2-40k_cityscapes-512x1024"),
        ("poolformer/fpn_poolformer_s12_8xb4-40k_ade20k-512x512", None, "mmpretrain.PoolFormer"),
        ("psanet/psanet_r50-d8_4xb2-40k_cityscapes-512x1024", None, "PSAMask"),
        (TINY, {"backbone.depth": 19}, "invalid depth 19"),
        (TINY, {"backbone.type": "NoSuchNet"}, "NoSuchNet"),
        (TINY, {"backbone.5": {"depth": 1}}, "overrides|cannot build"),
        (TINY, {"decode_head": None}, "no decode head"),
        (TINY, {"data_preprocessor": None}, "no data_preprocessor"),
        (TINY, {"data_preprocessor.mean": [1.0] * 6}, "not for RGB"),
        ({}, None, "no data_preprocessor"),
    ],
)
def test_bad_model_configs(config, overrides, message):
    with pytest.raises(ModelError, match=message):
        build(config, overrides=overrides)
