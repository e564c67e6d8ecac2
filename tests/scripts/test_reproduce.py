"""scripts/reproduce.py: the simulation against sampling whole maps one by one, and the findings it checks."""

import csv
import importlib.util
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from certseg.errors import ResultError
from certseg.smoothing.statistics import upper_tail

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reproduce():
    spec = importlib.util.spec_from_file_location("reproduce", ROOT / "scripts" / "reproduce.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["reproduce"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["reproduce"]


@pytest.fixture(scope="module")
def small(reproduce):
    panels = reproduce.settings(gammas=21)
    return panels, reproduce.study(panels, repetitions=40, seed=0)


def holm(p_values, alpha):
    """Share rejected, p-values sorted one by one (statsmodels collects garbage in every call: a tenth of a second)."""
    levels = alpha / np.arange(len(p_values), 0, -1)
    failing = np.flatnonzero(np.sort(p_values) > levels)
    return (failing[0] if len(failing) else len(p_values)) / len(p_values)


def brute_force(toy, rng, table):
    """One repetition as the paper describes it: n0 + n whole maps, 1 where a component is right."""
    errors = np.full(toy.components, toy.gamma)
    errors[: toy.bad] = 5 * toy.gamma
    maps = (rng.random((2 * toy.samples, toy.components)) >= errors).astype(int)
    first, fresh = maps[: toy.samples], maps[toy.samples :]
    guess = (2 * first.sum(axis=0) > toy.samples).astype(int)
    counts = (fresh == guess).sum(axis=0)
    p_values = table[counts]
    joint_guess = Counter(map(tuple, first)).most_common(1)[0][0]
    joint_count = (fresh == joint_guess).all(axis=1).sum()

    def bound(count, level):
        return proportion_confint(count, toy.samples, alpha=2 * level, method="beta")[0]

    smallest = bound(counts.min(), toy.alpha / toy.components)
    return {
        "SegCertify, Holm": holm(p_values, toy.alpha),
        "SegCertify, Bonferroni": (p_values <= toy.alpha / toy.components).mean(),
        "IndivClass": smallest > 0.5,
        "IndivClass at tau": smallest > toy.tau,
        "JointClass": bound(joint_count, toy.alpha) > 0.5,
        "JointClass at tau": bound(joint_count, toy.alpha) > toy.tau,
        "wrong guesses": (guess == 0).mean(),
    }


@pytest.mark.parametrize(
    "setting",
    [
        {"gamma": 0.02, "components": 8, "bad": 1, "samples": 60, "alpha": 0.05, "tau": 0.7},
        {"gamma": 0.09, "components": 12, "bad": 4, "samples": 31, "alpha": 0.2, "tau": 0.6},
        {"gamma": 0.04, "components": 3, "bad": 0, "samples": 40, "alpha": 0.1, "tau": 0.8},
    ],
    ids=str,
)
def test_the_counts_have_the_law_of_sampling_whole_maps(reproduce, setting):
    toy, repetitions = reproduce.Toy(**setting), 1500
    rng = np.random.default_rng(0)
    table = upper_tail(toy.samples, toy.tau)
    slow = [brute_force(toy, rng, table) for _ in range(repetitions)]
    fast = reproduce.simulate(toy, 8 * repetitions, np.random.default_rng(1))
    assert set(fast) == set(slow[0])
    undecided = 0
    for method, values in fast.items():
        reference = np.array([row[method] for row in slow], dtype=float)
        error = (reference.var() / repetitions + values.var() / len(values)) ** 0.5
        assert abs(values.mean() - reference.mean()) <= 4.5 * error + 3 / repetitions, method
        undecided += 0.02 < reference.mean() < 0.98
    assert undecided >= 2, "the setting tests too little"


def test_the_paper_s_findings_hold_on_a_small_run(reproduce, small):
    panels, points = small
    said = reproduce.check_findings(points, panels)
    assert len(said) == 8
    assert all(point.low <= point.share <= point.high for point in points)
    assert {point.panel for point in points} == {"2a", "2b", "2c"}


def doctored(points, change):
    return [change(point) for point in points]


def better_joint(point):
    return replace(point, share=1.0) if point.method == "JointClass" else point


def robust_indiv(point):
    return replace(point, share=1.0) if (point.method, point.panel) == ("IndivClass", "2a") else point


def late_indiv(point):
    return replace(point, share=float(point.gamma < 0.096)) if point.method == "IndivClass" else point


def weak_segcertify(point):
    return (
        replace(point, share=0.98)
        if (point.panel, point.method) == ("2b", "SegCertify, Holm") and point.gamma > 0.05
        else point
    )


def narrow_gap(point):
    return replace(point, share=0.9) if point.panel == "2c" and point.components == 10**6 else point


def bad_guesses(point):
    return replace(point, wrong_guesses=0.5)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (better_joint, "JointClass fails at once"),
        (robust_indiv, "IndivClass fails at a critical gamma"),
        (late_indiv, "IndivClass fails at a critical gamma"),
        (weak_segcertify, "SegCertify overcomes the bad component"),
        (bad_guesses, "not wrong guesses"),
        (narrow_gap, "gap between Holm and Bonferroni"),
    ],
)
def test_every_finding_can_fail_and_is_named(reproduce, small, change, name):
    panels, points = small
    with pytest.raises(ResultError, match=name) as error:
        reproduce.check_findings(doctored(points, change), panels)
    assert "\n" not in str(error.value)


def test_holm_below_bonferroni_is_an_error(reproduce, monkeypatch):
    true = reproduce.simulate

    def swapped(*args, **options):
        shares = true(*args, **options)
        shares[reproduce.HOLM], shares[reproduce.BONFERRONI] = shares[reproduce.BONFERRONI], shares[reproduce.HOLM]
        return shares

    monkeypatch.setattr(reproduce, "simulate", swapped)
    with pytest.raises(ResultError, match="Holm is never below Bonferroni"):
        reproduce.study(reproduce.settings(gammas=3), repetitions=5, seed=0)


def test_the_band_covers_the_truth_as_often_as_it_says(reproduce):
    rng = np.random.default_rng(0)
    for draw, truth in ((lambda: (rng.random(200) < 0.03).astype(float), 0.03), (lambda: rng.beta(8, 2, 200), 0.8)):
        covered = np.mean([low <= truth <= high for low, high in (reproduce.band(draw()) for _ in range(1000))])
        assert covered >= 0.95 - 4 * (0.95 * 0.05 / 1000) ** 0.5
    assert reproduce.band(np.zeros(600))[0] == 0
    assert 0 < reproduce.band(np.zeros(600))[1] < 0.01
    assert reproduce.band(np.ones(600))[1] == 1


def test_the_command_writes_the_same_files_again_and_fails_with_one_line(reproduce, tmp_path, monkeypatch, capsys):
    command = ["segcertify-figure2", "--repetitions", "20", "--gammas", "11", "--output"]
    assert reproduce.main([*command, str(tmp_path / "a")]) == 0
    assert "gap between Holm and Bonferroni" in capsys.readouterr().out
    assert reproduce.main([*command, str(tmp_path / "b")]) == 0
    for name in ("figure2.csv", "figure2.png", "figure2.pdf"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    rows = list(csv.DictReader((tmp_path / "a" / "figure2.csv").read_text().splitlines()))
    assert len(rows) == 2 * 11 * 6 + 7 * 2
    assert all(0 <= float(row["low"]) <= float(row["share"]) <= float(row["high"]) <= 1 for row in rows)
    capsys.readouterr()

    monkeypatch.setattr(reproduce, "joint_counts", lambda toy, repetitions, rng: np.full(repetitions, toy.samples))
    assert reproduce.main([*command, str(tmp_path / "c")]) == 1
    assert capsys.readouterr().err.startswith("Finding 'JointClass fails at once (n=100)' fails")
    for option in ("--repetitions", "--gammas"):
        assert reproduce.main(["segcertify-figure2", option, "1"]) == 2
        assert option in capsys.readouterr().err


def test_the_make_target_runs_this_script():
    dry = subprocess.run(
        ["make", "--dry-run", "--assume-old=setup", "reproduce-segcertify-figure2"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    )
    assert "scripts/reproduce.py segcertify-figure2" in dry.stdout
    help_text = subprocess.run(["make", "help"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert "reproduce-segcertify-figure2" in help_text
