"""The one rule of what may be compared: properties over random pairs, and planted violations of every kind."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.brackets import Maps, Stored, comparison_of

from certseg.bracket import Comparison, Finished, check
from certseg.errors import BracketError, ConfigError, ResultError
from certseg.metrics import CertifiedCounts, ClassCounts
from certseg.types import L1, L2, Attempt, Guarantee, Linf, Patch, Promise, Unbounded

SIZES = st.floats(1e-4, 10.0)
BALLS = st.builds(lambda kind, radius: kind(radius), st.sampled_from([L1, L2, Linf]), SIZES)
PATCHES = st.one_of(
    st.builds(
        lambda height, width, count: Patch(height=height, width=width, count=count),
        st.integers(1, 9),
        st.integers(1, 9),
        st.integers(1, 3),
    ),
    st.builds(
        lambda share, aspect, count: Patch(share=share, aspect=aspect, count=count),
        st.floats(0.001, 0.05),
        st.sampled_from([None, 0.5, 2.0]),
        st.integers(1, 3),
    ),
)
THREATS = st.one_of(BALLS, PATCHES)
MODELS = st.sampled_from(["base", "smoothed(gaussian, sigma=0.25)", "verified(3 columns)"])
IMAGE = (60, 80)


def guarantee(promise, predictor, threat):
    details = {
        Promise.ALL_BUT: {"tolerated": 3},
        Promise.ERROR_SHARE: {"error_share": 0.05, "confidence": 0.0},
    }.get(promise, {})
    return Guarantee(promise, predictor, threat, **{"confidence": 1.0, **details})


GUARANTEES = st.builds(guarantee, st.sampled_from(Promise), MODELS, THREATS)
ATTEMPTS = st.builds(Attempt, MODELS, THREATS)


@given(GUARANTEES)
def test_a_guarantee_is_compared_with_its_own_threat(promised):
    comparison = Comparison.of(promised, Attempt(promised.predictor, promised.threat))
    assert bool(comparison.levels()) == promised.covers_images
    assert comparison.is_level == promised.covers_images
    assert comparison.is_possible == promised.covers_images
    assert comparison.bounds_accuracy == (promised.promise not in (Promise.ERROR_SHARE, Promise.UNTIL_ALERT))


@given(GUARANTEES, ATTEMPTS)
def test_other_predictors_and_other_subjects_are_never_compared(promised, attempt):
    pairs = [Comparison.of(promised, attempt, subjects=(("weights", 1), ("weights", 2)))]
    if promised.predictor != attempt.predictor:
        pairs.append(Comparison.of(promised, attempt))
    for comparison in pairs:
        asked = (comparison.is_possible, comparison.by_image, comparison.is_level, comparison.is_of_norms)
        assert not any(asked)
        assert comparison.levels() == comparison.levels(IMAGE) == ()


@given(GUARANTEES, THREATS, THREATS)
def test_what_lies_within_a_compared_threat_is_compared(promised, one, other):
    """Containment is respected: whoever is weaker than a compared attacker is compared too."""
    attempts = [Attempt(promised.predictor, threat) for threat in (one, other)]
    if one.contains(other, IMAGE) and Comparison.of(promised, attempts[0]).levels(IMAGE):
        assert Comparison.of(promised, attempts[1]).levels(IMAGE)


@given(THREATS, THREATS, THREATS)
def test_containment_is_an_order_on_one_image(one, two, three):
    assert one.contains(one, IMAGE)
    if one.contains(two, IMAGE) and two.contains(three, IMAGE):
        assert one.contains(three, IMAGE)
    if one.contains(two):
        assert one.contains(two, IMAGE)  # what holds on every image holds on this one


@given(BALLS, st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4, unique=True))
def test_of_several_radii_those_inside_are_compared(threat, shares):
    """The attack's largest radius is twice the certified one, the smaller ones are shares of the certified one."""
    radii = tuple(sorted(share * threat.radius for share in shares))
    attempt = Attempt("base", threat.scaled_to(2 * threat.radius), (0.0, *radii))
    promised = guarantee(Promise.EVERY_PIXEL, "base", threat)
    levels = Comparison.of(promised, attempt).levels()
    assert [level.suffix for level in levels] == [f"_{place}" for place in range(1, len(radii) + 1)]
    assert [level.threat.radius for level in levels] == list(radii)


@given(GUARANTEES, ATTEMPTS)
def test_an_obstacle_is_told_exactly_where_nothing_can_be_compared(promised, attempt):
    comparison = Comparison.of(promised, attempt)
    if comparison.is_possible:
        assert comparison.obstacle == ""
    if promised.predictor != attempt.predictor:
        assert promised.predictor in comparison.obstacle
        assert attempt.predictor in comparison.obstacle
    elif not promised.covers_images or promised.threat.norm != attempt.threat.norm:
        assert comparison.obstacle
    else:
        assert not comparison.obstacle


@given(GUARANTEES)
def test_a_guarantee_survives_its_summary(promised):
    assert Guarantee.from_json(promised.to_json()) == promised


@given(GUARANTEES, ATTEMPTS)
def test_summaries_give_the_same_comparison_as_objects(promised, attempt):
    attack = {"name": "a", "predictor": attempt.predictor, "threat": attempt.threat.to_json()}
    read = comparison_of({"name": "c", "guarantee": promised.to_json()}, attack)
    made = Comparison.of(promised, attempt)
    assert read.levels(IMAGE) == made.levels(IMAGE)
    assert (read.is_level, read.by_image) == (made.is_level, made.by_image)


def test_a_smallest_perturbation_is_compared_by_its_norm():
    promised = guarantee(Promise.EVERY_PIXEL, "base", L2(0.25))
    comparison = Comparison.of(promised, Attempt("base", Unbounded("l2")))
    assert comparison.is_of_norms
    assert not comparison.is_possible  # there is no budget to compare at
    assert [comparison.covers(distance) for distance in (0.0, 0.25, 0.2500001)] == [True, True, False]
    assert not Comparison.of(promised, Attempt("base", Unbounded("linf"))).is_of_norms
    assert not Comparison.of(guarantee(Promise.ERROR_SHARE, "base", L2(0.25)), comparison.attempt).is_of_norms


@pytest.mark.parametrize(
    ("promise", "details"),
    [
        (Promise.EVERY_PIXEL, {"confidence": 0.0}),
        (Promise.EVERY_PIXEL, {"confidence": 1.5}),
        (Promise.EVERY_PIXEL, {"tolerated": 1}),
        (Promise.ALL_BUT, {"tolerated": 0}),
        (Promise.ERROR_SHARE, {"confidence": 0.9, "error_share": 0.1}),
        (Promise.ERROR_SHARE, {"confidence": 0.0}),
        (Promise.UNTIL_ALERT, {"error_share": 0.1}),
    ],
    ids=str,
)
def test_numbers_that_do_not_fit_a_promise_are_refused(promise, details):
    with pytest.raises(ConfigError):
        Guarantee(promise, "base", L2(0.1), **{"confidence": 1.0, **details})


def test_a_summary_without_a_guarantee_is_refused():
    with pytest.raises(ResultError, match="Run the command again"):
        comparison_of({"name": "c"}, {"name": "a", "predictor": "base", "threat": {"norm": "l2"}})


# --- planted violations, each found through the one door -------------------------------------------------------------

TARGET = np.array([[0, 0, 1, 1]])


def finished(promise=Promise.EVERY_PIXEL, certified=(1, 1, 1, 0), prediction=(0, 0, 1, 0), **attacked):
    """A certifier and an attack on one image, as a run leaves them; ``attacked`` are further maps."""
    import torch

    maps = {"classes": TARGET, "certified": np.array([certified], dtype=bool)}
    kept = CertifiedCounts.from_maps(torch.tensor(TARGET), torch.tensor(maps["certified"]), torch.tensor(TARGET), 2)
    left = ClassCounts.from_maps(torch.tensor([prediction]), torch.tensor(TARGET), 2)
    averages = ("accuracy/image_mean", "accuracy/pooled")
    below = {f"certified_{name}": kept.accuracy() for name in averages} | {"worst_case_miou/pooled": 0.0}
    above = {f"attacked_{name}": left.accuracy() for name in averages} | {"attacked_miou/pooled": left.miou()}
    certificate = Finished(
        {"name": "certifier", "figures": below},
        Stored({"x": {"figures": {}, "counts": {"certified": kept.to_json()}}}, Maps(x=maps)),
        guarantee=guarantee(promise, "base", L2(0.25)),
    )
    attack = Finished(
        {"name": "attack", "figures": above},
        Stored({"x": {"counts": left.to_json()}}, Maps(x={"prediction": np.array([prediction]), **attacked})),
        attempt=Attempt("base", L2(0.25)),
    )
    return certificate, attack


def test_what_agrees_is_counted():
    found = check(*finished(), ["x"])
    assert (found["violations"], found["certified_pixels"]) == (0, 3)
    assert found["bounds"] > 0


def test_a_changed_certified_pixel_is_found():
    with pytest.raises(BracketError, match="attack contradicts certifier at 1 pixels of image 'x'"):
        check(*finished(prediction=(1, 0, 1, 1)), ["x"])


def test_a_changed_pixel_without_an_alert_is_found():
    alerts = {"alerts": np.array([[1, 0, 0, 0]], dtype=bool)}
    assert check(*finished(Promise.UNTIL_ALERT, prediction=(1, 0, 1, 1), **alerts), ["x"])["alerted_pixels"] == 1
    with pytest.raises(BracketError, match="without an alert"):
        check(*finished(Promise.UNTIL_ALERT, prediction=(1, 1, 1, 1), **alerts), ["x"])


def test_more_changed_pixels_than_are_tolerated_are_found():
    assert check(*finished(Promise.ALL_BUT, prediction=(1, 1, 0, 1)), ["x"])["violations"] == 0
    certificate, attack = finished(Promise.ALL_BUT, certified=(1, 1, 1, 1), prediction=(1, 1, 0, 0))
    with pytest.raises(BracketError, match="at 1 pixels"):
        check(certificate, attack, ["x"])


def test_an_undercut_bound_is_found_where_no_pixel_changed():
    """The rows of the attack say less than its maps."""
    certificate, attack = finished()
    attack.store.rows["x"]["counts"]["true_positive"] = [0, 1]
    with pytest.raises(BracketError, match="left correct pixels 1 of image 'x'"):
        check(certificate, attack, ["x"])


def test_a_norm_below_a_certified_radius_is_found():
    certificate, attack = finished(certified=(0, 0, 0, 0), prediction=(1, 1, 1, 1))
    certificate.store.rows["x"]["figures"]["robustness@50"] = 0.4
    smallest = {"distance": 0.5, "changed": 2, "labelled": 4}
    attack.store.rows["x"]["smallest"] = smallest
    unbounded = Finished(attack.summary, attack.store, attempt=Attempt("base", Unbounded("l2")))
    assert check(certificate, unbounded, ["x"])["norms"] == 1
    smallest["distance"] = 0.39
    with pytest.raises(BracketError, match=r"robustness@50 = 0\.4"):
        check(certificate, unbounded, ["x"])


def test_nothing_is_compared_for_an_average_or_for_two_of_a_kind():
    certificate, attack = finished(Promise.ERROR_SHARE, prediction=(1, 1, 0, 0))
    for one, other in itertools.product((certificate, attack), repeat=2):
        assert check(one, other, ["x"]) == {}


def test_what_is_promised_of_all_pixels_together_is_held_against_the_attack():
    certificate, attack = finished(Promise.COLLECTIVE, certified=(0, 0, 0, 0), prediction=(1, 0, 1, 1))
    figures = certificate.store.rows["x"]["figures"]
    attack.store.rows["x"]["figures"] = {"attacked_accuracy": 0.75}
    assert check(certificate, attack, ["x"]) == {}  # there is nothing that it promises
    figures["certified_collective_accuracy"] = 0.75
    assert check(certificate, attack, ["x"]) == {"violations": 0, "bounds": 1}
    figures["certified_collective_accuracy"] = 0.76
    with pytest.raises(BracketError, match=r"left accuracy 0\.75 of image 'x'"):
        check(certificate, attack, ["x"])


class Region(L2):
    """A ball that its author restricts to a region, and calls by the name of the whole one."""


def test_a_threat_is_its_class_and_not_its_name():
    assert not Region(0.1).contains(L2(0.05))
    assert not L2(0.1).contains(Region(0.05))
    assert not Unbounded("l2").contains(Region(0.05))
    with pytest.raises(ConfigError, match="Region is called 'l2'"):
        guarantee(Promise.EVERY_PIXEL, "base", Region(0.1))


def test_votes_are_left_to_the_comparison_of_pixels():
    """Outvoted by chance at one pixel: no violation, and no bound that would make one of it."""
    certificate, attack = finished(prediction=(1, 0, 1, 1))
    votes = np.array([[[49, 90, 10, 10]], [[51, 10, 90, 90]]])
    attack.store.maps["x"] |= {"votes": votes, "num_votes": np.asarray(100)}
    found = check(certificate, attack, ["x"])
    assert (found["undecided_pixels"], found.get("bounds")) == (1, None)
