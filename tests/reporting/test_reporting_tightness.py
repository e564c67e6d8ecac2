"""Certificates of all pixels together against attacks: curves, gaps, and the state of the bracket, from summaries."""

import io
import re

import numpy as np
import pytest
from rich.console import Console
from support.brackets import with_guarantee

from certseg.errors import ResultError
from certseg.reporting import Entry, Panel, bracket_status, console_summary, radius_figures, write_report
from certseg.reporting.claims import pairs
from certseg.reporting.pictures import picture_figure
from certseg.reporting.tightness import gap_line, gaps, tightness

COLLECTIVE = {0.1: 0.7, 0.25: 0.6, 1.0: 0.3}
ATTACKED = {0.1: 0.78, 0.25: 0.75, 0.5: 0.7, 1.0: 0.58}
NAMES, PALETTE = ("sky", "road"), ((70, 130, 180), (128, 64, 128))


def entry(kind, name, figures, radius=None, *, model="", **changes):
    threat = {"norm": "l2"} | ({} if radius is None else {"radius": radius})
    common = {"kind": kind, "name": name, "predictor": "base", "subject": "s", "images": 4, "figures": figures}
    made = common | {"threat": threat, "settings": {}, "seconds": {"forward": 1.0}} | changes
    return Entry(with_guarantee(made) if kind == "certifier" else made, model=model)


def certifier(collective=None, *, grey=2.0, iou=True, **changes):
    collective = COLLECTIVE if collective is None else collective
    by_radius = [
        {
            "radius": radius,
            "certified_accuracy/image_mean": value / 2,
            "certified_collective_accuracy/image_mean": value,
            "certified_collective_accuracy/pooled": value + 0.01,
            "grey_levels": grey * radius,
            "class_iou": {"sky": 0.5},
            **({"worst_case_miou/pooled": value / 3} if iou else {}),
        }
        for radius, value in collective.items()
    ]
    figures = {
        "certified_accuracy/image_mean": collective[0.25] / 2,
        "certified_collective_accuracy/image_mean": collective[0.25],
        "prediction_accuracy/image_mean": 0.8,
        "prediction_miou/pooled": 0.5,
        "abstention/image_mean": 0.9,
        "robustness@75/image_mean": 2.0,
    }
    settings = {"radius": 0.25, "radii": list(collective)}
    return entry(
        "certifier",
        "lipschitz",
        figures,
        0.25,
        by_radius=by_radius,
        confidence=1.0,
        **({"settings": settings} | changes),
    )


def attack(attacked=None, name="apgd", **changes):
    attacked = ATTACKED if attacked is None else attacked
    by_radius = [
        {"radius": radius, "attacked_accuracy/image_mean": value, "attacked_miou/pooled": value / 2}
        for radius, value in attacked.items()
    ]
    last = max(attacked)
    figures = {k: v for k, v in by_radius[-1].items() if k != "radius"} | {
        "bracket/violations": 0,
        "bracket/certified_pixels": 0,
        "bracket/bounds": 12,
    }
    return entry("attack", name, figures, last, by_radius=by_radius, **changes)


def minimum_norm(mean=6.0, **changes):
    settings = {"success": 0.75, "away_from": "prediction"}
    figures = {"norm/image_mean": mean, "attacked_accuracy/image_mean": 0.2}
    by_radius = [{"radius": radius, "reached_share/image_mean": 0.5} for radius in (5.0, 10.0)]
    options = {"has_budget": False, "settings": settings, "by_radius": by_radius} | changes
    return entry("attack", "alma_prox", figures, **options)


def prediction():
    return entry("prediction", "prediction", {"accuracy/image_mean": 0.8, "miou/pooled": 0.5}, threat=None)


def table(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][2:]


def curves(axes):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


# --- parts and gaps --------------------------------------------------------------------------------------------------


def test_an_entry_at_each_of_its_radii():
    parts = certifier(settings={"radius": 0.25, "radii": [0.1], "worst_case_iou": True}).by_radius
    assert [part.size for part in parts] == [0.1, 0.25, 1.0]
    assert parts[2].figure("certified_collective_accuracy/image_mean") == 0.3
    assert parts[0].settings == {"worst_case_iou": True}
    assert all("class_iou" not in part.summary["figures"] and part.by_radius == [] for part in parts)
    assert prediction().by_radius == []


def test_gaps_are_taken_at_the_radii_both_have():
    pairs = gaps([prediction(), certifier(), attack(), minimum_norm()])
    assert [pair.attack.size for pair in pairs] == [0.1, 0.25, 1.0]
    assert [round(pair.upper - pair.lower, 9) for pair in pairs] == [0.08, 0.15, 0.28]


@pytest.mark.parametrize(
    "other", [attack(predictor="smoothed"), attack(subject="other"), attack(images=3), attack({0.3: 0.5})]
)
def test_nothing_is_compared_that_may_not_be(other):
    assert gaps([certifier(), other]) == []
    assert list(tightness([certifier(), other])) == []
    assert gap_line([certifier(), other]) == ""


def test_the_table_has_accuracy_mean_iou_and_grey_levels():
    (section,) = tightness([certifier(), attack()])
    assert section.startswith("## Tightness")
    assert table(section) == [
        ["lipschitz", "apgd", "l2 ≤ 0.1", "0.2", "70.0", "78.0", "8.0", "23.3", "39.0", "15.7"],
        ["lipschitz", "apgd", "l2 ≤ 0.25", "0.5", "60.0", "75.0", "15.0", "20.0", "37.5", "17.5"],
        ["lipschitz", "apgd", "l2 ≤ 1", "2", "30.0", "58.0", "28.0", "10.0", "29.0", "19.0"],
    ]
    assert "- Bracket: holds: no pixel is certified alone, none of 12 bounds on images was undercut." in section


def test_without_iou_bounds_its_columns_are_dashes():
    (section,) = tightness([certifier(iou=False), attack()])
    assert [row[-3:] for row in table(section)] == [["–", "39.0", "–"], ["–", "37.5", "–"], ["–", "29.0", "–"]]


def test_an_attack_below_a_bound_at_one_of_several_radii_is_a_violation():
    low = attack(ATTACKED | {0.25: 0.59})
    unchecked = {k: v for k, v in low.summary["figures"].items() if not k.startswith("bracket")}
    low = Entry({**low.summary, "figures": unchecked})
    assert bracket_status([certifier(), low]).startswith("VIOLATED: 1 pair out of order")
    assert not all(pair.holds for pair in pairs([certifier(), low]))
    assert bracket_status([certifier(), Entry({**attack().summary, "figures": unchecked})]).startswith("holds for the")


def test_images_that_were_compared_decide_at_every_radius():
    assert all(pair.holds for pair in pairs([certifier(), attack(ATTACKED | {0.25: 0.59})]))


def test_norms_stand_beside_the_radius_certified_for_their_share():
    (section,) = tightness([certifier(), minimum_norm()])
    assert (
        "norm that changes 75 % of the labelled pixels, mean over the images: at least 2 (lipschitz), found 6"
        in section
    )
    assert "3.0 times as much" in section
    assert table(section) == []
    (section,) = tightness([certifier(), minimum_norm(mean=None)])
    assert "alma_prox did not reach it on every image" in section


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"success": 0.75, "away_from": "labels"}},
        {"settings": {"success": 0.9, "away_from": "prediction"}},
        {"subject": "other"},
        {"threat": {"norm": "linf"}},
    ],
)
def test_norms_of_another_goal_network_or_threat_are_not_compared(changes):
    assert list(tightness([certifier(), minimum_norm(**changes)])) == []


def test_several_attacks_have_a_line_each():
    text = gap_line([certifier(), attack(), attack({0.1: 0.72}, name="sea")])
    assert text == (
        "apgd above lipschitz, points of accuracy: 8.0 at 0.1, 15.0 at 0.25, 28.0 at 1; "
        "sea above lipschitz, points of accuracy: 2.0 at 0.1"
    )


def test_report_and_console_state_the_gap(tmp_path):
    entries = [prediction(), certifier(), attack()]
    text = write_report(tmp_path, title="t", command="c", entries=entries).read_text()
    assert text.count("## Tightness") == 1
    assert "lies between" not in text  # the table says it at every radius
    assert (tmp_path / "figures" / "accuracy-l2.png").stat().st_size > 1000
    console = Console(file=io.StringIO(), width=100)
    console_summary(entries, console=console)
    shown = re.sub(r"\s+", " ", console.file.getvalue())
    assert "gap apgd above lipschitz, points of accuracy: 8.0 at 0.1, 15.0 at 0.25, 28.0 at 1 " in shown
    assert len(console.file.getvalue().splitlines()) <= 24


# --- curves ----------------------------------------------------------------------------------------------------------


def test_curves_begin_at_the_figures_without_attacker_and_mean_iou_has_a_panel():
    figure = radius_figures([prediction(), certifier(), attack()])["l2"]
    accuracy, iou = figure.axes
    assert curves(accuracy) == {
        "certified: lipschitz": ([0, 0.1, 0.25, 1.0], [0.8, 0.7, 0.6, 0.3]),
        "certified, each pixel alone: lipschitz": ([0, 0.1, 0.25, 1.0], [0.8, 0.35, 0.3, 0.15]),
        "attacked: apgd": ([0, 0.1, 0.25, 0.5, 1.0], [0.8, 0.78, 0.75, 0.7, 0.58]),
        "no attacker: base": ([0], [0.8]),
    }
    drawn = curves(iou)
    assert drawn["certified: lipschitz"][1] == pytest.approx([0.5, 0.7 / 3, 0.2, 0.1])
    assert drawn["attacked: apgd"] == ([0, 0.1, 0.25, 0.5, 1.0], [0.5, 0.39, 0.375, 0.35, 0.29])
    assert iou.get_ylabel() == "mean IoU (pooled over 4 images)"
    assert [text.get_text() for text in figure.legends[0].get_texts()][-2:] == ["attacked: apgd", "no attacker: base"]


def test_what_is_not_known_is_shaded_between_certificate_and_lowest_attack():
    figure = radius_figures([certifier(), attack(), attack({0.1: 0.72, 1.0: 0.9}, name="sea")])["l2"]
    (gap,) = (artist for artist in figure.axes[0].collections if artist.get_gid() == "gap")
    corners = {(float(x), float(y)) for x, y in gap.get_paths()[0].vertices}
    assert {(0.1, 0.7), (0.1, 0.72), (0.25, 0.75), (1.0, 0.3), (1.0, 0.58)} <= corners
    assert not {(0.5, 0.7), (0.1, 0.78), (1.0, 0.9)} & corners
    assert not any(artist.get_gid() == "abstention" for artist in figure.axes[0].collections)


def test_grey_levels_are_a_second_scale_where_all_images_have_one_size():
    axes = radius_figures([certifier(), attack()])["l2"].axes[0]
    (above,) = axes.child_axes
    assert "grey levels" in above.get_xlabel()
    assert above._functions[0](0.5) == pytest.approx(1.0)
    sizes = [certifier(), certifier(grey=3.0, model="other")]
    assert all(not axes.child_axes for axes in radius_figures(sizes)["l2"].axes)


def test_without_iou_bounds_there_is_one_panel():
    assert len(radius_figures([certifier(iou=False), attack()])["l2"].axes) == 1


def test_a_certificate_without_attack_is_a_curve_too():
    figure = radius_figures([certifier()])["l2"]
    assert curves(figure.axes[0])["certified: lipschitz"] == ([0, 0.1, 0.25, 1.0], [0.8, 0.7, 0.6, 0.3])


def test_minimum_norms_are_a_curve_where_the_summary_has_accuracies_at_radii():
    assert "attacked: alma_prox" not in curves(radius_figures([certifier(), minimum_norm()])["l2"].axes[0])
    parts = [{"radius": 1.0, "attacked_accuracy/image_mean": 0.6}, {"radius": 2.0, "attacked_accuracy/image_mean": 0.4}]
    figure = radius_figures([certifier(), minimum_norm(by_radius=parts)])["l2"]
    assert curves(figure.axes[0])["attacked: alma_prox"] == ([0, 1.0, 2.0], [0.8, 0.6, 0.4])


def test_equal_certificates_at_several_own_radii_are_one_line():
    again = certifier(settings={"radius": 1.0, "radii": list(COLLECTIVE)})
    drawn = curves(radius_figures([certifier(), again])["l2"].axes[0])
    assert drawn["certified: lipschitz"] == ([0, 0.1, 0.25, 1.0], [0.8, 0.7, 0.6, 0.3])


# --- pictures of values ----------------------------------------------------------------------------------------------


def test_a_map_of_radii_is_drawn_with_its_scale():
    values = np.linspace(0.0, 0.2, 48).reshape(6, 8)
    values[0, 0] = np.inf
    labels = np.zeros((6, 8), dtype=np.int64)
    panels = [Panel("prediction", labels=labels), Panel("certified l2 radius", values=values)]
    figure = picture_figure(panels, NAMES, PALETTE)
    assert figure.axes[1].get_title() == "certified l2 radius"
    shown = figure.axes[1].images[0]
    assert shown.get_clim() == pytest.approx((0.0, 0.2))
    assert float(shown.get_array()[0, 0]) == pytest.approx(0.2)
    (scale,) = figure.axes[1].child_axes
    assert [text.get_text() for text in scale.get_xticklabels()] == ["0", "0.1", "0.2"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sky"]


@pytest.mark.parametrize("value", [0.0, np.inf])
def test_a_map_of_one_value_can_be_drawn(value):
    figure = picture_figure([Panel("radius", values=np.full((4, 4), value))], NAMES, PALETTE)
    assert figure.axes[0].images[0].get_clim() == (0.0, 1.0)
    figure.draw_without_rendering()


@pytest.mark.parametrize(
    "arguments",
    [
        {"values": np.full((4, 4), np.nan)},
        {"values": np.full((4, 4), -1.0)},
        {"values": np.zeros((4, 4, 3))},
        {"values": np.zeros((4, 4)), "labels": np.zeros((4, 4), dtype=np.int64)},
        {"values": np.zeros((4, 4)), "certified": np.ones((4, 4), dtype=bool)},
    ],
)
def test_values_that_cannot_be_drawn_are_refused(arguments):
    with pytest.raises(ResultError, match=r"[Pp]anel"):
        Panel("radius", **arguments)


@pytest.mark.parametrize(("count", "grid"), [(4, (2, 2)), (6, (2, 3)), (7, (2, 4)), (8, (2, 4)), (9, (3, 3))])
def test_many_panels_take_few_rows(count, grid):
    panels = [Panel("x", values=np.ones((4, 6)))] * count
    assert picture_figure(panels, NAMES, PALETTE).axes[0].get_gridspec().get_geometry() == grid
