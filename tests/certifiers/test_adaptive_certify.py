"""AdaptiveCertify: the rule, the test, the figures, the bracket."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.brackets import Maps, certified, check_pixels
from support.planted_classes import PlantedClasses, row

from certseg.bracket.pixels import broken_pixels
from certseg.certifiers import AdaptiveCertify, SegCertify
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import BracketError, ConfigError
from certseg.evaluation import CertificationStage
from certseg.metrics import CertifiedCounts, GroupCounts, worst_case_miou
from certseg.types import Sample
from certseg.types.hierarchy import Hierarchy

CPU = Hardware(device="cpu", noise_batch=50)
CLASSES = ("road", "pole", "car", "truck", "sky")
LEVELS = ({"vehicle": ["car", "truck"]}, {"obstacle": ["pole", "vehicle"]})
HIERARCHY = Hierarchy.of(CLASSES, LEVELS)
# road | car | car or truck | pole, car or truck | pole, seldom car | anything | road or sky
PIXELS = row(
    (1, 0, 0, 0, 0),
    (0, 0, 1, 0, 0),
    (0, 0, 0.5, 0.5, 0),
    (0, 0.4, 0.3, 0.3, 0),
    (0, 0.98, 0.02, 0, 0),
    (0.2, 0.2, 0.2, 0.2, 0.2),
    (0.5, 0, 0, 0, 0.5),
)


def adaptive(levels=LEVELS, **options):
    return AdaptiveCertify(hierarchy=levels, class_names=CLASSES, **{"sigma": 0.25, "n0": 40, **options})


def certify(certifier, probabilities=PIXELS, name="x"):
    model = PlantedClasses(probabilities)
    return certifier.certify(model, model.image, stream=NoiseStream(0, name), hardware=CPU)


def random_probabilities(seed, shape=(6, 9)):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.dirichlet([0.25] * len(CLASSES), shape)).permute(2, 0, 1)


@pytest.mark.parametrize("options", [{}, {"stopping": "anytime", "n": 300}, {"correction": "kfwer", "k": 3}], ids=str)
def test_without_coarser_levels_it_is_segcertify(options):
    flat, plain = certify(adaptive((), **options)), certify(SegCertify(sigma=0.25, n0=40, **options))
    assert torch.equal(flat.certified, plain.certified)
    assert torch.equal(flat.classes, plain.classes)
    assert flat.passes == plain.passes
    assert flat.hierarchy == (CLASSES,)
    assert not flat.levels.any()
    assert (plain.levels, plain.hierarchy) == (None, None)


@pytest.mark.parametrize("stopping", ["fixed", "curtailed", "anytime"])
@pytest.mark.parametrize("correction", ["holm", "bonferroni"])
def test_a_pixel_is_certified_on_the_level_on_which_it_is_stable(stopping, correction):
    result = certify(adaptive(stopping=stopping, correction=correction))
    assert result.certified.tolist() == [[True, True, True, True, True, False, False]]
    groups = HIERARCHY.ids(result.classes, result.levels)[result.certified]
    assert [HIERARCHY.groups[group] for group in groups] == ["road", "car", "vehicle", "obstacle", "pole"]
    assert result.levels[0, :5].tolist() == [0, 0, 1, 2, 0]
    assert result.levels.dtype == torch.uint8
    assert result.hierarchy == HIERARCHY.names
    assert not certify(SegCertify(sigma=0.25, n0=40)).certified[0, 2:4].any()


def rule(counts, n0, leads):
    """The rule for one pixel, spelled out: the chosen group as a set of classes, and its most frequent class."""
    for level, names in enumerate(HIERARCHY.names):
        votes = {name: sum(c for c, other in zip(counts, names) if other == name) for name in names}
        first, *others = sorted(votes, key=lambda name: (-votes[name], HIERARCHY.groups.index(name)))
        if level == HIERARCHY.num_levels - 1 or (votes[first] - votes[others[0]]) / n0 > leads[level]:
            group = [k for k, name in enumerate(names) if name == first]
            return set(group), max(group, key=lambda k: counts[k])


@pytest.mark.parametrize("lead", [0.0, 0.3, (0.6, 0.2)])
def test_the_level_follows_the_rule_and_the_first_samples_alone(lead):
    n0, rng = 10, np.random.default_rng(0)
    counts = torch.from_numpy(rng.multinomial(n0, rng.dirichlet([0.3] * 5, 400)).T.reshape(5, 20, 20)).int()
    counts[:, 0, 0] = 0  # every sample was tied
    leads = (lead,) * 2 if isinstance(lead, float) else lead
    guess = adaptive(lead=lead, n0=n0)._guess(counts)
    classes, levels = guess.classes, guess.levels
    ids = HIERARCHY.ids(classes, levels)
    assert torch.equal(guess.choice, ids)
    for i in range(20):
        for j in range(20):
            group, top = rule(counts[:, i, j].tolist(), n0, leads)
            assert set(HIERARCHY.members[ids[i, j]].nonzero().flatten().tolist()) == group
            assert int(classes[i, j]) == top
    assert (levels == HIERARCHY.levels[ids]).all()  # a class alone on a coarser level is a class
    assert len(levels.unique()) == 3


def test_kept_samples_give_the_same_certificates_and_know_what_was_guessed():
    model = PlantedClasses(random_probabilities(0))
    kept = adaptive(n=150).sample(model, model.image, stream=NoiseStream(0, "x"), hardware=CPU)
    for tau in (0.6, 0.9):
        certifier = adaptive(tau=tau, n=150)
        direct, reused = certify(certifier, random_probabilities(0)), certifier.from_samples(kept)
        for part in ("certified", "classes", "levels"):
            assert torch.equal(getattr(direct, part), getattr(reused, part))
        assert direct.hierarchy == reused.hierarchy
    identities = [
        adaptive(**options).samples_identity for options in ({}, {"lead": 0.5}, {"levels": LEVELS[:1]}, {"levels": ()})
    ]
    identities.append(SegCertify(sigma=0.25, n0=40).samples_identity)
    assert all(one != other for i, one in enumerate(identities) for other in identities[:i])
    assert adaptive(stopping="anytime").sampling() is None


def test_curtailed_decides_as_the_fixed_test_does():
    probabilities = random_probabilities(1)
    fixed, early = (certify(adaptive(n=200, stopping=s), probabilities) for s in ("fixed", "curtailed"))
    assert torch.equal(fixed.certified, early.certified)
    assert fixed.certified.any()
    assert early.samples <= fixed.samples


def test_what_is_claimed():
    assert "every certified pixel" in adaptive().guarantee.statement()
    assert "most likely group" in adaptive().guarantee.statement()
    assert "all certified pixels but at most 4" in adaptive(correction="kfwer", k=5).guarantee.statement()
    assert "false discovery rate" in adaptive(correction="benjamini_yekutieli").guarantee.statement()
    assert adaptive().predictor == SegCertify(sigma=0.25).predictor  # what an attack of it is compared with
    assert adaptive().settings["hierarchy"] == "vehicle = car + truck; obstacle = pole + vehicle"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lead": 1.0}, "lead"),
        ({"lead": -0.1}, "lead"),
        ({"lead": (0.5,)}, "2 numbers"),
        ({"lead": "half"}, "lead"),
        ({"lead": True}, "lead"),
        ({"levels": None}, "segcertify"),
        ({"levels": [{"a": ["car", "tram"]}]}, "'tram'"),
        ({"tau": 0.4}, "tau"),
    ],
    ids=str,
)
def test_bad_settings(options, words):
    with pytest.raises(ConfigError, match=words):
        adaptive(**options)


def test_a_model_with_other_classes_is_refused():
    with pytest.raises(ConfigError, match="5 classes"):
        certify(adaptive(), row((0.5, 0.5)))


# --- figures ---------------------------------------------------------------------------------------------------------


def random_maps(seed, shape=(7, 11)):
    rng = np.random.default_rng(seed)
    classes, target = (torch.from_numpy(rng.integers(0, 5, shape)) for _ in range(2))
    target[torch.from_numpy(rng.random(shape) < 0.2)] = 255
    levels = HIERARCHY.levels[HIERARCHY.ids(classes, torch.from_numpy(rng.integers(0, 3, shape)))]
    return classes, levels, torch.from_numpy(rng.random(shape) < 0.7), target


def test_the_figures_of_groups_agree_with_a_loop_over_pixels():
    classes, levels, certified, target = random_maps(0)
    gain, right, shares, labelled = 0.0, 0, [0, 0, 0], 0
    for c, level, kept, t in zip(*(part.flatten().tolist() for part in (classes, levels, certified, target))):
        labelled += t != 255
        if t != 255 and kept:
            names = HIERARCHY.names[level]
            shares[level] += 1
            if names[t] == names[c]:
                right += 1
                gain += (math.log(5) - math.log(names.count(names[c]))) / math.log(5)
    counts = GroupCounts.from_maps(classes, levels, certified, target, HIERARCHY)
    assert counts.information_gain() == pytest.approx(gain / labelled)
    assert counts.accuracy() == pytest.approx(right / labelled)
    assert counts.by_level() == pytest.approx([share / labelled for share in shares])
    assert counts.abstention() == pytest.approx(1 - sum(shares) / labelled)


def test_counts_of_groups_add_up_and_survive_json():
    parts = [random_maps(seed) for seed in range(3)]
    one, *others = (GroupCounts.from_maps(*part, HIERARCHY) for part in parts)
    total = sum(others, one)
    assert GroupCounts.from_json(total.to_json()).to_json() == total.to_json()
    pooled = GroupCounts.from_maps(*(torch.cat(maps) for maps in zip(*parts)), HIERARCHY)
    assert pooled.to_json() == total.to_json()


def test_the_gain_of_single_classes_is_their_certified_accuracy_and_void_has_none():
    classes, levels, certified, target = random_maps(1)
    counts = GroupCounts.from_maps(classes, torch.zeros_like(levels), certified, target, HIERARCHY)
    plain = CertifiedCounts.from_maps(classes, certified, target, 5)
    assert counts.information_gain() == counts.accuracy() == pytest.approx(plain.accuracy())
    assert counts.abstention() == pytest.approx(plain.abstention())
    void = GroupCounts.from_maps(classes, levels, certified, torch.full_like(target, 255), HIERARCHY)
    assert all(np.isnan(value) for value in (void.information_gain(), void.accuracy(), void.abstention()))


def test_only_single_classes_are_fixed_in_the_figures_of_classes():
    """A group leaves its class open to the attacker: rows, mean IoUs and the worst case take it for an abstention."""
    model, target = PlantedClasses(PIXELS), torch.tensor([[0, 2, 3, 1, 1, 0, 255]])
    stage = CertificationStage(adaptive(), model, CLASSES, seed=0, hardware=CPU)
    row_, maps = stage.run(Sample("x", model.image, target))
    figures = row_["figures"]
    assert figures["certified_accuracy"] == pytest.approx(3 / 6)
    assert figures["certified_group_accuracy"] == pytest.approx(5 / 6)
    gains = 3 + (1 - math.log(2) / math.log(5)) + (1 - math.log(3) / math.log(5))
    assert figures["certified_information_gain"] == pytest.approx(gains / 6)
    assert figures["group_abstention"] == pytest.approx(1 / 6)
    assert [figures[f"level_{level}_share"] for level in range(3)] == pytest.approx([3 / 6, 1 / 6, 1 / 6])
    certified = CertifiedCounts.from_json(row_["counts"]["certified"])
    assert certified.free.tolist() == [1, 1, 0, 1, 0]
    summary = stage.summarise([row_])
    assert summary["figures"]["worst_case_miou/pooled"] == worst_case_miou(certified)
    assert summary["figures"]["certified_information_gain/pooled"] == figures["certified_information_gain"]
    assert summary["hierarchy"] == HIERARCHY.names
    assert maps["levels"].tolist() == [[0, 0, 1, 2, 0, *maps["levels"][0, 5:].tolist()]]


class Forgetful(AdaptiveCertify):
    """Announces groups, and gives certificates that do not say which."""

    def certify(self, *arguments, **options):
        return replace(super().certify(*arguments, **options), levels=None)


def test_a_certificate_about_groups_without_levels_is_refused():
    model, target = PlantedClasses(PIXELS), torch.tensor([[0, 2, 3, 1, 1, 0, 255]])
    certifier = Forgetful(sigma=0.25, class_names=CLASSES, hierarchy=LEVELS)
    stage = CertificationStage(certifier, model, CLASSES, seed=0, hardware=CPU)
    with pytest.raises(ConfigError, match=r"certifies groups of classes, but .* has no levels"):
        stage.run(Sample("x", model.image, target))


# --- bracket ---------------------------------------------------------------------------------------------------------


def certificate(classes, levels):
    """A map that is certified everywhere."""
    return {
        "classes": np.array([classes]),
        "levels": np.array([levels], dtype=np.uint8),
        "certified": np.ones((1, len(classes)), dtype=bool),
    }


def vote(*pixels):
    """The votes of 100 samples for the five classes."""
    votes = np.array(pixels).T[:, None]
    assert (votes.sum(0) == 100).all()
    return {"prediction": votes.argmax(0), "votes": votes, "num_votes": np.asarray(100)}


def test_fluctuation_inside_the_group_breaks_nothing():
    maps = certificate([2, 2, 1], [1, 2, 0])
    attacked = vote((40, 0, 30, 30, 0), (40, 20, 20, 20, 0), (0, 60, 20, 20, 0))
    assert attacked["prediction"].tolist() == [[0, 0, 1]]  # the most likely class has left the group, the group has won
    assert broken_pixels(maps, attacked, hierarchy=HIERARCHY) == (0, 0)
    assert broken_pixels(maps, attacked)[0] > 0  # as single classes they would be broken


def test_votes_that_leave_the_group_are_found():
    maps = certificate([2], [1])
    assert broken_pixels(maps, vote((90, 0, 5, 5, 0)), hierarchy=HIERARCHY) == (1, 0)
    assert broken_pixels(maps, vote((52, 0, 24, 24, 0)), hierarchy=HIERARCHY) == (0, 1)  # outvoted within chance
    assert broken_pixels(maps, vote((30, 30, 40, 0, 0)), hierarchy=HIERARCHY) == (0, 0)
    assert broken_pixels(maps, vote((25, 25, 25, 0, 25)), hierarchy=HIERARCHY) == (1, 0)  # no group above it, but split
    assert broken_pixels(certificate([2], [2]), vote((90, 0, 5, 5, 0)), hierarchy=HIERARCHY) == (1, 0)
    assert broken_pixels(certificate([2], [2]), vote((0, 90, 5, 5, 0)), hierarchy=HIERARCHY) == (0, 0)


def test_a_networks_prediction_breaks_a_group_by_leaving_it():
    maps = certificate([2, 2, 2], [0, 1, 2])
    for prediction, broken in (([2, 3, 1], 0), ([3, 3, 1], 1), ([2, 1, 3], 1), ([0, 0, 0], 3)):
        assert broken_pixels(maps, {"prediction": np.array([prediction])}, hierarchy=HIERARCHY) == (broken, 0)


def test_a_planted_wrong_group_is_an_error_of_the_run():
    threat = {"norm": "l2", "radius": 0.2}
    summary = certified("adaptive_certify", "smoothed", threat, confidence=0.999, hierarchy=HIERARCHY.names)
    attack = {"name": "pgd", "predictor": "smoothed", "threat": threat}
    votes = Maps(x=vote((10, 0, 45, 45, 0), (0, 90, 5, 5, 0)))
    right, wrong = Maps(x=certificate([2, 2], [1, 2])), Maps(x=certificate([2, 2], [1, 1]))
    assert check_pixels(summary, right, attack, votes, ["x"]).certified_pixels == 2
    with pytest.raises(BracketError, match="1 pixels of image 'x'"):
        check_pixels(summary, wrong, attack, votes, ["x"])
