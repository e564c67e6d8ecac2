"""Tiny files of the COCO format: their maps by hand, what is refused, what the fingerprint tells, and a whole run."""

import importlib.util
import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import ROOT
from support.pipeline_runs import SMALL, configuration, start, summaries

from certseg.datasets import COCO, check_headers, evenly_spaced, readable
from certseg.datasets.coco_outlines import Runs, outline_of, run_lengths
from certseg.datasets.reading import resized, resized_numbers
from certseg.errors import CertsegError, ConfigError, DataError, DependencyError
from certseg.metrics import ObjectRegions
from certseg.pipeline import run

needs_pycocotools = pytest.mark.skipif(
    importlib.util.find_spec("pycocotools") is None, reason="the extra coco is not installed"
)
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 20, "name": "tree"}]
HEIGHT, WIDTH = 4, 5
V = 255


def rectangle(left, top, right, bottom):
    """The polygon whose pixels are those of columns left to right - 1 and rows top to bottom - 1."""
    return [left, top, right, top, right, bottom, left, bottom]


def runs_of(mask):
    """Uncompressed lengths of runs, column by column."""
    flat = np.asarray(mask).flatten(order="F")
    lengths, current = [0], 0
    for value in flat.tolist():
        if value != current:
            lengths.append(0)
            current = value
        lengths[-1] += 1
    return lengths


def annotation(number, image, category, segmentation, **more):
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, **more}


def image_of(number, file_name, size=(HEIGHT, WIDTH)):
    return {"id": number, "file_name": file_name, "height": size[0], "width": size[1]}


def write_image(root, name, size=(HEIGHT, WIDTH), value=100, folder="val2017"):
    file = root / folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, dtype=np.uint8)).save(file)
    return file


def write_json(root, images, annotations, categories=CATEGORIES, kind="instances", split="val", **more):
    file = root / "annotations" / f"{kind}_{split}2017.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories, **more}
    file.write_text(json.dumps(content))
    return file


def one_image(root, *annotations):
    write_image(root, "a.png")
    return write_json(root, [image_of(1, "a.png")], list(annotations))


def map_of(root, **settings):
    return COCO(root, **settings)[0].target.tolist()


@needs_pycocotools
def test_a_polygon_is_its_category_and_the_rest_background(tmp_path):
    one_image(tmp_path, annotation(1, 1, 3, [rectangle(1, 1, 3, 3)]))
    dataset = COCO(tmp_path)
    assert (dataset.name, dataset.split, dataset.names(), len(dataset)) == ("coco", "val", ("a",), 1)
    assert dataset.class_names == ("background", "cat", "dog", "tree"), "in the order of the ids"
    assert len(set(dataset.palette)) == 4
    sample = dataset[0]
    assert sample.target.tolist() == [[0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert sample.target.dtype == torch.int64
    assert torch.equal(sample.image, torch.full((3, HEIGHT, WIDTH), 100 / 255))


@needs_pycocotools
def test_an_object_may_have_several_polygons_and_none_are_ids_of_a_gap(tmp_path):
    one_image(tmp_path, annotation(1, 1, 20, [rectangle(0, 0, 1, 4), rectangle(4, 0, 5, 1)]))
    assert map_of(tmp_path) == [[3, 0, 0, 0, 3], [3, 0, 0, 0, 0], [3, 0, 0, 0, 0], [3, 0, 0, 0, 0]]


@needs_pycocotools
@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_runs_are_drawn_column_by_column(tmp_path, is_compressed, seed):
    from pycocotools import mask as masks

    drawn = (np.random.default_rng(seed).random((HEIGHT, WIDTH)) < 0.5).astype(np.uint8)
    coded = masks.encode(np.asfortranarray(drawn))["counts"]
    assert list(run_lengths(coded)) == runs_of(drawn)
    counts = coded.decode() if is_compressed else runs_of(drawn)
    one_image(tmp_path, annotation(1, 1, 3, {"size": [HEIGHT, WIDTH], "counts": counts}))
    assert map_of(tmp_path) == drawn.tolist()


@needs_pycocotools
def test_long_compressed_runs_are_read_as_pycocotools_writes_them():
    from pycocotools import mask as masks

    drawn = (np.random.default_rng(0).random((300, 400)) < 0.01).astype(np.uint8)
    drawn[:, 100:200] = 1
    coded = masks.encode(np.asfortranarray(drawn))["counts"]
    assert list(run_lengths(coded)) == runs_of(drawn)


@needs_pycocotools
def test_crowds_are_ignored_where_no_chosen_object_lies_over_them(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), dtype=int)
    mask[:2] = 1
    one_image(
        tmp_path,
        annotation(1, 1, 3, [rectangle(0, 0, 2, 1)], iscrowd=0),
        annotation(2, 1, 7, {"size": [HEIGHT, WIDTH], "counts": runs_of(mask)}, iscrowd=1),
        annotation(3, 1, 20, [rectangle(3, 1, 5, 3)]),
    )
    expected = [[1, 1, V, V, V], [V, V, V, 3, 3], [0, 0, 0, 3, 3], [0, 0, 0, 0, 0]]
    assert map_of(tmp_path) == expected
    assert map_of(tmp_path, overlap="area") == expected
    only = [[V, V, V, V, V], [V, V, V, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]
    assert map_of(tmp_path, class_names=["tree"]) == only, "of a crowd nobody knows what each pixel is"


@needs_pycocotools
def test_overlaps_by_order_and_by_area(tmp_path):
    small, large = [rectangle(1, 1, 2, 2)], [rectangle(0, 0, 3, 3)]
    one_image(tmp_path, annotation(1, 1, 3, small), annotation(2, 1, 7, large))
    assert map_of(tmp_path)[1] == [2, 2, 2, 0, 0]
    assert map_of(tmp_path, overlap="area")[1] == [2, 1, 2, 0, 0]
    one_image(tmp_path, annotation(1, 1, 7, large), annotation(2, 1, 3, small))
    assert map_of(tmp_path)[1] == map_of(tmp_path, overlap="area")[1] == [2, 1, 2, 0, 0]
    one_image(tmp_path, annotation(1, 1, 7, small), annotation(2, 1, 3, small))
    assert map_of(tmp_path, overlap="area")[1] == [0, 1, 0, 0, 0], "of equal ones the later"


@needs_pycocotools
def test_classes_are_chosen_by_name_and_order(tmp_path):
    one_image(
        tmp_path,
        annotation(1, 1, 7, [rectangle(0, 0, 2, 1)]),
        annotation(2, 1, 20, [rectangle(1, 0, 3, 1)]),
        annotation(3, 1, 3, [rectangle(2, 0, 4, 1)]),
    )
    dataset = COCO(tmp_path, class_names=["tree", "dog"])
    assert dataset.class_names == ("background", "tree", "dog")
    assert dataset[0].target[0].tolist() == [2, 1, 1, 0, 0], "what is not chosen covers nothing"
    ignoring = COCO(tmp_path, class_names=["tree", "dog"], others="ignore")
    assert ignoring.class_names == ("tree", "dog")
    assert ignoring[0].target[0].tolist() == [1, 0, 0, V, V]
    assert map_of(tmp_path, others="ignore")[0] == [1, 2, 0, 0, V]
    for settings in ({}, {"class_names": ["tree", "dog"]}, {"others": "ignore"}):
        built, told = COCO(tmp_path, **settings), COCO.legend(tmp_path, **settings)
        assert (built.name, built.class_names, built.palette) == (told.name, told.class_names, told.palette)


@needs_pycocotools
def test_images_come_by_file_name_and_may_have_no_object(tmp_path):
    for name in ("b.png", "sub/c.png", "a.jpg"):
        write_image(tmp_path, name)
    images = [image_of(5, "sub/c.png"), image_of("x", "b.png"), image_of(9, "a.jpg")]
    write_json(tmp_path, images, [annotation(1, "x", 3, [rectangle(0, 0, 5, 4)])])
    dataset = COCO(tmp_path)
    assert dataset.names() == ("a", "b", "sub/c")
    assert [sample.target.unique().tolist() for sample in dataset] == [[0], [1], [0]]
    check_headers(dataset)
    check_headers(evenly_spaced(dataset, 2))
    assert pickle.loads(pickle.dumps(dataset)).fingerprint() == dataset.fingerprint(), "workers get a copy"
    assert COCO(tmp_path, size=[8, 10])[1].target.tolist() == [[1] * 10] * 8


@needs_pycocotools
def test_places_are_patterns(tmp_path):
    write_image(tmp_path, "a.png", folder="mine/test")
    file = write_json(tmp_path, [image_of(1, "a.png")], [annotation(1, 1, 3, [rectangle(0, 0, 5, 4)])])
    file.rename(tmp_path / "mine" / "test" / "_annotations.coco.json")
    places = {"images": "mine/{split}", "annotations": "mine/{split}/_annotations.coco.json"}
    assert COCO(tmp_path, "test", **places).names() == ("a",)
    fixed = {name: place.replace("{split}", "test") for name, place in places.items()}
    assert COCO(tmp_path, None, **fixed).split == "all"


def write_panoptic(root, numbers, segments, categories=CATEGORIES):
    """One image with its PNG of the ids ``numbers``."""
    numbers = np.asarray(numbers)
    write_image(root, "a.png")
    folder = root / "annotations" / "panoptic_val2017"
    folder.mkdir(parents=True, exist_ok=True)
    colours = np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(folder / "a.png")
    entry = {"image_id": 1, "file_name": "a.png", "segments_info": segments}
    write_json(root, [image_of(1, "a.png")], [entry], categories, kind="panoptic")


PANOPTIC = "annotations/panoptic_{split}2017.json"
IDS = [[0, 1, 1, 300, 300], [70000, 70000, 1, 2, 2], [0, 0, 0, 0, 0], [2, 2, 2, 2, 2]]
SEGMENTS = [
    {"id": 1, "category_id": 3, "iscrowd": 0},
    {"id": 300, "category_id": 7},
    {"id": 70000, "category_id": 20, "iscrowd": 0},
    {"id": 2, "category_id": 7, "iscrowd": 1},
]


def test_panoptic_segments(tmp_path):
    write_panoptic(tmp_path, IDS, SEGMENTS)
    dataset = COCO(tmp_path, annotations=PANOPTIC, others="ignore")
    assert dataset.class_names == ("cat", "dog", "tree")
    assert dataset[0].target.tolist() == [[V, 0, 0, 1, 1], [2, 2, 0, V, V], [V] * 5, [V] * 5]
    assert dataset[0].objects.tolist() == [[0, 1, 1, 3, 3], [4, 4, 1, 0, 0], [0] * 5, [0] * 5]
    check_headers(dataset)
    chosen = COCO(tmp_path, annotations=PANOPTIC, class_names=["tree"], kind="panoptic")
    assert chosen.class_names == ("background", "tree")
    assert chosen[0].target.tolist() == [[V, 0, 0, 0, 0], [1, 1, 0, V, V], [V] * 5, [V] * 5]
    assert chosen[0].objects.tolist() == [[0] * 5, [4, 4, 0, 0, 0], [0] * 5, [0] * 5]
    before = dataset.fingerprint()
    shutil.move(tmp_path / "annotations" / "panoptic_val2017", tmp_path / "ids")
    moved = COCO(tmp_path, annotations=PANOPTIC, masks="ids", others="ignore")
    assert moved.fingerprint() == before
    write_image(tmp_path, "a.png", folder="ids", value=0)
    assert COCO(tmp_path, annotations=PANOPTIC, masks="ids", others="ignore").fingerprint() != before
    with pytest.raises(DataError, match=r"panoptic_val2017.*dataset\.root"):
        COCO(tmp_path, annotations=PANOPTIC)


def test_panoptic_files_that_do_not_fit(tmp_path):
    write_panoptic(tmp_path, IDS, SEGMENTS[1:])
    with pytest.raises(DataError, match=r"do not list\. Expected: 300, 70000, 2\. Received: 1 \(3 pixels\)\."):
        COCO(tmp_path, annotations=PANOPTIC)[0]
    write_panoptic(tmp_path, np.zeros((HEIGHT, WIDTH + 1), dtype=int), SEGMENTS)
    dataset = COCO(tmp_path, annotations=PANOPTIC)
    for act in (lambda: dataset[0], lambda: check_headers(dataset)):
        with pytest.raises(DataError, match=r"another size.*4 x 5 pixels\. Received: 4 x 6"):
            act()
    for segments, words in (
        ([{"id": 1, "category_id": 4}], "segment 1: expected the id of a category, 3, 7, 20, received 4"),
        ([{"id": 2**24, "category_id": 3}], "expected segments with id"),
        ([{"id": 1, "category_id": 3, "iscrowd": "1"}], "expected iscrowd, 0 or 1, received '1'"),
        ([SEGMENTS[0], SEGMENTS[0]], "expected every id of a segment once"),
        (5, "expected segments with id"),
    ):
        write_panoptic(tmp_path, IDS, segments)
        with pytest.raises(DataError, match=words):
            COCO(tmp_path, annotations=PANOPTIC)
    write_json(tmp_path, [image_of(1, "a.png")], [], kind="panoptic")
    with pytest.raises(DataError, match="expected one annotation with its segments, received 0"):
        COCO(tmp_path, annotations=PANOPTIC, kind="panoptic")


@needs_pycocotools
@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ([[0, 0, 4, 0, 4, 3, 1]], "expected an even number of at least 6 coordinates, received a polygon of 7"),
        ([[0, 0, 4, 3]], "expected an even number of at least 6 coordinates, received a polygon of 4"),
        ([[0, 0, 4, 0, 4, "3"]], "expected finite numbers as coordinates"),
        ([[0, 0, 4, 0, 4, float("nan")]], "expected finite numbers as coordinates"),
        ([[0, 0, 4, 0, 1e9, 3]], "expected x from 0 to 5, received 0 to 1e\\+09"),
        ([[0, 0, 4, -50, 4, 3]], "expected y from 0 to 4, received -50 to 3"),
        (rectangle(0, 0, 1, 1), "expected a list of polygons, each a list, received 0"),
        ([], "expected polygons or runs as segmentation, received none"),
        (None, "expected polygons or runs as segmentation, received none"),
        ("mask", "expected polygons or runs as segmentation, received 'mask'"),
        ({"size": [5, 4], "counts": [20]}, "expected runs of 4 x 5 pixels, received size 5 x 4"),
        ({"size": [4], "counts": [20]}, "expected runs with size"),
        ({"size": [4, 5], "counts": [-1, 21]}, "expected counts as non-negative integers"),
        ({"size": [4, 5], "counts": "é"}, "expected counts as non-negative integers"),
        ({"size": [4, 5]}, "expected counts as non-negative integers"),
    ],
)
def test_an_outline_that_is_none_is_named_with_its_image(tmp_path, segmentation, words):
    file = one_image(tmp_path, annotation(12, 1, 3, segmentation))
    write_image(tmp_path, "b.png")
    content = json.loads(file.read_text())
    content["images"].append(image_of(2, "b.png"))
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"instances_val2017\.json, image a\.png, annotation 12: {words}") as error:
        COCO(tmp_path)
    assert "Expected: val2017/NAME.jpg (dataset.images)" in str(error.value)
    assert "\n" not in str(error.value)
    lenient = COCO(tmp_path, strict=False)
    assert lenient.names() == ("b",)
    assert len(lenient.problems) == 1
    assert COCO(tmp_path, class_names=["dog"]).names() == ("a", "b"), "what is not drawn is not asked for its outline"


@needs_pycocotools
@pytest.mark.parametrize("counts", [[3, 2, 7], [30], "327", "3", "32O", "0" * 60])
def test_runs_that_do_not_cover_the_image_are_found_when_it_is_read(tmp_path, counts):
    """pycocotools leaves what they do not cover to chance."""
    one_image(tmp_path, annotation(1, 1, 3, {"size": [4, 5], "counts": counts}))
    dataset = COCO(tmp_path)
    with pytest.raises(DataError, match=r"Image a of .*instances_val2017\.json: The segmentation of an object cannot"):
        dataset[0]
    with pytest.raises(DataError, match="can be read"):
        readable(dataset)


GOOD = annotation(1, 1, 3, [rectangle(0, 0, 2, 2)])


@needs_pycocotools
@pytest.mark.parametrize(
    ("images", "annotations", "words"),
    [
        ([image_of(1, "a.png"), image_of(2, "gone.png")], [GOOD], r"gone\.png: listed but missing"),
        ([image_of(1, "a.png"), image_of(2, "a.png")], [GOOD], "image a: expected every name.*received it 2 times"),
        ([image_of(1, "a.png"), image_of(2, "a.jpg")], [GOOD], "image a: expected every name.*received it 2 times"),
        ([image_of(1, "a.png"), image_of(1, "b.png")], [GOOD], "expected the id of every image once, received 1 2 ti"),
        ([image_of(1, "a.png"), {"id": 2}], [GOOD], "expected images with id and file_name"),
        ([image_of(1, "a.png"), 5], [GOOD], "expected images with id and file_name.*received 5"),
        ([image_of(1, "a.png"), image_of(2, "../b.png")], [GOOD], "file_name below the folder"),
        ([image_of(1, "a.png"), image_of(2, "/b.png")], [GOOD], "file_name below the folder"),
        ([image_of(1, "a.png"), {"id": 2, "file_name": "b.png"}], [GOOD], "received None and None"),
        ([image_of(1, "a.png")], [GOOD, annotation(2, 8, 3, [rectangle(0, 0, 2, 2)])], "annotation 2.*received 8"),
        ([image_of(1, "a.png")], [GOOD, annotation(2, [8], 3, [rectangle(0, 0, 2, 2)])], r"image_id, received \[8\]"),
        ([image_of(1, "a.png")], [GOOD, annotation(2, 1, 4, [])], "the id of a category, 3, 7, 20, received 4"),
        ([image_of(1, "a.png")], [GOOD, annotation(2, 1, [3], [])], "the id of a category, 3, 7, 20, received None"),
    ],
)
def test_entries_that_do_not_fit_are_named(tmp_path, images, annotations, words):
    write_image(tmp_path, "a.png")
    write_json(tmp_path, images, annotations)
    with pytest.raises(DataError, match=words) as error:
        COCO(tmp_path)
    assert "\n" not in str(error.value)
    assert "check_dataset.py" in str(error.value)


@needs_pycocotools
def test_an_image_of_another_size_than_the_file_tells(tmp_path):
    one_image(tmp_path, GOOD)
    write_image(tmp_path, "a.png", size=(HEIGHT + 2, WIDTH))
    dataset = COCO(tmp_path)
    with pytest.raises(DataError, match=r"a\.png and .*2017\.json.*Expected: a label of 6 x 5 pixels\. Received: 4 x"):
        dataset[0]
    with pytest.raises(DataError, match=r"2017\.json has 4 x 5 pixels and its image 6 x 5: .*a\.png"):
        check_headers(dataset)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read. Expected: JSON of the COCO format. Received: JSONDecodeError"),
        ("\x00\xff", "cannot be read"),
        ("[" * 100000, "cannot be read"),
        ("[]", "none of these lists"),
        ("{}", "none of these lists"),
        ('{"images": [], "categories": [], "annotations": {}}', "Received: the lists images, categories"),
        ('{"images": [], "categories": [], "annotations": [{"id": 3}]}', "image_id in every annotation"),
        ('{"images": [], "categories": [{"id": 1}], "annotations": []}', "has a category that is none"),
        ('{"images": [], "categories": [3], "annotations": []}', "has a category that is none"),
        (
            '{"images": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}], "annotations": []}',
            "id 2, name 'a'",
        ),
        (
            '{"images": [], "categories": [], "annotations": [{"image_id": 1}, {"image_id": 1, "segments_info": []}]}',
            "two kinds",
        ),
        ('{"images": [], "categories": [{"id": 1, "name": "a"}], "annotations": []}', "dataset.kind=instances or"),
    ],
)
def test_files_that_are_of_another_format(tmp_path, text, words):
    one_image(tmp_path, GOOD).write_text(text, encoding="latin-1")
    with pytest.raises(CertsegError, match=words) as error:
        COCO(tmp_path)
    assert "\n" not in str(error.value)


@needs_pycocotools
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"class_names": ["cow"]}, r"is no category of .*Expected: cat, dog, tree\. Received: cow"),
        ({"class_names": ["cat", "cat"]}, "holds a name twice"),
        ({"class_names": []}, "dataset.class_names must be null or a list"),
        ({"class_names": "cat"}, "dataset.class_names must be null or a list"),
        ({"class_names": [3]}, "dataset.class_names must be null or a list"),
        ({"class_names": ["background", "cat"]}, "A category is called background"),
        ({"others": "void"}, "dataset.others must be background or ignore"),
        ({"overlap": "first"}, "dataset.overlap must be order or area"),
        ({"kind": "stuff"}, "dataset.kind must be null or instances or panoptic|dataset.kind must be null or"),
        ({"kind": "panoptic"}, "of another kind than dataset.kind"),
        ({"images": ""}, "dataset.images must be"),
        ({"annotations": None}, "dataset.annotations must be"),
        ({"split": 3}, "dataset.split must be"),
        ({"size": [3]}, "dataset.size"),
    ],
)
def test_settings_outside_their_domain(tmp_path, settings, words):
    categories = [*CATEGORIES, {"id": 30, "name": "background"}] if "background" in str(settings) else CATEGORIES
    write_image(tmp_path, "a.png")
    write_json(tmp_path, [image_of(1, "a.png")], [GOOD], categories)
    with pytest.raises(ConfigError, match=words):
        COCO(tmp_path, **settings)


@needs_pycocotools
def test_no_more_than_254_classes(tmp_path):
    write_image(tmp_path, "a.png")
    categories = [{"id": index, "name": f"kind {index}"} for index in range(254)]
    write_json(tmp_path, [image_of(1, "a.png")], [GOOD], categories)
    with pytest.raises(ConfigError, match=r"Expected: 1 to 253 classes\. Received: 254"):
        COCO(tmp_path)
    assert len(COCO(tmp_path, others="ignore").class_names) == 254
    assert COCO(tmp_path, others="ignore")[0].target[0].tolist() == [3, 3, V, V, V]


@pytest.mark.parametrize("missing", ["val2017", "annotations/instances_val2017.json", ""])
def test_a_missing_place_tells_where_and_how(tmp_path, missing):
    root = tmp_path / "data"
    one_image(root, GOOD)
    shutil.rmtree(root / missing) if (root / missing).is_dir() else (root / missing).unlink()
    with pytest.raises(DataError) as error:
        COCO(root)
    for part in (str(root / missing), "dataset.annotations", "cocodataset.org", "dataset.root=<folder>"):
        assert part in str(error.value)


@needs_pycocotools
def test_the_fingerprint_tells_what_decides_pixels_and_labels(tmp_path):
    root = tmp_path / "one"
    small = annotation(2, 1, 7, [rectangle(1, 1, 2, 2)])
    other = annotation(3, 2, 7, [rectangle(0, 0, 1, 1)])

    def written(annotations=(GOOD, small, other), **more):
        for name in ("a.png", "b.png"):
            write_image(root, name)
        write_json(root, [image_of(1, "a.png"), image_of(2, "b.png")], list(annotations), **more)
        return COCO(root).fingerprint()

    first = written()
    assert written(info={"year": 2026}, licenses=[{"id": 1}]) == first
    assert written((other, GOOD, small)) == first, "the order within an image alone decides"
    assert written([{**entry, "id": entry["id"] + 40, "bbox": [0, 0, 1, 1]} for entry in (GOOD, small, other)]) == first
    changed = [
        written((small, GOOD, other)),
        written((GOOD, small)),
        written((GOOD, small, {**other, "category_id": 3})),
        written((GOOD, small, {**other, "iscrowd": 1})),
        written((GOOD, small, {**other, "segmentation": [rectangle(0, 0, 1, 2)]})),
        written(categories=[*CATEGORIES, {"id": 21, "name": "sky"}]),
    ]
    assert written() == first
    changed += [
        COCO(root, **settings).fingerprint()
        for settings in (
            {"others": "ignore"},
            {"overlap": "area"},
            {"class_names": ["cat", "dog"]},
            {"class_names": ["dog", "cat", "tree"]},
            {"size": [8, 10]},
        )
    ]
    shutil.move(root, tmp_path / "two")
    assert COCO(tmp_path / "two").fingerprint() == first
    write_image(tmp_path / "two", "b.png", value=101)
    changed.append(COCO(tmp_path / "two").fingerprint())
    assert len({first, *changed}) == 1 + len(changed)


def test_without_pycocotools_the_extra_is_named(tmp_path, monkeypatch):
    one_image(tmp_path, GOOD)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(DependencyError, match=r"pip install 'certseg\[coco\]'"):
        COCO(tmp_path)
    write_panoptic(tmp_path, IDS, SEGMENTS)
    assert len(COCO(tmp_path, annotations=PANOPTIC)) == 1, "which draws nothing"


def test_outlines_are_kept_small():
    polygons = outline_of([[0.5, 0, 4, 0, 4, 3]])
    assert len(polygons.content()) == 8 + 6 * 8
    assert outline_of({"size": [3, 4], "counts": "327"}) == Runs(3, 4, b"327")


def write_splits(root):
    """Four images with a bright rectangle of cats in each of the splits train, val and test."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        images, annotations = [], []
        for index in range(4):
            folder = root / f"{split}2017"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 120, (48, 64, 3), dtype=np.uint8)
            left, top = (int(value) for value in rng.integers(0, 24, 2))
            pixels[top : top + 20, left : left + 30] += 120
            Image.fromarray(pixels).save(folder / f"{index}.png")
            images.append(image_of(index, f"{index}.png", (48, 64)))
            annotations.append(annotation(index, index, 3, [rectangle(left, top, left + 30, top + 20)]))
        write_json(root, images, annotations, split=split)


@needs_pycocotools
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_training_on_other_categories_is_refused(tmp_path, split):
    root = tmp_path / "data"
    write_splits(root)
    file = root / "annotations" / f"instances_{split}2017.json"
    content = json.loads(file.read_text())
    content["categories"] = [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}, {"id": 20, "name": "tree"}]
    file.write_text(json.dumps(content))
    base = [setting for setting in SMALL if setting != "dataset.count=6"]
    settings = configuration(tmp_path / "out", "dataset=coco", f"dataset.root={root}", "dataset.split=test", base=base)
    with pytest.raises(DataError, match=rf"splits of coco have other classes.*{split} 4, background, dog, cat, tree"):
        run(settings, tmp_path / "report")


@needs_pycocotools
def test_the_script_counts_pixels_and_names_what_is_wrong(tmp_path):
    write_splits(tmp_path / "data")
    (tmp_path / "data" / "test2017" / "3.png").unlink()
    file = tmp_path / "data" / "annotations" / "instances_test2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["segmentation"] = [[1, 2, 3]]
    file.write_text(json.dumps(content))
    script = [sys.executable, str(ROOT / "scripts" / "check_dataset.py")]
    words = ["dataset=coco", f"dataset.root={tmp_path / 'data'}", "dataset.split=test", "dataset.class_names=[cat]"]
    done = subprocess.run([*script, *words], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "coco, split test: 2 good images of 2" in done.stdout
    assert f"{600 * 2:,}" in done.stdout
    first, second = done.stderr.strip().splitlines()
    assert "image 0.png, annotation 0: expected an even number of at least 6 coordinates" in first
    assert "3.png: listed but missing" in second


@needs_pycocotools
def test_a_network_is_trained_and_certified_by_the_command(tmp_path):
    write_splits(tmp_path / "data")
    (tmp_path / "data" / "test2017" / "3.png").unlink()
    base = [setting for setting in SMALL if setting != "dataset.count=6"]
    command = start(
        tmp_path / "outputs",
        "dataset=coco",
        f"dataset.root={tmp_path / 'data'}",
        "dataset.split=test",
        "dataset.class_names=[cat]",
        "dataset.on_error=skip",
        cwd=tmp_path,
        base=base,
    )
    status, out, errors = command.finish()
    assert status == 0, errors
    assert "3 images are used. 1 problem" in " ".join(out.split())
    (certified,) = (found for stage, found in summaries(tmp_path / "outputs").items() if "segcertify" in stage)
    assert certified["images"] == 3
    assert len(certified["class_iou"]["prediction"]) == 2


@needs_pycocotools
@pytest.mark.parametrize(("overlap", "on_top"), [("order", 2), ("area", 1)])
def test_objects_of_one_category_that_touch_are_told_apart(tmp_path, overlap, on_top):
    """Two cats that overlap, a crowd of dogs below them, and background, which has no number."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=int)
    mask[3] = 1
    one_image(
        tmp_path,
        annotation(1, 1, 3, [rectangle(0, 0, 2, 2)]),
        annotation(2, 1, 3, [rectangle(1, 0, 4, 2)]),
        annotation(3, 1, 7, {"size": [HEIGHT, WIDTH], "counts": runs_of(mask)}, iscrowd=1),
    )
    sample = COCO(tmp_path, overlap=overlap)[0]
    assert sample.objects.tolist() == [[1, on_top, 2, 2, 0]] * 2 + [[0] * 5] * 2
    assert sample.target.tolist() == [[1, 1, 1, 1, 0]] * 2 + [[0] * 5, [V] * 5]
    found = ObjectRegions.of(sample.target, 4, sample.objects)
    assert sorted(zip(found.classes.tolist(), found.areas.tolist())) == [
        (0, 7),
        *sorted([(1, 4 - 2 * (on_top == 2)), (1, 6 - 2 * (on_top == 1))]),
    ]


def test_objects_at_another_size_are_those_of_their_labels(tmp_path):
    generator = np.random.default_rng(0)
    for size in ((3, 7), (9, 11)):
        numbers = generator.integers(0, 255, (HEIGHT, WIDTH))
        image = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
        assert np.array_equal(resized_numbers(numbers, size), resized(image, numbers, size)[1])
