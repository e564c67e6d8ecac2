"""Patch attacks on networks and on defences: what they find, what they leave alone, what certificates make of it."""

import itertools
import math

import pytest
import torch
from support.brackets import Maps, Stored, certified, check_bounds, check_pixels
from support.puppet import CPU

from certseg.attacks import Defence, PatchPGD
from certseg.attacks.defence import DefendedObjective, inpainted
from certseg.attacks.losses import LOSSES, Pixels
from certseg.bracket import Comparison
from certseg.certifiers import DemaskedDetection, DemaskedRecovery, DerandomizedSmoothing, PatchDoubleMasking
from certseg.compute.streams import NoiseStream
from certseg.errors import BracketError, ConfigError, DataError, ModelError
from certseg.evaluation import AttackStage, CertificationStage
from certseg.patches.canvas import PatchCanvas, grid_corners
from certseg.patches.inpainting import Black, MeanColour, Telea
from certseg.patches.masks import covering_masks, erase, recovery_masks
from certseg.types import L2, Attempt, Guarantee, Patch, Promise, Sample

SIZE, PATCH = (16, 48), Patch(height=8, width=8)
STREAM = NoiseStream(0, "x")


class Gullible(torch.nn.Module):
    """One hidden pattern of red minus green, anywhere in the image, turns pixels from class 0 to class 1; each by as
    much as its own threshold says. Random content has little of the pattern, grey pixels have nothing."""

    num_classes = 2

    def __init__(self, gain=0.1, size=SIZE, where=None):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        pattern = torch.randint(2, size, generator=generator) * 2.0 - 1.0
        self.pattern = torch.nn.Parameter(pattern if where is None else pattern * where)
        self.threshold = 0.1 + 0.8 * torch.rand(size, generator=generator)
        self.gain = gain
        self.batches = []

    def forward(self, images):
        self.batches.append(len(images))
        score = ((images[:, 0] - images[:, 1]) * self.pattern).sum(dim=(1, 2))
        rising = self.gain * score[:, None, None].expand(-1, *self.threshold.shape)
        return torch.stack([self.threshold.expand_as(rising), rising], dim=1)


def grey_image(size=SIZE):
    generator = torch.Generator().manual_seed(1)
    return (0.2 + 0.6 * torch.rand(1, *size, generator=generator)).expand(3, -1, -1).clone()


TARGET = torch.zeros(SIZE, dtype=torch.int64)
TARGET[0, :5] = 255


def attacked(model=None, threat=PATCH, target=TARGET, image=None, stream=STREAM, **options):
    options = {"steps": 20, "step_size": 0.2} | options
    image = grey_image() if image is None else image
    return PatchPGD(**options)(model or Gullible(), image, target, threat, stream=stream, hardware=CPU)


def accuracy(prediction, target=TARGET):
    return float((prediction == target)[target != 255].double().mean())


def test_it_finds_what_random_patches_do_not():
    model, image = Gullible(gain=0.03), grey_image()
    generator = torch.Generator().manual_seed(0)
    lowest = 1.0
    for _ in range(50):
        canvas = PatchCanvas(image, (8, 8), ((4, 20),))
        point = canvas.paint(torch.rand(1, 3, 8, 8, generator=generator))
        lowest = min(lowest, accuracy(model(point[None]).argmax(dim=1)[0]))
    assert lowest > 0.5
    result = attacked(model, position=[4, 20])
    assert accuracy(result.prediction) == 0.0
    assert torch.equal(result.prediction, model(result.adversarial[None]).argmax(dim=1)[0])
    assert result.predictor == "base"
    assert result.alerts is None
    assert set(result.seconds) == {"attack", "evaluation"}


@pytest.mark.parametrize(
    "options",
    [
        {"position": [3, 7]},
        {"position": "random"},
        {"position": "searched", "grid": 2},
        {"threat": Patch(height=8, width=8, count=2)},
    ],
    ids=str,
)
def test_nothing_outside_the_patches_changes(options):
    result, image = attacked(steps=3, **options), grey_image()
    inside = torch.zeros(SIZE, dtype=torch.bool)
    for top, left in result.corners:
        assert 0 <= top <= 8
        assert 0 <= left <= 40
        inside[top : top + 8, left : left + 8] = True
    changed = (result.adversarial != image).any(dim=0)
    assert changed.any()
    assert torch.equal(result.adversarial[:, ~inside], image[:, ~inside])
    assert result.norm == pytest.approx(float(changed.float().mean()))
    assert result.patch == (8, 8)
    assert 0 <= result.adversarial.min() <= result.adversarial.max() <= 1
    assert result.adversarial.dtype == torch.float32
    if isinstance(options.get("position"), list):
        assert result.corners == ((3, 7),)


def test_a_step_is_the_sign_of_a_velocity_in_a_cosine_schedule():
    """Two steps on one pixel by hand; the first gradient, whose mean absolute value becomes 1, is still felt."""

    class Bowl(torch.nn.Module):
        num_classes = 2

        def forward(self, images):
            score = 10 * images[:, :1, :1, :1] - 20 * images[:, :1, :1, :1] ** 2  # up to .25, then down
            return torch.cat([torch.full_like(images[:, :1], 3.0), score.expand_as(images[:, :1])], dim=1)

    image, target = torch.full((3, 1, 2), 0.1), torch.zeros(1, 2, dtype=torch.int64)
    visited = []

    class Watched(Bowl):
        def forward(self, images):
            visited.append(float(images.detach()[0, 0, 0, 0]))
            return super().forward(images)

    options = {"steps": 4, "step_size": 0.1, "start": "image", "position": [0, 0], "loss": "cross_entropy"}
    attacked(Watched(), Patch(height=1, width=1), target, image, momentum=0.9, **options)
    lengths = [0.1 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    velocity, at, expected = 0.0, 0.1, [0.1, 0.1]  # the image itself, then the start
    for length in lengths:
        velocity = 0.9 * velocity + (3.0 if at < 0.25 else -3.0)  # in one of three channels
        at = at + length * (1 if velocity > 0 else -1)
        expected.append(at)
    assert visited[: len(expected)] == pytest.approx(expected, abs=1e-5)
    assert expected[4] > expected[3] > 0.25  # momentum carries it on where the gradient points back


def test_the_best_point_is_kept_and_is_never_above_the_image():
    class Contrary(Gullible):
        """Its gradient points to where more is right."""

        def forward(self, images):
            logits = super().forward(images)
            return 2 * logits.detach() - logits

    image = grey_image()
    pattern = Gullible().pattern.detach()
    image[0] += 0.2 * pattern * (torch.arange(48) < 8)  # some of the pattern is there already
    image.clamp_(0, 1)
    clean = accuracy(Contrary()(image[None]).argmax(dim=1)[0])
    assert clean < 1
    result = attacked(Contrary(), image=image, position=[0, 0], start="random", steps=5)
    assert accuracy(result.prediction) <= clean


def test_positions_are_searched():
    """Only one corner matters. A fixed place elsewhere reaches nothing, a search finds the corner."""
    where = torch.zeros(SIZE)
    where[8:, 40:] = 1.0
    elsewhere = attacked(Gullible(where=where), position=[0, 0])
    assert accuracy(elsewhere.prediction) == 1.0
    assert "zero_gradient" in elsewhere.flags
    found = attacked(Gullible(where=where), position="searched", grid=3, probe_steps=2)
    assert found.corners == ((8, 40),)
    assert accuracy(found.prediction) < 0.2
    assert found.passes.backward == 1 + 9 * 3 + len(range(21)) or found.passes.backward < 49  # stops at 0
    assert len(grid_corners(3, SIZE, (8, 8))) == 9
    assert grid_corners(5, (9, 8), (8, 8)) == [(0, 0), (1, 0)]


def test_two_patches_reach_what_one_cannot():
    model = Gullible(gain=0.009)
    one, two = (attacked(model, Patch(height=8, width=8, count=count), position="searched", grid=2) for count in (1, 2))
    assert len(two.corners) == 2
    assert accuracy(two.prediction) < accuracy(one.prediction) - 0.2
    placed = attacked(model, Patch(height=8, width=8, count=2), position=[[0, 0], [8, 40]])
    assert placed.corners == ((0, 0), (8, 40))


def test_restarts_and_passes():
    model = Gullible(gain=0.001)
    result = attacked(model, steps=3, restarts=2)
    assert result.passes.backward == 1 + 2 * 4
    assert result.passes.forward == 1 + 2 * 4 + 1
    again = attacked(model, steps=3, restarts=2)
    assert torch.equal(result.adversarial, again.adversarial)
    other = attacked(model, steps=3, restarts=2, stream=NoiseStream(0, "y"))
    assert not torch.equal(result.adversarial, other.adversarial)


def test_side_by_side_is_what_it_is_alone():
    model, images = Gullible(gain=0.02), [grey_image(), grey_image().flip(1), grey_image().flip(2)]
    streams = [NoiseStream(0, name) for name in "abc"]
    attack = PatchPGD(steps=6, step_size=0.2, restarts=2)
    model.batches.clear()
    together = attack.together(model, images, [TARGET] * 3, PATCH, streams=streams, hardware=CPU)
    assert max(model.batches) == 3
    for image, stream, result in zip(images, streams, together):
        alone = attack(model, image, TARGET, PATCH, stream=stream, hardware=CPU)
        assert torch.equal(alone.prediction, result.prediction)
        assert alone.corners == result.corners
        assert alone.passes == result.passes


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"step_size": 0},
        {"step_size": "big"},
        {"momentum": 1.0},
        {"loss": "hinge"},
        {"position": "left"},
        {"position": [1]},
        {"position": [-1, 0]},
        {"position": [0.5, 0]},
        {"position": []},
        {"position": [[0, 0], 3]},
        {"start": "black"},
        {"restarts": 0},
        {"grid": 0},
        {"probe_steps": 0},
        {"defence": "masks"},
    ],
    ids=str,
)
def test_bad_arguments(options):
    with pytest.raises(ConfigError, match=f"attack.{next(iter(options))}"):
        PatchPGD(**options)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="does not fit into an image"):
        attacked(threat=Patch(height=17, width=8))
    with pytest.raises(ConfigError, match=r"not inside the image.*rows up to 8 and columns up to 40"):
        attacked(position=[9, 0])
    with pytest.raises(ConfigError, match="more places than there are patches"):
        attacked(position=[[0, 0], [8, 8]])
    with pytest.raises(ConfigError, match="needs a patch threat"):
        attacked(threat=L2(0.1))
    with pytest.raises(ConfigError, match="needs a patch threat"):
        PatchPGD().check_size((16, 48), L2(0.1))
    with pytest.raises(DataError, match=r"attack\.start"):
        PatchPGD()(Gullible(), grey_image(), TARGET, PATCH, stream=STREAM, hardware=CPU, start=grey_image())
    with pytest.raises(ModelError, match="NaN"):
        attacked(Gullible(gain=math.nan))
    for bad in (None, object()):
        with pytest.raises(ConfigError, match="a certifier against patches"):
            Defence(bad)
    for option in ("copies", "judge_every"):
        with pytest.raises(ConfigError, match=f"attack.defence.{option}"):
            Defence(honest()["recovery"], **{option: 0})


# Defences


def honest(patch=PATCH, inpainter=None):
    return {
        "recovery": DemaskedRecovery(patch=patch, inpainter=inpainter),
        "detection": DemaskedDetection(patch=patch, inpainter=inpainter, num_masks=3),
        "double": PatchDoubleMasking(patch=patch, inpainter=inpainter, masks="column"),
        "drs": DerandomizedSmoothing(patch=patch, inpainter=inpainter, width=3, stride=2),
    }


def sabotaged():
    """Defences against single pixels that claim to be against whole patches."""
    tiny = Patch(height=1, width=1)

    class Recovery(DemaskedRecovery):
        def _make_masks(self, size):
            return recovery_masks("column", size, tiny, 5)

    class Detection(DemaskedDetection):
        def _make_masks(self, size):
            return covering_masks("column", size, tiny, num_masks=12)

    class Double(PatchDoubleMasking):
        def _make_masks(self, size):
            return covering_masks("column", size, tiny, num_masks=12)

    return {
        "recovery": Recovery(patch=PATCH, inpainter=None),
        "detection": Detection(patch=PATCH, inpainter=None),
        "double": Double(patch=PATCH, inpainter=None, masks="column"),
    }


def compared(certifier, model=None, threat=PATCH, defence=None, sample=None, **options):
    """Certify and attack one image; what the bracket says, and the attack's row and summary."""
    options = {"steps": 20, "step_size": 0.2, "position": [4, 18]} | options
    defence = defence or Defence(certifier, copies=8, judge_every=5)
    sample, model, names = sample or Sample("x", grey_image(), TARGET), model or Gullible(), ("zero", "one")
    stages = (
        CertificationStage(certifier, model, names, seed=0, hardware=CPU),
        AttackStage(
            "patch", PatchPGD(**options, defence=defence), threat, model, names, settings={}, seed=0, hardware=CPU
        ),
    )
    (certified, maps), (row, attacked_maps) = (stage.run(sample) for stage in stages)
    summaries = [{"name": stage.name} | stage.summarise([part]) for stage, part in zip(stages, (certified, row))]
    found = check_pixels(summaries[0], Maps(x=maps), summaries[1], Maps(x=attacked_maps), ["x"])
    bounds = check_bounds(summaries[0], Stored({"x": certified}, {"x": maps}), summaries[1], {"x": row}, ["x"])
    assert (bounds is None) == (found is None or certifier.guarantee.excuses_alerts)  # an alert is no class
    return found, row, summaries[1], attacked_maps


@pytest.mark.parametrize("kind", ["recovery", "detection", "double"])
def test_a_defence_that_certifies_too_much_is_caught(kind):
    with pytest.raises(BracketError, match=r"'x'.*patch of 8 x 8 pixels"):
        compared(sabotaged()[kind])


@pytest.mark.parametrize("inpainter", [None, MeanColour(), Telea()], ids=["none", "mean_colour", "telea"])
@pytest.mark.parametrize("kind", ["recovery", "double", "drs"])
def test_a_recovery_holds(kind, inpainter):
    certifier = honest(inpainter=inpainter)[kind]
    found, row, summary, maps = compared(certifier)
    assert found.certified_pixels > 0.9 * TARGET.numel()
    assert found.alerted_pixels is None
    assert row["figures"]["attacked_accuracy"] == 1.0
    assert "alerts" not in maps
    assert row["figures"]["norm"] > 0  # what is compared is an attacked image
    assert summary["predictor"] == certifier.predictor
    assert summary["threat"] == {"norm": "patch", "height": 8, "width": 8}


@pytest.mark.parametrize("inpainter", [None, Telea()], ids=["none", "telea"])
def test_a_detection_raises_alerts(inpainter):
    """The network falls, every certified pixel that changes raises an alert, and the row says both."""
    found, row, summary, maps = compared(honest(inpainter=inpainter)["detection"])
    assert found.certified_pixels > 0.9 * TARGET.numel()
    figures = row["figures"]
    changed = (maps["prediction"] != 0) & maps["alerts"]
    assert found.alerted_pixels == changed.sum() > 0.5 * TARGET.numel()
    assert figures["silent_error_share"] == 0.0
    assert set(figures) >= {"alert_share", "patch_height", "patch_width"}
    assert row["corners"] == [[4, 18]]
    assert summary["figures"]["silent_error_share/image_mean"] == 0.0
    assert summary["figures"]["alert_share/image_mean"] == figures["alert_share"]
    assert "by_radius" not in summary


def test_an_alert_excuses_a_change_of_a_detection_only():
    """The same maps: an alert where the pixel changed, one elsewhere, and a recovery that knows no alerts."""
    threat = {"norm": "patch", "share": 0.1}
    attack = {"name": "a", "predictor": "p", "threat": threat}
    certificate = {"classes": torch.tensor([[0, 0]]).numpy(), "certified": torch.ones(1, 2).bool().numpy()}
    prediction = torch.tensor([[1, 0]]).numpy()
    detects, recovers = Promise.UNTIL_ALERT, Promise.EVERY_PIXEL
    for alerts, promise, holds in (([[1, 0]], detects, True), ([[0, 1]], detects, False), ([[1, 0]], recovers, False)):
        maps = {"prediction": prediction, "alerts": torch.tensor(alerts).bool().numpy()}
        certifier = certified("c", "p", threat, promise=promise)
        arguments = (certifier, Maps(x=certificate), attack, Maps(x=maps), ["x"])
        if holds:
            assert check_pixels(*arguments).alerted_pixels == 1
        else:
            with pytest.raises(BracketError):
                check_pixels(*arguments)


def test_patches_are_compared_only_within_the_certified_threat():
    certifier = honest()["recovery"]
    assert compared(certifier, threat=Patch(height=8, width=7))[0] is not None
    for larger in (Patch(height=9, width=8), Patch(height=8, width=8, count=2), Patch(share=0.25)):
        assert compared(certifier, threat=larger, steps=1)[0] is None
    assert compared(certifier, threat=Patch(share=0.01), steps=1)[0] is not None  # 2 x 5 pixels here
    attempt = Attempt("base", PATCH)
    for predictor, guaranteed, suffixes in (("base", L2(9.0), []), ("smoothed", PATCH, []), ("base", PATCH, [""])):
        comparison = Comparison.of(Guarantee(Promise.EVERY_PIXEL, predictor, guaranteed, 1.0), attempt)
        assert [level.suffix for level in comparison.levels()] == suffixes


def test_the_attack_on_a_detection_wants_errors_without_alert():
    """The network alone falls at once, but every such pixel raises an alert: what is judged is what is silent."""
    certifier = honest()["detection"]
    defended = PatchPGD(steps=10, step_size=0.2, position=[4, 18], defence=Defence(certifier, judge_every=1))
    result = defended(Gullible(), grey_image(), TARGET, PATCH, stream=STREAM, hardware=CPU)
    assert (result.prediction == 1).float().mean() > 0.5
    assert not ((result.prediction == 1) & ~result.alerts).any()
    loose = sabotaged()["detection"]
    defended = PatchPGD(steps=20, step_size=0.2, position=[4, 18], defence=Defence(loose, judge_every=5))
    result = defended(Gullible(), grey_image(), TARGET, PATCH, stream=STREAM, hardware=CPU)
    silent = (result.prediction == 1) & ~result.alerts
    assert silent.float().mean() > 0.5
    assert result.predictor == loose.predictor


def objective_of(certifier, loss="cross_entropy", copies=None, model=None):
    model = model or Gullible()
    objective = DefendedObjective(Defence(certifier, copies), model, TARGET, loss, STREAM, CPU)
    objective.canvas = PatchCanvas(grey_image(), (8, 8), ((4, 18),))
    return objective


@pytest.mark.parametrize("kind", ["recovery", "detection", "double", "drs"])
def test_gradients_are_those_of_the_mean_loss_over_copies_that_show_the_patch(kind):
    """Against the definition: all masks, pairs for double masking, for it and detection the image, one by one"""
    certifier, model = honest(inpainter=MeanColour())[kind], Gullible()
    point = objective_of(certifier).canvas.paint(torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(3)))
    hidden = list(certifier.masks(SIZE).hidden())
    if kind == "double":
        hidden = [a | b for a, b in itertools.combinations_with_replacement(hidden, 2)]
    if kind in ("detection", "double"):
        hidden.append(torch.zeros(SIZE, dtype=torch.bool))
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[4:12, 18:26] = True
    shown = [mask for mask in hidden if (inside & ~mask).any()]
    assert 0 < len(shown) < len(hidden)
    leaf = point.clone().requires_grad_()
    losses = []
    for mask in shown:
        logits = model(MeanColour()(erase(leaf[None], mask[None]), mask[None]))
        losses.append(LOSSES["cross_entropy"](Pixels(logits, TARGET[None])).sum() / (TARGET != 255).sum())
    mean = sum(losses) / len(losses)
    (expected,) = torch.autograd.grad(mean, leaf)
    found = objective_of(certifier).at(point, 0.0, is_judged=False)
    assert math.isnan(found.accuracy)
    assert found.loss == pytest.approx(float(mean.detach()), rel=1e-5)
    assert torch.allclose(found.gradient, expected, atol=1e-7)
    assert found.gradient[:, inside].any()


@pytest.mark.parametrize("kind", ["detection", "double"])
def test_copies_leave_room_for_a_mask_beside_the_image_itself(kind):
    with pytest.raises(ConfigError, match="at least 2"):
        Defence(honest()[kind], copies=1)
    objective = objective_of(honest()[kind], copies=2)
    for _ in range(5):
        own, other = objective._drawn()
        assert own == (-1, -1) != other
    assert Defence(honest()["recovery"], copies=1).copies == 1


def test_a_random_part_of_the_copies():
    certifier = PatchDoubleMasking(patch=Patch(height=4, width=4), inpainter=None, masks="column", num_masks=8)
    objective = objective_of(certifier, copies=2)
    point = objective.canvas.paint(torch.rand(1, 3, 8, 8))
    first, second = (objective.at(point, 0.0, is_judged=False) for _ in range(2))
    assert objective.passes.backward == 4
    assert not torch.equal(first.gradient, second.gradient)  # others are drawn
    again = objective_of(certifier, copies=2)
    assert torch.equal(again.at(point, 0.0, is_judged=False).gradient, first.gradient)
    many = objective_of(certifier, copies=100)
    many.at(point, 0.0, is_judged=False)
    assert many.passes.backward == len(many._showing())


@pytest.mark.parametrize("inpainter", [None, Black(), MeanColour(), Telea()], ids=str)
def test_gradients_flow_through_visible_pixels_alone(inpainter):
    image = grey_image(SIZE)[None].requires_grad_()
    hidden = torch.zeros(1, *SIZE, dtype=torch.bool)
    hidden[:, :, 20:30] = True
    filled = inpainted(image, hidden, inpainter)
    expected = image if inpainter is None else inpainter(erase(image.detach(), hidden), hidden)
    assert torch.equal(filled[..., :20].detach(), image[..., :20].detach())
    if inpainter is not None:
        assert torch.equal(filled.detach(), expected)
    (gradient,) = torch.autograd.grad(filled.sum(), image)
    assert not gradient[..., 20:30].any()
    assert (gradient[..., :20] >= 1).all()

    class Detached:
        name, settings = "detached", {}

        def __call__(self, images, hidden):
            with torch.no_grad():
                return images + 0.5 * hidden[:, None]

    (gradient,) = torch.autograd.grad(inpainted(image, hidden, Detached()).sum(), image)
    assert torch.equal(gradient, (~hidden).float().expand(3, -1, -1)[None])


def test_answers_are_those_of_the_certifier_and_are_counted():
    for certifier in honest().values():
        model = Gullible()
        result = PatchPGD(steps=2, defence=Defence(certifier, judge_every=2))(
            model, grey_image(), TARGET, PATCH, stream=STREAM, hardware=CPU
        )
        assert torch.equal(result.prediction, certifier.predict(Gullible(), result.adversarial, hardware=CPU))
        assert result.passes.forward == sum(model.batches)
        assert (result.alerts is not None) == (certifier.name == "demasked_detection")
