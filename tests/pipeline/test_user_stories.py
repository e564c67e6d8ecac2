"""Three users with networks and files of their own: what they type, what they see, and that no figure is wrong without
a word."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import Command
from support.pipeline_runs import SMALL

from certseg.compute.opencv import cv2
from certseg.datasets import Cityscapes

BASE = [word for word in SMALL if not word.startswith(("dataset.size", "dataset.count", "model."))]
SHAPE = (48, 64)


def told(words, place, status=0):
    """What a command says, on one line."""
    found, out, err = Command(*BASE, *words, cwd=place).finish()
    assert found == status, out + err
    return " ".join((out + err).split())


def entries(place):
    """The summaries of the last run, by kind."""
    result = max(place.glob("outputs/runs/*/*/result.json"), key=lambda path: path.stat().st_mtime)
    return {entry["summary"]["kind"]: entry["summary"] for entry in json.loads(result.read_text())["entries"]}


def write(root, split, number, image, label, suffix=".png"):
    for kind in ("images", "labels"):
        (root / split / kind).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / split / "images" / f"{number}{suffix}"), image)
    Image.fromarray(label).save(root / split / "labels" / f"{number}.png")


def regions(seed):
    """Where the second class is: a region that an image tells by its brightness."""
    label = np.zeros(SHAPE, np.uint8)
    top, left = np.random.default_rng(seed).integers(0, 20, 2)
    label[top : top + 20, left : left + 24] = 1
    return label


class Sigmoid(torch.nn.Module):
    """One channel, of probabilities, as networks for binary masks are exported: bright pixels are the second class."""

    def forward(self, images):
        return torch.sigmoid(20 * (images.mean(dim=1, keepdim=True) - 0.5))


@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_an_engineer_with_an_exported_network_and_masks_in_colours(tmp_path):
    for number in range(3):
        label = regions(number)
        image = np.repeat((60 + 130 * label)[..., None], 3, axis=2).astype(np.uint8)
        colours = np.array([[70, 130, 180], [128, 64, 128]], np.uint8)[label]
        write(tmp_path / "data", "test", number, image, colours)
    torch.jit.trace(Sigmoid(), torch.rand(1, 3, *SHAPE)).save(tmp_path / "net.pt")
    words = ["dataset=folder", "dataset.root=data", "model=torchscript", "model.file=net.pt", "certifier.sigma=0.1"]
    colours = "dataset.colours={sky: [70, 130, 180], road: [128, 64, 128]}"
    assert "is a colour picture" in told([*words, "dataset.num_classes=2"], tmp_path, 2)
    said = told([*words, colours], tmp_path, 2)
    assert "look like probabilities" in said
    assert "outputs=probabilities" in said
    words += [colours, "model.outputs=probabilities"]
    said = told([*words, "attack=sea_fast", "attack.norm=linf", "attack.radius=2/255"], tmp_path)
    assert "its answers are taken for probabilities" in said
    found = entries(tmp_path)
    assert found["prediction"]["figures"]["accuracy/pooled"] == 1.0
    assert found["certifier"]["figures"]["certified_accuracy/pooled"] > 0.9
    patches = ["certifier=demasked_recovery", "certifier.patch.share=0.01", "attack=square_defended"]
    base = [word for word in BASE if not word.startswith("certifier.")]
    status, out, err = Command(*base, *words[:4], *words[5:], *patches, "attack.queries=20", cwd=tmp_path).finish()
    assert status == 0, out + err
    assert entries(tmp_path)["attack"]["figures"]["bracket/violations"] == 0
    assert "holds" in out


def test_a_medical_user_with_16_bits_tiny_lesions_and_images_without_any(tmp_path):
    for split, numbers in (("train", range(4)), ("val", range(2)), ("test", range(3))):
        for number in numbers:
            label = regions(number) if number != 1 else np.zeros(SHAPE, np.uint8)
            values = (
                9000 + 3000 * label.astype(np.int64) + np.random.default_rng(number).integers(0, 200, SHAPE)
            ).astype(np.uint16)
            write(tmp_path / "data", split, number, values, 255 * label)
    words = ["dataset=folder", "dataset.root=data", "model=smp", "model.encoder=resnet18", "training.iterations=60"]
    words += ["training.validations=0", "training.objective.sigma=0.05", "certifier.sigma=0.05"]
    pytest.importorskip("segmentation_models_pytorch", reason="the extra smp is not installed")
    values = "dataset.values={background: 0, lesion: 255}"
    assert "dataset.window=[low, high]" in told([*words, values], tmp_path, 2)
    words += ["dataset.window=[9000, 12400]", "dataset.bands=[0]", "model.channels=1"]
    said = told(
        [*words, "dataset.num_classes=2", "training.iterations=2"], tmp_path
    )  # 255 is "no label", unless it is told
    assert "Every labelled pixel" in said
    told([*words, values, "metrics.focus=[lesion]"], tmp_path)
    figures = entries(tmp_path)["certifier"]["figures"]
    assert figures["images_with@lesion"] == 2
    assert 0.5 < figures["certified_recall@lesion/pooled"] <= figures["prediction_recall@lesion/pooled"] <= 1.0
    assert 0.3 < figures["worst_case_dice@lesion/pooled"] <= figures["prediction_dice@lesion/pooled"]
    assert 0.5 < figures["certified_empty_specificity@lesion/pooled"] <= 1.0
    assert figures["unprotected_images@lesion"] == 0


def test_a_driving_user_with_label_ids_a_broken_file_and_other_class_orders(tmp_path):
    ids = {"train": ("aachen", 4), "val": ("munster", 3)}
    for split, (city, count) in ids.items():
        for number in range(count):
            stem = f"{split}/{city}/{city}_00000{number}_000019"
            image, label = tmp_path / f"cs/leftImg8bit/{stem}_leftImg8bit.png", tmp_path / f"cs/gtFine/{stem}_gtFine"
            for file in (image, label):
                file.parent.mkdir(parents=True, exist_ok=True)
            where = regions(number)
            Image.fromarray(np.repeat((60 + 130 * where)[..., None], 3, axis=2).astype(np.uint8)).save(image)
            Image.fromarray(np.where(where, 26, 7).astype(np.uint8)).save(f"{label}_labelIds.png")  # car and road
    words = ["dataset=cityscapes", "dataset.root=cs", "model=upernet_tiny", "model.scales=[1.0]", "certifier.n=60"]
    broken = tmp_path / "cs/leftImg8bit/val/munster/munster_000001_000019_leftImg8bit.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"no picture")
    assert "munster_000001_000019_leftImg8bit.png" in told(words, tmp_path, 2)
    assert not list(tmp_path.rglob("model.pt"))
    said = told([*words, "dataset.on_error=skip"], tmp_path)
    assert "2 images are used" in said
    assert "never occur in the labels" in max(tmp_path.glob("outputs/runs/*/*/report.md")).read_text()
    broken.write_bytes(whole)
    (model,) = tmp_path.rglob("model.pt")
    content = torch.load(model, weights_only=True)
    order = list(reversed(range(len(Cityscapes.legend().class_names))))
    for name, value in content["state_dict"].items():
        if "conv_seg" in name:
            content["state_dict"][name] = value[order]
    content["meta"]["classes"] = content["meta"]["classes"][::-1]
    torch.save(content, tmp_path / "theirs.pt")
    said = told([*words, "model.checkpoint=theirs.pt"], tmp_path, 2)
    assert "in another order" in said
    assert "model.map_classes=true" in said
    said = told([*words, "model.checkpoint=theirs.pt", "model.map_classes=true"], tmp_path)
    assert "training=noise is not run" in said
    assert entries(tmp_path)["prediction"]["images"] == 3
