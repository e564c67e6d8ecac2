"""Random search: within every threat, never worse than the image, as strong as brute force where that is known."""

import itertools
import json
import re

import pytest
import torch
from support.commands import Command
from support.linear_pixels import two_classes
from support.pipeline_runs import SMALL
from torch import nn

import certseg
from certseg.attacks import PGD, Defence, PatchPGD, Smoothing, Square
from certseg.attacks.square import Cells
from certseg.bracket.pixels import broken_pixels
from certseg.certifiers import DemaskedDetection, DemaskedRecovery, PatchDoubleMasking, SegCertify
from certseg.compute.hardware import Hardware
from certseg.datasets import Streets
from certseg.errors import ConfigError, DataError, ModelError
from certseg.reporting import Entry, write_report
from certseg.reporting.claims import masked_gradients
from certseg.reporting.rows import RowStore
from certseg.types import L1, L2, Linf, Patch

CPU = Hardware(device="cpu")
IMAGE = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(1))


class Blurred(nn.Module):
    """A small network whose pixels see their neighbours."""

    def __init__(self, classes=3):
        super().__init__()
        torch.manual_seed(2)
        self.num_classes = classes
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, classes, 3, padding=1))

    def forward(self, images):
        return self.layers(images)


class Detached(Blurred):
    """The same without a gradient, as from another program."""

    def forward(self, images):
        return torch.from_numpy(super().forward(images).detach().numpy().copy())


def labels_of(model, image=IMAGE):
    with torch.no_grad():
        return model(image[None]).argmax(1)[0]


def accuracy(result, target):
    return float((result.prediction == target).double().mean())


THREATS = [Linf(4 / 255), L2(0.4), Patch(height=4, width=5), Patch(share=0.05, count=2)]


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_the_result_lies_within_its_threat_and_does_harm(threat):
    model = Blurred()
    target = labels_of(model)
    result = certseg.attack(model, IMAGE, target, threat, Square(queries=300), hardware=CPU)  # which checks the budget
    assert accuracy(result, target) < 1.0
    assert result.passes.forward <= 301
    assert result.passes.backward == 0
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1
    if isinstance(threat, Patch):
        outside = torch.ones(12, 16, dtype=torch.bool)
        height, width = result.patch
        for top, left in result.corners:
            outside[top : top + height, left : left + width] = False
        assert torch.equal(result.adversarial[:, outside], IMAGE[:, outside])
        assert 1 <= len(result.corners) <= threat.count


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_more_queries_do_no_less_and_two_do_no_good(threat):
    model = Blurred()
    target = labels_of(model)
    left = [
        accuracy(certseg.attack(model, IMAGE, target, threat, Square(queries=queries), hardware=CPU), target)
        for queries in (2, 600)
    ]
    assert left[1] <= left[0] <= 1.0
    wrong = (target + 1) % 3  # nothing is left to lose
    result = certseg.attack(model, IMAGE, wrong, threat, Square(queries=600), hardware=CPU)
    assert torch.equal(result.adversarial, IMAGE)
    assert result.passes.forward == 2


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_a_network_without_gradient_is_attacked_alike(threat):
    target = labels_of(Blurred())
    with_gradient, without = (
        certseg.attack(model, IMAGE, target, threat, Square(queries=100), hardware=CPU)
        for model in (Blurred(), Detached())
    )
    assert torch.equal(with_gradient.adversarial, without.adversarial)
    method = PatchPGD(steps=2) if isinstance(threat, Patch) else PGD(steps=2)
    with pytest.raises(ModelError, match="attack=square"):
        certseg.attack(Detached(), IMAGE, target, threat, method, hardware=CPU)


def test_it_is_the_same_every_time_and_another_with_another_seed():
    model = Blurred()
    target = labels_of(model)
    runs = [
        certseg.attack(model, IMAGE, target, Linf(2 / 255), Square(queries=60), seed=seed, hardware=CPU)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(runs[0].adversarial, runs[1].adversarial)
    assert not torch.equal(runs[0].adversarial, runs[2].adversarial)


def test_it_finds_what_no_linf_attack_on_linear_pixels_can_better():
    """Pixels that look at themselves alone fall exactly where the corner of the ball in their direction makes them."""
    model, radius = two_classes(), 0.05
    target = labels_of(model)
    image = IMAGE
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)))
    with torch.no_grad():
        moved = (image[None] + radius * corners[:, :, None, None]).clamp(0, 1)
        best = (model(moved).argmax(1) == target).all(dim=0).double().mean()  # pixels that no corner changes
    result = certseg.attack(model, image, target, Linf(radius), Square(queries=6000), hardware=CPU)
    assert best <= accuracy(result, target) <= best + 0.03
    assert best < 0.99


def test_a_patch_on_linear_pixels_flips_every_pixel_that_a_colour_flips():
    model = two_classes()
    target = labels_of(model)
    colours = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))[:, :, None, None]
    with torch.no_grad():
        flips = (model(colours.expand(-1, -1, 12, 16)).argmax(1) != target).any(dim=0)
    most = max(int(flips[top : top + 2, left : left + 3].sum()) for top in range(11) for left in range(14))
    assert most > 0
    result = certseg.attack(model, IMAGE, target, Patch(height=2, width=3), Square(queries=2000), hardware=CPU)
    assert int((result.prediction != target).sum()) == most


def test_a_start_is_visited_and_checked():
    model = Blurred()
    target = labels_of(model)
    threat, start = Linf(4 / 255), (IMAGE + 4 / 255).clamp(0, 1) * 0.999
    common = {"stream": certseg.compute.streams.NoiseStream(0, "a"), "hardware": CPU}
    strong = certseg.attack(model, IMAGE, target, threat, PGD(steps=20), hardware=CPU)
    result = Square(queries=3)(model, IMAGE, target, threat, start=strong.adversarial, **common)
    assert accuracy(result, target) <= accuracy(strong, target)
    with pytest.raises(DataError, match="within its threat"):
        Square(queries=3)(model, IMAGE, target, Linf(1 / 255), start=start, **common)
    with pytest.raises(DataError, match="begins with the image"):
        Square(queries=3)(model, IMAGE, target, Patch(share=0.1), start=start, **common)


@pytest.mark.parametrize("threat", [Linf(4 / 255), L2(1.0)], ids=str)
def test_many_cells_at_once_do_more_than_single_squares_and_take_no_query_more(threat):
    """Where pixels see but their neighbours, one query tells of every cell."""
    model, asked = Blurred(), []
    image = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(4))
    target = labels_of(model, image)
    model.register_forward_hook(lambda *_: asked.append(1))
    left = []
    for composed in (0.0, 1.0):
        asked.clear()
        attack = Square(queries=151, composed=composed)
        result = certseg.attack(model, image, target, threat, attack, hardware=CPU)
        assert result.passes.forward == 152
        assert len(asked) - 152 in (0, 1)  # the confirmation, and a look at it that is not the attack's
        left.append(accuracy(result, target))
    assert left[1] < left[0]


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_what_lies_around_each_cell_is_summed(reach):
    cells = Cells.at_random(4, (9, 11), torch.Generator().manual_seed(3), torch.device("cpu"))
    values = torch.randint(-3, 4, (9, 11), generator=torch.Generator().manual_seed(5))
    wide = torch.nn.functional.pad(values, (reach,) * 4)
    around = wide.unfold(0, 2 * reach + 1, 1).unfold(1, 2 * reach + 1, 1).sum(dim=(2, 3))
    expected = [int(around[cells.of == number].sum()) for number in range(cells.number)]
    assert cells.sums(values, reach).tolist() == expected
    assert int(cells.of.max()) < cells.number
    for number in cells.of.unique():
        rows, columns = (cells.of == number).nonzero(as_tuple=True)
        assert rows.max() - rows.min() < 4
        assert columns.max() - columns.min() < 4


def test_what_is_outside_its_domain():
    for options in ({"queries": 1}, {"queries": "many"}, {"share": 0}, {"share": 1.5}, {"composed": 1.1}):
        with pytest.raises(ConfigError, match=f"attack.{next(iter(options))}"):
            Square(**options)
    with pytest.raises(ConfigError, match="linf, l2, patch"):
        certseg.attack(Blurred(), IMAGE, labels_of(Blurred()), L1(1.0), Square(), hardware=CPU)
    model = Blurred()
    nn.init.constant_(model.layers[0].weight, torch.nan)
    with pytest.raises(ModelError, match="NaN"):
        certseg.attack(model, IMAGE, torch.zeros(12, 16).long(), Linf(0.1), Square(queries=3), hardware=CPU)


def test_a_run_compares_it_with_certificates_against_patches(tmp_path):
    base = [word for word in SMALL if not word.startswith("certifier.")]
    words = ["training=masked", "certifier=demasked_recovery", "attack=square", "attack.norm=patch", "pictures=0"]
    status, out, err = Command(*base, *words, "attack.queries=30", cwd=tmp_path).finish()
    assert status == 0, out + err
    (result,) = tmp_path.glob("outputs/runs/*/*/result.json")
    found = {entry["summary"]["kind"]: entry["summary"] for entry in json.loads(result.read_text())["entries"]}
    assert found["attack"]["name"] == "square"
    assert found["attack"]["passes"]["backward"] == 0
    assert found["attack"]["settings"]["queries"] == 30


def entry(name, needs_gradient, left, radius=0.1, subject="one", directory=None, **settings):
    return Entry(
        {
            "settings": settings,
            "kind": "attack",
            "name": name,
            "predictor": "base",
            "subject": subject,
            "needs_gradient": needs_gradient,
            "threat": {"norm": "linf", "radius": radius},
            "images": 2,
            "figures": {"attacked_accuracy/image_mean": left},
        },
        directory=directory,
    )


def kept(directory, **left):
    """A result folder with what an attack left of each image."""
    store = RowStore(directory, identity={})
    for image, accuracy in left.items():
        figures = {"attacked_accuracy": accuracy}
        store.append({"image": image, "figures": figures, "counts": {}, "seconds": {}, "passes": {}, "flags": []})
    return directory


def test_an_attack_by_gradient_that_leaves_more_is_flagged(tmp_path):
    beaten = [entry("pgd", True, 0.8), entry("square", False, 0.5)]
    (line,) = masked_gradients(beaten)
    assert line.startswith("square, which uses no gradient, leaves less than pgd on average (50.0 % instead of 80.0 %")
    assert "or it searches too little" in line
    assert line in write_report(tmp_path, title="t", command="c", entries=beaten).read_text()
    for others in (
        [entry("pgd", True, 0.5), entry("square", False, 0.8)],
        [entry("pgd", True, 0.8), entry("square", False, 0.5, radius=0.2)],
        [entry("pgd", True, 0.8), entry("square", False, 0.5, subject="two")],
        [entry("pgd", True, 0.8), entry("sea", True, 0.5)],
        [entry("pgd", True, 0.8), entry("square", False, 0.795)],
        [entry("pgd", True, 0.8, goal=2), entry("square", False, 0.5)],
        [entry("pgd", True, None), entry("square", False, None)],
    ):
        assert masked_gradients(others) == []


def test_a_mean_does_not_hide_the_image_on_which_an_attack_by_gradient_fails(tmp_path):
    seen = entry("pgd", True, 0.2, directory=kept(tmp_path / "pgd", one=0.0, two=0.4))
    (line,) = masked_gradients(
        [seen, entry("square", False, 0.3, directory=kept(tmp_path / "square", one=0.5, two=0.1))]
    )
    assert "leaves less than pgd on 1 of 2 images (10.0 % instead of 40.0 % there" in line
    blind = entry("square", False, 0.3, directory=kept(tmp_path / "other", one=0.2, two=0.4))
    assert masked_gradients([seen, blind]) == []


def test_a_network_without_gradient_is_told_before_the_first_image(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Conv2d):\n    def __init__(self, classes):\n"
        "        super().__init__(3, classes, 3, padding=1)\n\n"
        "    def forward(self, images):\n        return super().forward(images).detach()\n"
    )
    base = [word for word in SMALL if not word.startswith(("certifier.", "model."))]
    own = ["model=custom", "model.network._target_=mine.Net", "model.classes_argument=classes"]
    words = [*own, "model.pretrained=true", "certifier=none", "attack.radius=4/255", "pictures=0"]
    status, _, err = Command(*base, *words, "attack=pgd", "attack.norm=linf", cwd=tmp_path).finish()
    assert status == 2
    assert "attack=square" in err
    assert not [path for path in tmp_path.rglob("rows.jsonl") if path.stat().st_size]
    status, out, err = Command(*base, *words, "attack=square", "attack.queries=20", cwd=tmp_path).finish()
    assert status == 0, out + err


def smoothed(**options):
    return Smoothing(**({"sigma": 0.1, "samples": 4, "votes": 60} | options))


@pytest.mark.parametrize("threat", [Linf(0.1), L2(2.0)], ids=str)
def test_a_smoothed_model_is_attacked_by_answers_alone(threat):
    """Passes are those of the network, votes those of the copies at the end, and no gradient is asked for."""
    seen = []

    class Counting(Detached):
        def forward(self, images):
            assert not images.requires_grad
            seen.append(len(images))
            return super().forward(images)

    model, target = Counting(), labels_of(Blurred())
    attack = Square(queries=120, smoothing=smoothed())
    result = certseg.attack(model, IMAGE, target, threat, attack, hardware=CPU)
    assert result.predictor == SegCertify(sigma=0.1, n=60).predictor == attack.predictor
    assert accuracy(result, target) < accuracy(
        certseg.attack(model, IMAGE, target, threat, Square(queries=2, smoothing=smoothed()), hardware=CPU), target
    )
    assert result.votes.shape == (3, 12, 16)
    assert result.num_votes == 60
    assert int(result.votes.sum(dim=0).max()) <= 60
    assert torch.equal(result.prediction, result.votes.argmax(dim=0))
    assert result.passes.forward == 120 * 4 + 60
    assert result.passes.backward == 0
    seen.clear()
    again = certseg.attack(model, IMAGE, target, threat, attack, hardware=CPU)
    assert torch.equal(again.adversarial, result.adversarial)
    assert torch.equal(again.votes, result.votes)
    assert sum(seen) == result.passes.forward


def test_the_noise_is_the_same_at_every_query_and_in_every_batch():
    class Recording(Blurred):
        def forward(self, images):
            given.append(images.clone())
            return super().forward(images)

    model, target, given = Recording(), labels_of(Blurred()), []
    results = []
    for batch in (6, 4):
        given.clear()
        stream = certseg.compute.streams.NoiseStream(0, "a")
        hardware = Hardware(device="cpu", noise_batch=batch)
        attack = Square(queries=5, smoothing=smoothed(samples=6))
        results.append(attack(model, IMAGE, target, Linf(0.1), stream=stream, hardware=hardware))
        copies = torch.cat(given)[:12]
        noise = copies[:6] - IMAGE
        others = copies[6:] - copies[6] + noise[0]
        assert torch.allclose(others, noise, atol=2.01 / 255)  # each of the four is rounded by half a grey level
        assert noise.std() == pytest.approx(0.1, rel=0.1)
        assert noise[0].ne(noise[1]).any()
    assert torch.equal(results[0].adversarial, results[1].adversarial)
    assert results[0].passes == results[1].passes


def test_pixels_of_a_smoothed_model_fall_where_the_ball_reaches_the_boundary():
    """Noise leaves the decision of a linear model where it is."""
    model = two_classes()
    margins = torch.tensor([[0.06, 0.5]])
    image = (0.5 - margins / 3**0.5).expand(3, 1, 2).contiguous()
    attack = Square(queries=60, smoothing=smoothed(sigma=0.25, samples=8, votes=400))
    result = certseg.attack(model, image, torch.zeros(1, 2).long(), Linf(0.2), attack, hardware=CPU)
    assert result.prediction.tolist() == [[1, 0]]


PATCH = Patch(height=3, width=3)
CERTIFIERS = {
    "recovery": DemaskedRecovery(patch=PATCH, inpainter=None),
    "detection": DemaskedDetection(patch=PATCH, inpainter=None, num_masks=8),
    "double": PatchDoubleMasking(patch=PATCH, inpainter=None),
}


@pytest.mark.parametrize("kind", CERTIFIERS)
def test_a_certifier_is_attacked_by_its_answers_alone_and_its_certificate_holds(kind):
    certifier, model, target = CERTIFIERS[kind], Detached(), labels_of(Blurred())
    common = {"stream": certseg.compute.streams.NoiseStream(0, "a"), "hardware": CPU}
    attack = Square(queries=60, defence=Defence(certifier))
    result = attack(model, IMAGE, target, PATCH, **common)
    assert result.predictor == certifier.predictor
    assert result.passes.backward == 0
    assert result.passes.forward >= 61
    assert (result.adversarial != IMAGE).any()
    answer = certifier.certify(model, result.adversarial, **common)
    assert torch.equal(result.prediction, answer.classes)
    assert (result.alerts is not None) == (kind == "detection")
    if kind == "detection":
        assert torch.equal(result.alerts, ~answer.certified)
    certificate = certifier.certify(model, IMAGE, **common)
    maps = {"prediction": result.prediction.numpy()}
    maps |= {} if result.alerts is None else {"alerts": result.alerts.numpy()}
    certified = {"classes": certificate.classes.numpy(), "certified": certificate.certified.numpy()}
    assert broken_pixels(certified, maps) == (0, 0)
    assert torch.equal(attack(model, IMAGE, target, PATCH, **common).adversarial, result.adversarial)
    assert result.flags == ()


def test_an_answer_that_falls_is_found():
    """A vote over masks too small for the patch: what the certifier answers is what counts, not the network."""
    small = DemaskedRecovery(patch=Patch(height=1, width=1), inpainter=None)
    target = labels_of(Blurred())
    left = [
        accuracy(
            certseg.attack(
                Detached(),
                IMAGE,
                target,
                Patch(height=6, width=6),
                Square(queries=q, defence=Defence(small)),
                hardware=CPU,
            ),
            target,
        )
        for q in (2, 150)
    ]
    assert left[1] < left[0]


def test_what_a_smoothed_or_defended_search_refuses():
    recovery, target = Defence(CERTIFIERS["recovery"]), labels_of(Blurred())
    with pytest.raises(ConfigError, match="one model"):
        Square(smoothing=smoothed(), defence=recovery)
    for option in ("smoothing", "defence"):
        with pytest.raises(ConfigError, match=f"attack.{option} must be null"):
            Square(**{option: "yes"})
    with pytest.raises(ConfigError, match=r"attack\.norm=patch"):
        certseg.attack(Blurred(), IMAGE, target, Linf(0.1), Square(defence=recovery), hardware=CPU)
    with pytest.raises(ConfigError, match=r"attack=square_defended"):
        PGD().against(recovery)


def test_who_needs_a_gradient_is_told_what_attacks_the_same_model_without():
    target = labels_of(Blurred())
    for attack, threat, choice in (
        (PGD(steps=2), Linf(0.1), "attack=square"),
        (PGD(steps=2, smoothing=smoothed()), L2(0.1), "attack=square_smoothed"),
        (PatchPGD(steps=2), PATCH, "attack=square attack.norm=patch"),
        (PatchPGD(steps=2, defence=Defence(CERTIFIERS["recovery"])), PATCH, "attack=square_defended"),
    ):
        with pytest.raises(ModelError, match=re.escape(choice) + r"\.$"):
            certseg.attack(Detached(), IMAGE, target, threat, attack, hardware=CPU)
        assert attack.instead == choice


@pytest.mark.filterwarnings("ignore")  # of the exporter
@pytest.mark.parametrize(
    ("certifier", "attack", "by_gradient", "options"),
    [
        ("segcertify", "square_smoothed", "pgd_smoothed", ("certifier.n=60", "attack.smoothing.votes=50")),
        ("demasked_recovery", "square_defended", "patch_defended", ("certifier/inpainter=mean_colour",)),
        ("demasked_detection", "square_defended", "patch_defended", ("certifier/inpainter=mean_colour",)),
    ],
)
def test_certificates_of_an_onnx_network_have_their_upper_side(certifier, attack, by_gradient, options, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript, which exports to ONNX, is not installed")
    network = Blurred(classes=len(Streets.class_names)).eval()
    sides = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=8), 3: torch.export.Dim("width", min=8)}
    given = torch.rand(2, 3, 48, 64)
    torch.onnx.export(network.layers, (given,), dynamo=True, dynamic_shapes=(sides,), verbose=False).save(
        tmp_path / "net.onnx"
    )
    base = [word for word in SMALL if not word.startswith(("certifier.", "model.", "training."))]
    words = [*base, "model=onnx", f"model.file={tmp_path / 'net.onnx'}", "model.trust_classes=true"]
    words += [f"certifier={certifier}", *options, "dataset.limit=2"]
    status, _, err = Command(*words, f"attack={by_gradient}", cwd=tmp_path).finish()
    assert status == 2
    assert f"attack={attack}" in err
    status, out, err = Command(*words, f"attack={attack}", "attack.queries=12", cwd=tmp_path).finish()
    assert status == 0, out + err
    (result,) = tmp_path.glob("outputs/runs/*/*/result.json")
    found = {entry["summary"]["kind"]: entry["summary"] for entry in json.loads(result.read_text())["entries"]}
    assert found["attack"]["predictor"] == found["certifier"]["predictor"]
    assert found["attack"]["passes"]["backward"] == 0
    assert found["attack"]["figures"]["bracket/violations"] == 0
    assert ("bracket/alerted_pixels" in found["attack"]["figures"]) == (certifier == "demasked_detection")
    report = result.with_name("report.md").read_text()
    assert "holds" in report
    assert "not checked" not in report
