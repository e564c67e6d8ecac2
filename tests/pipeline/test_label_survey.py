"""Labels from which no figure means anything: said before the work, beside the figures, and by check_dataset."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from support.pipeline_runs import ROOT, SMALL, configuration

from certseg.errors import DataError
from certseg.metrics import LabelCounts
from certseg.pipeline import run
from certseg.pipeline.label_survey import survey

NAMES = ["background", "lesion"]
FOLDER = [word for word in SMALL if not word.startswith(("dataset.", "certifier."))]


def folder(root, values):
    """A data set in three splits whose label files hold these values in turn, in halves of the picture."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for index in range(3):
            label = np.full((32, 40), values[0], np.uint8)
            label[:, 20:] = values[index % len(values)]
            noise = rng.integers(0, 255, (32, 40, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / split / "images" / f"{index}.png")
            Image.fromarray(label).save(root / split / "labels" / f"{index}.png")
    return ["dataset=folder", f"dataset.root={root}", f"dataset.class_names=[{','.join(NAMES)}]", "certifier=none"]


def whole_run(tmp_path, values, capsys):
    overrides = folder(tmp_path / "data", values)
    report = run(configuration(tmp_path / "out", *overrides, base=FOLDER), tmp_path / "report").read_text()
    return capsys.readouterr().out, report


def test_masks_of_0_and_255_are_said_before_and_beside_the_figures(tmp_path, capsys):
    """255 means "no label" by default, and what is left is one class."""
    out, report = whole_run(tmp_path, (0, 255), capsys)
    told = "Every labelled pixel of these 3 images is 'background': accuracy and mIoU say nothing"
    assert out.index(f"Training split train: {told}") < out.index("Trained in")
    assert f"Evaluated images: {told}" in out
    assert f"> **Labels.** {told}" in report
    assert "dataset.ignore_index" in report
    assert "labels   Every labelled pixel" in out.replace("\n", " ")


def test_empty_masks_are_said(tmp_path, capsys):
    out, report = whole_run(tmp_path, (0,), capsys)
    assert "Every labelled pixel of these 3 images is 'background'" in out
    assert "> **Labels.** Every labelled pixel of these 3 images is 'background'" in report


def test_labels_that_are_all_void_train_nothing(tmp_path):
    overrides = folder(tmp_path / "data", (255,))
    with pytest.raises(DataError, match=r"No pixel of the 3 training images of folder has a label.*ignore_index"):
        run(configuration(tmp_path / "out", *overrides, base=FOLDER), tmp_path / "report")
    assert not list(tmp_path.rglob("model.pt"))


def test_a_class_that_never_occurs_is_said_in_the_report(tmp_path, capsys):
    overrides = folder(tmp_path / "data", (0, 1))
    overrides[2] = "dataset.class_names=[background,lesion,scar]"
    report = run(configuration(tmp_path / "out", *overrides, base=FOLDER), tmp_path / "report").read_text()
    assert "> **Labels.** scar never occurs in the labels of these 3 images: mIoU is the mean of the other 2" in report
    assert "labels   " not in capsys.readouterr().out


def test_good_labels_are_passed_over(tmp_path, capsys):
    out, report = whole_run(tmp_path, (0, 1), capsys)
    assert "Labels." not in report
    assert "labelled" not in out
    assert "labels   " not in out


def test_check_dataset_says_it_with_its_status(tmp_path, capsys):
    path = ROOT / "scripts" / "check_dataset.py"
    module = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("check_dataset", path))
    spec.loader.exec_module(module)
    for values, status, words in (
        ((0, 255), 1, "Every labelled pixel"),
        ((255,), 1, "No pixel of these 3 images has a label"),
        ((0,), 1, "Every labelled pixel"),
        ((0, 1), 0, ""),
    ):
        overrides = folder(tmp_path / "-".join(map(str, values)), values)[:3]
        assert module.main(overrides) == status
        assert words in capsys.readouterr().err


class Rare:
    """A data set in which a class lies outside the images that are looked at first."""

    name, split, class_names, palette = "rare", "test", ("a", "b"), ((0, 0, 0), (1, 1, 1))

    def __init__(self):
        self.read = []

    def __len__(self):
        return 100

    def names(self):
        return tuple(map(str, range(100)))

    def fingerprint(self):
        return "rare"

    def __getitem__(self, index):
        from certseg.types import Sample

        self.read.append(index)
        return Sample(str(index), torch.zeros(3, 2, 2), torch.full((2, 2), int(index == 98)))


def test_a_few_images_decide_only_where_they_suffice():
    rare = Rare()
    assert survey(rare).pixels.tolist() == [396, 4]
    assert len(rare.read) == 132
    rare.class_names = ("a",)  # nothing is missing in the first few
    assert LabelCounts(np.array([3, 2]), 0, 1).obstacle(NAMES) == ""
    assert "this image" in LabelCounts(np.array([0, 0]), 3, 1).obstacle(NAMES)


def test_a_network_that_is_worse_than_none_is_said():
    counts = LabelCounts(np.array([60, 30, 10]), None, images=2)
    names = ["road", "sky", "car"]
    assert counts.doubt(names, 60) == ""
    assert "right at 59.0% of the labelled pixels; to answer 'road' everywhere is right at 60.0%" in (
        counts.doubt(names, 59)
    )
    assert LabelCounts(np.array([60, 0, 0]), None, images=2).doubt(names, 0) == ""  # said otherwise
