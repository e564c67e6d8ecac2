import numpy as np
import pytest
import torch
from support.brackets import Maps, certified, check_pixels
from support.linear_pixels import image_with_margins, two_classes

from certseg.attacks import PGD, Smoothing
from certseg.bracket.pixels import broken_pixels
from certseg.certifiers import SegCertify
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import BracketError

THREAT = {"norm": "l2", "radius": 0.2}
CERTIFIER = certified("segcertify", "smoothed(gaussian, sigma=0.25)", THREAT, confidence=0.999)
ATTACK = {"name": "pgd", "predictor": "smoothed(gaussian, sigma=0.25)", "threat": THREAT}


def certificate(classes, certified):
    return {"classes": np.array([classes]), "certified": np.array([certified], dtype=bool)}


def vote(kept, of=100):
    """Votes of class 0 (certified) against class 1 in a row of pixels."""
    votes = np.array([[kept], [[of - v for v in kept]]])
    return {"prediction": votes.argmax(0), "votes": votes, "num_votes": np.asarray(of)}


def test_a_network_breaks_a_certificate_by_any_change():
    maps = certificate([0, 1, 2], [True, True, False])
    assert broken_pixels(maps, {"prediction": np.array([[0, 1, 0]])}) == (0, 0)
    assert broken_pixels(maps, {"prediction": np.array([[0, 2, 2]])}) == (1, 0)


def test_votes_break_a_certificate_only_where_chance_cannot_explain_them():
    maps = certificate([0, 0, 0], [True, True, True])
    assert broken_pixels(maps, vote([90, 80, 70])) == (0, 0)
    assert broken_pixels(maps, vote([48, 40, 90])) == (0, 2)
    assert broken_pixels(maps, vote([48, 15, 90])) == (1, 0)


def test_many_pixels_outvoted_together_break_a_map_that_none_breaks_alone():
    count = 20000
    one = vote([20] + [90] * (count - 1))
    maps = certificate([0] * count, [True] * count)
    assert broken_pixels(maps, one) == (0, 1)
    assert broken_pixels(maps, vote([20] * count)) == (count, 0)


def test_votes_chosen_from_several_candidates_need_more_evidence():
    """One pixel: 26 of 100 votes have p = 8e-7, significant alone but not as the lowest of two candidates."""
    claimed, votes = certificate([0], [True]), vote([26])
    assert broken_pixels(claimed, votes) == (1, 0)
    assert broken_pixels(claimed, votes | {"candidates": np.asarray(2)}) == (0, 1)
    assert broken_pixels(claimed, vote([20]) | {"candidates": np.asarray(2)}) == (1, 0)


def test_votes_split_over_several_classes_count_against_the_certified_one():
    votes = np.full((12, 1, 1), 0)
    votes[1:11] = 10
    attacked = {"prediction": votes.argmax(0), "votes": votes, "num_votes": np.asarray(100)}
    assert broken_pixels(certificate([0], [True]), attacked) == (1, 0)


def test_correct_certificates_are_hardly_ever_accused():
    """Pixels right at probability 1/2, the worst a valid certificate allows: no accusation in many images."""
    rng = np.random.default_rng(0)
    maps = certificate([0] * 2000, [True] * 2000)
    for _ in range(50):
        assert broken_pixels(maps, vote(rng.binomial(100, 0.5, 2000).tolist()))[0] == 0
        assert broken_pixels(maps, vote([int(rng.binomial(100, 0.5))] * 2000))[0] == 0  # all pixels as one


def test_a_violation_is_an_error_that_names_the_image():
    certificates = Maps(a=certificate([0], [True]), b=certificate([0], [True]))
    attacked = Maps(a=vote([99]), b=vote([1]))
    with pytest.raises(BracketError, match="'b'"):
        check_pixels(CERTIFIER, certificates, ATTACK, attacked, ["a", "b"])
    result = check_pixels(CERTIFIER, certificates, ATTACK, attacked, ["a"])
    assert (result.images, result.certified_pixels, result.undecided_pixels) == (1, 1, 0)


@pytest.mark.parametrize(
    "change",
    [{"predictor": "base"}, {"threat": {"norm": "linf", "radius": 0.1}}, {"threat": {"norm": "l2", "radius": 0.21}}],
    ids=str,
)
def test_other_predictors_norms_and_larger_radii_are_not_compared(change):
    assert check_pixels(CERTIFIER, Maps(), {**ATTACK, **change}, Maps(), []) is None


def test_a_smaller_radius_is_compared():
    attack = {**ATTACK, "threat": {"norm": "l2", "radius": 0.1}}
    assert check_pixels(CERTIFIER, Maps(), attack, Maps(), []) is not None


@pytest.mark.parametrize("inflation", [1.0, 6.0])
def test_certifier_and_attack_agree_and_a_planted_fault_is_found(inflation):
    """An honest radius holds against the attack; one six times too large is caught on the linear model."""
    model, hardware, stream = two_classes(), Hardware(device="cpu", noise_batch=50), NoiseStream(0, "x")
    margins = torch.full((2, 3), 0.3)
    image = image_with_margins(model, margins)
    certifier = SegCertify(sigma=0.25, tau=0.75, n=200)
    result = certifier.certify(model, image, stream=stream, hardware=hardware)
    assert result.certified.all()
    claimed = type(result.threat)(certifier.radius * inflation)
    attack = PGD(steps=20, smoothing=Smoothing(sigma=0.25, samples=4, votes=200))
    attacked = attack(model, image, torch.zeros(2, 3).long(), claimed, stream=stream, hardware=hardware)
    summaries = [
        certified(name, result.predictor, {"norm": "l2", "radius": claimed.radius}) for name in ("segcertify", "pgd")
    ]
    maps = (
        Maps(x={"classes": result.classes.numpy(), "certified": result.certified.numpy()}),
        Maps(x={"prediction": attacked.prediction.numpy(), "votes": attacked.votes.numpy(), "num_votes": 200}),
    )
    if inflation == 1.0:
        assert check_pixels(summaries[0], maps[0], summaries[1], maps[1], ["x"]).certified_pixels == 6
    else:
        with pytest.raises(BracketError):
            check_pixels(summaries[0], maps[0], summaries[1], maps[1], ["x"])


@pytest.mark.parametrize(("radius", "compared"), [(0.05, 3), (0.1, 3), (0.11, 2), (0.2, 1)])
def test_an_attack_is_held_against_what_is_certified_at_its_own_radius(radius, compared):
    """Pixels certified within .1, .15 and .2 or at none: of the four, those are looked at that hold at the attack's."""
    maps = certificate([0] * 4, [False, False, True, False]) | {"steps": np.array([[1, 2, 3, 0]], dtype=np.uint8)}
    attack, radii = {**ATTACK, "threat": {"norm": "l2", "radius": radius}}, [0.1, 0.15, 0.2]
    found = check_pixels(CERTIFIER, Maps(a=maps), attack, Maps(a=vote([99, 99, 99, 1])), ["a"], radii)
    assert found.certified_pixels == compared
    for place, holds in enumerate((compared < 3, compared < 2, False, True)):
        votes = [99, 99, 99, 1]
        votes[place] = 1
        if holds:
            check_pixels(CERTIFIER, Maps(a=maps), attack, Maps(a=vote(votes)), ["a"], radii)
        else:
            with pytest.raises(BracketError, match="'a'"):
                check_pixels(CERTIFIER, Maps(a=maps), attack, Maps(a=vote(votes)), ["a"], radii)
