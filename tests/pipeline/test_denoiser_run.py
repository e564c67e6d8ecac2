"""The pipeline with a denoiser in front of the network: trained alone, with the segmenter, or loaded."""

import functools
from dataclasses import replace

import pytest
import torch
from support.pipeline_runs import ROOT, SMALL, configuration

from certseg.errors import CheckpointError, ConfigError
from certseg.models import mmseg_library, save_checkpoint
from certseg.pipeline import run
from certseg.pipeline.keys import checkpoint_identity, training_identity
from certseg.pipeline.settings import build, parse
from certseg.pipeline.spec import RunSpec
from certseg.pipeline.trainings import build_dataset
from certseg.pipeline.weights import build_segmenter, legend_of, obtain

QUICK = (
    *SMALL,
    "dataset.count=2",
    "dataset.limit=1",
    "training.iterations=2",
    "training.val_images=1",
    "certifier.n=40",
    "certifier.tau=0.6",
)
DENOISERS = sorted((ROOT / "configs" / "model" / "denoiser").glob("*.yaml"))
DNCNN = ("model/denoiser=dncnn", "model.denoiser.width=4")


def go(output, *overrides):
    """A whole run; the report's text."""
    return run(configuration(output, *overrides, base=QUICK), output / "report", list(overrides)).read_text()


def network_of(output, *overrides):
    """The network of a run, without the evaluation that follows."""
    settings = parse(configuration(output, *overrides, base=QUICK))
    return obtain(settings, legend_of(settings), build("hardware", settings.hardware), output / "streets")


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def part(weights, name):
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def trainings(output, label):
    return sorted(output.glob(f"streets/{label}/train-*/model.pt"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A checkpoint of the segmenter alone."""
    settings = settings_of(*QUICK)
    path = tmp_path_factory.mktemp("base") / "model.pt"
    save_checkpoint(path, build_segmenter(settings.model, len(build_dataset(settings).class_names)), {})
    return path


@pytest.fixture(scope="module")
def denoised(base, tmp_path_factory):
    """Output folder and report of a run that trained a denoiser in front of it."""
    output = tmp_path_factory.mktemp("denoised")
    return output, go(output, "training=denoiser", *DNCNN, f"model.checkpoint={base}")


def test_the_denoiser_is_trained_and_the_segmenter_is_that_of_the_checkpoint(base, denoised):
    output, text = denoised
    after = weights(trainings(output, "upernet_tiny-dncnn-denoiser")[0])
    assert same(part(after, "segmenter"), weights(base))
    assert after["denoiser.body.8.weight"].abs().max() > 0  # begins at zero
    assert "upernet_tiny-dncnn-denoiser" in text
    assert "With probability" in text


def test_the_same_run_again_trains_nothing(base, denoised, capsys):
    output, _ = denoised
    network_of(output, "training=denoiser", *DNCNN, f"model.checkpoint={base}")
    assert "Reused training" in capsys.readouterr().out
    assert len(trainings(output, "upernet_tiny-dncnn-denoiser")) == 1


def test_both_parts_load_from_one_file_or_from_two(base, denoised, tmp_path):
    trained = trainings(denoised[0], "upernet_tiny-dncnn-denoiser")[0]
    for files in (
        [f"model.checkpoint={trained}"],
        [f"model.checkpoint={base}", f"model.denoiser.checkpoint={trained}"],
    ):
        network = network_of(tmp_path, *DNCNN, *files)
        assert network.label == "upernet_tiny-dncnn-checkpoint"
        assert same(network.segmenter.state_dict(), weights(trained))


def test_joint_training_with_consistency(tmp_path):
    network = network_of(tmp_path, "training=consistency", *DNCNN)
    assert network.label == "upernet_tiny-dncnn-consistency"
    trained = network.segmenter.state_dict()
    for name in ("denoiser.body.8.weight", "segmenter.network.backbone.stem.1.running_mean"):  # both begin at zero
        assert trained[name].abs().max() > 0


def test_any_training_may_start_from_a_checkpoint(base, tmp_path):
    start = ("training.from_checkpoint=true", f"model.checkpoint={base}")
    network = network_of(tmp_path, "training=noise", "training.lr=1e-12", *start)
    assert network.label == "upernet_tiny-noise"
    before, after = weights(base), network.segmenter.state_dict()
    for name in (name for name in before if name.endswith((".weight", ".bias"))):
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-9)


def test_what_is_missing_is_named(base, tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no weights of the denoiser.*training=denoiser"):
        network_of(tmp_path, *DNCNN, f"model.checkpoint={base}").segmenter  # noqa: B018 - its weights are read
    with pytest.raises(ConfigError, match=r"training=denoiser starts from a trained segmenter.*model\.checkpoint"):
        network_of(tmp_path, *DNCNN, "training=denoiser")
    with pytest.raises(ConfigError, match=r"needs a denoiser.*model/denoiser=dncnn"):
        network_of(tmp_path, "training=denoiser", f"model.checkpoint={base}")
    with pytest.raises(CheckpointError, match=r"model\.denoiser\.checkpoint=nowhere\.pt"):
        network_of(tmp_path, *DNCNN, "model.denoiser.checkpoint=nowhere.pt")


# --- settings and identities


@functools.cache
def settings_of(*overrides):
    """Settings that nobody changes."""
    return parse(configuration("outputs", *overrides, base=()))


def test_a_denoiser_of_the_users_own():
    arguments = [f"+model.denoiser.{entry}" for entry in ("kernel_size=5", "stride=1", "padding=2")]
    own = ["model/denoiser=custom", "model.denoiser._target_=torch.nn.AvgPool2d", *arguments]
    pair = build_segmenter(settings_of(*own).model, 3).eval()
    images = torch.rand(1, 3, 16, 24)
    assert torch.equal(pair(images), pair.segmenter(torch.nn.functional.avg_pool2d(images, 5, 1, 2)))


@pytest.mark.parametrize("path", DENOISERS, ids=[path.stem for path in DENOISERS])
def test_every_choice_composes_and_tells_its_story(path):
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    extra = ["model.denoiser._target_=torch.nn.Identity"] if path.stem == "custom" else []
    denoiser = settings_of(f"model/denoiser={path.stem}", *extra).model.denoiser
    assert (denoiser is None) == (path.stem == "none")
    assert f"`{path.stem}`" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("model", ["upernet_tiny", "segformer_b0"])
@pytest.mark.parametrize("denoiser", ["none", "dncnn"])
def test_a_denoiser_goes_with_every_preset(model, denoiser, monkeypatch):
    monkeypatch.setattr(mmseg_library, "_initialise", lambda network: None)
    built = build_segmenter(settings_of(f"model={model}", f"model/denoiser={denoiser}").model, 3)
    assert (type(built).__name__ == "Denoised") == (denoiser == "dncnn")


def test_without_a_denoiser_results_of_before_denoisers_are_found_again():
    settings = settings_of("training=noise")
    composed = settings.composed
    earlier = {**composed, "model": {k: v for k, v in composed["model"].items() if k != "denoiser"}}
    earlier["training"] = {k: v for k, v in composed["training"].items() if k != "from_checkpoint"}
    assert training_identity(settings, "data") == training_identity(RunSpec.of(earlier), "data")
    assert "denoiser" not in training_identity(settings, "data")["model"]
    assert "from_checkpoint" not in training_identity(settings, "data")["training"]


def test_identities_follow_what_changes_the_weights(tmp_path):
    files = [tmp_path / name for name in ("a.pt", "b.pt", "copy.pt")]
    for file, content in zip(files, (b"a", b"b", b"a")):
        file.write_bytes(content)
    a, b, copy = ({"checkpoint": str(file)} for file in files)
    composed = settings_of("training=denoiser", *DNCNN).composed

    def training(model, denoiser=(), objective=()):
        return training_identity(changed(model, dict(denoiser), dict(objective)), "data")

    def loaded(model, denoiser=()):
        return checkpoint_identity(changed(model, dict(denoiser), {}))

    def changed(model, denoiser, objective):
        parts = {"model": {**composed["model"], **model}, "training": {**composed["training"]}}
        parts["model"]["denoiser"] = {**composed["model"]["denoiser"], **denoiser}
        parts["training"]["objective"] = {**composed["training"]["objective"], **objective}
        return RunSpec.of({**composed, **parts})

    for identity in (training, loaded):
        reference = identity(a)
        assert identity(copy) == reference == identity(a, {"trust_checkpoint": True})
        others = [identity(b), identity(a, a), identity(a, b), identity(a, {"depth": 5})]
        assert all(one != reference for one in others)
        assert identity(a, a) == identity(a, copy) != identity(a, b)
    assert training(a, objective={"loss": "mse"}) != training(a)


@pytest.mark.parametrize("name", ["a/b", "", "two words"])
def test_the_denoisers_name_is_a_plain_word(name):
    with pytest.raises(ConfigError, match=r"model\.denoiser\.name must be a plain word"):
        replace(settings_of(*DNCNN).model.denoiser, name=name)


def test_a_denoiser_with_an_unknown_setting_is_one_clear_error():
    with pytest.raises(ConfigError, match=r"settings of model/denoiser do not fit.*speed.*configs/model/denoiser"):
        build_segmenter(settings_of("model/denoiser=dncnn", "+model.denoiser.speed=3").model, 3)
