"""The experiments that compare Lipschitz certificates with randomized smoothing compare like with like."""

import re
import subprocess

import pytest
from hydra import compose, initialize_config_dir
from support.pipeline_runs import ROOT

from certseg.pipeline.settings import build, parse
from certseg.pipeline.stages import Plan
from certseg.pipeline.weights import build_segmenter, legend_of

FOLDER = ROOT / "configs" / "experiment" / "lipschitz"
NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))
CASES = ("lipschitz", "smoothing", "noise_trained")


def settings_of(name, case):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        overrides = [f"experiment=lipschitz/{name}", f"experiment/lipschitz/{name}={case}"]
        return parse(compose("config", overrides=overrides))


def test_there_is_one_for_each_data_set():
    assert NAMES == ["camvid", "cityscapes", "kvasir", "pets"]


@pytest.mark.parametrize("name", NAMES)
def test_one_network_one_radius_and_noise_as_trained(name):
    certified, smoothed, noisy = (settings_of(name, case) for case in CASES)
    for shared in ("dataset", "model", "training", "hardware", "seed", "expected"):
        assert getattr(certified, shared) == getattr(smoothed, shared), shared
    plans = [Plan.of(settings) for settings in (certified, smoothed, noisy)]
    assert [plan.certifier.name for plan in plans] == ["lipschitz", "segcertify", "segcertify"]
    assert plans[0].certifier.threat == plans[1].certifier.threat == plans[2].certifier.threat
    assert noisy.dataset == smoothed.dataset
    assert noisy.certifier == smoothed.certifier
    assert build("training", noisy.training).objective.sigma == noisy.certifier.arguments["sigma"]
    assert noisy.training.arguments["crop"] == smoothed.training.arguments["crop"]
    assert noisy.training.arguments["iterations"] <= smoothed.training.arguments["iterations"]
    assert not noisy.model.target.startswith("certseg.models.Lip")


def test_the_file_of_an_experiment_names_all_its_runs():
    for name in NAMES:
        assert {file.stem for file in (FOLDER / name).glob("*.yaml")} == set(CASES)
        assert f"experiment/lipschitz/{name}: {','.join(CASES)}" in (FOLDER / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", ["camvid", "kvasir"])
def test_the_networks_can_be_built(name):
    settings = settings_of(name, "lipschitz")
    classes = len(legend_of(settings).class_names)
    network = build_segmenter(settings.model, classes)
    assert network.tau == settings.model.arguments["tau"]
    assert sum(parameter.numel() for parameter in network.parameters()) > 5e4


@pytest.mark.parametrize("name", NAMES)
def test_make_runs_it(name):
    target = f"reproduce-lipschitz-{name}"
    command = ["make", "--dry-run", "--assume-old=setup", target, "ROOT=somewhere", "ARGS=dataset.limit=3"]
    dry = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert f"certseg dataset.root=somewhere dataset.limit=3 experiment=lipschitz/{name}" in dry
    assert re.search(rf"^\.PHONY:(.*\\\n)*.*\b{target}\b", (ROOT / "Makefile").read_text(), flags=re.M)
