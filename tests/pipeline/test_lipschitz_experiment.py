"""The comparison of Lipschitz certificates with smoothing from one command to one table, on a tiny CamVid."""

import json

import numpy as np
import pytest
from PIL import Image
from support.pipeline_runs import start

SMALL = (
    "dataset.size=[32,48]",
    "training.iterations=3",
    "training.batch_size=2",
    "training.validations=1",
    "training.val_images=1",
    "training.checkpoint_interval=3",
    "pictures=0",
    "hardware=cpu",
    "hardware.threads=1",
)


@pytest.fixture
def camvid(tmp_path):
    root = tmp_path / "camvid"
    labels = np.tile(np.repeat(np.arange(12, dtype=np.uint8), 8), (64, 1))
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for index in range(count):
            noise = np.random.default_rng(index).integers(0, 16, (*labels.shape, 3))
            image = (20 * labels[..., None] + noise).astype(np.uint8)
            Image.fromarray(image).save(root / split / "images" / f"frame_{index}.png")
            Image.fromarray(labels).save(root / split / "labels" / f"frame_{index}.png")
    return root


def test_three_certificates_of_two_networks_end_in_one_table(camvid, tmp_path):
    output = tmp_path / "out"
    overrides = ("experiment=lipschitz/camvid", f"dataset.root={camvid}")
    status, out, err = start(output, *overrides, cwd=tmp_path, base=SMALL).finish()
    assert status == 0, err
    assert len(list(output.rglob("finished.json"))) == 2
    assert out.count("Reused training") == 1
    report = next((output / "runs").glob("*/*/report.md")).read_text()
    assert report.startswith("# Sweep of 3 runs")
    for network, certifier in (("lip_deeplabv3_small-lipschitz", "lipschitz"), ("upernet_tiny-noise", "segcertify")):
        assert f"| {network}: {certifier} |" in report
    assert report.count("| l2 ≤ 0.1686 | certified |") == 3
    assert "No paper has this table" in report
    found = {}
    for file in output.glob("camvid/*/*/summary.json"):
        summary = json.loads(file.read_text())
        if summary["kind"] == "certifier":
            found[file.parts[-3], summary["name"]] = summary
    radii = {summary["threat"]["radius"] for summary in found.values()}
    assert len(found) == 3
    assert len(radii) == 1
    parts = {which: set(summary["seconds"]) for which, summary in found.items()}
    assert parts.pop(("lip_deeplabv3_small-lipschitz", "lipschitz")) == {"audit", "forward", "statistics", "bounds"}
    assert all(part == {"sampling", "statistics"} for part in parts.values())
    for summary in found.values():
        assert all(value > 0 for value in summary["seconds"].values())
        figures = summary["figures"]
        assert figures["certified_accuracy/pooled"] <= figures["prediction_accuracy/image_mean"] + 1e-9
