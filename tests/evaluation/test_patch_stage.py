"""Certificates against patches as rows and summaries, and what a user can mend."""

import json
import math

import numpy as np
import pytest
import torch
from support.linear_pixels import LinearPixels
from support.puppet import CPU, certified

import certseg
from certseg.certifiers import (
    DemaskedDetection,
    DemaskedRecovery,
    DerandomizedSmoothing,
    PatchDoubleMasking,
)
from certseg.errors import ConfigError, DataError, ModelError
from certseg.evaluation import CertificationStage, evaluate
from certseg.metrics import CertifiedCounts, worst_case_miou
from certseg.patches.inpainting import Black, MeanColour
from certseg.reporting import Entry, RowStore, write_report
from certseg.types import CoarseLogits, Patch, Sample

NAMES = ("dark", "bright", "red")
PATCH = Patch(share=0.01)


class Context(LinearPixels):
    """Every pixel by a blur around it, so that what a mask hides matters."""

    def __init__(self):
        super().__init__(
            torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0], [2.0, -1.5, -1.5]]), torch.tensor([1.5, -1.5, 0.0])
        )

    def forward(self, images):
        return super().forward(torch.nn.functional.avg_pool2d(images, 5, 1, 2, count_include_pad=False))


class Coarse(torch.nn.Module):
    """Gives the logits of :class:`Context` on every second pixel."""

    num_classes = 3

    def __init__(self, spoil=None):
        super().__init__()
        self.inner, self.spoil, self.calls = Context(), spoil, 0

    def coarse_logits(self, images):
        self.calls += 1
        logits = self.inner(images)[..., ::2, ::2]
        return CoarseLogits(logits if self.spoil is None else self.spoil(logits), False)

    def forward(self, images):
        coarse = self.inner(images)[..., ::2, ::2]
        return torch.nn.functional.interpolate(coarse, size=images.shape[-2:], mode="bilinear")


class Images:
    """Smooth images whose labels are what the model says, with some wrong and some missing."""

    name, split, class_names, palette = "images", "test", NAMES, ((0, 0, 0), (255, 255, 255), (255, 0, 0))

    def __len__(self):
        return 3

    def names(self):
        return tuple(f"image/{i}" for i in range(3))

    def fingerprint(self):
        return "0"

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        small = torch.rand(1, 3, 4, 5, generator=generator)
        image = torch.nn.functional.interpolate(small, size=(40, 50), mode="bicubic")[0].clamp(0, 1)
        target = Context()(image[None]).argmax(dim=1)[0]
        target[:3] = (target[:3] + 1) % 3
        target[5:8, :10] = 255
        return Sample(self.names()[index], image, target)


def certifiers():
    inpainter = MeanColour()
    return {
        "recovery": DemaskedRecovery(patch=PATCH, inpainter=inpainter, num_masks=7),
        "detection": DemaskedDetection(patch=PATCH, inpainter=inpainter, num_masks=5),
        "double": PatchDoubleMasking(patch=PATCH, inpainter=inpainter),
        "drs": DerandomizedSmoothing(patch=PATCH, inpainter=inpainter),
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """By kind: certifier, summary and store of a run over three images."""
    runs = {}
    for kind, certifier in certifiers().items():
        stage = CertificationStage(certifier, Context(), NAMES, seed=0, hardware=CPU)
        store = RowStore(tmp_path_factory.mktemp("rows"), identity={"stage": stage.name, **certifier.settings})
        runs[kind] = certifier, evaluate(stage, Images(), store), store
    return runs


@pytest.mark.parametrize("kind", sorted(certifiers()))
def test_rows_and_summaries(finished, kind, tmp_path):
    certifier, summary, store = finished[kind]
    rows, figures = store.read(), summary["figures"]
    assert summary["threat"] == {"norm": "patch", "share": 0.01}
    assert summary["confidence"] == 1.0
    assert figures["samples/image_mean"] == 0
    assert 0 < figures["certified_accuracy/image_mean"] <= figures["prediction_accuracy/image_mean"]
    assert 0 < figures["certified_mean_recall/pooled"] <= figures["prediction_mean_recall/pooled"] <= 1
    assert figures["certified_big_class_recall/pooled"] <= figures["prediction_big_class_recall/pooled"]
    assert set(summary["big_classes"]) <= set(NAMES)
    for row in rows.values():
        assert row["figures"]["share"] == 0.01
        assert (row["figures"]["patch_height"], row["figures"]["patch_width"]) == (4, 5)
        assert set(row["seconds"]) == {"inpainting", "network", "statistics"}
    counts = [CertifiedCounts.from_json(row["counts"]["certified"]) for row in rows.values()]
    pooled = counts[0] + counts[1] + counts[2]
    recall = np.nanmean(np.where(pooled.target > 0, pooled.correct / np.maximum(pooled.target, 1), np.nan))
    assert figures["certified_mean_recall/pooled"] == pytest.approx(recall)
    if certifier.name != "demasked_detection":
        assert figures["worst_case_miou/pooled"] == pytest.approx(worst_case_miou(pooled))
    stage = CertificationStage(certifier, None, NAMES, seed=0, hardware=CPU)
    assert json.dumps(evaluate(stage, Images(), store)) == json.dumps(summary)  # a function of the rows on disk
    text = write_report(tmp_path, title="t", command="c", entries=[Entry(summary)]).read_text()
    assert "patch (share 0.01)" in text
    assert "Deterministic, without any error probability" in text
    assert "mean recall % (pooled)" in text


def test_the_shares_of_both_rules(finished):
    certifier, summary, store = finished["recovery"]
    figures = summary["figures"]
    tight, unanimity = (figures[f"{rule}_certified_accuracy/image_mean"] for rule in ("tight", "unanimity"))
    assert unanimity < tight == figures["certified_accuracy/image_mean"]
    other = DemaskedRecovery(patch=PATCH, inpainter=MeanColour(), num_masks=7, rule="unanimity")
    sample = Images()[0]
    row, _ = CertificationStage(other, Context(), NAMES, seed=0, hardware=CPU).run(sample)
    before = store.read()["image/0"]["figures"]
    assert row["figures"]["certified_accuracy"] == before["unanimity_certified_accuracy"]
    assert row["figures"]["tight_certified_share"] == before["tight_certified_share"]
    assert other.settings != certifier.settings
    assert other.predictor == certifier.predictor  # the same vote


def test_false_alerts(finished):
    _, summary, store = finished["detection"]
    figures = summary["figures"]
    total = figures["certified_accuracy/image_mean"] + figures["false_alert_ratio/image_mean"]
    assert total == pytest.approx(figures["prediction_accuracy/image_mean"])  # as in the paper's tables
    sample, maps = Images()[1], store.load_map("image/1")
    labelled = (sample.target != 255).numpy()
    correct = labelled & (maps["classes"] == sample.target.numpy())
    row = store.read()["image/1"]["figures"]
    assert row["false_alert_rate"] == pytest.approx((correct & ~maps["certified"]).sum() / correct.sum())
    assert math.isnan(figures["worst_case_miou/pooled"])
    assert (maps["classes"] == Context()(sample.image[None]).argmax(dim=1)[0].numpy()).all()
    assert summary["guarantee"]["promise"] == "until_alert"
    assert "raises an alert" in summary["guarantee"]["wording"]


def test_big_classes_can_be_named(finished):
    _, summary, store = finished["recovery"]
    rows = list(store.read().values())
    options = {"patch": PATCH, "inpainter": None}
    named = DemaskedRecovery(**options, big_classes=[2]).summarise(rows, NAMES)
    assert named["big_classes"] == ["red"]
    assert summary["big_classes"] != ["red"]
    target, correct = (sum(row["counts"]["certified"][part][2] for row in rows) for part in ("target", "correct"))
    assert named["figures"]["certified_big_class_recall/pooled"] == pytest.approx(correct / target)
    for bad in ("voc", [-1], [1.5]):
        with pytest.raises(ConfigError, match="big_classes"):
            DemaskedRecovery(**options, big_classes=bad)


def test_coarse_logits_are_used_and_checked():
    class Fine(Coarse):
        coarse_logits = None

    image = Images()[0].image
    for kind in ("detection", "recovery", "double"):
        certifier, model = certifiers()[kind], Coarse()
        expected, result = certified(certifier, Fine(), image), certified(certifier, model, image)
        assert model.calls > 0
        assert (result.certified == expected.certified).float().mean() > 0.999  # rounding aside
    for spoil in (lambda x: x[:1], lambda x: x[:, :2], lambda x: x[..., :0], lambda x: x[0]):
        with pytest.raises(ModelError, match="coarse_logits"):
            certified(certifier, Coarse(spoil), image)
    with pytest.raises(ModelError, match="NaN or infinite"):
        certified(certifier, Coarse(lambda x: x * math.nan), image)


def test_memory_that_runs_out_halves_the_batch():
    class Small(Context):
        def forward(self, images):
            if len(images) > 2:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(images)

    image = Images()[0].image
    expected = certified(certifiers()["recovery"], Context(), image)
    result = certified(certifiers()["recovery"], Small(), image)
    assert torch.equal(result.certified, expected.certified)
    assert result.passes == expected.passes
    assert len(result.flags) == 1
    assert result.flags[0].startswith("noise_batch_reduced_to_")
    assert not expected.flags


def test_what_cannot_be_certified_is_said():
    image, model = Images()[0].image, Context()
    with pytest.raises(DataError):
        certified(certifiers()["recovery"], model, image + 1)
    with torch.no_grad():
        model.bias[0] = math.nan
    for kind in certifiers():
        with pytest.raises(ModelError, match="'x'"):
            certified(certifiers()[kind], model, image)

    class Shrinking(MeanColour):
        def __call__(self, images, hidden):
            return super().__call__(images, hidden)[..., 1:]

    with pytest.raises(ModelError, match="of the shape"):
        certified(DemaskedRecovery(patch=PATCH, inpainter=Shrinking()), Context(), image)


def test_an_inpainter_that_peeks_is_given_nothing():
    class Peeking:
        name, settings = "peeking", {}

        def __call__(self, images, hidden):
            assert not images[hidden[:, None].expand_as(images)].any()
            return images

    certificate = certified(DemaskedRecovery(patch=PATCH, inpainter=Peeking()), Context(), Images()[0].image)
    black = certified(DemaskedRecovery(patch=PATCH, inpainter=Black()), Context(), Images()[0].image)
    none = certified(DemaskedRecovery(patch=PATCH, inpainter=None), Context(), Images()[0].image)
    assert torch.equal(certificate.certified, black.certified)
    assert torch.equal(none.certified, black.certified)


def test_sizes_are_checked_before_anything_is_computed():
    for kind, certifier in certifiers().items():
        certifier.check_size((40, 50))
        with pytest.raises(ConfigError, match=r"fit|too few|certify nothing|number|at least|hide"):
            certifier.check_size((40, 1))
        assert not certifier.is_sampled, kind
    with pytest.raises(ConfigError, match=r"4 masks are too few.* 2 of them"):
        DemaskedRecovery(patch=PATCH, inpainter=None, num_masks=4).check_size((40, 50))
    with pytest.raises(ConfigError, match="columns certify nothing"):
        DerandomizedSmoothing(patch=PATCH, width=40, stride=9).check_size((40, 50))


def test_it_can_be_used_without_a_pipeline():
    certificate = certseg.certify(Context(), Images()[0].image, certifiers()["detection"])
    assert certificate.certified.shape == (40, 50)
    assert str(certificate.threat) == "patch of 0.01 of the image"
