"""Kvasir-SEG on tiny trees of its layout: JPEG masks, splits by names or by lists."""

import shutil

import numpy as np
import pytest
from PIL import Image

from certseg.datasets import KvasirSEG
from certseg.datasets.listing import tenth_of
from certseg.errors import ConfigError, DataError
from certseg.training import Recipe
from certseg.training.data import TrainingImages, collate

NAMES = [f"cju{index:02d}" for index in range(30)]


def shape_of(name):
    return (40, 48 + 8 * (int(name[3:]) % 2))


def polyp(name):
    mask = np.zeros(shape_of(name), dtype=np.uint8)
    mask[9:30, 11:37] = 255
    return mask


def save_mask(root, name, mask, quality=60):
    (root / "masks").mkdir(exist_ok=True, parents=True)
    Image.fromarray(mask).save(root / "masks" / f"{name}.jpg", quality=quality)


@pytest.fixture
def kvasir(tmp_path):
    (tmp_path / "images").mkdir()
    for name in NAMES:
        pixels = np.random.default_rng(int(name[3:])).integers(0, 256, (*shape_of(name), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.jpg")
        mask = polyp(name)
        save_mask(tmp_path, name, mask if int(name[3:]) % 3 else np.stack([mask] * 3, axis=2))
    return tmp_path


def test_masks_are_read_through_compression_grey_or_rgb(kvasir):
    dataset = KvasirSEG(kvasir, "all")
    assert dataset.names() == tuple(NAMES)
    assert dataset.class_names == ("background", "polyp")
    traces = 0
    for index in range(4):
        sample, mask = dataset[index], polyp(NAMES[index])
        assert np.array_equal(sample.target.numpy(), mask == 255)
        assert sample.image.shape == (3, *mask.shape)
        read = np.asarray(Image.open(kvasir / "masks" / f"{NAMES[index]}.jpg").convert("L"))
        traces += int(((read > 0) & (read < 255)).sum())
    assert traces > 100, "without traces of compression the test tests nothing"


@pytest.mark.parametrize("value", [0, 255])
def test_masks_of_one_class(kvasir, value):
    save_mask(kvasir, NAMES[0], np.full(shape_of(NAMES[0]), value, dtype=np.uint8))
    assert KvasirSEG(kvasir, "all")[0].target.unique().tolist() == [value // 255]


def test_white_begins_at_128(kvasir):
    mask = polyp(NAMES[0])
    mask[0, :4] = (127, 127, 128, 128)
    save_mask(kvasir, NAMES[0], mask, quality=100)
    read = np.asarray(Image.open(kvasir / "masks" / f"{NAMES[0]}.jpg"))
    assert {127, 128} <= set(read[0, :4].tolist())
    assert np.array_equal(KvasirSEG(kvasir, "all")[0].target.numpy(), read >= 128)


def test_splits_share_no_image_and_do_not_depend_on_what_is_there(kvasir):
    parts = {split: KvasirSEG(kvasir, split).names() for split in ("train", "val", "test")}
    assert sorted(sum(parts.values(), ())) == NAMES
    assert parts["test"] == tuple(name for name in NAMES if tenth_of(name) == 0)
    assert parts["val"] == tuple(name for name in NAMES if tenth_of(name) == 1)
    for folder in ("images", "masks"):
        for name in NAMES[::2]:
            (kvasir / folder / f"{name}.jpg").unlink()
    for split, before in parts.items():
        assert KvasirSEG(kvasir, split).names() == tuple(name for name in before if name in NAMES[1::2])
    with pytest.raises(DataError, match="train or val or test or all"):
        KvasirSEG(kvasir, "trainval")


def test_lists_of_ones_own(kvasir, tmp_path_factory):
    lists = tmp_path_factory.mktemp("lists")
    (lists / "train.txt").write_text("cju05\ncju02.jpg\n\n")
    assert KvasirSEG(kvasir, "train", lists=lists).names() == ("cju05", "cju02")
    assert KvasirSEG(kvasir, "train", lists=str(lists))[1].target.sum() == 21 * 26
    with pytest.raises(DataError, match=r"test\.txt.*dataset\.lists"):
        KvasirSEG(kvasir, "test", lists=lists)
    (lists / "test.txt").write_text("cju99\n")
    with pytest.raises(DataError, match=r"cju99\.jpg: listed but missing"):
        KvasirSEG(kvasir, "test", lists=lists)
    for bad in (3, ""):
        with pytest.raises(ConfigError, match=r"dataset\.lists"):
            KvasirSEG(kvasir, "test", lists=bad)


def test_images_of_any_size_are_evaluated_and_trained_on(kvasir):
    sizes = {KvasirSEG(kvasir, "train")[index].target.shape for index in range(6)}
    assert sizes == {(40, 48), (40, 56)}
    fixed = KvasirSEG(kvasir, "all", size=[20, 24])[0]
    assert fixed.image.shape == (3, 20, 24)
    assert fixed.target.unique().tolist() == [0, 1]
    for options, crop, shape in (({}, (16, 24), (16, 24)), ({"size": [20, 24]}, None, (20, 24))):
        images = TrainingImages(KvasirSEG(kvasir, "train", **options), Recipe(crop=crop), seed=0, num_classes=2)
        assert collate([images[index, index] for index in range(4)])["labels"].shape == (4, *shape)


@pytest.mark.parametrize("missing", ["images", "masks", ""])
def test_a_missing_folder_tells_where_and_how(kvasir, missing):
    shutil.rmtree(kvasir / missing)
    with pytest.raises(DataError) as error:
        KvasirSEG(kvasir)
    for part in (str(kvasir / missing), "masks/NAME.jpg", "simula", "dataset.root=<folder>"):
        assert part in str(error.value)


def test_a_missing_mask_is_named(kvasir):
    (kvasir / "masks" / "cju04.jpg").unlink()
    with pytest.raises(DataError, match=r"cju04\.jpg: image without a label"):
        KvasirSEG(kvasir)
    assert len(KvasirSEG(kvasir, "all", strict=False)) == len(NAMES) - 1


def test_a_mask_of_another_size(kvasir):
    save_mask(kvasir, NAMES[0], polyp(NAMES[1]))
    with pytest.raises(DataError, match=r"differ in size.*Expected.*40 x 48.*40 x 56"):
        KvasirSEG(kvasir, "all")[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda mask: mask // 255, "values up to 1"),  # class numbers, which would all be background
        (lambda mask: mask // 3, "values up to"),
        (lambda mask: np.tile(np.linspace(0, 255, mask.shape[1]).astype(np.uint8), (len(mask), 1)), "in between"),
        (lambda mask: np.stack([mask, 0 * mask, 0 * mask], axis=2), "colour"),
    ],
)
def test_what_is_no_mask_is_refused(kvasir, change, words):
    save_mask(kvasir, NAMES[0], change(polyp(NAMES[0])), quality=95)
    with pytest.raises(DataError, match=rf"cju00\.jpg.*{words}") as error:
        KvasirSEG(kvasir, "all")[0]
    assert "\n" not in str(error.value)


def test_a_file_that_is_cut_off(kvasir):
    file = kvasir / "masks" / f"{NAMES[0]}.jpg"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=r"cju00\.jpg cannot be read"):
        KvasirSEG(kvasir, "all")[0]
