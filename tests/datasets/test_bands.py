"""Images of any channels and depth: which bands are read, which values become 0 and 1, what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import Command
from support.pipeline_runs import SMALL, configuration

from certseg.compute.opencv import cv2
from certseg.datasets import Folder, Reader
from certseg.errors import ConfigError, DataError, ModelError
from certseg.pipeline.settings import parse
from certseg.pipeline.weights import build_segmenter

SHAPE = (6, 8)


def bands(number, dtype=np.uint16, seed=0, most=4000):
    return np.random.default_rng(seed).integers(0, most, (*SHAPE, number)).astype(dtype)


def tiff(path, values, **options):
    tifffile = pytest.importorskip("tifffile", reason="the extra tiff is not installed")
    tifffile.imwrite(path, values, **options)
    return path


@pytest.mark.parametrize("form", ["last", "first", "grey"])
def test_a_tiff_of_16_bits_is_read_by_its_window(form, tmp_path):
    values = bands(1 if form == "grey" else 4)
    stored = {"last": values, "first": np.moveaxis(values, -1, 0), "grey": values[..., 0]}[form]
    options = {"last": {"planarconfig": "contig"}, "first": {"planarconfig": "separate"}, "grey": {}}[form]
    path = tiff(tmp_path / "a.tif", stored, photometric="minisblack", **options)
    reader = Reader.of(None, [1000, 3000])
    assert np.allclose(reader.read(path), ((values.astype(float) - 1000) / 2000).clip(0, 1))
    assert reader.sides(path) == SHAPE
    if form != "grey":
        assert np.allclose(
            Reader.of([2, 0], [[0, 4000], [0, 2000]]).read(path)[..., 1], (values[..., 0] / 2000).clip(0, 1)
        )
        with pytest.raises(DataError, match=r"has no band 4\. Expected: 4 bands"):
            Reader.of([4], [0, 1]).read(path)
    with pytest.raises(DataError, match=r"uint16, and it is not said.*Received: values \d+ to \d+ in this one"):
        Reader.of([0], None).read(path)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_png_of_16_bits_keeps_them_all(channels, tmp_path):
    values = bands(channels, most=65535)
    swapped = values[..., [2, 1, 0, 3][:channels]] if channels > 1 else values[..., 0]
    cv2.imwrite(str(tmp_path / "a.png"), swapped)
    found = Reader.of(None, [0, 65535]).read(tmp_path / "a.png")
    assert found.dtype == np.float32
    assert np.allclose(found, values / 65535, atol=1e-7)


def test_bands_of_8_bits_need_no_window(tmp_path):
    values = bands(4, np.uint8, most=255)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.allclose(Reader.of([3, 1], None).read(tmp_path / "a.png"), values[..., [3, 1]] / np.float32(255))
    Image.fromarray(values[..., 0]).save(tmp_path / "g.png")
    assert Reader.of([0], None).read(tmp_path / "g.png").shape == (*SHAPE, 1)
    grey = Reader.of([0, 0, 0], None).read(tmp_path / "g.png")
    assert np.array_equal(grey, np.repeat(values[..., :1] / np.float32(255), 3, axis=-1))
    with pytest.raises(DataError, match="has no band 3"):
        Reader.of([3], None).read(tmp_path / "g.png")


def test_floating_point_values(tmp_path):
    values = bands(2, np.float32) / np.float32(4000)
    path = tiff(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig")
    assert np.allclose(Reader.of(None, [-1, 1]).read(path), (values + 1) / 2)
    values[0, 0, 0] = np.nan
    tiff(path, values, photometric="minisblack", planarconfig="contig")
    with pytest.raises(DataError, match="no numbers"):
        Reader.of(None, [-1, 1]).read(path)


def test_what_is_no_single_picture(tmp_path):
    path = tiff(tmp_path / "a.tif", bands(5).transpose(2, 0, 1), photometric="minisblack")  # five pages
    with pytest.raises(DataError, match="several pictures"):
        Reader.of(None, [0, 1]).read(path)
    path.write_bytes(b"II*\0 and no more")
    with pytest.raises(DataError, match="cannot be read"):
        Reader.of(None, [0, 1]).read(path)
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be read"):
        Reader.of([0], None).read(tmp_path / "b.png")
    Image.fromarray(bands(1, np.uint8, most=9)[..., 0]).convert("P").save(tmp_path / "p.png")
    with pytest.raises(DataError, match="without a palette"):
        Reader.of([0], None).read(tmp_path / "p.png")


def test_numbers_that_mean_something_else_than_they_seem(tmp_path):
    values = bands(1, np.uint8, most=9)[..., 0]
    for options, words in (
        ({"extratags": [(274, "H", 1, 3, True)]}, "has an orientation"),
        ({"photometric": "miniswhite"}, "stored as MINISWHITE"),
        ({"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}, "stored as PALETTE"),
    ):
        path = tiff(tmp_path / "a.tif", values, **options)
        with pytest.raises(DataError, match=words):
            Reader.of([0], None).read(path)
    frames = [Image.fromarray(values), Image.fromarray(values + 1)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="several pictures"):
        Reader.of([0], None).read(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (([], None), "dataset.bands"),
        (([0, "1"], None), "dataset.bands"),
        (([-1], None), "dataset.bands"),
        (("0", None), "dataset.bands"),
        ((None, [3, 1]), "low < high"),
        ((None, [1]), "low < high"),
        ((None, "all"), "low < high"),
        ((None, [[0, 1], [2]]), "low < high"),
        (([0, 1, 2], [[0, 1], [0, 2]]), "2 pairs, 3 bands"),
        ((None, [[0, 1], [0, 2]]), "2 pairs, no bands"),
    ],
)
def test_settings_outside_their_domain(settings, words):
    with pytest.raises(ConfigError, match=words):
        Reader.of(*settings)


def folder(root, channels=4, count=3):
    """A data set of 16-bit images whose second band tells the class."""
    for split in ("train", "val", "test"):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for index in range(count):
            values = np.random.default_rng(index).integers(0, 4000, (48, 64, channels)).astype(np.uint16)
            label = np.zeros((48, 64), np.uint8)
            label[:, 20 * index :] = 1
            values[..., 1] = 500 + 3000 * label.astype(np.uint16)
            options = {"photometric": "minisblack", "planarconfig": "contig"} if channels > 1 else {}
            tiff(root / split / "images" / f"{index}.tif", values, **options)
            Image.fromarray(label).save(root / split / "labels" / f"{index}.png")
    return root


def test_bands_and_window_are_what_a_fingerprint_knows(tmp_path):
    root = folder(tmp_path / "data")
    made = [
        Folder(root, num_classes=2, bands=chosen, window=window)
        for chosen, window in (([0, 1], [0, 4000]), ([1, 0], [0, 4000]), ([0, 1], [0, 4095]), (None, [0, 4000]))
    ]
    assert made[0][0].image.shape == (2, 48, 64)
    assert made[3][0].image.shape == (4, 48, 64)
    assert len({dataset.fingerprint() for dataset in made}) == 4
    small = Folder(root, num_classes=2, bands=[1], window=[0, 4000], size=[24, 32])[0]
    assert small.image.shape == (1, 24, 32)
    assert float(small.image.max()) <= 1.0


FOUR_BANDS = (
    "dataset=folder",
    "dataset.class_names=[field, water]",
    "dataset.window=[0, 4000]",
    "metrics.focus=[water]",
    "model=smp",
    "model.channels=4",
    "model.encoder=resnet18",
    "training.iterations=8",
    "dataset.limit=2",
    "pictures=1",
)


@pytest.mark.parametrize("attack", ["pgd_smoothed", "square"])
def test_four_bands_of_16_bits_are_trained_attacked_and_certified_by_the_command(attack, tmp_path):
    pytest.importorskip("segmentation_models_pytorch", reason="the extra smp is not installed")
    root = folder(tmp_path / "data")
    base = [word for word in SMALL if not word.startswith(("dataset.", "model.", "pictures", "training.iterations"))]
    words = [*base, *FOUR_BANDS, f"dataset.root={root}", f"attack={attack}"]
    words += ["attack.steps=2", "attack.smoothing.votes=50"] if attack == "pgd_smoothed" else ["attack.queries=20"]
    words += ["attack.radius=0.02", "attack.norm=l2"] if attack == "square" else []
    status, out, err = Command(*words, cwd=tmp_path).finish()
    assert status == 0, out + err
    (result,) = tmp_path.glob("outputs/runs/*/*/result.json")
    found = {entry["summary"]["kind"]: entry["summary"] for entry in json.loads(result.read_text())["entries"]}
    assert 0.0 <= found["certifier"]["figures"]["certified_recall@water/pooled"] <= 1.0
    assert found["attack"]["figures"]["images_with@water"] == 2
    report = (result.parent / "report.md").read_text()
    assert "values 0 to 4000 of the files are 0 to 1" in report
    assert "![0]" in report


def test_networks_of_three_channels_say_so_before_they_are_trained(tmp_path):
    root = folder(tmp_path / "data")
    base = [word for word in SMALL if not word.startswith("dataset.")]
    words = ["dataset=folder", f"dataset.root={root}", "dataset.num_classes=2", "dataset.window=[0,4000]"]
    status, _, err = Command(*base, *words, cwd=tmp_path).finish()
    assert status == 2
    assert "Received: torch.float32 of shape (1, 4, 48, 64)" in err
    assert "model=smp model.channels=4" in err
    assert not list(tmp_path.rglob("model.pt"))


def test_networks_of_mmsegmentation_take_other_channels():
    torch.manual_seed(0)
    words = ("model=upernet_tiny", "model.scales=[1.0]", "+model.overrides.backbone.in_channels=4")
    network = build_segmenter(parse(configuration("outputs", *words, base=())).model, 3).eval()
    image = torch.rand(1, 4, 32, 48)
    assert network(image).shape == (1, 3, 32, 48)
    with pytest.raises(ModelError, match=r"images of shape \(B, 4, H, W\)"):
        network(image[:, :3])


def test_a_patch_certificate_of_four_bands():
    import certseg
    from certseg.certifiers import DemaskedRecovery
    from certseg.patches.inpainting import Black, Telea
    from certseg.types import Patch

    torch.manual_seed(0)
    network = certseg.wrap(torch.nn.Conv2d(4, 2, 3, padding=1), 2)
    image = torch.rand(4, 24, 32)
    for inpainter in (Black(), Telea()):
        certifier = DemaskedRecovery(patch=Patch(height=3, width=3), inpainter=inpainter)
        assert certseg.certify(network, image, certifier).classes.shape == (24, 32)
