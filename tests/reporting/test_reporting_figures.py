"""Every figure that a run writes is described, and tables and plots know figures by their description alone."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from support.attacked import convolution
from support.audited_pixels import CPU, NAMES, Images, three_classes
from support.stores import Memory

from certseg import reporting
from certseg.attacks import APGD, DAG, PGD, SEA, Defence, PatchPGD, Smoothing
from certseg.bracket import NormFindings, PixelFindings
from certseg.certifiers import (
    AdaptiveCertify,
    DemaskedDetection,
    DemaskedRecovery,
    DerandomizedSmoothing,
    IndivClass,
    JointClass,
    Lipschitz,
    PatchDoubleMasking,
    SegCertify,
)
from certseg.evaluation import AttackStage, CertificationStage, MinimumNormStage, PredictionStage, evaluate
from certseg.lipschitz.worst_case import CollectiveCounts
from certseg.metrics import FIGURES, SHARE, ClassCounts, Estimator, Figure, Side, register
from certseg.metrics.figures import Unit
from certseg.models.mmseg_library import quiet_import
from certseg.reporting import Entry, figure_table
from certseg.training.inpainting import HiddenError
from certseg.training.lipschitz import CertifiedAccuracies
from certseg.training.objectives import ViewCounts
from certseg.types import L2, Linf, Patch

with quiet_import():
    from certseg.training.training_model import ViewMetric

PATCH = Patch(height=2, width=2)
SMOOTH = {"sigma": 0.25, "n": 60}
GROUPS = [{"light": ["bright", "green"]}]


def certifiers():
    detection = DemaskedDetection(patch=PATCH, inpainter=None, num_masks=3)
    return [
        SegCertify(**SMOOTH),
        IndivClass(**SMOOTH),
        JointClass(**SMOOTH),
        AdaptiveCertify(hierarchy=GROUPS, class_names=NAMES, **SMOOTH),
        Lipschitz(radius=0.3, radii=[0.1]),
        Lipschitz(radius=0.3, radii=[0.1], worst_case_iou=False),
        DemaskedRecovery(patch=PATCH, inpainter=None),
        detection,
        PatchDoubleMasking(patch=Patch(share=0.02), inpainter=None, masks="column"),
        DerandomizedSmoothing(patch=Patch(share=0.02, aspect=2.0, count=1), inpainter=None, width=3, stride=2),
    ]


def attacks():
    detection = Defence(DemaskedDetection(patch=PATCH, inpainter=None, num_masks=3))
    return [
        (PGD(2), L2(0.3), (0.0, 0.1)),
        (PGD(2, smoothing=Smoothing(0.25, samples=2, votes=50)), L2(0.3), ()),
        (APGD(2, goal=1), Linf(0.03), ()),
        (SEA(("masked_cross_entropy", "jensen_shannon"), iterations=4, reference_steps=2), Linf(0.03), (0.01,)),
        (PatchPGD(steps=2, position=[0, 0]), PATCH, ()),
        (PatchPGD(steps=2, position=[0, 0], defence=detection), PATCH, ()),
    ]


def stages():
    model, options = three_classes(), {"seed": 0, "hardware": CPU}
    yield PredictionStage(model, NAMES, CPU)
    for certifier in certifiers():
        yield CertificationStage(certifier, model, NAMES, **options)
    for attack, threat, radii in attacks():
        yield AttackStage("a", attack, threat, convolution(), NAMES, settings={}, radii=radii, **options)
    yield MinimumNormStage("dag", DAG(success=0.5, iterations=5), model, NAMES, settings={}, **options)


@pytest.fixture(scope="module")
def written():
    """Full names of figures by where they were found: rows, summaries, their radii and members."""
    found = {"rows": {}, "summary": {}, "radii": {}, "members": {}}
    for stage in stages():
        store = Memory()
        summary = evaluate(stage, Images(2), store)
        for row in store.read().values():
            found["rows"] |= row["figures"]
            found["rows"] |= {name: value for part in row.get("radii", ()) for name, value in part["figures"].items()}
        found["summary"] |= summary["figures"]
        found["members"] |= {n: v for part in summary.get("members", {}).values() for n, v in part.items()}
        for part in Entry({"kind": stage.kind, "name": stage.name} | summary).by_radius:
            found["radii"] |= part.summary["figures"]
    return found


def undescribed(names):
    return [name for name in names if not FIGURES.key(name).figure.is_described]


@pytest.mark.parametrize(("place", "least"), [("rows", 30), ("summary", 45), ("radii", 10), ("members", 7)])
def test_every_figure_a_stage_writes_is_described(written, place, least):
    assert len(written[place]) >= least
    assert undescribed(written[place]) == []


def test_every_figure_of_the_bracket_is_described():
    names = {field.name for kind in (PixelFindings, NormFindings) for field in fields(kind)} - {"images"}
    assert undescribed(f"bracket/{name}" for name in {"violations", "bounds", *names}) == []


def test_every_figure_of_a_validation_is_described():
    classes = torch.tensor([[0, 1]])
    views = {view: ViewCounts(ClassCounts.from_maps(classes, classes, 3)) for view in ("clean", "noise", "masked")}
    costs, hits = torch.tensor([0.1, 0.2]), torch.tensor([True, True])
    counts = CollectiveCounts.of(costs, hits, hits, torch.tensor([0.1, 0.2], dtype=torch.float64))
    more = {"certified": CertifiedAccuracies((1e-5, 0.25), counts, 0.3, 1.0), "hidden": HiddenError(0.5, 2)}
    figures = ViewMetric().compute_metrics([views | more])
    assert len(figures) == 6 + 4 + 1
    assert undescribed(figures) == []


def test_what_the_tests_above_would_find(written):
    assert undescribed([*written["summary"], "robustness/image_mean", "bracket/seen"]) == [
        "robustness/image_mean",
        "bracket/seen",
    ]


# --- readers ---------------------------------------------------------------------------------------------------------


def entry(kind="certifier", **figures):
    figures = {name.replace("__", "/"): value for name, value in figures.items()}
    return Entry({"kind": kind, "name": "mine", "images": 1, "figures": figures})


def shown(*entries):
    table = figure_table(entries)
    columns = {column.header: list(column.cells) for column in table.columns if column.is_figure}
    return columns, "; ".join(table.legend)


def test_a_strangers_figures_are_shown_as_described():
    register(Figure("kept_tumours", "tumours no attack hides", SHARE, Side.LOWER, heading="tumours", order=5))
    register(Figure("found_tumours", "tumours an attack left", SHARE, Side.UPPER, heading="tumours", order=5))
    register(Figure("dice_at_{number}", "overlap of {number} mm", Unit("mm", "mm", 10.0, 2)))
    register(Figure("rim_accuracy", "an angle, whatever its name ends in"))
    certified = entry(accuracy__pooled=0.5, dice_at_3__pooled=0.5, rim_accuracy=0.25, kept_tumours__pooled=0.75)
    columns, legend = shown(certified, entry("attack", found_tumours__pooled=0.875))
    assert columns == {
        "tumours % (pooled)": ["75.0", "87.5"],
        "accuracy % (pooled)": ["50.0", ""],
        "dice at 3 mm (pooled)": ["5.00", ""],
        "rim accuracy": ["0.25", ""],
    }
    assert "bounds of the worst case from below, as far as the certificate promises: tumours;" in legend
    assert "tumours: tumours no attack hides; tumours: tumours an attack left; dice at 3: overlap of 3 mm" in legend


def test_a_figure_nobody_described_is_a_number_and_the_legend_says_so():
    figures = {"certified_mystery_accuracy__pooled": 0.5, "odd@0.5__image_mean": 2.0, "level_a_share": 1.0}
    columns, legend = shown(entry(**figures, abstention__image_mean=0.5))
    assert columns == {
        "abstention % (image mean)": ["50.0"],
        "certified mystery accuracy (pooled)": ["0.5"],
        "odd@0.5 (image mean)": ["2"],
        "level a share": ["1"],
    }
    assert "without a description: certified mystery accuracy, odd@0.5, level a share; over 1 image" in legend
    assert "without a description" not in shown(entry(abstention__pooled=0.5))[1]


def test_two_figures_of_one_row_never_share_a_cell():
    columns, _ = shown(entry(accuracy__pooled=0.5, certified_accuracy__pooled=0.25, attacked_accuracy__pooled=0.75))
    assert columns == {
        "accuracy % (pooled)": ["50.0"],
        "certified accuracy % (pooled)": ["25.0"],
        "attacked accuracy % (pooled)": ["75.0"],
    }


def test_a_family_has_one_line_in_the_legend():
    _, legend = shown(entry(**{"robustness@25__image_mean": 1.0, "robustness@75__image_mean": 2.0}))
    assert legend.count("of the labelled pixels change") == 1
    assert "promises: robustness@25;" in legend


def code_of(path):
    """The nodes of a module without its docstrings."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    described = [node for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)]
    docstrings = {id(node.body[0].value) for node in described}
    return [node for node in ast.walk(tree) if id(node) not in docstrings]


NAMES_OF_FIGURES = {figure.name for figure in FIGURES if "_" in figure.name or "/" in figure.name}
SUFFIXES = {one.suffix if "_" in one.suffix else f"/{one.suffix}" for one in Estimator}
CUTTING = {"removeprefix", "removesuffix", "startswith", "endswith", "split", "rsplit", "partition", "rpartition"}


def name_readings(path):
    """Where a module spells a figure's name, or takes a text apart at what figures' names are made of."""
    for node in code_of(path):
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if any(part in text for part in NAMES_OF_FIGURES | SUFFIXES):
            yield f"{path.name}:{node.lineno}: {text!r}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CUTTING:
            texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            if any(isinstance(text, str) and set(text) & set("_@/") for text in texts):
                yield f"{path.name}:{node.lineno}: {ast.unparse(node)}"


def test_no_reader_takes_names_of_figures_apart():
    modules = sorted(Path(reporting.__file__).parent.glob("*.py"))
    assert len(modules) > 8
    assert [reading for path in modules for reading in name_readings(path)] == []


@pytest.mark.parametrize(
    "line",
    [
        "lower = entry.figure('certified_accuracy/image_mean')",
        "stem, _, estimator = name.rpartition('/')",
        "share = float(name.removeprefix('robustness@'))",
        "is_percent = name.endswith(('_share', '_rate'))",
        "means = [name for name in names if 'image_mean' in name]",
        "text = f'robustness@{share}/image_mean'",
    ],
)
def test_a_reading_is_seen(tmp_path, line):
    path = tmp_path / "reader.py"
    path.write_text(f'"""Of certified_accuracy/image_mean."""\n\n{line}\n')
    assert list(name_readings(path))
