"""scripts/check_dataset.py and the data set configs."""

import importlib.util
import inspect
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import certseg.datasets

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs" / "dataset").glob("*.yaml"))
NAMES = [
    "ade20k",
    "camvid",
    "cityscapes",
    "coco",
    "coco_stuff10k",
    "folder",
    "kvasir_seg",
    "oxford_pets",
    "pascal_context",
    "streets",
    "voc2012",
]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("check_dataset", ROOT / "scripts" / "check_dataset.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path):
    for index in range(4):
        for kind, shape in (("images", (6, 8, 3)), ("labels", (6, 8))):
            file = tmp_path / "val" / kind / f"frame_{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full(shape, index, dtype=np.uint8)).save(file)
    return tmp_path


def test_good_tree(script, tree, capsys):
    assert script.main(["dataset=camvid", f"dataset.root={tree}", "dataset.split=val"]) == 0
    out = capsys.readouterr().out
    assert "4 good images of 4" in out
    assert "6 x 8 (4)" in out
    assert "no problems" in out
    rows = {line.split("│")[2].strip(): line for line in out.splitlines() if line.count("│") == 5}
    assert "25.00%" in rows["pole"]
    assert "48" in rows["pole"]
    assert "0.00%" in rows["car"]


def test_every_bad_file_is_named(script, tree, capsys):
    labels, images = tree / "val" / "labels", tree / "val" / "images"
    (images / "frame_0.png").write_bytes(b"broken")
    Image.fromarray(np.full((6, 8), 77, dtype=np.uint8)).save(labels / "frame_1.png")
    Image.fromarray(np.zeros((5, 8), dtype=np.uint8)).save(labels / "frame_2.png")
    Image.fromarray(np.zeros((6, 8), dtype=np.uint8)).save(labels / "orphan.png")
    assert script.main(["dataset=camvid", f"dataset.root={tree}", "dataset.split=val"]) == 1
    out, err = capsys.readouterr()
    assert "1 good images of 4" in out
    assert "5 problems" in out  # four files, and all that is left is one class
    lines = err.strip().splitlines()
    assert len(lines) == 5
    for bad, why in (
        (images / "frame_0.png", "cannot be read"),
        (labels / "frame_1.png", "77 (48 pixels)"),
        (labels / "frame_2.png", "differ in size"),
        (labels / "orphan.png", "label without an image"),
    ):
        assert any(str(bad) in line and why in line for line in lines)


def test_streets_and_overrides_of_other_groups(script, capsys):
    others = ["seed=1", "attack=pgd", "certifier.n=50", "model=mmseg", "experiment=demo", "hydra/launcher=parallel"]
    assert script.main(["dataset=streets", "dataset.count=2", "dataset.size=[32,64]", *others]) == 0
    assert "32 x 64 (2)" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(script, flag, capsys):
    assert script.main(["dataset=streets", flag]) == 0
    assert "python scripts/check_dataset.py dataset=" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "No data set named"),
        (["datset=camvid"], "No data set named"),
        (["dataset=unheard_of"], "There is no dataset=unheard_of"),
        (["dataset=camvid", "dataset.colour=red"], "Did you mean dataset.colours"),
        (["dataset=camvid", "+dataset.colour=red"], "unexpected keyword argument 'colour'"),
        (["dataset=camvid", "seeed=1"], "Did you mean seed"),
        (["dataset=camvid", "dataset.size=[1"], "no viable alternative at input"),
        (["dataset=camvid", "dataset._target_=certseg.datasets.Nothing"], "certseg.datasets.Nothing"),
        (["dataset=streets", "-m"], "Received: -m"),
        (["dataset=camvid", "dataset.root=/nonexistent"], "dataset.root=<folder>"),
        (["dataset=camvid", "dataset.root=null"], "dataset.root=<folder>"),
        (["dataset=voc2012", "dataset.root=null"], "dataset.root=<folder>"),
        (["dataset=folder", "dataset.num_classes=3", "dataset.root=null"], "dataset.root=<folder>"),
    ],
)
def test_unusable_command_lines_are_one_line(script, arguments, message, capsys):
    assert script.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_config_fits_its_class(file):
    text = file.read_text()
    assert text.startswith("# ")
    settings = yaml.safe_load(text)
    for key in ("limit", "train_split", "val_split", "on_error"):
        assert key in settings
    kind = getattr(certseg.datasets, settings["_target_"].removeprefix("certseg.datasets."))
    for key in ("_target_", "limit", "train_split", "val_split", "on_error"):
        settings.pop(key)
    settings.pop("hierarchy", None)  # the certifier's
    inspect.signature(kind).bind(**settings)
    assert "split" in settings


def test_every_data_set_has_a_config():
    assert [file.stem for file in CONFIGS] == NAMES
    assert yaml.safe_load((ROOT / "configs/dataset/streets.yaml").read_text())["limit"] == 20
