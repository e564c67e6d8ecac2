"""Every config file composes, resolves and gives the object it names; bad settings end in one clear message."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from certseg.datasets import Streets
from certseg.errors import CertsegError, ConfigError, DataError
from certseg.pipeline.declarations import read
from certseg.pipeline.settings import build, parse, resolve
from certseg.pipeline.spec import HardwareSpec
from certseg.pipeline.stages import Plan
from certseg.pipeline.tasks.train_inpainter import inpainter_parts
from certseg.pipeline.trainings import build_dataset
from certseg.pipeline.weights import legend_of

CONFIGS = Path(__file__).parents[2] / "configs"
GROUPS = ("dataset", "model", "training", "attack", "certifier", "hardware", "tracking")
FILES = [file for group in GROUPS for file in sorted((CONFIGS / group).glob("*.yaml"))]
CHOICES = [pytest.param(file.parent.name, file.stem, id=f"{file.parent.name}={file.stem}") for file in FILES]
EXPERIMENTS = [
    str(file.relative_to(CONFIGS / "experiment").with_suffix(""))
    for file in sorted((CONFIGS / "experiment").rglob("*.yaml"))
    if not file.parent.with_suffix(".yaml").exists()  # what an experiment sweeps over lies in a folder of its name
    and len(file.relative_to(CONFIGS / "experiment").parts) < 3  # or, for all of a family, in one of the family
]
NEEDED = {
    "mmseg": ["model.config=pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024"],
    "custom": ["model.network._target_=torch.nn.Conv2d"],
    "onnx": ["model.file=net.onnx"],
    "torchscript": ["model.file=net.pt"],
    "square": ["attack.radius=4/255"],
    "square_defended": ["certifier=demasked_recovery"],
    "targeted": ["attack.goal=sky"],
    "vanish": ["metrics.objects=[car]"],
    "vanish_smoothed": ["metrics.objects=[car]"],
    "patch": ["attack.patch.share=0.01"],
    "patch_defended": ["certifier=demasked_recovery"],
}
NEEDED_BY = {  # experiments with the inpainter of a file
    "demasked/table1": "certifier.inpainter.path=zits.pt",
    "demasked/table3": "certifier.inpainter.path=zits.pt",
    "demasked/table7": "zits=zits.pt",
}
NAMED = {"coco": ["dataset.class_names=[cat,dog]"], "folder": ["dataset.num_classes=3"]}
"""How the classes of data sets are named that have none of their own."""
NEEDS_DATA = {
    "ade20k",
    "camvid",
    "cityscapes",
    "coco",
    "coco_stuff10k",
    "folder",
    "kvasir_seg",
    "oxford_pets",
    "pascal_context",
    "voc2012",
}
NEEDS_GPU = {"cuda", "a100", "h100"}


def settings_of(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return parse(compose("config", overrides=list(overrides)))


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_and_tells_its_story(group, choice):
    first = (CONFIGS / group / f"{choice}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 12
    settings = settings_of(f"{group}={choice}", *NEEDED.get(choice, []))
    spec = getattr(settings, group)
    assert spec is None or spec.target.startswith("certseg.")
    assert (spec is None) == (choice == "none" and group != "tracking")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment, beside_zits):
    chosen = [f"experiment={experiment}", *filter(None, [NEEDED_BY.get(experiment)])]
    settings = settings_of(*chosen)
    Plan.of(settings)
    build("training", settings.training)
    assert settings.expected or "/" not in experiment, "what the paper found belongs to its experiment"
    for swept, values in sweep_of(experiment).items():
        for value in values.split(","):
            settings = settings_of(*chosen, f"{swept}={value}")
            Plan.of(settings)
            build("training", settings.training)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_commands_in_the_head_of_an_experiment_compose(experiment, beside_zits):
    """Of a sweep over several values the first."""
    for line in (CONFIGS / "experiment" / f"{experiment}.yaml").read_text().splitlines():
        if line.startswith("#   certseg "):
            words = [word.split(",")[0] for word in line.split()[2:]]
            with initialize_config_dir(str(CONFIGS), version_base="1.3"):
                settings = parse(compose("config", overrides=words, return_hydra_config=False))
            assert not any(word.startswith("hydra.sweeper") for word in words), "Hydra does not sweep over itself"
            Plan.of(settings)


def sweep_of(experiment):
    """What the experiment's jobs differ in."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        hydra = compose("config", overrides=[f"experiment={experiment}"], return_hydra_config=True).hydra
    assert (hydra.mode is not None) == bool(hydra.sweeper.params), "a sweep says so itself"
    return dict(hydra.sweeper.params or {})


@pytest.mark.parametrize(("group", "choice"), [c for c in CHOICES if c.values[0] not in ("model", "dataset")])
def test_every_choice_instantiates(group, choice, monkeypatch):
    if choice in NEEDS_GPU:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    settings = settings_of(f"{group}={choice}", *NEEDED.get(choice, []))
    if group in ("attack", "certifier"):
        plan = Plan.of(settings)
        assert (getattr(plan, group) is None) == (choice == "none")
    elif choice == "inpainter":
        recipe, network = inpainter_parts(settings.training, settings.training.inpainter)
        assert recipe.name == choice
        assert sum(parameter.numel() for parameter in network.parameters()) > 1e5
    else:
        assert build(group, getattr(settings, group)) is not None


@pytest.mark.parametrize("inpainter", ["black", "mean_colour", "navier_stokes", "telea"])
def test_a_training_with_masks_takes_every_inpainter(inpainter):
    group = f"certifier/inpainter@training.objective.inpainter={inpainter}"
    settings = settings_of("training=masked", group, "certifier=demasked_recovery", "certifier/inpainter=black")
    assert build("training", settings.training).objective.inpainter.name == inpainter
    assert build("certifier", settings.certifier).inpainter.name == "black"


@pytest.mark.parametrize("choice", sorted(NEEDS_DATA))
def test_a_missing_data_set_explains_itself(choice, tmp_path):
    extra = NAMED.get(choice, [])
    settings = settings_of(f"dataset={choice}", f"dataset.root={tmp_path}/nowhere", *extra)
    with pytest.raises(DataError) as error:
        build_dataset(settings)
    message = str(error.value)
    assert f"{tmp_path}/nowhere" in message
    assert "dataset.root" in message


@pytest.mark.parametrize(
    ("choice", "number"),
    [
        ("camvid", 11),
        ("cityscapes", 19),
        ("ade20k", 150),
        ("voc2012", 21),
        ("pascal_context", 59),
        ("coco", 3),
        ("coco_stuff10k", 171),
        ("folder", 3),
        ("streets", 8),
        ("oxford_pets", 2),
        ("kvasir_seg", 2),
    ],
)
def test_the_classes_of_a_data_set_are_known_without_its_files(choice, number):
    extra = NAMED.get(choice, [])
    legend = legend_of(settings_of(f"dataset={choice}", *extra))
    assert legend.name == choice
    assert len(set(legend.class_names)) == len(legend.palette) == number
    assert all(0 <= value <= 255 for colour in legend.palette for value in colour)


def test_a_data_set_that_cannot_tell_its_classes_is_built_for_them(monkeypatch):
    legend = legend_of(settings_of())
    monkeypatch.delattr(Streets, "legend")
    assert legend_of(settings_of()) == legend
    with pytest.raises(ConfigError, match="size is too small"):
        legend_of(settings_of("dataset.size=[2,2]"))


def test_certseg_defaults_are_the_papers():
    certifier = Plan.of(settings_of()).certifier
    papers = {"sigma": 0.25, "tau": 0.75, "n0": 10, "n": 100, "alpha": 0.001, "correction": "holm"}
    assert certifier.settings | {"tau": certifier.tau} == {"grey_levels": 255, **papers}
    assert certifier.taus == (0.55, 0.6, 0.65, 0.7, 0.75), "the smaller ones take nothing from the paper's"
    assert round(certifier.radius, 2) == 0.17


def test_lengths_may_be_fractions():
    settings = settings_of("attack=pgd", "attack.norm=linf", "attack.radius=8/255", "certifier.sigma=1/4")
    plan = Plan.of(settings)
    assert plan.threat.radius == 8 / 255
    assert plan.certifier.noise.sigma == 0.25


def test_several_radii_may_be_attacked_in_one_run():
    plan = Plan.of(settings_of("attack=sea", "attack.radius=[8/255,0,4/255]"))
    assert plan.radii == (0, 4 / 255)
    assert plan.threat.radius == 8 / 255
    assert plan.jobs(None, ("a", "b"), None)[-1].identity["radius"] == [0, 4 / 255, 8 / 255]
    single = Plan.of(settings_of("attack=sea", "attack.radius=4/255", "attack.losses=[jensen_shannon]"))
    assert single.radii == ()
    assert single.jobs(None, ("a", "b"), None)[-1].identity["radius"] == 4 / 255
    assert list(single.attack.members()) == ["jensen_shannon", "reference"]


def test_the_attack_takes_the_certified_threat():
    plan = Plan.of(settings_of("attack=pgd_smoothed", "certifier.tau=0.9", "certifier.sigma=0.5"))
    assert plan.threat == plan.certifier.threat
    assert plan.attack.smoothing.sigma == 0.5


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["certifier.tau=.4"], "tau must lie"),
        (["certifier.tau=high"], "tau must lie"),
        (["certifier.alpha=small"], "certifier.alpha"),
        (["certifier.alpha=1e-17"], "certifier.alpha"),
        (["attack=pgd", "attack.norm=l0", "attack.radius=1"], "attack.norm"),
        (["certifier.sigma=0"], "sigma must be"),
        (["certifier.sigma=8/0"], "Cannot read sigma"),
        (["certifier.sigma=wide"], "Cannot read sigma"),
        (["certifier.alpha=1"], "alpha"),
        (["certifier.n=0"], "certifier.n must be"),
        (["+certifier.nn=3"], "nn"),
        (["attack=pgd", "attack.norm=l3"], "attack.norm"),
        (["attack=pgd", "attack.norm=linf"], "attack.radius"),
        (["attack=pgd", "certifier=none"], "attack.radius"),
        (["attack=pgd_smoothed", "certifier=none"], "certifier.sigma"),
        (["attack=pgd_smoothed", "attack.smoothing.samples=0"], "samples"),
        (["attack=pgd", "attack.radius=-1"], "positive"),
        (["attack=pgd", "attack.steps=0"], "attack.steps"),
        (["attack=pgd", "attack.restarts=many"], "attack.restarts"),
        (["attack=pgd", "attack.step_size=2/255"], "share of the radius"),
        (["attack=pgd", "attack.loss=hinge"], "attack.loss"),
        (["attack=apgd", "attack.compare=hinge"], "attack.compare"),
        (["attack=sea", "attack.losses=[hinge]"], "attack.losses"),
        (["attack=sea", "attack.iterations=0"], "attack.iterations"),
        (["attack=sea", "attack.radius=[4/255,4/255]"], "attack.radius"),
        (["attack=sea", "attack.radius=[0]"], "attack.radius"),
        (["attack=sea", "attack.radius=[]"], "attack.radius"),
        (["attack=sea", "attack.radius=[0.1,-0.1]"], "attack.radius"),
        (["attack=pgd_smoothed", "attack.radius=[0,0.1]"], "attack.radius cannot be 0"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_before_anything_is_computed(overrides, words):
    with pytest.raises(ConfigError) as error:
        Plan.of(settings_of(*overrides))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "bad",
    [
        {"device": "tpu"},
        {"device": "cuda"},
        {"precision": "float8"},
        {"noise_batch": 0},
        {"workers": -1},
        {"precision": "float16", "device": "cpu"},
        {"rooms": 2},
    ],
    ids=str,
)
def test_bad_hardware(bad, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CertsegError):
        build("hardware", read(HardwareSpec, {"_target_": "certseg.compute.hardware.Hardware", **bad}, "hardware"))


def test_no_omegaconf_object_leaves_the_pipeline():
    plain = (dict, list, str, int, float, bool, type(None))

    def walk(value):
        assert isinstance(value, plain)
        assert not OmegaConf.is_config(value)
        for entry in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
            walk(entry)

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        walk(resolve(compose("config", overrides=["attack=pgd_smoothed"])))
    attack = Plan.of(settings_of("attack=pgd_smoothed")).attack
    assert not any(OmegaConf.is_config(value) for value in vars(attack).values())


@pytest.mark.parametrize(
    ("choice", "extra", "plugin"), [("parallel", "joblib", "JoblibLauncher"), ("slurm", "submitit", "SlurmLauncher")]
)
def test_launchers_compose_and_instantiate(choice, extra, plugin, tmp_path):
    pytest.importorskip(f"hydra_plugins.hydra_{extra}_launcher", reason=f"the extra with {extra} is not installed")
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        launcher = compose("config", [f"hydra/launcher={choice}"], return_hydra_config=True).hydra.launcher
    own = OmegaConf.load(CONFIGS / "hydra" / "launcher" / f"{choice}.yaml")
    assert {key: launcher[key] for key in own if key != "defaults"} == {k: own[k] for k in own if k != "defaults"}
    options = {key: value for key, value in OmegaConf.to_container(launcher).items() if "${" not in str(value)}
    assert type(instantiate(options)).__name__ == plugin
