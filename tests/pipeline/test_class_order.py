"""Checkpoints whose classes are others than those of the data set, or the same ones in another order."""

import json

import pytest
import torch
from support.pipeline_runs import SMALL, configuration, summaries

import certseg
from certseg.certifiers import Lipschitz
from certseg.datasets import Legend, Streets
from certseg.errors import CheckpointError, ConfigError
from certseg.models import Reordered, reordered
from certseg.pipeline import run
from certseg.pipeline.class_order import class_order
from certseg.pipeline.settings import parse
from certseg.pipeline.weights import build_segmenter

LEGEND = Legend("three", ("road", "traffic sign", "sky"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
ORDER = [3, 1, 2, 0, *range(4, len(Streets.class_names))]
"""Of the classes of the street scenes: two have changed places."""


def saved(path, **content):
    torch.save({"state_dict": {"w": torch.zeros(1)}, **content}, path)
    return str(path)


def model(*overrides):
    return parse(configuration("outputs", *overrides)).model


@pytest.mark.parametrize(
    "content",
    [
        {"format": "certseg/1", "meta": {"classes": ["road", "traffic sign", "sky"]}},
        {"meta": {"dataset_meta": {"classes": ("Road", "traffic_sign", "SKY")}}},
        {"meta": {"CLASSES": ("road", "Traffic-Sign", "sky")}},
    ],
    ids=["certseg", "mmsegmentation", "mmsegmentation before 1.0"],
)
def test_the_same_classes_in_the_same_order_pass(content, tmp_path, capsys):
    assert class_order(model(), saved(tmp_path / "c.pt", **content), LEGEND) is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [{}, {"meta": None}, {"meta": {"classes": [1, 2]}}, {"meta": {"dataset_meta": 3}}])
def test_that_a_file_names_no_classes_is_said(content, tmp_path, capsys):
    assert class_order(model(), saved(tmp_path / "c.pt", **content), LEGEND) is None
    assert "names no classes: they are taken to be those of the data set three" in capsys.readouterr().out


@pytest.mark.parametrize("is_start", [False, True])
def test_another_order_is_refused_with_the_order_shown(is_start, tmp_path):
    path = saved(tmp_path / "c.pt", meta={"dataset_meta": {"classes": ("sky", "road", "Traffic Sign")}})
    with pytest.raises(CheckpointError, match=r"in another order.*road is 1 there, traffic sign is 2 there, sky is 0"):
        class_order(model(), path, LEGEND, is_start=is_start)
    assert class_order(model("model.trust_classes=true"), path, LEGEND, is_start=is_start) is None


def test_another_order_is_mapped_on_demand(tmp_path):
    path = saved(tmp_path / "c.pt", meta={"dataset_meta": {"classes": ("sky", "road", "Traffic Sign")}})
    assert class_order(model("model.map_classes=true"), path, LEGEND) == (1, 2, 0)
    with pytest.raises(CheckpointError, match="in another order"):
        class_order(model("model.map_classes=true"), path, LEGEND, is_start=True)


@pytest.mark.parametrize("names", [("road", "sky"), ("road", "traffic sign", "cloud"), ("road", "road", "sky")])
def test_other_classes_are_refused_but_a_training_may_start_from_them(names, tmp_path, capsys):
    path = saved(tmp_path / "c.pt", meta={"CLASSES": names})
    for settings in ((), ("model.map_classes=true",)):
        with pytest.raises(CheckpointError, match=r"are not those of the data set three.*Expected: 3 classes"):
            class_order(model(*settings), path, LEGEND)
    assert class_order(model("model.trust_classes=true"), path, LEGEND) is None
    assert class_order(model(), path, LEGEND, is_start=True) is None
    assert "classes are others" in capsys.readouterr().out


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The results of a trained network, and its file with two classes in each other's place."""
    output = tmp_path_factory.mktemp("trained")
    run(configuration(output, "pictures=0"), output / "report")
    content = torch.load(next(output.rglob("model.pt")), weights_only=True)
    for name, value in content["state_dict"].items():
        if "conv_seg" in name:
            content["state_dict"][name] = value[ORDER]
    content["meta"]["classes"] = [content["meta"]["classes"][index] for index in ORDER]
    torch.save(content, output / "permuted.pt")
    return output, str(output / "permuted.pt")


def test_every_path_that_loads_a_network_compares(trained, tmp_path):
    _, path = trained
    for overrides in (
        (f"model.checkpoint={path}",),
        (f"model.checkpoint={path}", "certifier=none", "attack=pgd", "attack.radius=0.1"),
        (f"model.checkpoint={path}", "training.from_checkpoint=true"),
        ("certifier=none", "attack=sea_fast", "attack.radius=0.1", f"attack.surrogate={path}"),
    ):
        base = [word for word in SMALL if not word.startswith("certifier.") or "certifier=none" not in overrides]
        with pytest.raises(CheckpointError, match=r"has the classes of the data set streets in another order"):
            run(configuration(tmp_path / "out", *overrides, base=base), tmp_path / "report")
    assert not list((tmp_path / "out").rglob("summary.json"))


def test_mapped_it_is_the_same_network(trained, tmp_path):
    output, path = trained
    settings = (f"model.checkpoint={path}", "model.map_classes=true", "pictures=0")
    run(configuration(tmp_path, *settings), tmp_path / "report")
    figures, before = (
        {stage.partition("-")[0]: found for stage, found in summaries(folder).items()} for folder in (tmp_path, output)
    )
    assert figures == before
    run(configuration(tmp_path, f"model.checkpoint={path}", "model.trust_classes=true", "pictures=0"), tmp_path / "r2")
    found = [json.loads(file.read_text()) for file in tmp_path.glob("*/*/prediction-*/summary.json")]
    assert len(found) == 2  # another predictor has a place of its own
    assert found[0]["figures"] != found[1]["figures"]
    assert found[0]["subject"] != found[1]["subject"]


def test_an_order_names_every_class_once():
    from certseg.errors import ModelError

    network = torch.nn.Conv2d(3, 3, 1)
    network.num_classes = 3
    for order in ([0, 1], [0, 0, 1], [1, 2, 3]):
        with pytest.raises(ModelError, match="every class once"):
            Reordered(network, order)


def test_a_surrogate_is_not_trusted_because_the_network_is(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": {"w": torch.zeros(1)}, "more": Evil()}, tmp_path / "evil.pt")
    overrides = ("certifier=none", "attack=sea_fast", "attack.radius=0.1", f"attack.surrogate={tmp_path / 'evil.pt'}")
    base = [word for word in SMALL if not word.startswith("certifier.")]
    with pytest.raises(CheckpointError, match="cannot be read safely"):
        run(configuration(tmp_path / "out", *overrides, "model.trust_checkpoint=true", base=base), tmp_path / "report")
    assert not (tmp_path / "ran").exists()


def test_the_constant_of_a_lipschitz_network_survives_another_order():
    torch.manual_seed(0)
    spec = parse(configuration("outputs", "model=lip_deeplabv3_small", base=()))
    network, image = build_segmenter(spec.model, 3).eval(), torch.rand(3, 32, 48)
    order = [2, 0, 1]
    plain = certseg.certify(network, image, Lipschitz(radius=0.05))
    mapped = certseg.certify(reordered(network, order).eval(), image, Lipschitz(radius=0.05))
    assert torch.equal(torch.tensor(order)[mapped.classes], plain.classes)
    assert torch.allclose(mapped.radii, plain.radii)
    assert torch.equal(mapped.certified, plain.certified)
    assert reordered(network, None) is network


def test_an_order_is_not_mapped_and_trusted_at_once(tmp_path):
    path = saved(tmp_path / "c.pt", meta={"CLASSES": ("sky", "road", "Traffic Sign")})
    with pytest.raises(ConfigError, match="contradict each other"):
        class_order(model("model.map_classes=true", "model.trust_classes=true"), path, LEGEND)
