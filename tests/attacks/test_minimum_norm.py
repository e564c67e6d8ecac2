"""Minimum-norm attacks on the exact linear model, where the smallest perturbation is known: every pixel has a distance
to its boundary of its own, and a share of the pixels costs the root of the sum of the smallest squared distances."""

import json
import math

import pytest
import torch
from support.brackets import changed, check_norms
from support.linear_pixels import LinearPixels, image_with_margins, two_classes
from support.stores import Memory

from certseg.attacks import ASMA, DAG, PDPGD, ALMAProx
from certseg.attacks.geometry import perturbation_norm
from certseg.certifiers import Lipschitz
from certseg.compute.decisions import decide
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import BracketError, ConfigError, DataError, ModelError
from certseg.evaluation import CertificationStage, MinimumNormStage, evaluate
from certseg.reporting import Entry, bracket_status, console_summary, write_report
from certseg.types import L2, LipschitzBound, Passes

CPU = Hardware(device="cpu", noise_batch=4)
ATTACKS = (ALMAProx, PDPGD, DAG, ASMA)


def run(attack, model, image, target, name="x", hardware=CPU):
    return attack(model, image, target, stream=NoiseStream(0, name), hardware=hardware)


def spread(seed=0, height=12, width=16):
    """Pixels of class 0 at distances between 0.005 and 0.305 from the boundary, all within the box."""
    generator = torch.Generator().manual_seed(seed)
    model, margins = two_classes(), 0.005 + 0.3 * torch.rand(height, width, generator=generator)
    image = image_with_margins(model, margins)
    return model, image, torch.zeros(height, width).long(), model.margin(image).abs()


def network():
    """Smooth, three classes, no constant in it that outweighs the image."""
    generator = torch.Generator().manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(8, 3, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.7 if parameter.ndim > 1 else 0.0
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    model.num_classes = 3
    return model


def scene(index):
    """An image and labels the network is mostly right about, some of them void."""
    generator = torch.Generator().manual_seed(index)
    image = torch.rand(3, 10, 9, generator=generator)
    target = network()(image[None]).argmax(1)[0]
    target[:2] = torch.randint(3, (2, 9), generator=generator)
    target[2] = 255
    return image, target


def optimum(distances, success):
    """The norm of the smallest perturbation that moves this share of the pixels to their boundary."""
    count = math.ceil(success * distances.numel())
    return float(distances.flatten().sort().values[:count].square().sum().sqrt())


@pytest.mark.parametrize("success", [0.5, 0.99])
@pytest.mark.parametrize(("attack", "factor"), [(ALMAProx, 1.03), (PDPGD, 1.03), (DAG, 2.5), (ASMA, 2.5)])
def test_the_smallest_perturbation_of_linear_pixels_is_found(attack, factor, success):
    """DAG and ASMA move all pixels alike, also those that may stay: at half the pixels that costs a factor of 2."""
    model, image, target, distances = spread()
    result = run(attack(success=success), model, image, target)
    best = optimum(distances, success)
    assert result.reached
    assert best * (1 - 1e-6) <= result.norm <= best * factor
    assert result.norm == perturbation_norm(result.adversarial, image, L2(1.0)) == result.distance
    assert result.accuracy <= 1 - success + 1e-9
    assert result.changed == int((result.prediction != 0).sum()) >= math.ceil(success * target.numel())


def test_with_several_classes_and_nearly_all_pixels_the_nearest_boundaries_count():
    generator = torch.Generator().manual_seed(3)
    model = LinearPixels(torch.randn(5, 3, generator=generator))
    image = 0.4 + 0.2 * torch.rand(3, 10, 12, generator=generator)
    logits = model(image[None])[0].detach().double()
    target = logits.argmax(0)
    weight = model.weight.detach().double()
    gaps = logits.gather(0, target[None]) - logits
    lengths = (weight[:, None] - weight[None]).norm(dim=-1)[target].movedim(-1, 0)
    distances = torch.where(lengths > 0, gaps / lengths, torch.inf).amin(0)
    best = optimum(distances, 0.9)  # without the box: a lower bound
    for attack in (ALMAProx, PDPGD):
        result = run(attack(success=0.9), model, image, target)
        assert best * (1 - 1e-6) <= result.norm <= 1.15 * best
    for attack in (DAG, ASMA):
        result = run(attack(success=0.9), model, image, target)
        assert best * (1 - 1e-6) <= result.norm <= 2.0 * best


@pytest.mark.parametrize("attack", ATTACKS)
def test_success_box_and_stored_prediction_hold(attack):
    model, (image, target) = network(), scene(0)
    result = run(attack(success=0.5, iterations=60), model, image, target)
    assert result.reached
    assert result.adversarial.dtype == torch.float32
    assert 0 <= float(result.adversarial.min()) <= float(result.adversarial.max()) <= 1
    again = decide(model(result.adversarial[None]))[0][0].long()
    assert torch.equal(again, result.prediction)
    labelled = target != 255
    assert result.labelled == int(labelled.sum())
    assert ((again != target) & labelled).sum() >= math.ceil(0.5 * result.labelled)
    assert result.accuracy == pytest.approx(float((again == target)[labelled].float().mean()))
    assert result.passes.backward <= 60
    assert result.passes.forward <= 60 + 60
    assert result.predictor == "base"
    assert not result.flags


def test_dark_and_bright_pixels_stay_within_the_box_and_cost_what_it_leaves():
    """One channel is free to move: the others lie at their bounds, where the boundary is."""
    model = two_classes()
    image = torch.zeros(3, 4, 5)
    image[0] = 1.0
    result = run(ALMAProx(success=1.0), model, image, torch.zeros(4, 5).long())
    assert float(result.adversarial.max()) <= 1
    assert torch.equal(result.adversarial[0], image[0])  # could only darken
    best = math.sqrt(20 * 2 * 0.25**2)  # the two dark channels share the missing 0.5
    assert best * (1 - 1e-6) <= result.norm <= 1.02 * best


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_goal_may_count_from_the_label_or_from_the_prediction(attack):
    """Wrong pixels are changed already where labels count, and cost as much as others where predictions do."""
    model, image, target, distances = spread()
    target[:4] = 1  # a third of the pixels is wrong
    by_label = run(attack(success=0.75), model, image, target)
    by_prediction = run(attack(success=0.75, away_from="prediction"), model, image, target)
    count = 0.75 * target.numel() - target[:4].numel()
    left = optimum(distances[4:], count / target[4:].numel())
    assert left * (1 - 1e-6) <= by_label.norm <= 3.0 * left
    assert optimum(distances, 0.75) * (1 - 1e-6) <= by_prediction.norm
    assert by_label.norm < by_prediction.norm
    assert by_prediction.changed >= 0.75 * target.numel() > by_label.changed
    assert run(attack(success=0.3), model, image, target).norm == 0.0


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_goal_class_is_reached_and_a_map_leaves_the_rest_alone(attack):
    model, image, target, _ = spread()
    everywhere = run(attack(success=0.9, goal=1), model, image, target)
    assert (everywhere.prediction == 1).float().mean() >= 0.9
    wanted = torch.full_like(target, 255)
    wanted[:3] = 1
    some = run(attack(success=1.0, goal=wanted), model, image, torch.full_like(target, 255))
    assert some.reached
    assert (some.prediction[:3] == 1).all()
    assert torch.equal(some.adversarial[:, 3:], image[:, 3:])
    with pytest.raises(DataError, match="goal"):
        run(attack(goal=2), model, image, target)


@pytest.mark.parametrize("attack", ATTACKS)
def test_ignored_pixels_neither_count_nor_change(attack):
    model, image, target, distances = spread()
    target[6:] = 255
    result = run(attack(success=0.99), model, image, target)
    assert result.reached
    assert torch.equal(result.adversarial[:, 6:], image[:, 6:])
    assert result.norm >= optimum(distances[:6], 0.99) * (1 - 1e-6)
    assert result.labelled == target[:6].numel()


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_image_without_labels_has_no_norm(attack):
    model, image, target, _ = spread()
    result = run(attack(), model, image, torch.full_like(target, 255))
    assert math.isnan(result.norm)
    assert math.isnan(result.accuracy)
    assert not result.reached
    assert torch.equal(result.adversarial, image)
    assert result.passes == Passes(2)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_goal_out_of_reach_is_infinitely_far(attack):
    model = LinearPixels(torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]), torch.tensor([1.0, -1.0]))
    image = torch.full((3, 3, 4), 0.5)
    result = run(attack(iterations=15), model, image, torch.zeros(3, 4).long())
    assert result.norm == math.inf
    assert not result.reached
    assert result.accuracy == 1.0
    assert result.distance == perturbation_norm(result.adversarial, image, L2(1.0))


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_tie_is_not_a_change(attack):
    """At the boundary the first class wins: class 0 must be left for good, class 1 is left by the tie already."""
    model, image, target, distances = spread()
    result = run(attack(success=1.0, iterations=40), model, image, target)
    assert (model(result.adversarial[None]).argmax(1)[0] == 1).all()
    assert (model.margin(result.adversarial) < 0).all()
    assert result.norm >= optimum(distances, 1.0)


@pytest.mark.parametrize("attack", ATTACKS)
def test_results_repeat_and_do_not_depend_on_the_batch(attack):
    model, (image, target) = network(), scene(1)
    attack = attack(success=0.5, iterations=30)
    first = run(attack, model, image, target)
    for hardware in (CPU, Hardware(device="cpu", noise_batch=1)):
        again = run(attack, model, image, target, name="y", hardware=hardware)
        assert torch.equal(first.adversarial, again.adversarial)
        assert (first.norm, first.passes, first.changed) == (again.norm, again.passes, again.changed)


@pytest.mark.parametrize("attack", ATTACKS)
def test_logits_in_double_precision_do(attack):
    class Exact(LinearPixels):
        def forward(self, images):
            return super().forward(images).double()

    model, image, target, distances = spread()
    exact = Exact(model.weight.detach(), model.bias.detach())
    result = run(attack(success=0.9, iterations=60), exact, image, target)
    assert optimum(distances, 0.9) * (1 - 1e-6) <= result.norm < math.inf
    assert result.adversarial.dtype == torch.float32


@pytest.mark.parametrize("attack", [DAG, ASMA])
def test_a_step_size_gives_one_run_whose_norm_depends_on_it(attack):
    model, image, target, distances = spread()
    fine, coarse = (run(attack(step_size=size, line_search=0), model, image, target) for size in (0.05, 2.0))
    assert fine.reached
    assert optimum(distances, 0.99) < fine.norm < coarse.norm
    assert fine.passes.backward > coarse.passes.backward
    assert not run(attack(step_size=1e-4, iterations=5), model, image, target).reached


def test_a_line_search_shrinks_and_costs_forward_passes_alone():
    model, image, target, _ = spread()
    plain, shrunk = (run(DAG(step_size=2.0, line_search=n), model, image, target) for n in (0, 12))
    assert shrunk.norm < plain.norm
    assert shrunk.passes == plain.passes + Passes(12)


@pytest.mark.parametrize("attack", ATTACKS)
def test_nan_constant_and_undifferentiable_models(attack):
    model, image, target, _ = spread()

    class Constant(torch.nn.Module):
        num_classes = 2

        def forward(self, images):
            return torch.stack([images.sum(1) * 0 + 1, images.sum(1) * 0], dim=1)

    class Broken(LinearPixels):
        def forward(self, images):
            if images.requires_grad:
                images.register_hook(lambda gradient: gradient * torch.nan)
            return super().forward(images)

    assert run(attack(), Constant(), image, target).flags == ("zero_gradient",)
    with pytest.raises(ModelError, match=r"gradients.*'x'"):
        run(attack(), Broken(model.weight.detach(), model.bias.detach()), image, target)
    with torch.no_grad():
        model.bias[0] = float("nan")
    with pytest.raises(ModelError, match="'x'"):
        run(attack(), model, image, target)
    with pytest.raises(DataError):
        run(attack(), two_classes(), image + 3, target)


def test_a_network_that_answers_differently_each_time_is_flagged():
    class Dropping(LinearPixels):
        calls = 0

        def forward(self, images):
            self.calls += 1
            return super().forward(images) * (1 + 0.1 * self.calls)

    model, image, target, _ = spread()
    result = run(DAG(success=0.5), Dropping(model.weight.detach(), model.bias.detach()), image, target)
    assert "stochastic_logits" in result.flags


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    "bad",
    [
        {"iterations": 0},
        {"iterations": 2.5},
        {"success": 0},
        {"success": 1.1},
        {"success": True},
        {"success": float("nan")},
        {"away_from": "label"},
        {"line_search": -1},
        {"goal": "sky"},
        {"goal": -1},
        {"step_size": 0.0},
        {"step_size": "small"},
    ],
    ids=str,
)
def test_bad_arguments(attack, bad):
    with pytest.raises(ConfigError, match=f"attack.{next(iter(bad))}"):
        attack(**bad)


def test_bad_arguments_of_single_attacks():
    with pytest.raises(ConfigError, match="masking"):
        ALMAProx(masking=2)
    with pytest.raises(ConfigError, match="dual_step_size"):
        PDPGD(dual_step_size=0)


class Audited(LinearPixels):
    """Linear pixels whose features are the image: the constant is 1, or what a test claims it is."""

    constant = 1.0

    def certified_bound(self, size):
        return LipschitzBound(self.constant, head=self.weight.detach(), slack=1e-6)


class Pixels:
    """Images of linear pixels, the last one without labels."""

    name, split, class_names, palette = "pixels", "test", ("dark", "bright"), ((0, 0, 0), (255, 255, 255))

    def __len__(self):
        return 3

    def names(self):
        return ("a", "b", "c")

    def fingerprint(self):
        return "0"

    def __getitem__(self, index):
        from certseg.types import Sample

        _, image, target, _ = spread(index, 8, 10)
        target[0] = 1  # wrong
        return Sample(self.names()[index], image, torch.full_like(target, 255) if index == 2 else target)


def stages(constant=1.0, **options):
    plain = two_classes()
    model = Audited(plain.weight.detach(), plain.bias.detach())
    model.constant = constant
    names = Pixels.class_names
    attack = ALMAProx(iterations=400, **options)
    return (
        CertificationStage(Lipschitz(radius=0.25), model, names, seed=0, hardware=CPU),
        MinimumNormStage("alma_prox", attack, model, names, settings={"success": attack.success}, seed=0, hardware=CPU),
    )


def evaluated(**options):
    found = []
    for stage in stages(**options):
        store = Memory()
        found += [evaluate(stage, Pixels(), store), NullStore(store)]
    return found


class NullStore:
    """Rows as they come back from disk, where NaN and infinities are null."""

    def __init__(self, store):
        self._store = store

    def read(self):
        rows = {name: json.dumps(row) for name, row in self._store.read().items()}
        return {name: json.loads(row, parse_constant=lambda value: None) for name, row in rows.items()}

    def load_map(self, name):
        return self._store.load_map(name)


@pytest.mark.parametrize("options", [{"away_from": "prediction"}, {}], ids=["prediction", "labels"])
@pytest.mark.parametrize("success", [0.25, 0.5, 0.75, 0.99])
def test_no_norm_is_below_the_certified_radius_of_its_share_and_hardly_above(success, options):
    certified, certificates, found, attacked = evaluated(success=success, **options)
    bracket = check_norms(certified, certificates, found, attacked, Pixels().names())
    rows = attacked.read()
    changed = [rows[name]["smallest"]["changed"] / 80 for name in ("a", "b")]
    assert bracket.norms == sum(share <= part for share in (0.25, 0.5, 0.75) for part in changed)
    if options:
        assert min(changed) >= success
        for name in ("a", "b") if success != 0.99 else ():
            radius = certificates.read()[name]["figures"][f"robustness@{100 * success:.0f}"]
            assert radius <= rows[name]["figures"]["norm"] <= 1.05 * radius


def test_a_wrong_constant_breaks_the_bracket_and_names_the_image():
    parts = evaluated(constant=0.8, success=0.75, away_from="prediction")
    with pytest.raises(BracketError, match=r"image 'a'.*robustness@75"):
        check_norms(*parts, Pixels().names())


def test_a_certified_pixel_changed_within_the_radius_breaks_the_bracket():
    certified, certificates, found, attacked = evaluated(success=0.02, away_from="prediction")
    assert check_norms(certified, certificates, found, attacked, ("a", "b")).certified_pixels > 0
    maps = attacked.load_map("b")
    maps["prediction"][certificates.load_map("b")["certified"]] = 1
    with pytest.raises(BracketError, match="certified pixels of image 'b'"):
        check_norms(certified, certificates, found, attacked, ("a", "b"))


def test_other_predictors_and_norms_are_not_compared():
    certified, certificates, found, attacked = evaluated(success=0.5)
    average = {"promise": "error_share", "confidence": 0.0, "error_share": 0.1}
    for other in ({"predictor": "smoothed"}, {"threat": {"norm": "linf", "radius": 1}}, average):
        assert check_norms(changed(certified, **other), certificates, found, attacked, ("a", "b")) is None


def test_rows_summary_and_report(tmp_path):
    store = Memory()
    attack = DAG(success=0.5, iterations=40)
    names = Pixels.class_names
    stage = MinimumNormStage("dag", attack, two_classes(), names, settings={"success": 0.5}, seed=0, hardware=CPU)
    summary = evaluate(stage, Pixels(), store)
    rows = NullStore(store).read()
    assert rows["c"]["figures"]["norm"] is None
    assert rows["c"]["figures"]["reached"] is None
    norms = sorted(rows[name]["figures"]["norm"] for name in ("a", "b"))
    figures = summary["figures"]
    assert (figures["reached_images"], figures["reached_share/image_mean"]) == (2, 1.0)
    assert figures["norm/image_mean"] == pytest.approx(sum(norms) / 2)
    assert figures["norm/median"] == norms[0]
    assert (figures["norm@25"], figures["norm@75"]) == (norms[0], norms[1])
    assert stage.summarise(list(rows.values()))["figures"] == figures
    curve = {line["radius"]: line["reached_share/image_mean"] for line in summary["by_radius"]}
    assert list(curve) == sorted(curve)
    assert list(curve.values()) == [sum(norm <= radius for norm in norms) / 2 for radius in curve]
    assert min(curve) <= norms[0] <= norms[1] <= max(curve)
    entries = [Entry(summary)]
    report = write_report(tmp_path, title="t", command="c", entries=entries).read_text()
    assert "dag at several radii" in report
    assert "bound the worst case from above" in report
    assert "norm@25: 25 % of the images have none above it" in report
    console_summary(entries)


def test_an_unreached_goal_makes_the_mean_norm_infinite_and_leaves_the_median():
    stage = stages()[1]
    rows = [
        {
            "figures": {"norm": norm, "reached": reached, "attacked_accuracy": 0.0, "attacked_imagewise_miou": 0.0},
            "counts": {"true_positive": [0, 0], "target": [1, 1], "predicted": [1, 1]},
        }
        for norm, reached in ((0.1, 1.0), (None, 0.0), (0.3, 1.0), (None, None))
    ]
    from certseg.metrics import ClassCounts

    for row in rows:
        row["counts"] = ClassCounts.from_maps(torch.zeros(1, 2).long(), torch.ones(1, 2).long(), 2).to_json()
    figures = stage.summarise(rows)["figures"]
    assert figures["norm/image_mean"] == math.inf
    assert (figures["norm/median"], figures["norm@75"], figures["reached_images"]) == (0.3, math.inf, 2)
    assert figures["reached_share/image_mean"] == pytest.approx(2 / 3)


def test_the_bracket_line_speaks_of_norms():
    certified, certificates, found, attacked = evaluated(success=0.75, away_from="prediction")
    bracket = check_norms(certified, certificates, found, attacked, Pixels().names())
    figures = found["figures"] | {"bracket/violations": 0, "bracket/norms": bracket.norms}
    status = bracket_status([Entry(certified), Entry(found | {"figures": figures})])
    assert "none of 6 norms is below the radius certified" in status
