"""The data sets that mmsegmentation lists, on tiny trees of their standard layouts."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from certseg.datasets import ADE20K, VOC2012, Cityscapes, COCOStuff10k, PascalContext
from certseg.errors import ConfigError, DataError
from certseg.types import IGNORE_INDEX

SHAPE = (4, 6)


def write(root: Path, image: str, label: str, values) -> None:
    for name in (image, label):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SHAPE, 3), 200, dtype=np.uint8)).save(root / image)
    picture = Image.fromarray(np.broadcast_to(np.asarray(values, dtype=np.uint8), SHAPE).copy())
    picture.save(root / label)


def write_list(root: Path, file: str, *names: str) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text("".join(f"{name}\n" for name in names) + "\n")


def cityscapes(root: Path) -> None:
    for split, cities in (("train", ["aachen"]), ("val", ["munster", "frankfurt"])):
        for city in cities:
            label = f"gtFine/{split}/{city}/{city}_000000_000019_gtFine_labelTrainIds.png"
            image = f"leftImg8bit/{split}/{city}/{city}_000000_000019_leftImg8bit.png"
            write(root, image, label, [0, 1, 18, 255, 5, 5])
            shutil.copy(root / label, root / label.replace("labelTrainIds", "labelIds"))


def ade20k(root: Path) -> None:
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        write(root, f"images/{split}/{name}.jpg", f"annotations/{split}/{name}.png", [0, 1, 2, 150, 150, 255])


def voc2012(root: Path) -> None:
    lists = "ImageSets/Segmentation"
    for name in ("2007_000001", "2007_000002"):
        write(root, f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png", [0, 1, 20, 255, 0, 0])
    write(root, "JPEGImages/2008_000003.jpg", "SegmentationClassAug/2008_000003.png", 7)
    write(root, "JPEGImages/2008_unlisted.jpg", "SegmentationClass/2008_unlisted.png", 99)
    write_list(root, f"{lists}/train.txt", "2007_000001")
    write_list(root, f"{lists}/val.txt", "2007_000002")
    write_list(root, f"{lists}/aug.txt", "2008_000003")


def pascal_context(root: Path) -> None:
    for name in ("2008_000001", "2008_000002"):
        write(root, f"JPEGImages/{name}.jpg", f"SegmentationClassContext/{name}.png", [0, 1, 59, 59, 255, 2])
    write_list(root, "ImageSets/SegmentationContext/train.txt", "2008_000001")
    write_list(root, "ImageSets/SegmentationContext/val.txt", "2008_000002")


def coco_stuff10k(root: Path) -> None:
    for split in ("train2014", "test2014"):
        name = f"COCO_{split}_000000000077"
        write(root, f"images/{split}/{name}.jpg", f"annotations/{split}/{name}_labelTrainIds.png", [0, 1, 171, 9, 9, 9])


VOID = IGNORE_INDEX
CASES = {
    "cityscapes": (Cityscapes, cityscapes, 19, [0, 1, 18, VOID, 5, 5], 18, "leftImg8bit"),
    "ade20k": (ADE20K, ade20k, 150, [VOID, 0, 1, 149, 149, VOID], 150, "images/validation"),
    "voc2012": (VOC2012, voc2012, 21, [0, 1, 20, VOID, 0, 0], 20, "JPEGImages"),
    "pascal_context": (PascalContext, pascal_context, 59, [VOID, 0, 58, 58, VOID, 1], 59, "JPEGImages"),
    "coco_stuff10k": (COCOStuff10k, coco_stuff10k, 171, [VOID, 0, 170, 8, 8, 8], 171, "images/test2014"),
}


@pytest.fixture(params=sorted(CASES))
def case(request, tmp_path):
    CASES[request.param][1](tmp_path)
    return request.param, tmp_path, *CASES[request.param]


def test_labels_names_and_palette(case):
    name, root, kind, _, num_classes, expected, _, _ = case
    dataset = kind(root)
    sample = dataset[0]
    assert dataset.name == name
    assert len(dataset.class_names) == len(dataset.palette) == num_classes
    assert all(entry == entry.strip() and entry for entry in dataset.class_names)
    assert all(len(colour) == 3 and all(0 <= v <= 255 for v in colour) for colour in dataset.palette)
    assert sample.target[0].tolist() == expected
    assert sample.image.shape == (3, *SHAPE)
    assert abs(float(sample.image.mean()) - 200 / 255) < 0.01
    assert sample.name == dataset.names()[0]
    assert len(kind(root, split="train")) == 1
    assert kind(root, size=[2, 3])[0].target.shape == (2, 3)


def test_one_value_too_many(case):
    _, root, kind, _, _, _, last, _ = case
    dataset = kind(root)
    Image.fromarray(np.full(SHAPE, last + 1, dtype=np.uint8)).save(dataset.pairs[0].label)
    with pytest.raises(DataError, match=rf"{last + 1} \(24 pixels\)"):
        dataset[0]
    Image.fromarray(np.full(SHAPE, last, dtype=np.uint8)).save(dataset.pairs[0].label)
    assert dataset[0].target.unique().tolist() == [len(dataset.class_names) - 1]


def test_missing_pieces(case, tmp_path_factory):
    _, root, kind, _, _, _, _, images = case
    kind(root).pairs[0].label.unlink()
    with pytest.raises(DataError, match="missing"):
        kind(root)
    with pytest.raises(DataError, match="no such split"):
        kind(root, split="testing")
    shutil.rmtree(root / images)
    with pytest.raises(DataError, match=images):
        kind(root)
    nowhere = tmp_path_factory.mktemp("empty") / "nowhere"
    with pytest.raises(DataError, match=r"dataset\.root=<folder>") as error:
        kind(nowhere)
    assert str(nowhere) in str(error.value)


def test_fingerprint_stays_when_the_folder_moves(case, tmp_path_factory):
    _, root, kind, _, _, _, _, _ = case
    first = kind(root).fingerprint()
    moved = tmp_path_factory.mktemp("moved") / "data"
    shutil.copytree(root, moved)
    assert kind(moved).fingerprint() == first
    Image.fromarray(np.random.default_rng(0).integers(0, 9, SHAPE, dtype=np.uint8)).save(kind(moved).pairs[0].label)
    assert kind(moved).fingerprint() != first


def test_cityscapes_names_hold_the_city_and_ignore_other_label_kinds(tmp_path):
    cityscapes(tmp_path)
    dataset = Cityscapes(tmp_path)
    assert dataset.names() == ("frankfurt/frankfurt_000000_000019", "munster/munster_000000_000019")
    assert dataset.class_names[0] == "road"
    assert dataset.palette[0] == (128, 64, 128)


def as_label_ids(root: Path, values) -> None:
    """Replace the training ids of the validation split by label ids."""
    for file in sorted((root / "gtFine" / "val").rglob("*_labelTrainIds.png")):
        file.unlink()
        picture = Image.fromarray(np.broadcast_to(np.asarray(values, dtype=np.uint8), SHAPE).copy())
        picture.save(file.with_name(file.name.replace("labelTrainIds", "labelIds")))


def test_cityscapes_converts_label_ids_where_there_are_no_training_ids(tmp_path):
    cityscapes(tmp_path)
    trained = Cityscapes(tmp_path)
    before = trained.fingerprint()
    as_label_ids(tmp_path, [7, 8, 33, 3, 17, 0])
    dataset = Cityscapes(tmp_path)
    assert dataset.names() == trained.names()
    assert dataset[0].target[0].tolist() == [0, 1, 18, VOID, 5, VOID]
    assert dataset.fingerprint() != before
    assert Cityscapes(tmp_path, "train")[0].target[0].tolist() == [0, 1, 18, VOID, 5, 5]
    Image.fromarray(np.full(SHAPE, 34, dtype=np.uint8)).save(dataset.pairs[0].label)
    with pytest.raises(DataError, match=r"34 \(24 pixels\)"):
        dataset[0]


def test_cityscapes_label_ids_by_the_names_that_mmsegmentation_has(tmp_path):
    names = {7: "road", 11: "building", 17: "pole", 19: "traffic light", 23: "sky", 24: "person", 26: "car"}
    cityscapes(tmp_path)
    for value, name in (names | {33: "bicycle", 31: "train", 28: "bus"}).items():
        as_label_ids(tmp_path, value)
        for file in (tmp_path / "gtFine" / "val").rglob("*_labelIds.png"):
            Image.fromarray(np.full(SHAPE, value, dtype=np.uint8)).save(file)
        dataset = Cityscapes(tmp_path)
        assert dataset.class_names[int(dataset[0].target.unique())] == name


def test_cityscapes_some_training_ids_missing_is_an_error(tmp_path):
    cityscapes(tmp_path)
    Cityscapes(tmp_path).pairs[0].label.unlink()
    with pytest.raises(DataError, match=r"labelTrainIds\.png: listed but missing"):
        Cityscapes(tmp_path)


def test_cityscapes_label_ids_under_the_name_of_training_ids_are_refused(tmp_path):
    cityscapes(tmp_path)
    dataset = Cityscapes(tmp_path)
    write(tmp_path, "other.png", str(dataset.pairs[0].label.relative_to(tmp_path)), [7, 8, 23, 26, 11, 3])
    with pytest.raises(DataError, match=r"holds label ids, not training ids.*23, 26 \(8 pixels\).*labelIds\.png"):
        dataset[0]


def test_label_without_image_in_listed_folders(tmp_path):
    cityscapes(tmp_path)
    Cityscapes(tmp_path).pairs[0].image.unlink()
    with pytest.raises(DataError, match="label without an image"):
        Cityscapes(tmp_path)
    assert len(Cityscapes(tmp_path, strict=False)) == 1


def test_voc_augmented_adds_to_train_only(tmp_path):
    voc2012(tmp_path)
    assert VOC2012(tmp_path, "train").names() == ("2007_000001",)
    train = VOC2012(tmp_path, "train", augmented=True)
    assert train.names() == ("2007_000001", "2008_000003")
    assert train[1].target.unique().tolist() == [7]
    assert VOC2012(tmp_path, "val", augmented=True).names() == ("2007_000002",)
    assert train.fingerprint() != VOC2012(tmp_path, "train").fingerprint()
    with pytest.raises(ConfigError, match="augmented"):
        VOC2012(tmp_path, augmented="yes")
    (tmp_path / "ImageSets/Segmentation/aug.txt").unlink()
    with pytest.raises(DataError, match=r"aug\.txt"):
        VOC2012(tmp_path, "train", augmented=True)


def test_name_listed_twice(tmp_path):
    pascal_context(tmp_path)
    write_list(tmp_path, "ImageSets/SegmentationContext/val.txt", "2008_000002", "2008_000002")
    with pytest.raises(DataError, match="listed 2 times"):
        PascalContext(tmp_path)


def write_instances(root: Path, values) -> None:
    for file in (root / "gtFine").rglob("*_labelTrainIds.png"):
        picture = Image.fromarray(np.broadcast_to(np.asarray(values, dtype=np.uint16), SHAPE).copy())
        picture.save(file.with_name(file.name.replace("labelTrainIds", "instanceIds")))


def test_cityscapes_tells_objects_apart_by_their_instance_ids(tmp_path):
    """Road, sidewalk, two bicycles' columns of one id, no label, and traffic sign: 24 to 33 have instances."""
    cityscapes(tmp_path)
    for file in (tmp_path / "gtFine").rglob("*_labelTrainIds.png"):
        Image.fromarray(np.broadcast_to(np.asarray([0, 18, 18, 18, 255, 5], dtype=np.uint8), SHAPE).copy()).save(file)
    without = Cityscapes(tmp_path)
    assert without[0].objects is None
    with pytest.raises(DataError, match=r"no file of instance ids for 2 of 2.*dataset\.objects=false"):
        Cityscapes(tmp_path, objects=True)
    write_instances(tmp_path, [7, 33000, 33001, 33, 1, 17])
    dataset = Cityscapes(tmp_path, objects=True)
    assert dataset[0].objects.tolist() == [[0, 33000, 33001, -1, 0, 0]] * 4, "33 by itself is a group of bicycles"
    assert torch.equal(dataset[0].target, without[0].target)
    small = Cityscapes(tmp_path, size=[2, 3], objects=True)[0]
    assert set(zip(small.target.flatten().tolist(), small.objects.flatten().tolist())) <= {
        *((0, 0), (18, 33000), (18, 33001), (18, -1), (255, 0), (5, 0))
    }, "each pixel has the number of the pixel whose label it has"
    assert dataset.fingerprint() != without.fingerprint() == Cityscapes(tmp_path).fingerprint()
    before = dataset.fingerprint()
    write_instances(tmp_path, [7, 33000, 33002, 33, 1, 17])
    assert Cityscapes(tmp_path, objects=True).fingerprint() != before
    write_instances(tmp_path, [7, 26000, 33002, 33, 1, 17])
    with pytest.raises(DataError, match=r"not those of the labels.*4 pixels of another class"):
        Cityscapes(tmp_path, objects=True)[0]
    with pytest.raises(ConfigError, match=r"dataset\.objects"):
        Cityscapes(tmp_path, objects="yes")
