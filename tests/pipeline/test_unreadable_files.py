"""Files of a data set that cannot be used: found before a training, and left out on demand with their count."""

import json

import numpy as np
import pytest
from PIL import Image
from support.pipeline_runs import SMALL, configuration

from certseg.errors import ConfigError, DataError
from certseg.pipeline import run

BASE = [word for word in SMALL if not word.startswith(("dataset.", "certifier."))]


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for kind in ("images", "labels"):
            (tmp_path / "data" / split / kind).mkdir(parents=True)
        for index in range(4):
            place = tmp_path / "data" / split
            Image.fromarray(rng.integers(0, 255, (32, 40, 3), dtype=np.uint8)).save(place / "images" / f"{index}.png")
            Image.fromarray(rng.integers(0, 2, (32, 40), dtype=np.uint8)).save(place / "labels" / f"{index}.png")
    return tmp_path / "data"


def go(root, tmp_path, *overrides):
    words = ("dataset=folder", f"dataset.root={root}", "dataset.num_classes=2", "certifier=none", *overrides)
    return run(configuration(tmp_path / "out", *words, base=BASE), tmp_path / "report")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_file_whose_header_is_broken_is_found_before_a_training(split, root, tmp_path):
    (root / split / "images" / "3.png").write_bytes(b"broken")
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(root / split / "labels" / "2.png")
    with pytest.raises(DataError, match=r"2\.png has 30 x 40 pixels and its image 32 x 40.*3\.png.*on_error=skip"):
        go(root, tmp_path)
    assert not list(tmp_path.rglob("history.jsonl"))


def test_a_run_of_a_checkpoint_finds_it_before_its_first_image(root, tmp_path):
    go(root, tmp_path)
    model = next((tmp_path / "out").rglob("model.pt"))
    (root / "test" / "labels" / "3.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"3\.png"):
        go(root, tmp_path, f"model.checkpoint={model}")
    assert len(list((tmp_path / "out").glob("*/*/prediction-*/summary.json"))) == 1


def test_bad_files_are_left_out_on_demand_and_counted(root, tmp_path, capsys):
    truncated = root / "test" / "images" / "1.png"
    truncated.write_bytes(truncated.read_bytes()[:-600])  # a header that tells nothing
    Image.fromarray(np.full((32, 40), 7, np.uint8)).save(root / "train" / "labels" / "2.png")
    (root / "val" / "labels" / "0.png").unlink()
    go(root, tmp_path, "dataset.on_error=skip")
    out = capsys.readouterr().out.replace("\n", " ")
    for split in ("test", "train", "val"):
        assert f"folder, split {split}: 3 images are used. 1 problem, such as" in out
    assert "left out: 1 of 4 images cannot be read" in (tmp_path / "report" / "report.md").read_text().replace("*", "")
    rows = next((tmp_path / "out").glob("*/*/prediction-*/rows.jsonl")).read_text().splitlines()
    assert sorted(json.loads(row)["image"] for row in rows) == ["0", "2", "3"]


def test_a_data_set_without_a_single_good_file_is_an_error(root, tmp_path):
    for file in (root / "test" / "images").iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match="No image of folder, split test, can be read"):
        go(root, tmp_path, "dataset.on_error=skip")


def test_there_are_two_ways(root, tmp_path):
    with pytest.raises(ConfigError, match=r"dataset\.on_error must be stop or skip"):
        go(root, tmp_path, "dataset.on_error=continue")


def test_a_training_split_that_is_not_there_is_called_that(root, tmp_path):
    for overrides in (("dataset.train_split=night",), ("dataset.train_split=null",)):
        with pytest.raises((ConfigError, DataError), match=r"to train on.*model\.checkpoint=") as error:
            go(root, tmp_path, *overrides)
        assert "\n" not in str(error.value)


def test_other_noise_than_that_of_the_certificates_is_said(root, tmp_path, capsys):
    words = ("dataset=folder", f"dataset.root={root}", "dataset.num_classes=2", "certifier.sigma=0.5", "certifier.n=60")
    run(configuration(tmp_path / "out", *words, base=BASE), tmp_path / "report")
    assert "trained with noise of sigma 0.25 and certified with 0.5" in capsys.readouterr().out.replace("\n", " ")


def test_a_label_that_is_no_class_is_found_in_the_validation_split_before_a_training(root, tmp_path):
    Image.fromarray(np.full((32, 40), 7, np.uint8)).save(root / "val" / "labels" / "1.png")
    with pytest.raises(DataError, match=r"val/labels/1\.png holds values that are no class"):
        go(root, tmp_path)
    assert not list(tmp_path.rglob("history.jsonl"))
    go(root, tmp_path, "training.val_images=1")  # which does not reach it
