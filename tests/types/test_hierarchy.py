import itertools
import json

import pytest
import torch
from support.pipeline_runs import ROOT
from yaml import safe_load

from certseg.datasets import camvid, streets
from certseg.errors import ConfigError
from certseg.types.hierarchy import Hierarchy

CLASSES = ("road", "pole", "car", "truck", "sky")
LEVELS = ({"vehicle": ["car", "truck"]}, {"obstacle": ["pole", "vehicle"]})
CITYSCAPES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
DATA_SETS = {"cityscapes": CITYSCAPES, "camvid": camvid.CLASS_NAMES, "streets": streets.CLASS_NAMES}


def test_a_small_hierarchy():
    hierarchy = Hierarchy.of(CLASSES, LEVELS)
    assert hierarchy.groups == (*CLASSES, "vehicle", "obstacle")
    assert hierarchy.table.tolist() == [[0, 1, 2, 3, 4], [0, 1, 5, 5, 4], [0, 6, 6, 6, 4]]
    assert hierarchy.members[5:].tolist() == [[False, False, True, True, False], [False, True, True, True, False]]
    assert hierarchy.levels.tolist() == [0, 0, 0, 0, 0, 1, 2]
    assert (hierarchy.num_levels, hierarchy.num_classes) == (3, 5)
    assert str(hierarchy) == "vehicle = car + truck; obstacle = pole + vehicle"
    assert hierarchy.ids(torch.tensor([[3, 3, 3, 0]]), torch.tensor([[0, 1, 2, 2]])).tolist() == [[3, 5, 6, 0]]
    assert Hierarchy(json.loads(json.dumps(hierarchy.names))) == hierarchy


@pytest.mark.parametrize("name", DATA_SETS)
def test_the_hierarchies_of_the_data_sets_fit_their_classes(name):
    levels = safe_load((ROOT / "configs" / "dataset" / f"{name}.yaml").read_text())["hierarchy"]
    hierarchy = Hierarchy.of(DATA_SETS[name], levels)
    for level, below in zip(hierarchy.table[1:], hierarchy.table):
        assert len(level.unique()) < len(below.unique())
        for one, other in itertools.combinations(range(hierarchy.num_classes), 2):  # coarser: what is together stays so
            assert below[one] != below[other] or level[one] == level[other]
    assert (hierarchy.members.sum(1)[hierarchy.num_classes :] > 1).all()


def test_the_cityscapes_hierarchy_is_about_the_classes_of_the_library():
    import mmseg.datasets

    assert mmseg.datasets.CityscapesDataset.METAINFO["classes"] == CITYSCAPES


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ([{"vehicle": ["car", "lorry"]}], "'lorry'"),
        ([{"vehicle": ["car", "truck"]}, {"obstacle": ["car", "pole"]}], "joins 'car', which the level below"),
        ([{"a": ["car", "truck"], "b": ["truck", "pole"]}], "'truck' twice"),
        ([{"a": ["car", "car"]}], "'car' twice"),
        ([{"vehicle": ["car"]}], "at least two"),
        ([{"vehicle": "car"}], "at least two"),
        ([{"car": ["car", "truck"]}], "'car', which is taken"),
        ([{"a": ["car", "truck"]}, {"car": ["a", "pole"]}], "'car', which is taken"),
        ([{"all": list(CLASSES)}], "single group"),
        ([{}], "must join something"),
        ([["car", "truck"]], "must join something"),
        ({"vehicle": ["car", "truck"]}, "list of levels"),
        ("vehicle", "list of levels"),
    ],
    ids=str,
)
def test_levels_that_make_no_hierarchy_are_refused(levels, words):
    with pytest.raises(ConfigError, match=words):
        Hierarchy.of(CLASSES, levels)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((("a", "b", "c"), ("x", "x")), "one group for each class"),
        ((("a", "a", "c"),), "different class names"),
        ((), "different class names"),
        ((("a", "b", "c"), ("x", "x", "c"), ("a", "y", "y")), "does not coarsen"),
        ((("a", "b", "c"), ("a", "a", "c")), "have one name"),
        ((("a", "b", "c"), ("x", "b", "c")), "two names"),
        ((("a",),), "single group"),
        ((tuple(f"c{k}" for k in range(256)),), "at most 255"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_tables_that_make_no_hierarchy_are_refused(names, words):
    with pytest.raises(ConfigError, match=words):
        Hierarchy(names)
