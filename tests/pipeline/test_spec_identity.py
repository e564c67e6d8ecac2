"""Every field of every spec changes keys exactly if it declares that it does."""

import dataclasses
import inspect
from dataclasses import replace
from types import SimpleNamespace

import pytest
from support.pipeline_runs import configuration

from certseg.pipeline import spec as specs
from certseg.pipeline.declarations import LEFT_OUT, Role, declaration
from certseg.pipeline.keys import (
    attack_identity,
    checkpoint_identity,
    evaluation_identity,
    inpainter_identity,
    key,
    training_identity,
)
from certseg.pipeline.settings import parse
from certseg.pipeline.spec import MetricsSpec, ObjectSpec, RunSpec, SmoothingSpec
from certseg.pipeline.stages import Plan

CLASSES = [kind for name, kind in inspect.getmembers(specs, inspect.isclass) if name.endswith("Spec")]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file, a copy of it, and another one."""
    folder = tmp_path_factory.mktemp("files")
    found = {name: folder / f"{name}.pt" for name in ("first", "copy", "other")}
    for name, path in found.items():
        path.write_bytes(b"other" if name == "other" else b"first")
    return {name: str(path) for name, path in found.items()}


@pytest.fixture(scope="module")
def full(files):
    """A run with every part that a spec can have."""
    spec = parse(
        configuration(
            "outputs",
            "training=masked",
            "certifier/inpainter@training.objective.inpainter=learned",
            f"training.objective.inpainter.checkpoint={files['first']}",
            "model/denoiser=dncnn",
            f"model.denoiser.checkpoint={files['first']}",
            f"model.checkpoint={files['first']}",
            "certifier=demasked_recovery",
            "attack=patch_defended",
            base=(),
        )
    )
    network = ObjectSpec(target="certseg.patches.inpainting.MaskedUNet", arguments={"width": 8})
    return replace(
        spec,
        training=replace(spec.training, inpainter=network),
        attack=replace(
            spec.attack,
            surrogate=files["first"],
            smoothing=SmoothingSpec(target="certseg.attacks.Smoothing", grey_levels=255, arguments={"sigma": 0.25}),
        ),
    )


def declared_keys(spec):
    """The keys of everything a run may leave behind, as far as the fields themselves decide it."""
    return (
        key(training_identity(spec, "data")),
        key(inpainter_identity(spec, "data")),
        key(checkpoint_identity(spec)),
        key({**attack_identity(spec.attack), "seed": spec.seed}),
    )


def walk(spec, roles=(), back=lambda changed: changed):
    """Every field below ``spec``: its class and name, the roles on the way to it, its value, and what puts a value of
    its own there."""
    for field in dataclasses.fields(spec):
        value, way = getattr(spec, field.name), (*roles, declaration(field).role)

        def put(other, name=field.name):
            return back(replace(spec, **{name: other}))

        if isinstance(value, ObjectSpec | MetricsSpec):
            yield from walk(value, way, put)
        else:
            yield (type(spec), field.name), way, value, put


def other_than(name, value):
    """Another value of the same kind, or one where there was none."""
    if name == "target":
        return "certseg.elsewhere.Another"
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    if value is None or value is LEFT_OUT:
        return "given"
    return [*value, "further"] if isinstance(value, list) else {**value, "further": 1}


def test_every_field_is_declared():
    assert len(CLASSES) == 14
    for kind in CLASSES:
        for field in dataclasses.fields(kind):
            assert declaration(field).role in Role, (kind, field.name)


def test_what_changes_no_result_is_this_and_no_more():
    """Where things lie, how fast they go, what is shown; the rest would be found under a wrong key."""
    names = {kind.__name__: set() for kind in CLASSES}
    for kind in CLASSES:
        names[kind.__name__] = {f.name for f in dataclasses.fields(kind) if declaration(f).role is Role.NONE}
    data = {"root", "split", "lists", "limit", "train_split", "val_split", "hierarchy", "on_error", "objects"}
    assert {name: found for name, found in names.items() if found} == {
        "DatasetSpec": data,
        "ModelSpec": {"trust_checkpoint", "trust_backbone_checkpoint", "trust_classes"},
        "DenoiserSpec": {"trust_checkpoint"},
        "TrainingSpec": {"validations", "val_images", "checkpoint_interval"},
        "AttackSpec": {"name"},
        "HardwareSpec": {"target", "arguments"},
        "TrackingSpec": {"target", "arguments"},
        "MetricsSpec": {"focus", "objects_sizes"},
        "RunSpec": {"tracking", "output", "input", "pictures", "expected", "variables", "composed"},
    }


def test_a_field_changes_keys_exactly_if_it_says_so(full, files):
    before, visited = declared_keys(full), set()
    for where, roles, value, put in walk(full):
        visited.add(where)
        decides = all(role in (Role.IDENTITY, Role.CONTENT) for role in roles)
        if roles[-1] is Role.CONTENT:
            assert declared_keys(put(files["copy"])) == before or value in (None, LEFT_OUT), where
            assert (declared_keys(put(files["other"])) != before) == decides, where
        elif Role.TOLD not in roles:
            assert (declared_keys(put(other_than(where[1], value))) != before) == decides, where
    assert visited >= {(kind, field.name) for kind, field in every_plain_field()}


def every_plain_field():
    """The fields of all specs that hold no spec of their own in a run with every part."""
    parts = {"dataset", "model", "training", "attack", "certifier", "hardware", "tracking", "metrics"}
    inner = {"denoiser", "objective", "inpainter", "smoothing", "defence"}
    for kind in CLASSES:
        for field in dataclasses.fields(kind):
            if field.name not in parts | inner:
                yield kind, field


HARDWARE = SimpleNamespace(precision="float32", compile=False, torch_device=SimpleNamespace(type="cpu"))


def all_keys(spec, hardware=HARDWARE):
    """The keys of a run's training and of its stages, with what built objects tell of themselves."""
    network = checkpoint_identity(spec) if spec.is_loaded else training_identity(spec, "data")
    jobs = Plan.of(spec).jobs(None, tuple("abcdefgh"), hardware)
    stages = [
        evaluation_identity(
            spec.seed, network, "data", job.identity, hardware if job.is_sampled else None, job.draws_on_device
        )
        for job in jobs
    ]
    return [key(identity) for identity in (network, *stages)]


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ((), "certifier.tau=0.8"),
        ((), "certifier=indiv_class"),
        (("attack=pgd", "attack.norm=linf", "attack.radius=4/255"), "attack.radius=8/255"),
        (("attack=pgd", "attack.radius=1", "attack.norm=linf"), "attack.norm=l2"),
        (("attack=patch", "attack.patch.share=0.01"), "attack.patch.share=0.02"),
        ((), "metrics.objects=[car]"),
        (("metrics.objects=[car]",), "metrics.objects_share=0.4"),
        (("metrics.objects=[car]",), "metrics.objects_samples=50"),
        (("metrics.objects=[car]", "metrics.objects_samples=50"), "metrics.objects=[person]"),
        (("metrics.objects=[car]", "metrics.objects_samples=50"), "metrics.objects_minimum=3"),
        (("model.checkpoint={first}",), "model.checkpoint={other}"),
        (("model.checkpoint={first}",), "training.from_checkpoint=true"),
        (("model.checkpoint={first}", "training.from_checkpoint=true"), "model.checkpoint={other}"),
        (("model.backbone_checkpoint={first}",), "model.backbone_checkpoint={other}"),
        (("model/denoiser=dncnn", "model.denoiser.checkpoint={first}"), "model.denoiser.checkpoint={other}"),
        (
            ("model/denoiser=dncnn", "model.checkpoint={first}", "model.denoiser.checkpoint={first}"),
            "model.denoiser.checkpoint={other}",
        ),
    ],
    ids=str,
)
def test_what_is_told_by_what_is_made_of_it_counts(base, change, files):
    def of(*overrides):
        return all_keys(parse(configuration("outputs", *(entry.format(**files) for entry in overrides), base=())))

    before = of(*base)
    assert of(*base, change) != before
    copies = [entry.replace("{first}", "{copy}") for entry in base]
    assert of(*copies) == before
    assert of(*base, "pictures=2", "hardware.noise_batch=3", "dataset.limit=7") == before
    assert of(*base, "metrics.focus=[car]", "metrics.objects_sizes=[8,9]") == before


def test_which_classes_have_figures_of_objects_changes_no_row():
    """Rows tell of all objects, those of an attack at every share."""

    def of(*overrides):
        attack = ("attack=pgd", "attack.radius=1")
        return all_keys(parse(configuration("outputs", *attack, *overrides, base=())))

    before = of("metrics.objects=[car]")
    assert of("metrics.objects=[person,pole]") == before
    assert of("metrics.objects=[car]", "metrics.objects_minimum=3") == before
    network, prediction, certifier, attack = before
    other = of("metrics.objects=[car]", "metrics.objects_share=0.4")
    assert other == [network, prediction, other[2], attack]
    assert other[2] != certifier
    assert of()[0] == network
    assert not {*of()[1:]} & {*before[1:]}


@pytest.mark.parametrize("grey_levels", ["255", "null"])
def test_the_precision_of_sampling_counts_and_the_device_where_noise_depends_on_it(grey_levels):
    spec = parse(configuration("outputs", f"certifier.grey_levels={grey_levels}", "attack=pgd_smoothed", base=()))
    before = all_keys(spec)
    for other in ({"precision": "bfloat16"}, {"torch_device": SimpleNamespace(type="cuda")}):
        after = all_keys(spec, SimpleNamespace(**{**vars(HARDWARE), **other}))
        assert after[:2] == before[:2], "neither a training nor a clean prediction draws noise"
        assert (after[2] == before[2]) == (grey_levels == "255" and "precision" not in other)
        assert after[3] != before[3], "an attack draws in floating point"


def test_nothing_in_a_key_names_a_file_of_certseg(full):
    for identity in (training_identity(full, "data"), checkpoint_identity(full), attack_identity(full.attack)):
        assert "certseg." not in str(identity)
        assert "_target_" not in str(identity)
    told = training_identity(full, "data")
    assert told["model"]["class"] == "mmseg_segmenter"
    assert told["model"]["denoiser"]["class"] == "dncnn"
    assert told["training"]["objective"]["inpainter"]["class"] == "learned"
    assert attack_identity(full.attack)["attack"] == "patch_pgd"


def test_moving_a_class_changes_no_key(full):
    moved = replace(full.model, target="certseg.models.elsewhere.MMSegSegmenter")
    assert declared_keys(replace(full, model=moved)) == declared_keys(full)
    foreign = replace(full.model, target="mine.MMSegSegmenter")
    assert declared_keys(replace(full, model=foreign)) != declared_keys(full)


def test_parsing_again_gives_an_equal_run():
    spec = parse(configuration("outputs", "attack=pgd_smoothed", base=()))
    assert RunSpec.of(spec.composed) == spec
