"""Every preset and a wide selection of shipped configs build; big networks without memory, on torch's meta device."""

import functools
from pathlib import Path

import pytest
import torch
import yaml

from certseg.models import MMSegSegmenter, mmseg_library, shipped_configs
from certseg.models.mmseg_config import normalisation, plain, with_classes, without_downloads

PRESETS = Path(__file__).resolve().parents[2] / "configs" / "model"
CLASSES = 7
# name of the preset, parameters in millions with 19 classes
SIZES = {
    "upernet_tiny": 1.2,
    "upernet_convnext_t": 60.1,
    "upernet_convnext_t_convstem": 60.2,
    "upernet_convnext_s": 81.8,
    "upernet_swin_t": 59.8,
    "upernet_r50": 66.4,
    "pspnet_r50": 49.0,
    "deeplabv3_r50": 68.1,
    "hrnet_w48": 65.9,
    "segformer_b0": 3.7,
    "beit_b": 163.3,
}
SHIPPED = [
    "ann/ann_r50-d8_4xb2-40k_cityscapes-512x1024",
    "apcnet/apcnet_r50-d8_4xb2-40k_cityscapes-512x1024",
    "beit/beit-large_upernet_8xb1-amp-160k_ade20k-640x640",
    "bisenetv1/bisenetv1_r18-d32-in1k-pre_4xb4-160k_cityscapes-1024x1024",
    "bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024",
    "cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680",
    "danet/danet_r50-d8_4xb2-40k_cityscapes-512x1024",
    "ddrnet/ddrnet_23_in1k-pre_2xb6-120k_cityscapes-1024x1024",
    "deeplabv3/deeplabv3_r101-d16-mg124_4xb2-40k_cityscapes-512x1024",
    "deeplabv3plus/deeplabv3plus_r50-d8_4xb2-300k_mapillay_v1_65-1280x1280",
    "dmnet/dmnet_r50-d8_4xb2-40k_cityscapes-512x1024",
    "dnlnet/dnl_r50-d8_4xb2-40k_cityscapes-512x1024",
    "dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512",
    "emanet/emanet_r50-d8_4xb2-80k_cityscapes-512x1024",
    "encnet/encnet_r50-d8_4xb2-40k_cityscapes-512x1024",
    "erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024",
    "fastfcn/fastfcn_r50-d32_jpu_psp_4xb2-80k_cityscapes-512x1024",
    "fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024",
    "fcn/fcn-d6_r101-d16_4xb2-40k_cityscapes-512x1024",
    "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024",
    "gcnet/gcnet_r50-d8_4xb2-40k_cityscapes-512x1024",
    "hrnet/fcn_hr18_4xb4-80k_vaihingen-512x512",
    "hrnet/fcn_hr48_4xb4-160k_ade20k-512x512",
    "icnet/icnet_r50-d8-in1k-pre_4xb2-160k_cityscapes-832x832",
    "isanet/isanet_r50-d8_4xb2-40k_cityscapes-512x1024",
    "knet/knet-s3_r50-d8_deeplabv3_8xb2-adamw-80k_ade20k-512x512",
    "mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512",
    "mobilenet_v2/mobilenet-v2-d8_deeplabv3_4xb2-80k_cityscapes-512x1024",
    "mobilenet_v3/mobilenet-v3-d8-s_lraspp_4xb4-320k_cityscapes-512x1024",
    "nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024",
    "ocrnet/ocrnet_hr18_4xb2-160k_cityscapes-512x1024",
    "pidnet/pidnet-l_2xb6-120k_1024x1024-cityscapes",
    "pspnet/pspnet_r18-d8_4xb4-80k_isaid-896x896",
    "pspnet/pspnet_r50-d32_rsb_4xb2-adamw-80k_cityscapes-512x1024",
    "resnest/resnest_s101-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024",
    "segformer/segformer_mit-b5_8xb2-160k_ade20k-640x640",
    "segmenter/segmenter_vit-l_mask_8xb1-160k_ade20k-512x512",
    "segnext/segnext_mscan-b_1xb16-adamw-160k_ade20k-512x512",
    "sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024",
    "setr/setr_vit-l-mla_8xb1-160k_ade20k-512x512",
    "setr/setr_vit-l_pup_8xb2-160k_ade20k-512x512",
    "stdc/stdc2_in1k-pre_4xb12-80k_cityscapes-512x1024",
    "swin/swin-large-patch4-window12-in22k-384x384-pre_upernet_8xb2-160k_ade20k-512x512",
    "twins/twins_pcpvt-b_fpn_fpnhead_8xb4-80k_ade20k-512x512",
    "twins/twins_svt-b_uperhead_8xb2-160k_ade20k-512x512",
    "unet/unet-s5-d16_deeplabv3_4xb4-40k_drive-64x64",
    "unet/unet-s5-d16_pspnet_4xb4-40k_chase-db1-128x128",
    "upernet/upernet_r101_4xb4-160k_ade20k-512x512",
    "vit/vit_deit-s16-ln_mln_upernet_8xb2-160k_ade20k-512x512",
    "vit/vit_vit-b16_mln_upernet_8xb2-160k_ade20k-512x512",
]


@pytest.fixture
def weightless(monkeypatch):
    """Build networks on the meta device: shapes without memory, and so without initial values."""
    monkeypatch.setattr(mmseg_library, "_initialise", lambda network: None)
    # some backbones read numbers out of a linspace while they are built
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        yield


def preset(name):
    settings = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
    assert settings.pop("_target_") == "certseg.models.MMSegSegmenter"
    assert settings.pop("checkpoint") is None
    assert settings.pop("trust_checkpoint") is False
    assert settings.pop("backbone_checkpoint") is None
    assert settings.pop("trust_backbone_checkpoint") is False
    assert settings.pop("map_classes") is False
    assert settings.pop("trust_classes") is False
    return settings


def heads(network):
    for name in ("decode_head", "auxiliary_head"):
        entry = getattr(network, name, None)
        if entry is not None:
            yield from entry if isinstance(entry, torch.nn.ModuleList) else [entry]


def test_every_preset_is_in_the_table():
    own = {path.stem for path in PRESETS.glob("lip_*.yaml")}  # see test_models_lipschitz
    own |= {path.stem for path in PRESETS.glob("*.yaml") if "_network\n" in path.read_text()}  # see any_network
    assert {path.stem for path in PRESETS.glob("*.yaml")} - own == {*SIZES, "mmseg"}
    assert preset("mmseg")["config"] == "???"


@pytest.mark.parametrize("name", SIZES)
def test_presets_build(name, weightless):
    settings = preset(name)
    assert settings["name"] == name
    segmenter = MMSegSegmenter(num_classes=19, **settings)
    millions = sum(parameter.numel() for parameter in segmenter.parameters()) / 1e6
    assert millions == pytest.approx(SIZES[name], abs=0.051)
    story = (PRESETS / f"{name}.yaml").read_text().split("_target_")[0]
    assert f"{SIZES[name]} M parameters" in story.replace("\n# ", " ")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_build(name, weightless):
    segmenter = MMSegSegmenter(num_classes=CLASSES, config=name, name="shipped")
    assert {parameter.device.type for parameter in segmenter.parameters()} == {"meta"}
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in segmenter.modules())
    for head in heads(segmenter.network):
        assert (head.num_classes, head.out_channels) == (CLASSES, CLASSES)
        losses = [module for module in head.modules() if type(module).__name__ == "CrossEntropyLoss"]
        assert all(loss.avg_non_ignore for loss in losses)
        assert all(loss.class_weight is None or len(loss.class_weight) == CLASSES for loss in losses)


def test_the_table_names_many_families():
    assert len(SHIPPED) >= 40
    assert len({name.split("/")[0] for name in SHIPPED}) >= 35
    assert set(SHIPPED) <= set(shipped_configs())


def test_two_classes_build_without_a_warning(weightless):
    segmenter = MMSegSegmenter(num_classes=2, config="unet/unet-s5-d16_deeplabv3_4xb4-40k_drive-64x64", name="two")
    assert segmenter.network.decode_head.out_channels == 2


# --- the config functions


def test_no_entry_downloads():
    model = {
        "pretrained": "open-mmlab://resnet50",
        "backbone": {"type": "TIMMBackbone", "checkpoint_path": "x.pth", "init_cfg": {"type": "Pretrained"}},
        "neck": {"init_cfg": [{"type": "Pretrained", "checkpoint": "x"}, {"type": "Xavier"}]},
        "heads": ({"init_cfg": {"type": "Normal", "std": 0.01}}, {"init_cfg": None}),
    }
    before = plain(model)
    assert without_downloads(model) == {
        "backbone": {"type": "TIMMBackbone", "pretrained": False},
        "neck": {"init_cfg": [{"type": "Xavier"}]},
        "heads": ({"init_cfg": {"type": "Normal", "std": 0.01}}, {}),
    }
    assert model == before


def test_classes_reach_nested_heads_and_losses():
    loss = {"type": "CrossEntropyLoss", "class_weight": [1.0] * 19}
    model = {
        "backbone": {"num_classes": 1000},
        "decode_head": [{"num_classes": 19, "out_channels": 1, "threshold": 0.3, "loss_decode": loss}],
        "auxiliary_head": {"num_classes": 19, "inner": [{"num_classes": 19, "out_channels": 256}]},
    }
    result = with_classes(model, 3)
    assert result["backbone"] == {"num_classes": 1000}
    assert result["decode_head"] == [
        {"num_classes": 3, "loss_decode": {"type": "CrossEntropyLoss", "avg_non_ignore": True}}
    ]
    assert result["auxiliary_head"] == {"num_classes": 3, "inner": [{"num_classes": 3, "out_channels": 256}]}
    assert with_classes(model, 19)["decode_head"][0]["loss_decode"]["class_weight"] == [1.0] * 19


@pytest.mark.parametrize(
    ("entry", "rgb"),
    [({"bgr_to_rgb": True}, True), ({"rgb_to_bgr": True}, True), ({"bgr_to_rgb": False}, False), ({}, False)],
)
def test_channel_order(entry, rgb):
    assert normalisation(entry).rgb is rgb
    assert normalisation(entry).std == (1.0, 1.0, 1.0)
