"""Objects certified to be kept against what attacks left of them."""

from dataclasses import replace

import pytest
import torch
from support.audited_pixels import CPU, AuditedPixels
from support.brackets import Maps, Stored, certified, changed, comparison_of
from support.linear_pixels import image_with_margins, two_classes

from certseg.attacks import APGD
from certseg.bracket import Finished, check_objects
from certseg.bracket import check as check_all
from certseg.certifiers import Lipschitz
from certseg.errors import BracketError
from certseg.evaluation import AttackStage, CertificationStage
from certseg.metrics import OBJECTS, ObjectSettings
from certseg.types import L2 as L2Ball
from certseg.types import Promise, Sample, Vanish

L2 = {"norm": "l2", "radius": 0.25}
CERTIFIER = certified("segcertify", "base", L2)
ATTACK = {"name": "pgd", "predictor": "base", "threat": L2}
REGIONS = {"pixels": 100, "classes": [1, 2], "areas": [10, 4]}


def certificate(certified_pixels, radii=None, share=0.5):
    counts = {**REGIONS, "hits": [10, 4], "certified": certified_pixels, "share": share}
    return Stored({"a": {OBJECTS: counts if radii is None else {**counts, "radii": radii}}})


def attacked(hits, norm=0.25, maps=None, **more):
    part = {OBJECTS: {**REGIONS, "hits": hits, **more}, "figures": {"norm": norm}}
    return Stored({"a": part}, Maps({"a": maps or {}}))


def check(certificates, attack, certifier=CERTIFIER, summary=ATTACK):
    return check_objects(comparison_of(certifier, summary), certificates, attack, ["a"])


def test_objects_that_are_kept_are_counted():
    assert check(certificate([5, 1]), attacked([5, 0])).objects == 1
    assert check(certificate([4, 1]), attacked([0, 0])).objects == 0, "what is not certified may be lost"


def test_a_planted_loss_is_a_violation():
    with pytest.raises(BracketError, match=r"image 'a' it lost 1 of the objects \(classes 1\)"):
        check(certificate([5, 1]), attacked([4, 4]))


def test_tolerated_pixels_are_taken_off_every_object():
    few = certified("segcertify", "base", L2, 0.99, Promise.ALL_BUT, tolerated=1)
    assert check(certificate([5, 3]), attacked([4, 3]), few).objects == 1
    with pytest.raises(BracketError, match="classes 2"):
        check(certificate([5, 3]), attacked([4, 1]), few)


def test_alerts_excuse_a_loss_where_the_certificate_says_so():
    alerting = certified("demasked", "base", L2, promise=Promise.UNTIL_ALERT)
    assert check(certificate([5, 0]), attacked([2, 0], alerted=[3, 0]), alerting).objects == 1
    with pytest.raises(BracketError):
        check(certificate([5, 0]), attacked([2, 0], alerted=[2, 0]), alerting)
    with pytest.raises(BracketError):
        check(certificate([5, 0]), attacked([2, 0], alerted=[3, 0]))


def test_an_object_keeps_its_own_radius_whatever_the_threat_is():
    large = {**ATTACK, "threat": {"norm": "l2", "radius": 2.0}}
    assert check(certificate([10, 4], [1.0, 0.0]), attacked([0, 0], norm=1.5), summary=large).objects == 0
    assert check(certificate([10, 4], [1.0, 0.0]), attacked([0, 0], norm=1.0), summary=large).objects == 0
    with pytest.raises(BracketError, match="classes 1"):
        check(certificate([0, 0], [1.0, 0.0]), attacked([0, 0], norm=0.99), summary=large)


def test_smaller_radii_of_an_attack_are_compared_too():
    summary = {
        **ATTACK,
        "threat": {"norm": "l2", "radius": 1.0},
        "by_radius": [{"radius": 0}, {"radius": 0.2}, {"radius": 1.0}],
    }

    def left(hits):
        row = attacked([0, 0], norm=1.0).read()["a"]
        unattacked, smaller = attacked([10, 4], norm=0.0), attacked(hits, norm=0.2)
        return Stored({"a": {**row, "radii": [part.read()["a"] for part in (unattacked, smaller)]}})

    assert check(certificate([5, 0]), left([5, 0]), summary=summary).objects == 1
    with pytest.raises(BracketError):
        check(certificate([5, 0]), left([4, 0]), summary=summary)


def test_the_smallest_perturbation_of_an_attack_is_compared_by_its_norm():
    summary = {**ATTACK, "threat": {"norm": "l2"}, "has_budget": False}

    def left(hits, distance):
        rows = attacked(hits).read()
        return Stored({"a": {**rows["a"], "smallest": {"distance": distance}}})

    assert check(certificate([5, 0]), left([5, 0], 0.2), summary=summary).objects == 1
    assert check(certificate([5, 0]), left([0, 0], 0.3), summary=summary) is None
    with pytest.raises(BracketError):
        check(certificate([5, 0]), left([4, 0], 0.2), summary=summary)
    with pytest.raises(BracketError):
        check(certificate([0, 0], [0.4, 0.0]), left([4, 0], 0.3), summary=summary)


def test_a_vote_decides_nothing_by_itself():
    found = check(certificate([5, 0]), attacked([4, 0], maps={"votes": 1}))
    assert (found.objects, found.undecided_objects) == (1, 1)


@pytest.mark.parametrize(
    ("certifier", "attack"),
    [
        (changed(CERTIFIER, predictor="presence"), ATTACK),
        (CERTIFIER, {**ATTACK, "threat": {"norm": "linf", "radius": 0.01}}),
        (CERTIFIER, {**ATTACK, "threat": {"norm": "l2", "radius": 0.3}}),
        (certified("segcertify", "base", L2, 0.0, Promise.ERROR_SHARE, error_share=0.1), ATTACK),
        (CERTIFIER | {"subject": "others"}, ATTACK),
    ],
)
def test_what_is_not_comparable_is_not_compared(certifier, attack):
    assert check(certificate([5, 0]), attacked([0, 0], norm=0.3), certifier, attack) is None


def test_rows_without_objects_are_not_compared():
    assert check(Stored({"a": {}}), attacked([0, 0])) is None


class Overconfident(AuditedPixels):
    """Linear pixels that claim half of their Lipschitz constant."""

    def certified_bound(self, size):
        bound = super().certified_bound(size)
        return replace(bound, constant=bound.constant / 2)


def finished(stage, samples):
    """A stage with its rows and maps, as the bracket sees it."""
    found = {sample.name: stage.run(sample) for sample in samples}
    rows = {name: row for name, (row, _) in found.items()}
    summary = {"name": stage.name, **stage.summarise(list(rows.values()))}
    maps = Maps({name: part for name, (_, part) in found.items()})
    return Finished(summary, Stored(rows, maps), stage.guarantee, stage.attempt)


@pytest.mark.parametrize("kind", [AuditedPixels, Overconfident])
def test_an_attack_that_makes_objects_vanish_finds_a_constant_that_is_too_small(kind):
    """The certified radius is far below that of the attack: only the radius of the object can be compared. Of its 80
    pixels, each .05 from the boundary, 41 have to fall: its radius is .05 sqrt(41), about .32."""
    honest = two_classes()
    network = kind(honest.weight.detach(), honest.bias.detach())
    sample = Sample("a", image_with_margins(honest, torch.full((8, 10), 0.05)), torch.zeros(8, 10).long())
    names, common = ("dark", "bright"), {"seed": 0, "hardware": CPU}
    certifier = CertificationStage(
        Lipschitz(radius=0.001, radii=()), network, names, objects=ObjectSettings(share=0.5), **common
    )
    attack = APGD(60, goal=Vanish((0,)), loss="masked_cross_entropy")
    budgets = {"radii": (0.3,), "settings": {}, "with_objects": True}
    attacker = AttackStage("vanish", attack, L2Ball(0.5), network, names, **budgets, **common)
    sides = finished(certifier, [sample]), finished(attacker, [sample])
    if kind is Overconfident:
        with pytest.raises(BracketError, match="objects"):
            check_all(*sides, ["a"])
    else:
        assert check_all(*sides, ["a"])["objects"] == 1, "at .3, and not at .5, where it may be lost"
