"""Classes that are not certseg's own are told by their source: which change of which file changes their keys."""

import importlib
import sys
from importlib.metadata import version
from platform import python_version

import pytest

from certseg.errors import ConfigError
from certseg.pipeline.foreign import told_with_source

OWN = ("lonely", "beside", "ours", "wrapped", "namespace")
WRAPPED = ("wrapped.part", "wrapped.Made")
TARGETS = ("lonely.Net", "ours.nets.Net", *WRAPPED)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of one's own: a module with a module beside it, and a package; what it defines is imported anew."""
    (tmp_path / "lonely.py").write_text("import beside\nimport json\n\nclass Net:\n    width = beside.WIDTH\n")
    (tmp_path / "beside.py").write_text("WIDTH = 3\n")
    (tmp_path / "unrelated.py").write_text("WIDTH = 3\n")
    package = tmp_path / "ours"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text("from . import layers\nfrom ours.parts import helper\n\nclass Net:\n    pass\n")
    (package / "layers.py").write_text("DEPTH = 1\n")
    (package / "parts").mkdir()
    (package / "parts" / "__init__.py").write_text("from ours.parts import helper\n")
    (package / "parts" / "helper.py").write_text("RATE = 1\n")
    (package / "other.py").write_text("RATE = 1\n")
    (tmp_path / "namespace" / "deep").mkdir(parents=True)
    (tmp_path / "namespace" / "deep" / "values.py").write_text("VALUE = 1\n")
    text = "import functools\nimport namespace.deep.values as v\nimport ours.nets\n\nclass Net:\n    pass\n"
    (tmp_path / "wrapped.py").write_text(
        text + "\npart = functools.partial(Net)\n\ndef make():\n    class Made:\n"
        "        pass\n    return Made\n\nMade = make()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
        del sys.modules[name]


def names():
    importlib.invalidate_caches()
    return {target: told_with_source(target) for target in TARGETS}


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("lonely.py", {"lonely.Net"}),
        ("beside.py", {"lonely.Net"}),
        ("unrelated.py", set()),
        ("ours/nets.py", {"ours.nets.Net", *WRAPPED}),
        ("ours/layers.py", {"ours.nets.Net", *WRAPPED}),
        ("ours/__init__.py", {"ours.nets.Net", *WRAPPED}),
        ("ours/parts/__init__.py", {"ours.nets.Net", *WRAPPED}),
        ("ours/parts/helper.py", {"ours.nets.Net", *WRAPPED}),
        ("ours/other.py", set()),
        ("wrapped.py", set(WRAPPED)),
        ("namespace/deep/values.py", set(WRAPPED)),
    ],
)
def test_what_a_change_of_a_file_changes(own, file, changed):
    before = names()
    (own / file).write_text((own / file).read_text() + "# another line\n")
    after = names()
    assert {target for target in before if before[target] != after[target]} == changed
    assert all(after[target].startswith(f"{target}@") for target in after)


def test_moving_the_folder_changes_nothing(own, tmp_path_factory, monkeypatch):
    before = names()
    moved = tmp_path_factory.mktemp("elsewhere") / "folder"
    own.rename(moved)
    for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
        del sys.modules[name]
    monkeypatch.syspath_prepend(str(moved))
    assert names() == before


def test_what_is_installed_is_told_by_its_version():
    assert told_with_source("torch.nn.Identity") == f"torch.nn.Identity@torch {version('torch')}"
    assert told_with_source("collections.OrderedDict") == f"collections.OrderedDict@Python {python_version()}"
    assert told_with_source("math.sqrt") == f"math.sqrt@Python {python_version()}"


def test_what_does_not_exist_keeps_its_path_and_is_refused_when_it_is_built():
    assert told_with_source("nowhere.Net") == "nowhere.Net"


def test_a_class_without_a_file_is_refused(monkeypatch):
    module = type(sys)("typed_in")
    exec("class Net:\n    pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "typed_in", module)
    with pytest.raises(ConfigError, match=r"source of typed_in\.Net cannot be read"):
        told_with_source("typed_in.Net")
