"""Oxford-IIIT Pet on tiny trees of its standard layout."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from certseg.datasets import OxfordPets
from certseg.datasets.listing import listed_names, tenth_of
from certseg.errors import ConfigError, DataError
from certseg.training import Recipe
from certseg.training.data import TrainingImages, collate
from certseg.types import IGNORE_INDEX

TRAINVAL = [f"Abyssinian_{index}" for index in range(12)]
TEST = ["beagle_1", "beagle_2"]
TRIMAP = [1, 2, 3, 2]


def shape_of(name):
    return 6 + int(name.split("_")[1]) % 3, 8


def write(root, name, values=TRIMAP):
    height, width = shape_of(name)
    for folder in ("images", "annotations/trimaps"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 120, dtype=np.uint8)).save(root / "images" / f"{name}.jpg")
    trimap = np.tile(np.asarray(values, dtype=np.uint8), (height, width // len(values)))
    Image.fromarray(trimap).save(root / "annotations" / "trimaps" / f"{name}.png")


@pytest.fixture
def pets(tmp_path):
    for name in (*TRAINVAL, *TEST, "unlisted_1"):
        write(tmp_path, name)
    (tmp_path / "images" / "Abyssinian_0.mat").write_bytes(b"the archive has such files")
    (tmp_path / "annotations" / "trimaps" / "._Abyssinian_0.png").write_bytes(b"and such")
    (tmp_path / "annotations" / "list.txt").write_text("#Image CLASS-ID SPECIES BREED ID\n")
    for split, names in (("trainval", TRAINVAL), ("test", TEST)):
        lines = "".join(f"{name} 1 1 1\n" for name in names)
        (tmp_path / "annotations" / f"{split}.txt").write_text(f"#Image CLASS-ID SPECIES\n{lines}\n")
    return tmp_path


def test_pixels_and_labels(pets):
    dataset = OxfordPets(pets)
    sample = dataset[0]
    assert (dataset.name, dataset.split, dataset.names()) == ("oxford_pets", "test", tuple(TEST))
    assert dataset.class_names == ("pet", "background")
    assert sample.image.shape == (3, *shape_of("beagle_1"))
    assert torch.allclose(sample.image, torch.tensor(120 / 255), atol=2 / 255)
    assert sample.target[0].tolist() == [0, 1, IGNORE_INDEX, 1] * 2


def test_the_border_may_be_a_class(pets):
    dataset = OxfordPets(pets, border="class")
    assert dataset.class_names == OxfordPets.legend("class").class_names == ("pet", "background", "border")
    assert len(set(dataset.palette)) == 3
    assert dataset[0].target[0].tolist() == [0, 1, 2, 1] * 2
    assert dataset.fingerprint() != OxfordPets(pets).fingerprint()
    with pytest.raises(ConfigError, match=r"dataset\.border"):
        OxfordPets(pets, border="void")


def test_validation_is_a_part_of_trainval_that_training_never_sees(pets):
    whole, train, val = (OxfordPets(pets, split).names() for split in ("trainval", "train", "val"))
    assert whole == tuple(TRAINVAL)
    assert sorted(train + val) == sorted(TRAINVAL)
    assert val == tuple(name for name in TRAINVAL if tenth_of(name) == 0)
    assert 0 < len(val) < len(train)


def test_tenths_are_the_same_everywhere_and_about_equal():
    assert [tenth_of(name) for name in ("Abyssinian_1", "beagle_1", "ü")] == [2, 2, 5]
    counts = np.bincount([tenth_of(f"name_{index}") for index in range(5000)], minlength=10)
    assert len(counts) == 10
    assert abs(counts - 500).max() < 5 * (5000 * 0.09) ** 0.5


def test_images_of_any_size_are_evaluated_and_trained_on(pets):
    assert {OxfordPets(pets, "train")[i].target.shape for i in range(5)} == {(6, 8), (7, 8), (8, 8)}
    fixed = OxfordPets(pets, size=[3, 4])[0]
    assert (fixed.image.shape, fixed.target.shape) == ((3, 3, 4), (3, 4))
    assert set(fixed.target.unique().tolist()) <= {0, 1, IGNORE_INDEX}
    for options, crop in (({}, (6, 6)), ({"size": [12, 16]}, (10, 12)), ({"size": [12, 16]}, None)):
        source = OxfordPets(pets, "train", **options)
        images = TrainingImages(source, Recipe(crop=crop), seed=0, num_classes=2)
        batch = collate([images[index, index] for index in range(4)])
        assert batch["images"].shape == (4, *(crop or (12, 16)), 3)
        assert set(batch["labels"].unique().tolist()) <= {0, 1, IGNORE_INDEX}


@pytest.mark.parametrize("missing", ["images", "annotations/trimaps", "annotations/test.txt", ""])
def test_a_missing_folder_tells_where_and_how(pets, missing):
    path = pets / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataError) as error:
        OxfordPets(pets)
    for part in (str(path), "annotations/trimaps/NAME.png", "robots.ox.ac.uk", "dataset.root=<folder>"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_trimap_is_named(pets):
    (pets / "annotations" / "trimaps" / "beagle_2.png").unlink()
    with pytest.raises(DataError, match=r"beagle_2\.png: listed but missing"):
        OxfordPets(pets)
    assert OxfordPets(pets, strict=False).names() == ("beagle_1",)
    assert len(OxfordPets(pets, "trainval")) == len(TRAINVAL), "another split's files are not its problem"


@pytest.mark.parametrize("value", [0, 4, 255])
def test_a_value_that_is_no_class_is_named(pets, value):
    write(pets, "beagle_1", [1, 2, 3, value])
    for border, expected in (("ignore", "1 to 2, and 3 for no label"), ("class", "1 to 3")):
        with pytest.raises(DataError, match=rf"beagle_1\.png.*Expected.*{expected}.*{value} \("):
            OxfordPets(pets, border=border)[0]


def test_unknown_split(pets):
    with pytest.raises(DataError, match="trainval or train or val or test"):
        OxfordPets(pets, "validation")


@pytest.mark.parametrize("content", [b"\n# only a remark\n", b"\xff\xfe\xff"])
def test_a_list_that_names_nothing(pets, content):
    (pets / "annotations" / "test.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"test\.txt"):
        OxfordPets(pets)


def test_names_are_listed_once(pets):
    (pets / "annotations" / "test.txt").write_text("beagle_1 1 1 1\nbeagle_1\n")
    assert listed_names(pets / "annotations" / "test.txt") == ["beagle_1", "beagle_1"]
    with pytest.raises(DataError, match="listed 2 times"):
        OxfordPets(pets)
