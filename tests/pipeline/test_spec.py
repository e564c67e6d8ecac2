"""A run as one object: what is refused when it is parsed, what experiments may add, which task it asks for."""

import dataclasses
import re
from dataclasses import FrozenInstanceError, replace

import pytest
from hydra import compose, initialize_config_dir
from support.pipeline_runs import ROOT, configuration

from certseg.errors import ConfigError
from certseg.pipeline import tasks
from certseg.pipeline.declarations import LEFT_OUT, options_of
from certseg.pipeline.settings import parse
from certseg.pipeline.spec import AttackSpec, RunSpec
from certseg.pipeline.stages import Plan
from certseg.pipeline.tasks import Task, perform


@pytest.fixture(scope="module")
def composed():
    """The plain settings of the default run."""
    return parse(configuration("outputs", base=())).composed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"picturs": 3}, ("Unknown setting of the run", "pictures", "Received: picturs.", "variables")),
        ({"composed": {}}, ("Unknown setting of the run", "Received: composed.")),
        ({"pictures": -1}, ("pictures must be a non-negative integer", "-1")),
        ({"pictures": True}, ("pictures must be a non-negative integer", "True")),
        ({"seed": "one"}, ("seed must be a non-negative integer", "'one'")),
        ({"output": None}, ("output must be a text",)),
        ({"input": 3}, ("input must be null or a text", "3")),
        ({"variables": "zits"}, ("variables must be a list of names",)),
        ({"variables": ["zits"]}, ("variables lists what is not set", "zits")),
        ({"dataset": None}, ("dataset must be settings with a _target_",)),
        ({"dataset": {"split": "test"}}, ("dataset._target_ is not set", "a text")),
        ({"dataset": {"_target_": "a.B", "split": 3}}, ("dataset.split must be null or a text", "3")),
        ({"model": {"_target_": "a.B"}}, ("model.name is not set",)),
        ({"model": {"_target_": "a.B", "name": "n", "trust_checkpoint": "yes"}}, ("trust_checkpoint must be true or",)),
        ({"model": {"_target_": "a.B", "name": "n", "checkpoint": 4}}, ("model.checkpoint must be null or a text",)),
        ({"attack": "pgd"}, ("attack must be settings with a _target_, or none", "'pgd'")),
    ],
    ids=str,
)
def test_what_can_be_seen_in_the_settings_is_refused_when_they_are_parsed(composed, changes, words):
    with pytest.raises(ConfigError) as error:
        RunSpec.of({**composed, **changes})
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


def test_a_group_that_is_missing_is_named(composed):
    with pytest.raises(ConfigError, match=r"^certifier is not set\. Expected: settings with a _target_, or none\."):
        RunSpec.of({name: value for name, value in composed.items() if name != "certifier"})


def test_the_default_run(composed):
    spec = RunSpec.of(composed)
    assert (spec.model.name, spec.model.checkpoint, spec.model.denoiser) == ("upernet_tiny", None, None)
    assert (spec.attack, spec.certifier.arguments["tau"][-1], spec.dataset.limit) == (None, 0.75, 20)
    assert spec.dataset.root is LEFT_OUT
    assert "root" not in options_of(spec.dataset)
    assert not {"limit", "train_split", "val_split", "hierarchy"} & options_of(spec.dataset).keys()
    with pytest.raises(FrozenInstanceError):
        spec.seed = 3


def test_an_experiment_may_add_variables(composed):
    spec = RunSpec.of({**composed, "zits": "zits.pt", "variables": ["zits"]})
    assert spec.variables == {"zits": "zits.pt"}
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("config", overrides=["experiment=demasked/table7", "zits=zits.pt"])
    assert parse(cfg).variables == {"zits": "zits.pt"}


def test_an_attack_without_a_name_is_called_as_its_class():
    assert AttackSpec(target="mine.Attack", norm="l2").name == "attack"


def test_settings_tell_of_earlier_keys_only_while_nothing_was_changed(composed):
    spec = RunSpec.of(composed)
    assert spec.settings_of_earlier == composed
    assert replace(spec, seed=1).settings_of_earlier is None
    assert replace(spec, model=replace(spec.model, name="other")).settings_of_earlier is None
    assert replace(spec, composed={}).settings_of_earlier is None


def test_the_task_is_chosen_in_one_place(monkeypatch):
    done = []
    monkeypatch.setattr(tasks, "evaluate", lambda job: done.append("evaluate"))
    monkeypatch.setattr(tasks, "deploy", lambda job, path: done.append(path))
    monkeypatch.setattr(tasks, "train_inpainter", lambda job, training, network: done.append(network.target))
    for overrides in ((), ("input=photos",), ("training=inpainter",), ("training=inpainter", "input=photos")):
        spec = parse(configuration("outputs", *overrides, base=()))
        perform(Task(spec, None, None, ROOT))
    unet = "certseg.patches.inpainting.MaskedUNet"
    assert done == ["evaluate", "photos", unet, unet]


def test_configurations_of_hydra_enter_through_one_door():
    """Beside it stand the command, folder and start of a job, the end of a sweep, and the words of Hydra's errors."""
    files = (ROOT / "certseg").rglob("*.py")
    importing = {
        file.stem for file in files if re.search(r"^\s*(from|import) (hydra|omegaconf)", file.read_text(), re.M)
    }
    assert importing == {"command", "settings", "main", "run_folder", "sweep", "console"}


def test_no_spec_holds_a_plain_group(composed):
    """Groups of settings that travel are specs; plain mappings are only free arguments."""
    for group in ("dataset", "model", "training", "certifier", "hardware", "tracking"):
        assert dataclasses.is_dataclass(getattr(RunSpec.of(composed), group))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("attack=pgd_smoothed",), ""),
        (("attack=none",), ""),
        (("attack=pgd",), r"pgd is not compared with segcertify: the attack is on base, .* smoothed\(gaussian"),
        (("attack=pgd_smoothed", "certifier.correction=benjamini_yekutieli"), "promise nothing about a single image"),
        (("attack=alma_prox", "certifier=lipschitz"), ""),
        (("attack=pgd", "attack.radius=0.1", "certifier=demasked_recovery"), "attack is on base"),
    ],
    ids=str,
)
def test_what_will_not_be_compared_is_said_before_work(overrides, words):
    obstacle = Plan.of(parse(configuration("outputs", *overrides, base=()))).obstacle
    assert re.search(words, obstacle) if words else obstacle == ""
