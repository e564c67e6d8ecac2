"""Pictures without labels: maps, sidecars that say what was claimed about which network, no need of the data set."""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import ExifTags, Image
from support.pipeline_runs import SMALL, configuration

from certseg.datasets import Streets, read_image
from certseg.errors import CertsegError, CheckpointError, ConfigError, DataError
from certseg.models import save_checkpoint
from certseg.pipeline import run
from certseg.pipeline.settings import parse
from certseg.pipeline.tasks.deploy import pictures_of
from certseg.pipeline.weights import build_segmenter, legend_of

ELSEWHERE = ("dataset=cityscapes", "dataset.root=nowhere", *(o for o in SMALL if not o.startswith("dataset")))


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Shared, so that a training is done once."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def photos(tmp_path):
    """A folder of two pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("one.png", (40, 52)), ("two.jpg", (33, 47))):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def checkpoint(path, *overrides, base, classes=None):
    """A checkpoint with fresh weights for the classes of the data set; ``classes`` are what it says they are."""
    settings = parse(configuration(path.parent, *overrides, base=base))
    names = list(legend_of(settings).class_names)
    save_checkpoint(
        path, build_segmenter(settings.model, len(names)), {"classes": names if classes is None else classes}
    )
    return path


def facts_of(directory, name="one"):
    return json.loads((directory / "pictures" / f"{name}.json").read_text())


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_pictures_get_maps_and_sidecars(output, photos, tmp_path):
    assert run(configuration(output, f"input={photos}"), tmp_path / "run") is None
    made = {path.name for path in (tmp_path / "run" / "pictures").iterdir()}
    assert made == {f"{n}.{s}" for n in ("one", "two") for s in ("json", "certified.png", "overview.png")}
    facts = facts_of(tmp_path / "run")
    ids = np.asarray(Image.open(tmp_path / "run" / "pictures" / "one.certified.png"))
    assert ids.shape == (40, 52)
    assert facts["abstention"] == pytest.approx((ids == 255).mean())
    assert "With probability" in facts["claim"]
    shares = {entry["id"]: entry["certified"] for entry in facts["classes"].values()}
    assert all(shares[k] == pytest.approx((ids == k).mean()) for k in shares)


def test_a_sidecar_says_which_network_and_which_samples(output, photos, tmp_path):
    run(configuration(output, f"input={photos / 'one.png'}"), tmp_path / "run")
    facts = facts_of(tmp_path / "run")
    (weights,) = output.glob("streets/*/*/model.pt")
    assert facts["network"]["weights"] == sha256(weights)
    assert facts["network"]["model"]["scales"] == [1.0]
    assert (facts["seed"], facts["samples"]) == (0, 70)
    assert facts["provenance"]["precision"] == "float32"
    assert facts["provenance"]["device"].startswith("cpu")
    assert facts["provenance"]["versions"]["torch"]


@pytest.mark.parametrize("certifier", ["segcertify", "adaptive_certify"])
def test_a_checkpoint_is_deployed_without_its_data_set(certifier, photos, tmp_path):
    weights = checkpoint(tmp_path / "m.pt", base=ELSEWHERE)
    overrides = (f"certifier={certifier}", f"model.checkpoint={weights}", f"input={photos / 'one.png'}")
    run(configuration(tmp_path, *overrides, base=ELSEWHERE), tmp_path / "run")
    facts = facts_of(tmp_path / "run")
    assert facts["network"]["checkpoint"] == sha256(weights)
    assert len(facts["classes"]) == 19
    assert facts["classes"]["traffic light"]["id"] == 6
    assert ("vehicle" in facts.get("groups", {})) == (certifier == "adaptive_certify")


def test_pictures_are_checked_and_not_the_images_of_the_data_set(photos, tmp_path):
    base = [o for o in SMALL if not o.startswith("dataset.size")] + ["dataset.size=[512,1024]"]
    weights = checkpoint(tmp_path / "m.pt", base=base)
    with pytest.raises(ConfigError, match="524288 pixels"):
        run(configuration(tmp_path, f"model.checkpoint={weights}", base=base), tmp_path / "run")
    run(configuration(tmp_path, f"model.checkpoint={weights}", f"input={photos}", base=base), tmp_path / "run")
    assert facts_of(tmp_path / "run")["size"] == [40, 52]


def test_a_picture_too_small_for_the_masks_stops_before_any_is_certified(photos, tmp_path):
    """Names sort it last: those before it would be finished."""
    base = tuple(option for option in SMALL if not option.startswith("certifier"))
    Image.new("RGB", (3, 40)).save(photos / "zero.png")
    overrides = ("certifier=demasked_recovery", "certifier/inpainter=black")
    with pytest.raises(ConfigError, match=r"zero\.png cannot be certified\. Received: .*[^.]\. Leave") as error:
        run(configuration(tmp_path, *overrides, f"input={photos}", base=base), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("model.pt"))
    assert not (tmp_path / "run" / "pictures").exists()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_pictures_are_checked_upright(suffix, tmp_path):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        Image.new("RGB", (30, 20)).save(tmp_path / f"{orientation}.{suffix}", exif=exif)
    asked = []
    certifier = SimpleNamespace(check=lambda num_pixels: None, check_size=asked.append)
    files = pictures_of(tmp_path, certifier)
    assert asked == [read_image(file).shape[:2] for file in files]
    assert asked == [(20, 30)] * 4 + [(30, 20)] * 4
    (tmp_path / f"9.{suffix}").write_bytes(files[0].read_bytes()[:20])
    with pytest.raises(DataError, match=f"9.{suffix} cannot be read"):
        pictures_of(tmp_path, certifier)


def test_names_of_any_bytes_are_certified_and_written(output, photos, tmp_path):
    (photos / "one.png").rename(photos / "caf\udce9.png")
    run(configuration(output, f"input={photos}"), tmp_path / "run")
    facts = [json.loads(file.read_text()) for file in sorted((tmp_path / "run" / "pictures").glob("*.json"))]
    assert sorted(fact["image"] for fact in facts) == ["caf\\udce9.png", "two.jpg"]


def test_pictures_of_other_formats_are_named_and_what_systems_write_is_passed_over(tmp_path):
    certifier = SimpleNamespace(check_size=lambda size: None)
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    for name in ("._a.png", "Thumbs.db", "notes.txt"):
        (tmp_path / name).write_bytes(b"something")
    assert pictures_of(tmp_path, certifier) == [tmp_path / "a.png"]
    (tmp_path / "b.webp").write_bytes(b"something")
    with pytest.raises(DataError, match=r"Not every picture at input=.*Received: b\.webp"):
        pictures_of(tmp_path, certifier)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("certifier=none",), "needs a certifier"),
        (("input=nowhere",), "no picture"),
        (("input=empty",), "no picture"),
        (ELSEWHERE, "Cityscapes was not found"),
    ],
    ids=["no certifier", "no file", "no picture", "no data set to train on"],
)
def test_what_cannot_be_deployed_stops_before_training(overrides, words, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    base = [] if overrides == ELSEWHERE else [o for o in SMALL if not o.startswith("certifier")]
    with pytest.raises(CertsegError, match=words):
        run(configuration(tmp_path, f"input={photos}", *overrides, base=base), tmp_path / "run")
    assert not list(tmp_path.rglob("model.pt"))


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["road", "sky", *Streets.class_names[2:]], ("8 classes, 1 is 'sidewalk'", "8 classes, 1 is 'sky'")),
        ([*Streets.class_names[:7]], ("8 classes, 7 is 'car'", "7 classes")),
    ],
    ids=["another name", "another number"],
)
def test_a_checkpoint_of_other_classes_is_refused(classes, words, photos, tmp_path):
    weights = checkpoint(tmp_path / "m.pt", base=SMALL, classes=classes)
    with pytest.raises(CheckpointError, match="are not those of the data set streets") as error:
        run(configuration(tmp_path, f"model.checkpoint={weights}", f"input={photos}"), tmp_path / "run")
    assert "Expected: {}. Received: {}.".format(*words) in str(error.value)
    assert not (tmp_path / "run").exists()
