"""Bounds on whole images against attacks: a wrong constant is found even where no pixel is certified on its own."""

import copy

import pytest
import torch
from support.audited_pixels import CPU, NAMES, AuditedPixels, Images, three_classes
from support.brackets import changed as promised
from support.brackets import check_bounds, check_pixels

from certseg.attacks import PGD
from certseg.certifiers import Lipschitz
from certseg.compute.streams import NoiseStream
from certseg.errors import BracketError
from certseg.evaluation import AttackStage, CertificationStage, evaluate
from certseg.reporting import Entry, RowStore, bracket_status
from certseg.types import L2, Linf, LipschitzBound


class Understated(AuditedPixels):
    """Claims a third of its constant."""

    def certified_bound(self, size):
        bound = super().certified_bound(size)
        return LipschitzBound(bound.constant / 3, head=bound.head, slack=bound.slack)


def run(directory, kind=AuditedPixels, radius=2.0, threat=None, steps=30, attacked_radii=(), radii=()):
    plain = three_classes()
    model, images = kind(plain.weight.data, plain.bias.data), Images()
    stages = (
        CertificationStage(Lipschitz(radius=radius, radii=radii), model, NAMES, seed=0, hardware=CPU),
        AttackStage(
            "pgd",
            PGD(steps=steps),
            threat or L2(radius),
            model,
            NAMES,
            settings={},
            seed=0,
            hardware=CPU,
            radii=attacked_radii,
        ),
    )
    stores = [RowStore(directory / stage.name, identity={"stage": stage.name}) for stage in stages]
    summaries = [evaluate(stage, images, store) for stage, store in zip(stages, stores)]
    return summaries, stores, images.names()


def compare(summaries, stores, names):
    return check_bounds(summaries[0], stores[0].read(), summaries[1], stores[1].read(), names)


def status(summaries, stores, names):
    pixels = check_pixels(summaries[0], stores[0], summaries[1], stores[1], names)
    figures = {
        "bracket/violations": 0,
        "bracket/certified_pixels": pixels.certified_pixels,
        "bracket/undecided_pixels": 0,
        "bracket/bounds": compare(summaries, stores, names),
    }
    attack = {**summaries[1], "figures": summaries[1]["figures"] | figures}
    return bracket_status([Entry(summaries[0]), Entry(attack)])


def test_an_understated_constant_is_found_without_a_certified_pixel(tmp_path):
    results = run(tmp_path / "wrong", Understated)
    (certified, attacked), stores, names = results
    assert check_pixels(certified, stores[0], attacked, stores[1], names).certified_pixels == 0
    assert (
        certified["figures"]["certified_collective_accuracy/image_mean"]
        > (attacked["figures"]["attacked_accuracy/image_mean"])
    )
    with pytest.raises(BracketError, match=r"correct pixels .* of image 'image/0'"):
        compare(*results)


def test_a_true_constant_holds_and_what_was_compared_is_told(tmp_path):
    results = run(tmp_path, radius=1.2)
    assert compare(*results) > 3
    assert status(*results).startswith("holds: no pixel is certified alone, none of ")
    assert "bounds on images was undercut" in status(*results)


def test_where_nothing_is_certified_nothing_is_said_to_hold(tmp_path):
    results = run(tmp_path, radius=15.0, steps=2)
    assert compare(*results) == 0
    assert status(*results) == "nothing to compare: no pixel is certified"


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    return run(tmp_path_factory.mktemp("rows"), radius=0.3, steps=8, attacked_radii=(0.0, 0.1), radii=[0.0, 0.15, 1.0])


def test_every_radius_is_compared_with_the_next_certified_one(several):
    (certified, attacked), _, names = several
    assert [entry["radius"] for entry in certified["by_radius"]] == [0.0, 0.15, 0.3, 1.0]
    each = 1 + 3 + 3 + 1  # correct pixels, those and the IoU of each class, mean IoU
    pooled = 1 + 3 + 2
    assert compare(*several) == 2 * (each * len(names) + pooled)  # at 0.1 and 0.3: radius 0 is no attack
    assert status(*several).startswith("holds on every image checked: no certified pixel changed, none of ")
    alone = copy.deepcopy(certified)
    alone["by_radius"] = [entry for entry in certified["by_radius"] if entry["radius"] == 0.15]
    lower = copy.deepcopy(attacked)
    lower["threat"]["radius"] = 0.5
    del lower["by_radius"]
    assert compare([alone, lower], *several[1:]) is None


def changed(rows, level, edit):
    rows = copy.deepcopy(rows)
    part = rows["image/1"] if level is None else rows["image/1"]["radii"][level]
    edit(part["counts"])
    return rows


def lose_everything(counts):
    counts["true_positive"] = [0, 0, 0]


def lose_a_class(counts):
    """Class 1 goes; the other classes make up for it."""
    counts["true_positive"] = [counts["target"][0], 0, counts["target"][2]]


def enter_a_class(counts):
    counts["predicted"][0] += 500


@pytest.mark.parametrize("level", [None, 1])
@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lose_everything, "left correct pixels 0 of image 'image/1'"),
        (lose_a_class, r"left correct pixels of class 1 0 of image"),
        (enter_a_class, r"left IoU of class 0 .* of image"),
    ],
    ids=["all", "class", "iou"],
)
def test_each_bound_can_be_undercut(several, level, edit, words):
    (certified, attacked), stores, names = several
    rows, known = changed(stores[1].read(), level, edit), copy.deepcopy(stores[0].read())
    if edit is lose_a_class:
        known["image/1"]["counts"]["lipschitz"]["collective"] = [0, 0, 0, 0]
    with pytest.raises(BracketError, match=words):
        check_bounds(certified, known, attacked, rows, names)


def test_bounds_over_the_data_set_can_be_undercut(several):
    (certified, attacked), stores, names = several
    for name, words in (("worst_case_miou/pooled", "mean IoU"), ("certified_collective_accuracy/pooled", "accuracy")):
        higher = copy.deepcopy(certified)
        for entry in higher["by_radius"]:
            entry[name] = 0.999
        with pytest.raises(BracketError, match=f"left {words} .* of the 3 images together"):
            check_bounds(higher, stores[0].read(), attacked, stores[1].read(), names)
    higher = copy.deepcopy(certified)
    higher["by_radius"][1]["class_iou"]["bright"] = 0.999
    with pytest.raises(BracketError, match=r"left IoU of bright .* less than"):
        check_bounds(higher, stores[0].read(), attacked, stores[1].read(), names)
    mixture = copy.deepcopy(attacked)
    mixture["figures"]["attacked_miou/pooled"] = 0.0
    with pytest.raises(BracketError, match="left mean IoU 0 of the 3 images"):
        check_bounds(certified, stores[0].read(), mixture, stores[1].read(), names)


def test_mean_iou_of_an_image_and_members_are_compared(several):
    (certified, attacked), stores, names = several
    rows = copy.deepcopy(stores[0].read())
    rows["image/2"]["counts"]["lipschitz"]["worst_miou"][2] = 0.999
    with pytest.raises(BracketError, match=r"left mean IoU .* of image 'image/2'"):
        check_bounds(certified, rows, attacked, stores[1].read(), names)
    found = copy.deepcopy(stores[1].read())
    for row in found.values():
        row["members"] = {"one": {"counts": copy.deepcopy(row["counts"])}}
        row["radii"] = [part | {"members": {"one": {"counts": part["counts"]}}} for part in row["radii"]]
    found["image/0"]["members"]["one"]["counts"]["true_positive"] = [0, 0, 0]
    with pytest.raises(BracketError, match="'image/0'"):
        check_bounds(certified, stores[0].read(), attacked, found, names)


def test_what_may_not_be_compared(several, tmp_path):
    (certified, attacked), stores, names = several
    rows = stores[0].read(), stores[1].read()
    assert check_bounds(promised(certified, predictor="other"), rows[0], attacked, rows[1], names) is None
    assert check_bounds(promised(certified, confidence=0.999), rows[0], attacked, rows[1], names) is None
    without = {name: row | {"counts": {"certified": row["counts"]["certified"]}} for name, row in rows[0].items()}
    assert check_bounds(certified, without, attacked, rows[1], names) > 0  # by the certified pixels themselves
    other = run(tmp_path, radius=0.3, threat=Linf(0.01), steps=2)
    assert compare(*other) is None


def test_the_map_of_radii_is_kept_of_pictured_images_only():
    model, sample = three_classes(), Images()[0]
    for pictured, kept in ((None, True), ([sample.name], True), ([], False)):
        stage = CertificationStage(Lipschitz(radius=0.3), model, NAMES, seed=0, hardware=CPU, pictured=pictured)
        row, maps = stage.run(sample)
        assert ("radii" in maps) == kept
    maps = CertificationStage(Lipschitz(radius=0.3), model, NAMES, seed=0, hardware=CPU).run(sample)[1]
    exact = Lipschitz(radius=0.3).certify(model, sample.image, stream=NoiseStream(0, "x"), hardware=CPU).radii
    assert maps["radii"].dtype == "float32"
    assert (torch.from_numpy(maps["radii"]).double() <= exact).all()
    assert torch.allclose(torch.from_numpy(maps["radii"]).double(), exact, rtol=1e-6)
    assert ((maps["radii"] > 0.3) <= maps["certified"]).all()
    right = (torch.from_numpy(maps["classes"]).long() == sample.target)[sample.target != 255]
    mean = float((exact[sample.target != 255] * right).mean())
    assert row["figures"]["certified_radius"] == pytest.approx(mean)
