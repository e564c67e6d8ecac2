"""Tables, claims, figures, pictures, report and console summary, from summaries alone."""

import copy
import csv
import io
import re
import urllib.parse

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from support.brackets import with_guarantee

from certseg.errors import ResultError
from certseg.reporting import (
    Entry,
    Panel,
    bracket_status,
    claim,
    console_summary,
    figure_table,
    picture,
    radius_figures,
    save_figure,
    write_json_atomic,
    write_report,
)
from certseg.reporting.claims import pairs
from certseg.reporting.entries import duration, labels, threat_text
from certseg.reporting.lines import sweeps
from certseg.reporting.pictures import picture_figure
from certseg.types import Promise

SMOOTHED = "smoothed(gaussian, sigma=0.25)"


def summary(kind: str, name: str, figures: dict, **changes) -> dict:
    return {
        "kind": kind,
        "name": name,
        "predictor": "base",
        "threat": None,
        "confidence": None,
        "images": 10,
        "figures": figures,
        "class_iou": {},
        "seconds": {"forward": 2.0},
        "passes": {"forward": 10, "backward": 0},
        "flags": {},
        "settings": {},
    } | changes


def prediction() -> dict:
    return summary(
        "prediction",
        "clean",
        {"accuracy/image_mean": 0.905, "accuracy/pooled": 0.8765, "miou/pooled": 0.559},
        class_iou={"clean": {"sky": 0.912, "pole": None}},
    )


def certifier(radius: float = 0.1686, accuracy: float = 0.78, *, tau: float = 0.75, **changes) -> dict:
    figures = {
        "abstention/image_mean": 0.07,
        "certified_accuracy/image_mean": accuracy,
        "certified_accuracy/pooled": accuracy - 0.013,
        "certified_miou/pooled": 0.401,
        "prediction_accuracy/image_mean": 0.845,
        "worst_case_miou/pooled": 0.272,
    }
    common = {
        "predictor": SMOOTHED,
        "threat": {"norm": "l2", "radius": radius},
        "confidence": 0.999,
        "settings": {"tau": tau, "sigma": 0.25, "n": 100},
    }
    return with_guarantee(summary("certifier", "segcertify", figures, **(common | changes)))


def attack(radius: float = 0.1686, accuracy: float = 0.831, norm: str = "l2", predictor: str = SMOOTHED) -> dict:
    figures = {
        "attacked_accuracy/image_mean": accuracy,
        "attacked_miou/pooled": 0.363,
        "bracket/violations": 0,
    }
    return summary(
        "attack",
        "pgd",
        figures,
        threat={"norm": norm, "radius": radius},
        predictor=predictor,
        flags={"zero_gradient": 2},
        settings={"steps": 40},
    )


def mixed() -> list[Entry]:
    linf = attack(4 / 255, 0.238, "linf", "base")
    return [Entry(s) for s in (attack(), certifier(), certifier(0.4112, 0.69, tau=0.95), prediction(), linf)]


def parsed(markdown: str) -> list[dict[str, str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(rows[0], row)) for row in rows[2:]]


# --- entries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [{"kind": "guess"}, {"name": None}, {"figures": [1]}])
def test_a_summary_of_another_form_is_refused(bad):
    with pytest.raises(ResultError):
        Entry(prediction() | bad)


def test_an_entry_is_read_from_its_directory(tmp_path):
    write_json_atomic(tmp_path / "r" / "summary.json", certifier())
    entry = Entry.read(tmp_path / "r", model="m")
    assert (entry.kind, entry.norm, entry.size, entry.confidence, entry.model) == (
        "certifier",
        "l2",
        0.1686,
        0.999,
        "m",
    )
    with pytest.raises(ResultError, match=r"summary\.json"):
        Entry.read(tmp_path)


def test_threats_in_words():
    assert threat_text({"norm": "l2", "radius": 0.16862244}) == "l2 ≤ 0.1686"
    assert threat_text({"norm": "linf", "radius": 4 / 255}) == "linf ≤ 0.0157 (4/255)"
    assert threat_text({"norm": "patch", "share": 0.01}) == "patch (share 0.01)"
    assert threat_text({}) == ""


def test_only_settings_that_differ_are_in_the_label():
    assert labels([Entry(certifier()), Entry(certifier(0.4, tau=0.95)), Entry(attack())]) == [
        "segcertify (tau=0.75)",
        "segcertify (tau=0.95)",
        "pgd",
    ]
    assert labels([Entry(certifier(), model="a"), Entry(certifier(), model="b")]) == ["a: segcertify", "b: segcertify"]


def test_durations_read_well():
    assert [duration(s) for s in (0.04, 89.9, 90, 119.6, 5400, 9000)] == [
        "0.0 s",
        "89.9 s",
        "1 min 30 s",
        "2 min 00 s",
        "1 h 30 min",
        "2 h 30 min",
    ]


# --- tables ----------------------------------------------------------------------------------------------------------


def test_a_table_of_all_kinds_names_every_estimator_and_mixes_none():
    rows = parsed(figure_table(mixed()).markdown())
    assert [row["figures"] for row in rows] == ["clean", "certified", "certified", "attacked", "attacked"]
    means, pooled = "accuracy % (image mean)", "accuracy % (pooled)"
    assert [row[means] for row in rows] == ["90.5", "78.0", "69.0", "83.1", "23.8"]
    assert [row[pooled] for row in rows] == ["87.6", "76.7", "67.7", "", ""]
    assert [row["mIoU % (pooled)"] for row in rows] == ["55.9", "40.1", "40.1", "36.3", "36.3"]
    assert [row["worst case mIoU % (pooled)"] for row in rows] == ["", "27.2", "27.2", "", ""]
    assert [row["bracket violations"] for row in rows] == ["", "", "", "0", "0"]
    assert [row["threat"] for row in rows][1:] == ["l2 ≤ 0.1686", "l2 ≤ 0.4112", "l2 ≤ 0.1686", "linf ≤ 0.0157 (4/255)"]
    assert rows[1][""] == "segcertify (tau=0.75)"
    assert [row["predictor"] for row in rows] == ["base", SMOOTHED, SMOOTHED, SMOOTHED, "base"]


def test_the_legend_explains_what_is_used_and_claims_no_bound_for_the_certified_miou():
    text = figure_table(mixed()).markdown()
    assert "Image mean: computed per image" in text
    assert "pooled: counted over all pixels" in text
    assert "for the mIoU only a worst-case figure is such a bound" in text
    assert "over 10 images" in text
    assert "attacked:" not in figure_table([Entry(certifier())]).markdown()
    assert "image mean:" not in figure_table([Entry(summary("attack", "a", {"x": 1}))]).markdown().lower()


def test_unknown_figures_threats_and_names_work():
    figures = {
        "false_alert_ratio/image_mean": 0.2,
        "mean_radius/image_mean": 0.31,
        "fnr@0.5/pooled": 0.5,
        "odd": 12345.0,
    }
    threat = {"norm": "patch", "share": 0.01, "patches": 1}
    rows = parsed(figure_table([Entry(summary("certifier", "new", figures, threat=threat))]).markdown())
    assert rows == [
        {
            "": "new",
            "threat": "patch (share 0.01, patches 1)",
            "false alert ratio % (image mean)": "20.0",
            "mean radius (image mean)": "0.31",
            "fnr@0.5 (pooled)": "0.5",
            "odd": "12345",
        }
    ]


def test_undefined_figures_are_dashes_and_image_numbers_show_where_they_differ():
    undefined = certifier() | {"figures": {"certified_accuracy/image_mean": None}, "images": 3}
    rows = parsed(figure_table([Entry(prediction()), Entry(undefined)]).markdown())
    assert rows[1]["accuracy % (image mean)"] == "–"
    assert [row["images"] for row in rows] == ["10", "3"]


def test_no_entries_are_refused():
    with pytest.raises(ResultError, match="nothing to tabulate"):
        figure_table([])


def test_csv_has_full_precision_and_full_names():
    third = certifier(accuracy=1 / 3)
    rows = list(csv.DictReader(io.StringIO(figure_table([Entry(prediction()), Entry(third)]).csv())))
    assert float(rows[1]["certified_accuracy/image_mean"]) == 1 / 3
    assert rows[0]["certified_accuracy/image_mean"] == ""
    assert float(rows[0]["accuracy/pooled"]) == 0.8765
    assert (rows[1]["threat.norm"], rows[1]["threat.radius"], rows[1]["settings.tau"]) == ("l2", "0.1686", "0.75")


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_the_console_table_fits_breaks_no_number_and_says_what_is_left_out(width):
    table = figure_table(mixed())
    console = Console(width=width, file=io.StringIO())
    console.print(table.rich(width))
    text = console.file.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    for number in ("90.5", "78.0", "69.0", "83.1", "23.8"):
        assert number in text
    assert "linf ≤ 0.0157 (4/255)" in text
    assert bool(re.search(r"\d+ more columns? in the report", text)) == (width < 160)


def test_pipes_do_not_break_markdown():
    entry = Entry(summary("attack", "a|b", {"x": 1.0}))
    assert "a\\|b" in figure_table([entry]).markdown()


# --- claims ----------------------------------------------------------------------------------------------------------


def test_the_claim_of_a_sampled_certificate():
    text = claim(Entry(certifier()))
    assert "With probability ≥ 0.999 per image, for every certified pixel and every l2 perturbation of norm ≤ R" in text
    assert f"the class of `{SMOOTHED}` does not change" in text
    assert "it may come to abstain" in text
    assert "Jointly for all 10 images: with probability ≥ 0.99 (union bound, 1 - 10 · 0.001)" in text


def test_the_claim_of_a_deterministic_certificate_has_no_probability():
    text = claim(Entry(certifier(confidence=1.0)))
    assert text.startswith("Deterministic")
    assert "probability ≥" not in text
    assert "abstain" not in text
    assert "norm ≤ R" in text


def test_the_claim_of_a_certificate_that_assumes_something_says_so():
    text = claim(Entry(with_guarantee(certifier(confidence=1.0), assumption="no logit is rounded by more than 1")))
    assert text.startswith("Not proven throughout")
    assert "Deterministic" not in text
    assert "provided that no logit is rounded by more than 1, for every certified pixel" in text


def test_no_joint_claim_where_the_union_bound_is_empty():
    text = claim(Entry(certifier(images=1000)))
    assert "Jointly for all 1000 images nothing follows" in text


def test_claims_of_other_threats_and_own_wording():
    threat = {"norm": "patch", "share": 0.01}
    patches = certifier(threat=threat, confidence=1.0)
    assert "every attack within the threat patch of 0.01 of the image" in claim(Entry(patches))
    own = claim(Entry(with_guarantee(patches, wording="a change raises an alert")))
    assert "a change raises an alert" in own
    assert "does not change" not in own


def test_a_certifier_without_a_guarantee_is_an_error():
    told = {name: value for name, value in certifier().items() if name != "guarantee"}
    with pytest.raises(ResultError, match="guarantee cannot be read"):
        claim(Entry(told))


def test_where_an_alert_excuses_a_change_no_accuracy_is_bounded():
    """Attacked below what is certified: no violation of a promise that allows for alerts, and no bracket either."""
    detection = with_guarantee(certifier(confidence=1.0), promise=Promise.UNTIL_ALERT)
    attacked = attack() | {"figures": {"attacked_accuracy/image_mean": 0.1}}
    assert pairs([Entry(detection), Entry(attacked)]) == []
    assert bracket_status([Entry(detection), Entry(attacked)]).startswith("not checked")


@pytest.mark.parametrize(
    ("summaries", "start"),
    [
        ([certifier(), attack()], "holds on every image"),
        ([certifier(), attack() | {"figures": {"attacked_accuracy/image_mean": 0.8}}], "holds for the averages"),
        ([certifier(), attack() | {"figures": {"attacked_accuracy/image_mean": 0.7}}], "VIOLATED: 1 pair out of order"),
        ([certifier(), attack(accuracy=0.7)], "holds on every image"),  # undecided pixels of a sampled prediction
        ([certifier(), attack() | {"figures": {"bracket/violations": 2}}], "VIOLATED: 2 violations"),
        (
            [certifier(), attack() | {"figures": {"bracket/violations": 0, "bracket/undecided_pixels": 3}}],
            "no significant violation: 3 of",
        ),
        ([certifier(), attack(0.2, 0.1) | {"figures": {"attacked_accuracy/image_mean": 0.1}}], "not checked"),
        ([certifier(), attack() | {"predictor": "base", "figures": {"attacked_accuracy/image_mean": 0.1}}], "not ch"),
        ([certifier()], "not checked"),
        (
            [certifier(), attack() | {"figures": {"bracket/violations": 0, "bracket/alerted_pixels": 4}}],
            "holds on every image checked: no certified pixel changed without an alert",
        ),
    ],
)
def test_the_bracket(summaries, start):
    assert bracket_status([Entry(s) for s in summaries]).startswith(start)


# --- figures ---------------------------------------------------------------------------------------------------------


def drawn(figure) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[0].lines}


def test_the_radius_figure_shows_sweep_attack_and_clean_accuracy():
    figures = radius_figures([*mixed(), Entry(attack(0.1, 0.2, predictor="base"))])
    assert list(figures) == ["l2", "linf"]
    assert drawn(figures["l2"]) == {
        "certified: segcertify": ([0.1686, 0.4112], [0.78, 0.69]),
        f"no attacker: {SMOOTHED}": ([0], [0.845]),
        "attacked: pgd": ([0.1686], [0.831]),  # the one on the same predictor, in the same norm
        "no attacker: base": ([0], [0.905]),
    }
    axes = figures["l2"].axes[0]
    assert axes.get_xlabel() == "l2 radius, [0, 1] images"
    assert axes.get_ylabel() == "pixel accuracy (mean over 10 images)"
    assert len(figures["l2"].legends[0].get_texts()) == 4
    band = next(artist for artist in axes.collections if artist.get_gid() == "abstention")
    assert band.get_paths()[0].get_extents().ymax == pytest.approx(0.78 + 0.07)
    assert drawn(figures["linf"]) == {"attacked: pgd": ([4 / 255], [0.238]), "no attacker: base": ([0], [0.905])}


def test_settings_that_differ_at_one_radius_make_two_lines():
    more = [certifier(r, a + 0.01, tau=t) for r, a, t in ((0.1686, 0.78, 0.75), (0.4112, 0.69, 0.95))]
    for entry in more:
        entry["settings"]["n"] = 500
    entries = [Entry(s) for s in (certifier(0.4112, 0.69, tau=0.95), certifier(), *more)]
    assert [[entry.size for entry in line] for line in sweeps(entries)] == [[0.1686, 0.4112]] * 2
    labels_drawn = [text for text in drawn(radius_figures(entries)["l2"]) if text.startswith("certified")]
    assert labels_drawn == ["certified: segcertify (n=100)", "certified: segcertify (n=500)"]


def test_a_certifier_of_another_threat_is_drawn_over_its_size():
    entries = [Entry(certifier(threat={"norm": "patch", "share": share})) for share in (0.005, 0.01)]
    figure = radius_figures(entries)["patch"]
    assert figure.axes[0].get_xlabel() == "patch share of the image"
    assert drawn(figure)["certified: segcertify"][0] == [0.005, 0.01]


def test_without_a_threat_there_is_no_figure():
    assert radius_figures([Entry(prediction())]) == {}


def test_figure_files_are_images_and_the_same_every_time(tmp_path):
    (figure,) = radius_figures([Entry(prediction()), Entry(certifier()), Entry(attack())]).values()
    paths = save_figure(figure, tmp_path / "new" / "a.b", ("png", "pdf", "svg"))
    assert [path.name for path in paths] == ["a.b.png", "a.b.pdf", "a.b.svg"]
    with Image.open(paths[0]) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] == 1440
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    assert paths[1].read_bytes().startswith(b"%PDF")
    assert b"<svg" in paths[2].read_bytes()
    first = paths[1].read_bytes()
    save_figure(figure, tmp_path / "new" / "a.b", ("pdf",))
    assert paths[1].read_bytes() == first


# --- pictures --------------------------------------------------------------------------------------------------------

NAMES, PALETTE = ("sky", "road", "car"), ((70, 130, 180), (128, 64, 128), (0, 0, 142))


def label_map() -> np.ndarray:
    labels_shown = np.zeros((20, 30), dtype=np.int64)
    labels_shown[10:] = 1
    labels_shown[:, 25:] = 255
    return labels_shown


def test_a_picture_paints_classes_abstention_and_missing_labels():
    shown, certified = label_map(), np.ones((20, 30), dtype=bool)
    certified[:, :10] = False
    ignored = np.zeros((20, 30), dtype=bool)
    ignored[0, 0] = True
    panels = [
        Panel("image", np.full((20, 30, 3), 0.5)),
        Panel("certified", labels=shown, certified=certified, ignored=ignored),
    ]
    figure = picture_figure(panels, NAMES, PALETTE, title="one")
    assert [axes.get_title() for axes in figure.axes] == ["image", "certified"]
    pixels = figure.axes[1].images[0].get_array()
    np.testing.assert_array_equal(pixels[:10, 10:25], np.broadcast_to(PALETTE[0], (10, 15, 3)))
    np.testing.assert_array_equal(pixels[10:, 10:25], np.broadcast_to(PALETTE[1], (10, 15, 3)))
    free = pixels[:, :10].reshape(-1, 3)[1:]
    assert {tuple(colour) for colour in free.tolist()} == {(255, 255, 255), (176, 176, 176)}
    assert {tuple(c) for c in pixels[:, 25:].reshape(-1, 3).tolist()} == {tuple(pixels[0, 0].tolist())}
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["sky", "road", "abstains", "no label"]


def test_the_legend_names_only_what_is_visible():
    shown = np.zeros((6, 8), dtype=np.uint8)
    shown[0] = 2
    hidden = Panel("c", labels=shown, certified=shown == 0)
    texts = [text.get_text() for text in picture_figure([hidden], NAMES, PALETTE).legends[0].get_texts()]
    assert texts == ["sky", "abstains"]
    assert not picture_figure([Panel("i", np.zeros((6, 8, 3)))], NAMES, PALETTE).legends


@pytest.mark.parametrize(("count", "grid"), [(1, (1, 1)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3)), (6, (2, 3))])
def test_pictures_of_any_number_of_panels(tmp_path, count, grid):
    panels = [Panel(str(index), labels=label_map()) for index in range(count)]
    figure = picture_figure(panels, NAMES, PALETTE)
    assert figure.axes[0].get_gridspec().get_geometry() == grid
    path = picture(tmp_path / "pictures" / "a.png", panels, NAMES, PALETTE)
    with Image.open(path) as image:
        assert image.width == 1800


def test_pictures_that_cannot_be_drawn_are_refused(tmp_path):
    shown, image = label_map(), np.zeros((20, 30, 3))
    for arguments in (
        {},
        {"image": image, "labels": shown},
        {"image": image[..., 0]},
        {"labels": image},
        {"labels": shown, "certified": shown},
        {"labels": shown, "ignored": np.ones((3, 3), dtype=bool)},
        {"image": image, "certified": shown == 0},
    ):
        with pytest.raises(ResultError, match=r"[Pp]anel"):
            Panel("x", **arguments)
    panel = Panel("x", labels=shown)
    for names, palette, panels, name in (
        (NAMES, PALETTE, [], "a.png"),
        (NAMES, PALETTE[:2], [panel], "a.png"),
        (NAMES[:1], PALETTE[:1], [panel], "a.png"),
        (NAMES, PALETTE, [panel], "a.gif"),
    ):
        with pytest.raises(ResultError):
            picture(tmp_path / name, panels, names, palette)


# --- report ----------------------------------------------------------------------------------------------------------


def test_a_deterministic_certificate_bounds_the_worst_case_without_error_probability(tmp_path):
    entries = [Entry(certifier(confidence=1.0)), Entry(attack())]
    text = write_report(tmp_path, title="t", command="c", entries=entries, pictures=[], context={}).read_text()
    assert (
        "without error probability the worst case of the accuracy (image mean) lies between 78.0 % (segcertify) and "
        "83.1 % (pgd)" in text
    )


def bracket_of(tmp_path, *summaries):
    entries = [Entry(one) for one in summaries]
    return write_report(tmp_path, title="t", command="c", entries=entries).read_text()


def test_a_bracket_of_a_certificate_that_assumes_something(tmp_path):
    assuming = with_guarantee(certifier(confidence=1.0), assumption="no logit is rounded by more than 1")
    text = bracket_of(tmp_path, assuming, attack())
    assert "under the assumption above the worst case" in text
    assert "without error probability the worst case" not in text


@pytest.mark.parametrize(("images", "votes", "joint"), [(10, None, "0.99"), (10, 0.999, "0.98"), (500, 0.999, None)])
def test_a_mean_over_images_is_bracketed_jointly_or_not_at_all(images, votes, joint, tmp_path):
    """The errors of certificate and votes add up, image by image; where they come to 1 nothing follows."""
    text = bracket_of(tmp_path, certifier(images=images), attack() | {"images": images, "confidence": votes})
    assert ("lies between" in text) == (joint is not None)
    if joint:
        assert f"with probability ≥ {joint} for 10 images the worst case of the accuracy" in text
    if votes:
        assert "With probability ≥ 0.999 per image no pixel counts as lost whose answer is still right" in text


def test_where_pixels_may_be_wrong_the_bracket_begins_below_what_is_certified(tmp_path):
    some = with_guarantee(certifier(), promise=Promise.ALL_BUT, tolerated=3)
    assert pairs([Entry(some), Entry(attack())]) == [], "without the figure nothing is bounded"
    some["figures"]["worst_case_accuracy/image_mean"] = 0.71
    (pair,) = pairs([Entry(some), Entry(attack())])
    assert pair.lower == 0.71
    text = bracket_of(tmp_path, some, attack())
    assert "lies between 71.0 % (segcertify) and 83.1 % (pgd)" in text
    assert "from below, as far as the certificate promises: worst case mIoU, worst case accuracy" in text.replace(
        "worst case accuracy, worst case mIoU", "worst case mIoU, worst case accuracy"
    )
    assert (
        "no bounds, where a certificate lets some of them be wrong or promises nothing about an image: accuracy" in text
    )


def test_where_nothing_is_promised_about_an_image_no_count_is_a_bound():
    average = with_guarantee(certifier() | {"confidence": 0.0}, promise=Promise.ERROR_SHARE, error_share=0.05)
    average["figures"]["worst_case_accuracy/image_mean"] = float("nan")
    text = figure_table([Entry(average)]).markdown()
    assert "| – |" in text
    assert "about an image: accuracy" in text
    assert pairs([Entry(average), Entry(attack())]) == []
    assert "with the confidence above" not in text


def test_the_report_holds_claim_numbers_links_and_context(tmp_path):
    where = tmp_path / "outputs" / "camvid" / "tiny-noise"
    summaries = [prediction(), certifier(), attack()]
    entries = [Entry(s, directory=where / f"{s['name']}-{i} x") for i, s in enumerate(summaries)]
    for entry in entries:
        entry.directory.mkdir(parents=True)
    directory = tmp_path / "outputs" / "runs" / "today"
    shown = picture(directory / "pictures" / "a=2Fb.png", [Panel("truth", labels=label_map())], NAMES, PALETTE)
    path = write_report(
        directory,
        title="SegCertify on CamVid",
        command="python run.py dataset=camvid",
        entries=entries,
        pictures=[shown],
        context={"versions": {"torch": "2.13.0"}, "device": "cpu", "seconds": 95.0},
    )
    text = path.read_text()
    assert path == directory / "report.md"
    assert text.startswith("# SegCertify on CamVid\n\n```sh\npython run.py dataset=camvid\n```\n")
    assert figure_table(entries).markdown() in text
    assert "**segcertify** (l2 ≤ 0.1686): With probability ≥ 0.999 per image, for every certified pixel" in text
    assert "Jointly for all 10 images: with probability ≥ 0.99" in text
    assert (
        "with probability ≥ 0.99 for 10 images the worst case of the accuracy (image mean) lies between 78.0 %" in text
    )
    assert "| sky | 91.2 |" in text
    assert "zero_gradient x 2" in text
    assert "torch: 2.13.0" in text
    assert "seconds: 1 min 35 s" in text
    assert str(tmp_path) not in text
    links = [urllib.parse.unquote(link) for link in re.findall(r"\]\(([^)]*)\)", text)]
    assert len(links) == 1 + 1 + 3
    assert all((directory / link).exists() for link in links)
    rows = list(csv.DictReader(io.StringIO((directory / "figures.csv").read_text())))
    assert [row["name"] for row in rows] == ["clean", "segcertify", "pgd"]
    assert (directory / "figures" / "accuracy-l2.pdf").stat().st_size > 1000


def test_equal_claims_of_a_sweep_are_written_once(tmp_path):
    entries = [Entry(certifier(r, tau=t)) for r, t in ((0.06, 0.6), (0.1686, 0.75), (0.41, 0.95))]
    text = write_report(tmp_path, title="t", command="c", entries=entries).read_text()
    assert text.count("does not change") == 1
    assert "**segcertify (tau=0.6)** (l2 ≤ 0.06), **segcertify (tau=0.75)** (l2 ≤ 0.1686)" in text
    assert "Pictures" not in text


def test_a_report_of_a_picture_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ResultError, match=r"none\.png"):
        write_report(tmp_path, title="t", command="c", entries=mixed(), pictures=[tmp_path / "none.png"])
    assert not (tmp_path / "report.md").exists()


@pytest.mark.parametrize("copies", [1, 8])
def test_the_console_summary_fits_one_screen(tmp_path, monkeypatch, copies):
    monkeypatch.chdir(tmp_path)
    console = Console(file=io.StringIO(), width=100)
    entries = [Entry(copy.deepcopy(dict(entry.summary))) for entry in mixed() * copies]
    console_summary(entries, report=tmp_path / "runs" / "report.md", seconds=12.34, console=console)
    lines = console.file.getvalue().splitlines()
    assert len(lines) <= 24
    assert all(len(line) <= 100 for line in lines)
    assert "bracket  holds on every image checked: no certified pixel changed" in lines
    assert "time     12.3 s" in lines
    assert "report   runs/report.md" in lines
    assert any(line.startswith("flags    zero_gradient x") for line in lines)
    assert any("78.0" in line and "certified" in line for line in lines)
    assert any(re.fullmatch(r"and \d+ more\s*", line) for line in lines) == (copies > 1)
