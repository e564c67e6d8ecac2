import math

import numpy as np
import pytest
import torch
from support.linear_pixels import image_with_margins, two_classes

from certseg.attacks import DAG, PGD, Smoothing
from certseg.certifiers import SegCertify
from certseg.compute.hardware import Hardware
from certseg.errors import ConfigError, DataError, ModelError, ResultError
from certseg.evaluation import AttackStage, CertificationStage, MinimumNormStage, PredictionStage, evaluate
from certseg.metrics import ClassCounts
from certseg.types import L2, Sample

CPU = Hardware(device="cpu", noise_batch=16)
NAMES = ("dark", "bright")


class Images:
    """Small images of the linear-pixel model with a few unlabelled pixels."""

    name, split, class_names, palette = "images", "test", NAMES, ((0, 0, 0), (255, 255, 255))

    def __init__(self, count=4, names=None):
        self._names = tuple(names or (f"image/{i}" for i in range(count)))
        self.reads = []

    def __len__(self):
        return len(self._names)

    def names(self):
        return self._names

    def fingerprint(self):
        return "0"

    def __getitem__(self, index):
        self.reads.append(index)
        generator = torch.Generator().manual_seed(index)
        margins = torch.rand(6, 5, generator=generator) - 0.5
        target = (margins < 0).long()
        target[0, 0] = 255
        target[1] = 1 - target[1]
        return Sample(self._names[index], image_with_margins(two_classes(), margins), target)


class Memory:
    """A store that forgets at the end of the test."""

    def __init__(self):
        self.rows, self.maps = {}, {}

    def append(self, row):
        assert row["image"] in self.maps, "a row implies its map"
        self.rows[row["image"]] = row

    def read(self):
        return dict(self.rows)

    def save_map(self, name, **arrays):
        self.maps[name] = arrays

    def load_map(self, name):
        return self.maps[name]


def certification():
    return CertificationStage(SegCertify(sigma=0.25, n=60), two_classes(), NAMES, seed=0, hardware=CPU)


def stages():
    attack = PGD(steps=3, smoothing=Smoothing(0.25, samples=2, votes=50))
    return [
        PredictionStage(two_classes(), NAMES, CPU),
        certification(),
        AttackStage(
            "pgd",
            attack,
            L2(0.16),
            two_classes(),
            NAMES,
            settings={"steps": 3},
            seed=0,
            hardware=CPU,
        ),
    ]


@pytest.mark.parametrize("index", range(3))
def test_summaries_are_functions_of_rows_alone(index):
    stage, store, images = stages()[index], Memory(), Images()
    result = evaluate(stage, images, store)
    assert len(store.rows) == 4
    again = evaluate(stages()[index], Images(), store)
    assert again == result
    images.reads.clear()
    evaluate(stage, images, store)
    assert images.reads == []


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_without_a_network_a_stage_summarises_and_does_not_compute(kind):
    options = {"seed": 0, "hardware": CPU}
    stage = (
        lambda model: PredictionStage(model, NAMES, CPU),
        lambda model: CertificationStage(SegCertify(sigma=0.25, n=60), model, NAMES, **options),
        lambda model: AttackStage("pgd", PGD(steps=1), L2(0.16), model, NAMES, settings={}, **options),
        lambda model: MinimumNormStage("dag", DAG(iterations=2), model, NAMES, settings={}, **options),
    )[kind]
    rows = [stage(two_classes()).run(Images()[index])[0] for index in range(2)]
    assert stage(None).summarise(rows) == stage(two_classes()).summarise(rows)
    with pytest.raises(ConfigError, match="has no network"):
        stage(None).run(Images()[0])


def test_an_interrupted_evaluation_ends_as_an_uninterrupted_one():
    whole, broken = Memory(), Memory()
    reference = evaluate(certification(), Images(), whole)

    def stop(name):
        if name == "image/1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(certification(), Images(), broken, on_image=stop)
    assert len(broken.rows) == 2
    resumed = evaluate(certification(), Images(), broken)
    for part in ("figures", "class_iou", "passes", "images"):
        assert resumed[part] == reference[part]
    for name in whole.maps:
        assert all(np.array_equal(whole.maps[name][k], broken.maps[name][k]) for k in whole.maps[name])


def test_prediction_figures():
    store, images = Memory(), Images()
    result = evaluate(PredictionStage(two_classes(), NAMES, CPU), images, store)
    expected = []
    total = ClassCounts.zero(2)
    for index in range(4):
        sample = images[index]
        prediction = two_classes()(sample.image[None]).argmax(1)[0]
        labelled = sample.target != 255
        expected.append(float((prediction == sample.target)[labelled].float().mean()))
        total += ClassCounts.from_maps(prediction, sample.target, 2)
    assert result["figures"]["accuracy/image_mean"] == pytest.approx(np.mean(expected))
    assert result["figures"]["miou/pooled"] == pytest.approx(total.miou())
    assert result["passes"] == {"forward": 4, "backward": 0}


def test_certified_figures_hang_together():
    store, images = Memory(), Images()
    result = evaluate(certification(), images, store)
    figures = result["figures"]
    assert 0 < figures["certified_accuracy/image_mean"] < figures["prediction_accuracy/image_mean"] < 1
    assert figures["worst_case_miou/pooled"] <= figures["certified_miou/pooled"]
    assert figures["certified_accuracy/image_mean"] + figures["abstention/image_mean"] <= 1
    for index, name in enumerate(images.names()):
        target, maps = images[index].target.numpy(), store.maps[name]
        labelled = target != 255
        share = (maps["certified"] & (maps["classes"] == target))[labelled].mean()
        assert store.rows[name]["figures"]["certified_accuracy"] == pytest.approx(share)
        assert store.rows[name]["figures"]["abstention"] == pytest.approx((~maps["certified"])[labelled].mean())


def test_attack_rows_hold_norm_and_votes():
    store = Memory()
    evaluate(stages()[2], Images(), store)
    assert all(row["figures"]["norm"] <= 0.16 for row in store.rows.values())
    assert all(maps["num_votes"] == 50 for maps in store.maps.values())


def test_rows_of_other_images_do_not_enter_a_summary():
    store = Memory()
    evaluate(certification(), Images(4), store)
    two = evaluate(certification(), Images(2), store)
    assert two == evaluate(certification(), Images(2), Memory()) | {"seconds": two["seconds"]}


class Void(Images):
    """The first image has no label at all."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return Sample(sample.name, sample.image, torch.full_like(sample.target, 255)) if index == 0 else sample


def test_an_image_without_labels_enters_no_mean():
    store = Memory()
    with_void = evaluate(certification(), Void(), store)["figures"]
    assert math.isnan(store.rows["image/0"]["figures"]["certified_accuracy"])
    rows = [store.rows[f"image/{i}"]["figures"]["certified_accuracy"] for i in (1, 2, 3)]
    assert with_void["certified_accuracy/image_mean"] == pytest.approx(np.mean(rows))


def test_repeated_names_and_empty_sets_are_refused():
    with pytest.raises(DataError, match="differ"):
        evaluate(certification(), Images(names=["a", "a"]), Memory())
    with pytest.raises(DataError, match="no image"):
        evaluate(certification(), Images(0), Memory())


def test_a_store_that_loses_rows_is_noticed():
    class Forgetful(Memory):
        def append(self, row):
            pass

    with pytest.raises(ResultError, match="missing"):
        evaluate(certification(), Images(), Forgetful())


def test_nan_logits_name_the_image():
    model = two_classes()
    with torch.no_grad():
        model.bias[1] = float("nan")
    with pytest.raises(ModelError, match="image/0"):
        evaluate(PredictionStage(model, NAMES, CPU), Images(), Memory())


def test_a_certificate_at_several_radii_is_counted_at_each():
    taus = (0.6, 0.7, 0.75)

    def run(tau):
        certifier, store = SegCertify(sigma=0.25, tau=tau, n=60, correction="bonferroni"), Memory()
        stage = CertificationStage(certifier, two_classes(), NAMES, seed=0, hardware=CPU)
        return evaluate(stage, Images(), store), store, certifier

    joint, store, certifier = run(taus)
    alone = [run(tau)[0]["figures"] for tau in taus]  # of Bonferroni's level the others of a list take nothing
    assert [part["radius"] for part in joint["by_radius"]] == list(certifier.radii)
    for part, figures in zip(joint["by_radius"], alone, strict=True):
        assert {name: figures[name] for name in part if name != "radius"} == {
            k: v for k, v in part.items() if k != "radius"
        }
    assert {name: joint["figures"][name] for name in alone[2]} == alone[2]
    assert len({part["certified_accuracy/pooled"] for part in joint["by_radius"]}) == 3
    sample, row = Images()[0], store.rows["image/0"]
    maps = store.maps["image/0"]
    right, labelled = maps["classes"] == sample.target.numpy(), sample.target.numpy() != 255
    radii = np.array([0.0, *certifier.radii])[maps["steps"]]
    assert row["figures"]["certified_radius"] == pytest.approx(radii[right].sum() / labelled.sum())
