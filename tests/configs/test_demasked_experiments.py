"""The experiments against patches: what their jobs certify, on which network, and with which inpainter."""

import re
import subprocess
from functools import cache

import pytest
from hydra import compose, initialize_config_dir
from support.pipeline_runs import ROOT

from certseg.errors import ConfigError
from certseg.pipeline.keys import training_identity
from certseg.pipeline.settings import parse
from certseg.pipeline.stages import Plan

FOLDER = ROOT / "configs" / "experiment" / "demasked"
CERTIFICATES = [file.stem for file in sorted((FOLDER / "certificate").glob("*.yaml"))]
NETWORKS = [file.stem for file in sorted((FOLDER / "network").glob("*.yaml"))]
SMALL = ("camvid", "streets")
TABLES = ("table1", "table3", "table7")
MASKS = {"column": 5, "row": 5, "three": 7, "four": 9}
MORE = {"three_11": 11, "four_16": 16}
DOUBLE = {"double_masking": 0.0, "double_masking_sure": 0.75}
TEN = {"detection_column", "detection_row", *(f"recovery_{masks}" for masks in MASKS | MORE), *DOUBLE}
SWEPT = {
    "camvid": TEN,
    "streets": TEN,
    "table1": {"detection_column", "detection_row", *(f"unanimity_{masks}" for masks in MASKS)},
    "table3": {"detection_column", "unanimity_column"},
    "table7": {"detection_column", "unanimity_column"},
}
ZITS = {
    "table1": "certifier.inpainter.path=zits.pt",
    "table3": "certifier.inpainter.path=zits.pt",
    "table7": "zits=zits.pt",
}


def composed(name, *overrides, **options):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("config", overrides=[f"experiment=demasked/{name}", *overrides], **options)


@cache  # the same job is asked for by several tests, and nobody changes its settings
def settings_of(name, *overrides, certificate=None):
    chosen = [] if certificate is None else [f"experiment/demasked/certificate={certificate}"]
    return parse(composed(name, *chosen, *overrides))


def sweep_of(name):
    params = composed(name, return_hydra_config=True).hydra.sweeper.params
    return {swept: values.split(",") for swept, values in params.items()}


def test_these_are_the_experiments():
    assert {file.stem for file in FOLDER.glob("*.yaml")} == {*SMALL, *TABLES}
    assert set().union(*SWEPT.values()) == set(CERTIFICATES)


@pytest.mark.parametrize("name", sorted(SWEPT))
def test_the_jobs_of_a_sweep_certify_different_things(name, beside_zits):
    sweep = sweep_of(name)
    assert set(sweep["experiment/demasked/certificate"]) == SWEPT[name]
    assert set(sweep) <= {"experiment/demasked/certificate", "experiment/demasked/table7"}
    found = set()
    for certificate in sweep["experiment/demasked/certificate"]:
        certifier = Plan.of(settings_of(name, ZITS.get(name, "seed=0"), certificate=certificate)).certifier
        found.add((certifier.name, *certifier.settings.items()))
        kind, _, masks = certificate.partition("_")
        detects = kind == "detection"
        assert certifier.threat.share == (0.01 if detects else 0.005)
        if certificate in DOUBLE:
            assert certifier.name == "patch_double_masking"
            assert certifier.min_probability == DOUBLE[certificate]
            continue
        name_and_masks = f"demasked_{'detection' if detects else 'recovery'}", masks.partition("_")[0]
        assert (certifier.name, certifier.kind) == name_and_masks
        assert certifier.num_masks == (20 if detects else (MASKS | MORE)[masks])
        if not detects:
            assert certifier.rule == ("unanimity" if kind == "unanimity" else "tight")
    assert len(found) == len(SWEPT[name])


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("inpainter", ["black", "mean_colour", "telea", "navier_stokes"])
def test_every_certificate_takes_the_inpainter_of_the_command_line(name, inpainter):
    for certificate in SWEPT[name]:
        plan = Plan.of(settings_of(name, f"certifier/inpainter={inpainter}", certificate=certificate))
        assert plan.certifier.inpainter.name == inpainter
        assert Plan.of(settings_of(name, certificate=certificate)).certifier.inpainter.name == "telea"


@pytest.mark.parametrize(("name", "limit"), [("camvid", 50), ("streets", 20)])
def test_the_small_ones_train_one_network(name, limit):
    jobs = [
        settings_of(name, f"certifier/inpainter={inpainter}", certificate=certificate)
        for certificate in SWEPT[name]
        for inpainter in ("telea", "black")
    ]
    assert len({str(training_identity(job, "data")) for job in jobs}) == 1
    assert jobs[0].training.name == "clean"
    assert jobs[0].model.name == "upernet_tiny"
    assert {(job.dataset.limit, job.dataset.target.rpartition(".")[2].lower()) for job in jobs} == {(limit, name)}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_table_takes_every_network_with_its_data(name, network, beside_zits):
    settings = settings_of(name, f"experiment/demasked/network={network}", ZITS[name])
    data = re.search("ade20k|coco_stuff10k", network)[0]
    assert settings.dataset.target.lower().endswith(data.replace("_", ""))
    assert settings.dataset.limit == (200 if name == "table7" else None)
    assert settings.certifier.arguments["big_classes"] == data
    config = settings.model.arguments["config"]
    assert data.replace("_stuff", "-stuff") in config
    assert network.startswith(config.partition("/")[0])
    assert Plan.of(settings).certifier.inpainter.name == ("zits" if name == "table7" else "torchscript")


def test_the_networks_that_tables_begin_with():
    assert settings_of("table1").model.name == settings_of("table3").model.name == "beit_b"
    assert settings_of("table7", "zits=zits.pt").model.name == "upernet_swin_b"
    assert len(NETWORKS) == 5


@pytest.mark.parametrize("name", ["table1", "table3"])
def test_a_table_without_the_inpainters_file_says_so(name):
    for certificate in SWEPT[name]:
        with pytest.raises(ConfigError, match=r"certifier\.inpainter\.path") as error:
            Plan.of(settings_of(name, "model.checkpoint=beit.pth", certificate=certificate))
        assert "\n" not in str(error.value)
    assert Plan.of(settings_of(name, "certifier/inpainter=telea")).certifier.inpainter.name == "telea"


def test_table7_compares_zits_with_black_and_says_what_is_missing(beside_zits):
    assert sweep_of("table7")["experiment/demasked/table7"] == ["zits", "black"]
    found = [
        Plan.of(settings_of("table7", "zits=zits.pt", f"experiment/demasked/table7={shown}")).certifier.inpainter.name
        for shown in ("zits", "black")
    ]
    assert found == ["zits", "black"]
    for shown in ("zits", "black"):
        with pytest.raises(ConfigError, match="zits"):
            settings_of("table7", f"experiment/demasked/table7={shown}")


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("table1", [("BEiT-B", "column", "63.55", "20.04"), ("BEiT-B", "3-mask", "38.64"), ("PSPNet", "4-", "20.36")]),
        ("table3", [("Swin-B", "61.44", "20.31"), ("DeepLab v3", "46.55", "21.89"), ("DeepLab v3", "28.71")]),
        ("table7", [("detection", "black", "21.19"), ("recovery", "ZITS", "47.05"), ("recovery", "black", "18.59")]),
    ],
)
def test_figures_of_the_paper_are_there(name, rows):
    lines = [line for line in composed(name).expected.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == {"table1": 14, "table3": 12, "table7": 6}[name]
    for row in rows:
        assert sum(all(cell in line for cell in row) for line in lines) == 1, row
    accuracy = lines[0].split("|").index(" %C ")
    recall, certified = (lines[0].split("|").index(f" {head} ") for head in ("mR", "cmR"))
    for line in lines[2:]:
        cells = line.split("|")
        assert 0 < float(cells[certified]) < float(cells[recall]) < 100
        assert 0 < float(cells[accuracy]) < 100


@pytest.mark.parametrize("name", sorted(SWEPT))
def test_make_runs_it(name):
    target = f"reproduce-demasked-{name}"
    command = ["make", "--dry-run", "--assume-old=setup", target, "ROOT=somewhere", "ARGS=dataset.limit=3"]
    dry = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert f"certseg dataset.root=somewhere dataset.limit=3 experiment=demasked/{name}" in dry
    assert re.search(rf"^\.PHONY:(.*\\\n)*.*\b{target}\b", (ROOT / "Makefile").read_text(), flags=re.M)
