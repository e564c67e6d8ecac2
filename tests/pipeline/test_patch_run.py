"""Runs that certify against patches: rows, report, pictures, refusals before training."""

import json

import numpy as np
import pytest
from PIL import Image
from support.pipeline_runs import ROOT, SMALL, configuration

from certseg.errors import CertsegError, ConfigError
from certseg.pipeline import run
from certseg.pipeline.settings import parse
from certseg.pipeline.stages import Plan

BASE = tuple(option for option in SMALL if not option.startswith("certifier"))


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Shared, so that a training is done once."""
    return tmp_path_factory.mktemp("patches")


@pytest.mark.parametrize(
    ("choice", "overrides", "passes"),
    [
        ("demasked_recovery", (), 5),
        ("demasked_detection", ("certifier.num_masks=4",), 5),
        ("patch_double_masking", ("certifier.masks=column", "certifier/inpainter=mean_colour"), 7),
        ("drs_s", (), 22),
        ("drs_e", ("certifier/inpainter=navier_stokes", "certifier.stride=6", "certifier.width=6"), 11),
    ],
)
def test_every_certifier_of_patches_runs(output, choice, overrides, passes, tmp_path):
    run(configuration(output, f"certifier={choice}", *overrides, "pictures=1", base=BASE), tmp_path / "report")
    (file,) = output.glob(f"*/*/{choice}-*/summary.json")
    summary = json.loads(file.read_text())
    figures = summary["figures"]
    assert summary["passes"]["forward"] == 3 * passes
    assert set(summary["seconds"]) == {"inpainting", "network", "statistics"}
    assert 0 <= figures["certified_accuracy/image_mean"] <= figures["prediction_accuracy/image_mean"]
    assert ("false_alert_ratio/image_mean" in figures) == (choice == "demasked_detection")
    assert ("tight_certified_share/image_mean" in figures) == (choice == "demasked_recovery")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "patch (share" in text
    drawn = sorted(path.name for path in (tmp_path / "report" / "figures").glob("test_*.png"))
    assert drawn == ["test_0000.png", "test_0000=masks.png"]
    assert "figures/test_0000=masks.png" in text
    assert len(list(output.glob("*/*/train-*"))) == 1
    run(configuration(output, f"certifier={choice}", *overrides, base=BASE), tmp_path / "again")
    assert len(list(output.glob(f"*/*/{choice}-*"))) == 1


@pytest.mark.parametrize("file", sorted((ROOT / "configs/certifier/inpainter").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_inpainter_composes_and_tells_its_story(file):
    assert file.read_text().startswith("# ")
    overrides = ["certifier=drs_e", f"certifier/inpainter={file.stem}"]
    needed = {"torchscript": "path", "learned": "checkpoint"}.get(file.stem)
    if needed:
        with pytest.raises(ConfigError, match=rf"Set certifier\.inpainter\.{needed}"):
            Plan.of(parse(configuration("out", *overrides, base=())))
        return
    certifier = Plan.of(parse(configuration("out", *overrides, base=()))).certifier
    assert certifier.settings["inpainter"] == file.stem


def test_pictures_get_a_sidecar_that_names_the_patch(output, tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 52, 3), dtype=np.uint8)).save(tmp_path / "one.png")
    cfg = configuration(output, "certifier=demasked_recovery", f"input={tmp_path / 'one.png'}", base=BASE)
    run(cfg, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "pictures" / "one.json").read_text())
    assert facts["threat"] == {"norm": "patch", "share": 0.005}
    assert "every attack within the threat patch of 0.005 of the image" in facts["claim"]
    assert facts["predictor"].startswith("demasked(5 column masks")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("certifier.patch.share=0.2",), "do not fit"),
        (("certifier.patch.share=2",), "must lie in"),
        (("certifier.patch.height=4",), "either"),
        (("certifier.num_masks=4",), "too few"),
        (("certifier/inpainter=torchscript", "certifier.inpainter.path=nowhere.pt"), "nowhere.pt"),
    ],
    ids=str,
)
def test_what_does_not_fit_stops_before_training(overrides, words, tmp_path):
    with pytest.raises(CertsegError, match=words):
        run(configuration(tmp_path, "certifier=demasked_recovery", *overrides, base=BASE), tmp_path / "report")
    assert not list(tmp_path.rglob("model.pt"))
