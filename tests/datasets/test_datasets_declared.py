"""The user's own labels as they come: masks of 0 and 255, colours, ids of 16 bits, JPEGs, lists of splits."""

import json

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image
from support.shared import SHARED, needs_shared

from certseg.datasets import Folder
from certseg.errors import ConfigError, DataError
from certseg.types import IGNORE_INDEX

ROAD, CAR, TRUCK, VOID = [128, 64, 128], [0, 0, 142], [0, 0, 70], [0, 0, 0]
MASK = {"background": 0, "lesion": 255}
STREET = {"road": ROAD, "vehicle": [CAR, TRUCK]}


@pytest.fixture
def add(tmp_path):
    """Writes an image and a label of given pixels below one root, which it returns."""

    def write(label, name="a", suffix=".png", image=None, **options):
        for kind in ("images", "labels"):
            (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(label)
        picture = np.full((*pixels.shape[:2], 3), 90, dtype=np.uint8) if image is None else image
        Image.fromarray(picture).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(pixels).save(tmp_path / "labels" / f"{name}{suffix}", **options)
        return tmp_path

    return write


def grey(*rows, dtype=np.uint8):
    return np.asarray(rows, dtype=dtype)


def ids(root, **options):
    return Folder(root, None, **options)[0].target.tolist()


def test_masks_of_two_values(add):
    root = add(grey([0, 255, 255], [255, 0, 0]))
    dataset = Folder(root, None, values=MASK)
    assert dataset.class_names == ("background", "lesion")
    assert dataset[0].target.tolist() == [[0, 1, 1], [1, 0, 0]]
    assert ids(root, values=[0, 255], class_names=["a", "b"]) == [[0, 1, 1], [1, 0, 0]]
    assert ids(root, values=[255, 0], num_classes=2) == [[1, 0, 0], [0, 1, 1]]
    assert Folder(root, None, values=[255, 0]).class_names == ("class 0", "class 1")


def test_several_values_of_a_class_and_one_without_label(add):
    root = add(grey([0, 3, 7, 9]))
    assert ids(root, values={"sky": 0, "tree": [3, 7]}, ignore_index=9) == [[0, 1, 1, IGNORE_INDEX]]
    with pytest.raises(DataError, match=r"values that are not declared.*0, 3, 7, 255.*9 \(1 pixels\)"):
        ids(root, values={"sky": 0, "tree": [3, 7]})


def test_ids_of_sixteen_bits(add):
    root = add(grey([1000, 24001, 65535], dtype=np.uint16))
    assert ids(root, values={"road": 1000, "car": 24001}, ignore_index=65535) == [[0, 1, IGNORE_INDEX]]
    with pytest.raises(DataError, match=r"65535 \(1 pixels\)"):
        ids(root, values={"road": 1000, "car": 24001})


def test_colours(add):
    root = add(np.asarray([[ROAD, CAR, TRUCK, VOID]], dtype=np.uint8))
    dataset = Folder(root, None, colours=STREET, ignore_colours=[VOID])
    assert dataset[0].target.tolist() == [[0, 1, 1, IGNORE_INDEX]]
    assert dataset.class_names == ("road", "vehicle")
    assert dataset.palette == (tuple(ROAD), tuple(CAR))
    assert ids(root, colours=[[ROAD, VOID], [CAR, TRUCK]], class_names=["x", "y"]) == [[0, 1, 1, 0]]


def test_colours_of_a_palette_image(add):
    root = add(grey([1, 0]))
    picture = Image.fromarray(grey([1, 0]))
    picture = picture.convert("P")
    picture.putpalette([*CAR, *ROAD])
    picture.save(root / "labels" / "a.png")
    assert ids(root, colours=STREET) == [[0, 1]]
    assert ids(root, num_classes=2) == [[1, 0]]


def test_a_colour_that_is_not_declared_is_one_error(add):
    label = np.tile(np.asarray(ROAD, dtype=np.uint8), (4, 5, 1))
    label[0, :3], label[1, 0] = (9, 8, 7), (1, 2, 3)
    with pytest.raises(DataError) as error:
        ids(add(label), colours=STREET)
    assert "[9, 8, 7] (3 pixels), [1, 2, 3] (1 pixels)" in str(error.value)
    assert "[128, 64, 128]" in str(error.value)


def test_many_colours_are_summed_up(add):
    label = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    with pytest.raises(DataError, match=r"and \d+ more") as error:
        ids(add(label), colours=STREET)
    assert str(error.value).count("pixels") == 20


def test_colour_masks_without_declared_colours_name_the_setting(add):
    label = np.tile(np.asarray(ROAD, dtype=np.uint8), (4, 5, 1))
    with pytest.raises(DataError, match=r"colour picture.*dataset\.colours"):
        ids(add(label), values=MASK)


@pytest.mark.parametrize("suffix", [".PNG", ".tif", ".tiff", ".bmp", ".TIF"])
def test_suffixes_of_label_files(add, suffix):
    assert ids(add(grey([0, 1, 1]), suffix=suffix), num_classes=2) == [[0, 1, 1]]


def test_jpeg_labels_are_refused_with_the_reason(add):
    with pytest.raises(DataError, match=r"a\.jpg: a label as JPEG, whose compression.*dataset\.quantise=true") as error:
        Folder(add(np.zeros((8, 8), dtype=np.uint8), suffix=".jpg"), None, values=MASK)
    assert "image without a label" not in str(error.value)


def test_jpeg_labels_are_quantised_if_asked_for(add):
    mask = np.kron(grey([0, 255], [255, 0]), np.ones((16, 16), dtype=np.uint8))
    mask[3:13, 3:13] = 255
    root = add(mask, suffix=".jpg", quality=60)
    stored = np.asarray(Image.open(root / "labels" / "a.jpg"))
    assert len(np.unique(stored)) > 2
    labels = np.asarray(ids(root, values=MASK, quantise=True))
    assert (labels == (stored > 127)).all()
    assert (labels == (mask == 255)).mean() > 0.99


def test_colours_are_quantised(add):
    drawn = np.asarray([[ROAD, CAR], [TRUCK, VOID]])
    root = add(np.add(drawn, [3, 4, 2]).astype(np.uint8))
    options = {"colours": {"road": ROAD, "car": CAR, "truck": TRUCK}, "ignore_colours": [VOID]}
    assert ids(root, **options, quantise=True) == [[0, 1], [2, IGNORE_INDEX]]
    with pytest.raises(DataError, match="not declared"):
        ids(root, **options)


def test_a_photograph_is_not_quantised(add):
    label = np.random.default_rng(0).integers(0, 256, (30, 30), dtype=np.uint8)
    with pytest.raises(DataError, match=r"of the pixels are far from each"):
        ids(add(label), values=MASK, quantise=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"values": MASK, "colours": STREET}, "both set"),
        ({"values": {}}, "declares no class"),
        ({"values": "0,255"}, "declares no class"),
        ({"values": {"a": -1}}, "cannot be read"),
        ({"values": {"a": 65536}}, "cannot be read"),
        ({"values": {"a": True}}, "cannot be read"),
        ({"values": {"a": []}}, "cannot be read"),
        ({"values": {"a": None}}, "cannot be read"),
        ({"values": {"a": 0, "b": [1, 0]}}, "0 twice"),
        ({"values": MASK, "class_names": ["lesion", "background"]}, "different classes"),
        ({"values": MASK, "num_classes": 3}, "contradict"),
        ({"values": [0, 255], "class_names": ["a", "b", "c"]}, "does not fit"),
        ({"values": MASK, "reduce_zero_label": True}, "contradict"),
        ({"values": MASK, "ignore_index": 65536}, "ignore_index"),
        ({"num_classes": 2, "ignore_index": 256}, "ignore_index"),
        ({"colours": {"a": [1, 2]}}, "cannot be read"),
        ({"colours": {"a": [1, 2, 256]}}, "cannot be read"),
        ({"colours": {"a": "red"}}, "cannot be read"),
        ({"colours": {"a": ROAD, "b": ROAD}}, "twice"),
        ({"colours": STREET, "ignore_colours": [CAR]}, "twice"),
        ({"num_classes": 2, "ignore_colours": [CAR]}, "without dataset.colours"),
        ({"num_classes": 2, "quantise": True}, "dataset.quantise"),
        ({"values": MASK, "quantise": 1}, "dataset.quantise"),
    ],
)
def test_declarations_that_cannot_be(add, options, words):
    with pytest.raises(ConfigError, match=words):
        Folder(add(grey([0, 1])), None, **options)


def test_fingerprints_hold_what_is_declared(add):
    root = add(grey([0, 255]))
    declared = [
        {"num_classes": 2},
        {"values": [0, 255]},
        {"values": [255, 0]},
        {"values": [0, [255, 3]]},
        {"values": [0, 255], "ignore_index": 7},
        {"values": [0, 255], "quantise": True},
        {"colours": [[0, 0, 0], [255, 255, 255]]},
    ]
    assert len({Folder(root, None, **options).fingerprint() for options in declared}) == len(declared)


def test_a_setting_of_before_has_the_fingerprint_of_before(tmp_path):
    for kind, content in (("images", b"image"), ("labels", b"label")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "a.png").write_bytes(content)
    assert Folder(tmp_path, None, num_classes=2).fingerprint() == BEFORE


BEFORE = "6efb1842d58105e72d832d3a5c54c3f798226975ec7a87c2261556ebdd548fa5"
"""Written down from the state of the library in which label files could hold class ids alone."""


def test_images_of_lists(add):
    for name in ("x 1", "sub/y", "z"):
        root = add(grey([0, 1]), name=name)
    lists = root / "lists"
    lists.mkdir()
    (lists / "val.txt").write_text("# mine\nz\nx 1.png\n\n")
    (lists / "test.txt").write_text("sub/y\n")
    assert Folder(root, "val", num_classes=2, lists=lists).names() == ("z", "x 1")
    assert Folder(root, "test", num_classes=2, lists=str(lists)).names() == ("sub/y",)
    with pytest.raises(DataError, match=r"no list of the split 'train'.*train\.txt"):
        Folder(root, "train", num_classes=2, lists=lists)
    with pytest.raises(ConfigError, match=r"dataset\.lists"):
        Folder(root, "val", num_classes=2, lists=3)
    (lists / "test.txt").write_text("z\nw\nz.png\n")
    with pytest.raises(DataError, match=r"w: listed, but not an image with a label; z\.png: listed twice"):
        Folder(root, "test", num_classes=2, lists=lists)


def test_names_of_any_bytes(add):
    root = add(grey([0, 1]), name="b")
    for kind in ("images", "labels"):
        (root / kind / "b.png").rename(root / kind / "caf\udce9.png")
    dataset = Folder(root, None, num_classes=2)
    assert dataset.names() == ("caf\\udce9",)
    assert json.loads(json.dumps(dataset.names()).encode()) == ["caf\\udce9"]
    dataset.fingerprint()
    Image.fromarray(grey([0, 1, 1])).save(root / "labels" / "caf\udce9.png")
    with pytest.raises(DataError) as error:
        dataset[0]
    assert "caf\\udce9.png" in str(error.value).encode().decode()
    (root / "labels" / "caf\udce9.png").unlink()
    with pytest.raises(DataError, match="image without a label") as error:
        Folder(root, None, num_classes=2)
    str(error.value).encode()


def test_what_lies_beside_pictures(add):
    root = add(grey([0, 1]))
    for kind in ("images", "labels"):
        for name in ("._a.png", "Thumbs.db", "notes.txt", ".DS_Store"):
            (root / kind / name).write_bytes(b"something")
    assert Folder(root, None, num_classes=2).problems == ()
    (root / "images" / "b.webp").write_bytes(b"something")
    (root / "labels" / "c.GIF").write_bytes(b"something")
    kept = Folder(root, None, num_classes=2, strict=False)
    assert kept.names() == ("a",)
    assert "b.webp: images of this kind are not read" in kept.problems[0]
    assert "c.GIF: labels of this kind are not read" in kept.problems[1]


def test_two_labels_of_one_name(add):
    root = add(grey([0, 1]))
    add(grey([0, 1]), suffix=".tif")
    with pytest.raises(DataError, match=r"a\.tif: a second label of the name 'a'"):
        Folder(root, None, num_classes=2)
    (root / "test.txt").write_text("a\n")
    with pytest.raises(DataError, match=r"a: listed, but not an image with a label.*a second label of the name 'a'"):
        Folder(root, "test", num_classes=2, lists=root)


def test_transparent_pictures_are_refused(add):
    image = np.full((1, 2, 4), 255, dtype=np.uint8)
    root = add(grey([0, 1]), image=image)
    assert float(Folder(root, None, num_classes=2)[0].image.min()) == 1.0
    image[0, 1, 3] = 254
    add(grey([0, 1]), image=image)
    with pytest.raises(DataError, match=r"a\.png is transparent.*1 transparent pixels"):
        Folder(root, None, num_classes=2)[0]


def test_several_pages_are_refused(add):
    root = add(grey([0, 1]), suffix=".tif")
    pages = [Image.fromarray(grey([0, 1])) for _ in range(2)]
    pages[0].save(root / "labels" / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=r"a\.tif holds several pictures.*Received: 2"):
        Folder(root, None, num_classes=2)[0]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_colours_are_refused(add, suffix):
    root = add(grey([0, 1]))
    (root / "images" / "a.png").unlink()
    cv2.imwrite(str(root / "images" / f"a{suffix}"), np.full((1, 2, 3), 4000, dtype=np.uint16))
    with pytest.raises(DataError, match=r"16 bits per channel"):
        Folder(root, None, num_classes=2)[0]


def test_labels_are_turned_as_images_are(add):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # turn clockwise to view
    root = add(grey([0, 1]), image=np.zeros((2, 1, 3), dtype=np.uint8), exif=exif)
    assert ids(root, num_classes=2) == [[0], [1]]
    (root / "labels" / "a.png").unlink()
    Image.fromarray(grey([0, 1])).save(root / "labels" / "a.png")
    Image.fromarray(np.zeros((1, 2, 3), dtype=np.uint8)).save(root / "images" / "a.png", exif=exif)
    with pytest.raises(DataError, match=r"differ in size.*EXIF orientation of the image has been applied"):
        ids(root, num_classes=2)


@needs_shared("data", "membrane", "labels")
def test_a_folder_of_masks_as_it_came():
    dataset = Folder(SHARED / "data" / "membrane", None, values={"membrane": 0, "cell": 255})
    assert len(dataset) > 20
    sample = dataset[0]
    assert sample.image.shape[1:] == sample.target.shape
    assert sample.target.unique().tolist() == [0, 1]
    dark, bright = (float(sample.image[:, sample.target == index].mean()) for index in (0, 1))
    assert dark < bright  # membranes are stained
