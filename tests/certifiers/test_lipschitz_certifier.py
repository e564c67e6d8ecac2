"""certifier=lipschitz on linear pixels: their features are the image, so the constant is 1 and the head the weights."""

import json
import math

import numpy as np
import pytest
import torch
from support.audited_pixels import CPU, NAMES, AuditedPixels, Images, three_classes
from support.brackets import check_pixels
from support.linear_pixels import image_with_margins, two_classes

import certseg
from certseg.attacks import PGD
from certseg.certifiers import Lipschitz, SegCertify
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError, DataError, ModelError
from certseg.evaluation import AttackStage, CertificationStage, evaluate
from certseg.lipschitz.worst_case import RadiusFigures
from certseg.metrics import ClassCounts
from certseg.reporting import Entry, RowStore, write_report
from certseg.types import L2, LipschitzBound, LipschitzSegmenter, Sample


def audited(joint=False):
    plain = two_classes()
    return AuditedPixels(plain.weight.data, plain.bias.data, joint=joint)


def certify(model, image, **settings):
    return Lipschitz(**settings).certify(model, image, stream=NoiseStream(0, "x"), hardware=CPU)


@pytest.mark.parametrize("joint", [False, True])
def test_certified_are_the_pixels_further_from_the_boundary_than_the_radius(joint):
    margins = torch.tensor([[0.05, -0.3, 0.2499], [0.2501, -0.6, 0.4]])
    model = audited(joint)
    certificate = certify(model, image_with_margins(model, margins), radius=0.25)
    assert certificate.classes.tolist() == (margins < 0).long().tolist()
    assert certificate.certified.tolist() == [[False, True, False], [True, True, True]]
    assert certificate.radii.numpy() == pytest.approx(margins.abs().numpy(), abs=1e-5)
    assert (certificate.radii <= margins.abs()).all()
    assert (certificate.confidence, certificate.samples, certificate.passes.forward) == (1.0, 0, 1)
    assert certificate.threat == L2(0.25)
    assert certificate.predictor == "base"
    assert model.sizes == [(2, 3)]
    assert certificate.flags == (() if joint else ("calibrated",))
    assert set(certificate.seconds) == {"audit", "forward", "statistics"}


def test_a_joint_constant_is_looser_with_three_classes():
    image = Images()[0].image
    tight, weight = three_classes(), three_classes().weight.data
    loose = AuditedPixels(weight, tight.bias.data, joint=True)
    radii = [certify(model, image).radii for model in (tight, loose)]
    assert (radii[0] >= radii[1] * (1 - 1e-5)).all()
    assert (radii[0] > radii[1] * 1.1).float().mean() > 0.3


def test_the_collective_accuracy_is_reached_by_an_attack():
    """Push the k cheapest pixels just over their boundaries; all others stay, and so does the rest of the budget."""
    model = audited()
    margins = torch.rand(6, 7, generator=torch.Generator().manual_seed(0)) - 0.5
    image, target = image_with_margins(model, margins), (margins < 0).long()
    order = margins.abs().flatten().argsort()
    normal = (model.weight[0] - model.weight[1]).detach()
    normal = normal / normal.norm()
    for number in (1, 5, 20):
        cheapest = order[:number]
        step = torch.zeros(margins.numel())
        step[cheapest] = -(margins.flatten()[cheapest].sign()) * (margins.flatten()[cheapest].abs() + 2e-5)
        attacked = image + (step.view_as(margins)[None] * normal[:, None, None])
        radius = float((attacked.double() - image.double()).norm())
        row, _ = CertificationStage(Lipschitz(radius=radius, radii=[]), model, NAMES[:2], seed=0, hardware=CPU).run(
            Sample("x", image, target)
        )
        reached = ClassCounts.from_maps(model(attacked[None]).argmax(dim=1)[0], target, 2).accuracy()
        assert row["figures"]["certified_collective_accuracy"] == pytest.approx(reached)
        assert row["figures"]["certified_accuracy"] <= reached
        assert (
            row["figures"]["worst_case_miou"]
            <= ClassCounts.from_maps(model(attacked[None]).argmax(dim=1)[0], target, 2).miou() + 1e-9
        )


def run_stages(directory, radius=0.3, images=None):
    images = images or Images()
    model = three_classes()
    certifier = Lipschitz(radius=radius, radii=[0.0, 0.1, 1.0])
    stages = (
        CertificationStage(certifier, model, NAMES, seed=0, hardware=CPU),
        AttackStage("pgd", PGD(steps=8), L2(radius), model, NAMES, settings={}, seed=0, hardware=CPU),
    )
    stores = [RowStore(directory / stage.name, identity={"stage": stage.name}) for stage in stages]
    return [evaluate(stage, images, store) for stage, store in zip(stages, stores)], stores, images


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_stages(tmp_path_factory.mktemp("rows"))


def test_rows_summaries_and_the_bracket(finished):
    (certified, attacked), stores, images = finished
    figures = certified["figures"]
    assert figures["certified_accuracy/image_mean"] < figures["certified_collective_accuracy/image_mean"]
    assert figures["certified_collective_accuracy/image_mean"] <= attacked["figures"]["attacked_accuracy/image_mean"]
    assert figures["worst_case_miou/pooled"] <= attacked["figures"]["attacked_miou/pooled"]
    assert 0 < figures["worst_case_miou/image_mean"] < 1
    assert figures["robustness@25/image_mean"] < figures["robustness@75/image_mean"]
    assert figures["grey_levels/image_mean"] == pytest.approx(255 * 0.3 / math.sqrt(3 * 80))
    assert figures["lipschitz_constant/image_mean"] == 1.0
    worst, plain = certified["class_iou"]["worst_case"], certified["class_iou"]["prediction"]
    assert all(worst[name] <= attacked["class_iou"]["attacked"][name] + 1e-9 < 1 for name in NAMES)
    assert all(worst[name] < plain[name] for name in NAMES)
    assert check_pixels(certified, stores[0], attacked, stores[1], images.names()).certified_pixels > 0
    by_radius = certified["by_radius"]
    assert [entry["radius"] for entry in by_radius] == [0.0, 0.1, 0.3, 1.0]
    for name in (
        "certified_accuracy/image_mean",
        "certified_accuracy/pooled",
        "certified_collective_accuracy/image_mean",
        "certified_collective_accuracy/pooled",
        "worst_case_miou/image_mean",
        "worst_case_miou/pooled",
    ):
        values = [entry[name] for entry in by_radius]
        assert values == sorted(values, reverse=True)
        assert values[-1] < values[0]
    clean = by_radius[0]
    for estimator in ("image_mean", "pooled"):
        assert clean[f"certified_collective_accuracy/{estimator}"] == clean[f"certified_accuracy/{estimator}"]
    assert clean["certified_accuracy/image_mean"] == pytest.approx(figures["prediction_accuracy/image_mean"])
    assert clean["worst_case_miou/pooled"] == pytest.approx(figures["prediction_miou/pooled"], abs=1e-6)
    for name in NAMES:
        rates = [entry["false_negative_rate"][name] for entry in by_radius]
        assert rates == sorted(rates)
        assert 0 < certified["false_negative_radius"]["image_mean"][name] < 1
    stage = CertificationStage(Lipschitz(radius=0.3, radii=[0.0, 0.1, 1.0]), None, NAMES, seed=0, hardware=CPU)
    again = evaluate(stage, images, stores[0])
    assert json.dumps(again) == json.dumps(certified)  # a function of the rows on disk


def test_the_report_has_a_table_of_all_radii(finished, tmp_path):
    (certified, attacked), _, _ = finished
    path = write_report(tmp_path, title="t", command="c", entries=[Entry(certified), Entry(attacked)])
    text = path.read_text()
    table = text.split("## lipschitz at several radii")[1].split("##")[0]
    assert sum(line.startswith("| lipschitz") for line in table.splitlines()) == 4
    assert "collective accuracy" in table
    assert "Deterministic, without any error probability" in text
    lower = certified["figures"]["certified_collective_accuracy/image_mean"]
    tightness = text.split("## Tightness")[1]
    assert f"{100 * lower:.1f}" in tightness.split("##")[0]  # not the share of pixels certified one by one
    assert "collective accuracy: what one perturbation" in text


def test_an_image_without_labels_enters_no_figure(tmp_path):
    (with_void, _), stores, _ = run_stages(tmp_path / "a", images=Images(3, void=True))
    rows = stores[0].read()
    assert rows["image/0"]["figures"]["certified_collective_accuracy"] is None
    assert RadiusFigures.from_json(rows["image/0"]["counts"]["lipschitz"]).labelled == 0
    others = [rows[f"image/{i}"]["figures"]["worst_case_miou"] for i in (1, 2)]
    assert with_void["figures"]["worst_case_miou/image_mean"] == pytest.approx(np.mean(others))


def test_iou_bounds_can_be_left_out():
    stage = CertificationStage(Lipschitz(worst_case_iou=False), three_classes(), NAMES, seed=0, hardware=CPU)
    row, maps = stage.run(Images()[0])
    assert row["counts"]["lipschitz"]["curves"] is None
    assert "worst_case_miou" not in row["figures"]
    assert set(maps) == {"classes", "certified", "radii"}
    summary = stage.summarise([row])
    assert "worst_case" not in summary["class_iou"]
    assert summary["figures"]["worst_case_miou/pooled"] >= 0  # from the certified pixels alone


def test_float32_products_are_not_rounded_further():
    seen = []

    class Watching(AuditedPixels):
        def forward(self, images):
            seen.append(
                (
                    torch.get_float32_matmul_precision(),
                    torch.backends.cudnn.allow_tf32,
                    torch.is_autocast_enabled("cpu"),
                )
            )
            return super().forward(images)

    model = Watching(two_classes().weight.data)
    before = torch.backends.cudnn.allow_tf32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        certify(model, torch.rand(3, 4, 5))
    assert seen == [("highest", False, False)]
    assert torch.backends.cudnn.allow_tf32 == before


def test_it_can_be_used_without_a_pipeline():
    certificate = certseg.certify(audited(), torch.rand(3, 6, 5), Lipschitz(radius=0.1))
    assert certificate.certified.shape == (6, 5)
    assert isinstance(audited(), LipschitzSegmenter)
    assert not isinstance(two_classes(), LipschitzSegmenter)


def test_what_cannot_be_certified_is_said():
    with pytest.raises(ModelError, match="audited Lipschitz constant"):
        certify(two_classes(), torch.rand(3, 4, 5))
    with pytest.raises(DataError):
        certify(audited(), torch.rand(3, 4, 5) + 1)
    model = audited()
    with torch.no_grad():
        model.bias[0] = math.nan
    with pytest.raises(ModelError, match="'x'"):
        certify(model, torch.rand(3, 4, 5))


@pytest.mark.parametrize(
    "settings",
    [
        {"radius": 0.0},
        {"radius": math.inf},
        {"radii": [-0.1]},
        {"radii": "0.25"},
        {"radii": ["high"]},
        {"radii": [math.nan]},
        {"worst_case_iou": 1},
        {"false_negative_rate": 1.0},
        {"false_negative_rate": "half"},
    ],
    ids=str,
)
def test_bad_settings(settings):
    with pytest.raises(ConfigError):
        Lipschitz(**settings)


def test_radii_beyond_every_perturbation_are_refused():
    """The image has room for sqrt(3 * 12) = 6."""
    assert certify(audited(), torch.rand(3, 4, 3), radius=6.0).certified.shape == (4, 3)
    for settings in ({"radius": 6.001}, {"radius": 1e200}, {"radii": [0.1, 7.0]}):
        with pytest.raises(ConfigError, match="larger than any perturbation"):
            certify(audited(), torch.rand(3, 4, 3), **settings)
        with pytest.raises(ConfigError, match="at most 6"):
            Lipschitz(**settings).check(12)

    class Huge(AuditedPixels):
        def certified_bound(self, size):
            return LipschitzBound(1e200)

    with pytest.raises(ModelError, match="too large to compute with"):
        certify(Huge(two_classes().weight.data), torch.rand(3, 4, 3))


def test_settings_decide_the_rows():
    certifier = Lipschitz(radius=0.25, radii=[1.0, 0.25, 0.5])
    assert certifier.radii == (0.25, 0.5, 1.0)
    assert certifier.settings["radii"] == [0.25, 0.5, 1.0]
    assert not certifier.is_sampled
    assert certifier.check(10**9) is None
    assert SegCertify(sigma=0.25).threat.norm == certifier.threat.norm
