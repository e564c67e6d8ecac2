"""Reproduce what a paper found, in one command each.

    python scripts/reproduce.py segcertify-figure2 [--repetitions 600] [--seed 0] [--output FOLDER]

``segcertify-figure2``: the toy study of Fischer et al. 2021 (seed 001, section 6.1, Fig. 2). A base model without input
is right on each of N components with probability 1 - gamma, on k of them with 1 - 5 gamma, independently. The figure
shows the share of components that JointClass, IndivClass and SegCertify certify. Writes figure2.png, .pdf and .csv and
checks the paper's findings; where one does not hold, one line names it and the exit status is 1.

Every method sees counts only, so the counts themselves are simulated, exactly in law: n0 samples choose a class by
majority (a draw chooses the wrong one), a wrong choice is tested like a right one, with its own small probability.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from scipy.stats import binom

from certseg.errors import CertsegError, ConfigError, ResultError
from certseg.reporting.plots import save_figure
from certseg.smoothing.statistics import rejection_threshold, upper_tail
from certseg.smoothing.statistics.confidence import clopper_pearson_lower

JOINT, INDIV, HOLM, BONFERRONI = "JointClass", "IndivClass", "SegCertify, Holm", "SegCertify, Bonferroni"
JOINT_TAU, INDIV_TAU = "JointClass at tau", "IndivClass at tau"
COLOURS = {JOINT: "#D55E00", INDIV: "#CC79A7", HOLM: "#0072B2", BONFERRONI: "#009E73"}  # Okabe and Ito
LARGEST = 10**6  # number of components up to which the paper's Fig. 2c goes


@dataclass(frozen=True)
class Toy:
    """One setting of the toy study.

    Args:
        gamma: error rate of a component, in [0, 0.1].
        components: number N of components.
        bad: number k of components with error rate 5 gamma.
        samples: number of samples that choose the class, n0, and of those that test it, n.
        alpha: error rate of a certificate, in (0, 1).
        tau: share of the samples that must agree, in [0.5, 1), as SegCertify tests it.
    """

    gamma: float
    components: int = 100
    bad: int = 1
    samples: int = 100
    alpha: float = 0.001
    tau: float = 0.75

    @property
    def groups(self) -> list[tuple[int, float]]:
        """Number and error rate of the components that are alike."""
        return [(self.components - self.bad, self.gamma), (self.bad, 5 * self.gamma)]


@dataclass(frozen=True)
class Point:
    """One method at one setting: the certified share, mean over repetitions, with its 95 % band."""

    panel: str
    gamma: float
    components: int
    method: str
    share: float
    low: float
    high: float
    repetitions: int
    wrong_guesses: float


def simulate(toy: Toy, repetitions: int, rng: np.random.Generator, *, baselines: bool = True) -> dict[str, np.ndarray]:
    """Certified share of every method in every repetition.

    Args:
        toy: the setting to simulate.
        repetitions: number of independent images.
        rng: generator of all random draws.
        baselines: False leaves out JointClass and IndivClass; the former takes memory that grows with N.

    Returns:
        ``(repetitions,)`` float64 by method, and ``wrong guesses``, the share of components whose n0 samples chose the
        wrong class. JointClass and IndivClass certify any radius above 0 as in the paper (lower bound above 1/2), and
        ``... at tau`` SegCertify's (above tau).
    """
    histogram, wrong = component_counts(toy, repetitions, rng)
    table = upper_tail(toy.samples, toy.tau)
    shares = {"wrong guesses": wrong / toy.components}
    for method, correction in ((HOLM, "holm"), (BONFERRONI, "bonferroni")):
        thresholds = [rejection_threshold(row, table, toy.alpha, correction) for row in histogram]
        kept = np.arange(toy.samples + 1) >= np.array(thresholds)[:, None]
        shares[method] = (histogram * kept).sum(axis=1) / toy.components
    if baselines:
        smallest = (histogram > 0).argmax(axis=1)
        indiv = clopper_pearson_lower(smallest, toy.samples, toy.alpha / toy.components)
        joint = clopper_pearson_lower(joint_counts(toy, repetitions, rng), toy.samples, toy.alpha)
        bounds = {INDIV: (indiv, 0.5), INDIV_TAU: (indiv, toy.tau), JOINT: (joint, 0.5), JOINT_TAU: (joint, toy.tau)}
        shares |= {method: (bound > least).astype(np.float64) for method, (bound, least) in bounds.items()}
    return shares


def component_counts(toy: Toy, repetitions: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """How many components counted 0 .. n agreements with their guess: ``(repetitions, n + 1)``; wrong guesses:
    ``(repetitions,)``."""
    n = toy.samples
    histogram, wrong = np.zeros((repetitions, n + 1), dtype=np.int64), np.zeros(repetitions, dtype=np.int64)
    for number, error in toy.groups:
        right = rng.binomial(number, binom.sf(n // 2, n, 1 - error), size=repetitions)
        wrong += number - right
        for chosen, probability in ((right, 1 - error), (number - right, error)):
            law = binom.pmf(np.arange(n + 1), n, probability)
            histogram += rng.multinomial(chosen, law / law.sum())
    return histogram, wrong


def joint_counts(toy: Toy, repetitions: int, rng: np.random.Generator) -> np.ndarray:
    """How often the most frequent whole map of n0 samples came back among n fresh ones: ``(repetitions,)``.

    The maps followed are those with at most one wrong component: no map with more is likelier than one of them.
    """
    errors = np.concatenate([np.full(number, error) for number, error in toy.groups])
    correct = np.prod(1 - errors)
    laws = np.concatenate([correct * errors / (1 - errors), [correct]])  # the correct map last: it loses a draw
    drawn = rng.multinomial(toy.samples, [*laws, max(0.0, 1 - laws.sum())], size=repetitions)
    return rng.binomial(toy.samples, laws[drawn[:, :-1].argmax(axis=1)])


def band(shares: np.ndarray) -> tuple[float, float]:
    """95 % band of the mean of ``(repetitions,)`` shares: Clopper-Pearson where all are 0 or 1, else two standard
    errors."""
    number = len(shares)
    if np.isin(shares, (0, 1)).all():
        hits = int(shares.sum())
        low, high = clopper_pearson_lower(np.array([hits, number - hits]), number, 0.025)
        return float(low), 1 - float(high)
    error = 2 * shares.std(ddof=1) / number**0.5
    return max(0.0, float(shares.mean() - error)), min(1.0, float(shares.mean() + error))


def settings(gammas: int = 101) -> dict[str, list[Toy]]:
    """The three panels. tau = 0.9 of the third stands in the paper's published code (synthetic.py), not in its text; at
    0.75 nothing would abstain."""
    grid = np.linspace(0, 0.1, gammas).tolist()
    growing = Toy(gamma=0.05, bad=0, samples=1000, alpha=0.1, tau=0.9)
    return {
        "2a": [Toy(gamma) for gamma in grid],
        "2b": [Toy(gamma, samples=1000) for gamma in grid],
        "2c": [replace(growing, components=10**power) for power in range(1, 8)],
    }


def study(panels: dict[str, list[Toy]], repetitions: int, seed: int) -> list[Point]:
    """All points of all panels. Every setting has a random stream of its own.

    Raises:
        ResultError: Holm certified less than Bonferroni in a repetition.
    """
    points = []
    for panel, toys in panels.items():
        for index, toy in enumerate(toys):
            stream = np.random.default_rng([seed, list(panels).index(panel), index])
            shares = simulate(toy, repetitions, stream, baselines=panel != "2c")
            wrong = float(shares.pop("wrong guesses").mean())
            if (shares[HOLM] < shares[BONFERRONI]).any():
                raise ResultError(f"Finding 'Holm is never below Bonferroni' fails in panel {panel} at {toy}")
            for method, values in shares.items():
                points.append(
                    Point(
                        panel,
                        toy.gamma,
                        toy.components,
                        method,
                        float(values.mean()),
                        *band(values),
                        repetitions,
                        wrong,
                    )
                )
    return points


def critical_gamma(toy: Toy) -> tuple[float, float]:
    """Error rate gamma from which IndivClass mostly fails: half of the bad component's counts are too low for a bound
    above 1/2. And the spread of such counts, as a standard deviation of gamma."""
    bounds = clopper_pearson_lower(np.arange(toy.samples + 1), toy.samples, toy.alpha / toy.components)
    needed = int((bounds > 0.5).argmax()) / toy.samples
    return (1 - needed) / 5, (needed * (1 - needed) / toy.samples) ** 0.5 / 5


def check_findings(points: Sequence[Point], panels: dict[str, list[Toy]]) -> list[str]:
    """The paper's findings, one line each with what was measured.

    Raises:
        ResultError: names the first finding that does not hold.
    """
    said, failure = [], {}

    def curve(panel: str, method: str) -> list[Point]:
        return [point for point in points if point.panel == panel and point.method == method]

    def finding(name: str, holds: bool, measured: str) -> None:
        said.append(f"{name}: {measured}")
        if not holds:
            raise ResultError(f"Finding {name!r} fails", received=measured)

    for panel, n in (("2a", 100), ("2b", 1000)):
        late = [point.share for point in curve(panel, JOINT) if point.gamma >= 0.0125]
        rivals = [point.share for point in curve(panel, HOLM) if point.gamma <= 0.0125]
        finding(
            f"JointClass fails at once (n={n})",
            max(late) == 0 and min(rivals) >= 0.99,
            f"certified at most {max(late):.3f} from gamma .0125 on, SegCertify at least {min(rivals):.3f} until there",
        )
        expected, spread = critical_gamma(panels[panel][0])
        early = [point.share for point in curve(panel, INDIV) if point.gamma <= expected - 4 * spread]
        late = [point.share for point in curve(panel, INDIV) if point.gamma >= min(0.1, expected + 4 * spread)]
        failure[panel] = crossing(curve(panel, INDIV))
        finding(
            f"IndivClass fails at a critical gamma (n={n})",
            min(early) >= 0.99 and max(late) <= 0.05 and abs(failure[panel] - expected) <= 2 * spread,
            f"half are certified at gamma {failure[panel]:.4f}, expected {expected:.4f}; share at most {max(late):.3f} "
            "at the end",
        )
    finding(
        "more samples delay the failure of IndivClass",
        failure["2b"] > failure["2a"],
        f"critical gamma {failure['2a']:.4f} at n=100, {failure['2b']:.4f} at n=1000",
    )
    lowest = min(point.share for point in curve("2b", HOLM))
    finding("SegCertify overcomes the bad component (n=1000)", lowest >= 0.985, f"certified at least {lowest:.4f}")
    last = curve("2a", HOLM)[-1]
    finding(
        "what SegCertify loses at n=100 is the test's power, not wrong guesses (the paper says otherwise)",
        1 - last.share > 10 * last.wrong_guesses,
        f"at gamma {last.gamma:g} {1 - last.share:.3f} abstain, {last.wrong_guesses:.4f} guessed the wrong class",
    )
    gaps = [a.share - b.share for a, b in zip(curve("2c", HOLM), curve("2c", BONFERRONI)) if a.components <= LARGEST]
    finding(
        f"the gap between Holm and Bonferroni grows with N up to {LARGEST:.0e}",
        gaps[-1] > gaps[0] + 0.05 and all(larger > smaller - 0.01 for smaller, larger in pairwise(gaps)),
        "gaps " + ", ".join(f"{gap:.4f}" for gap in gaps),
    )
    return said


def crossing(points: Sequence[Point]) -> float:
    """The gamma at which the share first falls to 1/2, interpolated between neighbours; 0.1 where it does not."""
    for left, right in pairwise(points):
        if right.share <= 0.5:
            return left.gamma + (right.gamma - left.gamma) * (left.share - 0.5) / (left.share - right.share)
    return points[-1].gamma


def draw(points: Sequence[Point]) -> Figure:
    """The three panels side by side, every curve with its band; dotted: the baselines at SegCertify's radius."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    titles = {
        "2a": "(a) N = 100, one bad component, n0 = n = 100",
        "2b": "(b) the same with n0 = n = 1000",
        "2c": "(c) growing N, gamma = 0.05, tau = 0.9",
    }
    for axes, (panel, title) in zip(figure.subplots(1, 3), titles.items()):
        for method in dict.fromkeys(point.method for point in points if point.panel == panel):
            line = [point for point in points if (point.panel, point.method) == (panel, method)]
            x = [point.components if panel == "2c" else point.gamma for point in line]
            colour, at_tau = COLOURS[method.removesuffix(" at tau")], method.endswith(" at tau")
            axes.plot(
                x,
                [point.share for point in line],
                color=colour,
                lw=1 if at_tau else 1.8,
                ls=":" if at_tau else "--" if method == BONFERRONI else "-",
                marker="o" if panel == "2c" else None,
                ms=3,
                label=method if panel == "2a" else None,
            )
            axes.fill_between(x, [p.low for p in line], [p.high for p in line], color=colour, alpha=0.2, lw=0)
        axes.set_title(title, fontsize=10)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("number of components N" if panel == "2c" else "error rate gamma (bad component: 5 gamma)")
        if panel == "2c":
            axes.set_xscale("log")
        else:
            axes.set_ylim(-0.02, 1.02)
    figure.axes[0].set_ylabel("certified components")
    figure.legend(loc="outside lower center", ncols=6, fontsize=9, frameon=False)
    return figure


def segcertify_figure2(options: argparse.Namespace) -> None:
    """Simulate, write table and picture, check the findings."""
    if options.repetitions < 2:
        raise ConfigError("--repetitions must be at least 2", received=options.repetitions)
    if options.gammas < 11:
        raise ConfigError("--gammas must be at least 11 to find where a method fails", received=options.gammas)
    panels = settings(options.gammas)
    points = study(panels, options.repetitions, options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "figure2.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Point)])
        table.writeheader()
        table.writerows(asdict(point) for point in points)
    save_figure(draw(points), options.output / "figure2")
    print("\n".join(check_findings(points, panels)))
    print(f"written: {options.output}/figure2.png, .pdf, .csv")


STUDIES: dict[str, Callable[[argparse.Namespace], None]] = {"segcertify-figure2": segcertify_figure2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one study; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    studies = parser.add_subparsers(dest="study", required=True)
    figure2 = studies.add_parser("segcertify-figure2", help="the toy study of SegCertify, Fig. 2 of the paper")
    figure2.add_argument("--repetitions", type=int, default=600, help="of every setting (default 600, the paper's)")
    figure2.add_argument("--gammas", type=int, default=101, help="error rates from 0 to 0.1 (default 101)")
    figure2.add_argument("--seed", type=int, default=0)
    figure2.add_argument("--output", type=Path, default=Path("outputs/reproduce/segcertify-figure2"))
    options = parser.parse_args(arguments)
    try:
        STUDIES[options.study](options)
    except CertsegError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
