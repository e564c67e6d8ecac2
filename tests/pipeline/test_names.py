"""Names of classes in keys: one for every class that configs/ names, none twice, each where it says."""

import pydoc
import re
from importlib.metadata import version

from support.pipeline_runs import ROOT

from certseg.pipeline.names import BUILT_BY, PATHS, import_path, logical_name, name_in_keys, named

CONFIGURED = sorted(
    {
        target
        for path in (ROOT / "configs").rglob("*.yaml")
        for target in re.findall(r"^ *_target_: (certseg\.\S+)", path.read_text(), flags=re.M)
        if not target.endswith(("SweepReport", "OwnFolder"))  # Hydra's own
    }
)


def test_every_configured_class_has_a_name():
    assert sorted(PATHS.values()) == CONFIGURED
    assert len({path.rpartition(".")[2] for path in PATHS.values()}) == len(PATHS)
    for name, path in PATHS.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert logical_name(path) == name
        assert import_path(name) == path
        assert callable(pydoc.locate(path)), path


def test_a_name_is_that_of_the_class_wherever_it_lies():
    assert logical_name("certseg.models.mmseg_adapter.MMSegSegmenter") == "mmseg_segmenter"
    assert logical_name("certseg.anywhere.NewThing") == "NewThing"
    assert logical_name("mine.MMSegSegmenter") == "mine.MMSegSegmenter"
    assert logical_name("certseg_more.Streets") == "certseg_more.Streets"


def test_names_are_given_at_every_depth():
    settings = {"a": [{"_target_": "certseg.types.Patch", "share": 0.1}], "b": {"_target_": "torch.nn.Identity"}}
    library = {"class": f"torch.nn.Identity@torch {version('torch')}"}
    assert named(settings) == {"a": [{"class": "patch", "share": 0.1}], "b": library}


def test_what_a_library_defines_is_another_thing_with_another_version():
    assert set(BUILT_BY) <= set(PATHS)
    assert (
        name_in_keys("certseg.models.torchvision_network")
        == f"torchvision_network@torchvision {version('torchvision')}"
    )
    assert name_in_keys("certseg.models.custom_network") == "custom_network"
