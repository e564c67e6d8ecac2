"""Attacks as rows: members of an ensemble, several radii, and summaries that are functions of rows alone."""

from dataclasses import replace

import pytest
import torch
from support.brackets import certified, changed, check_pixels
from support.stores import Memory

from certseg.attacks import PGD, SEA, Smoothing
from certseg.attacks.votes import duels
from certseg.compute.hardware import Hardware
from certseg.errors import BracketError
from certseg.evaluation import AttackStage, PredictionStage, evaluate
from certseg.evaluation.attack import SMALLER_RADIUS
from certseg.metrics import OBJECTS, ClassCounts, ObjectCounts
from certseg.reporting import Entry, write_report
from certseg.types import Attack, AttackResult, Linf, MemberResult, Passes, Sample, Vanish

CPU = Hardware(device="cpu", noise_batch=4)
NAMES = ("one", "two", "three")


def network():
    generator = torch.Generator().manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(4, 3, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    model.num_classes = 3
    return model


class Images:
    """Three images the network is mostly right about, the last one without any label."""

    name, split, class_names, palette = "images", "test", NAMES, ((0, 0, 0), (9, 9, 9), (255, 255, 255))

    def __len__(self):
        return 3

    def names(self):
        return ("a", "b", "c")

    def fingerprint(self):
        return "0"

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.rand(3, 10, 9, generator=generator)
        target = network()(image[None]).argmax(1)[0]
        target[:2] = torch.randint(3, (2, 9), generator=generator)
        target[2] = 255
        return Sample(self.names()[index], image, target if index < 2 else torch.full_like(target, 255))


def stage(attack, radius=0.03, radii=(), name="sea", model=None):
    options = {"settings": {}, "seed": 0, "hardware": CPU, "radii": radii}
    return AttackStage(name, attack, Linf(radius), model or network(), NAMES, **options)


def small_sea():
    return SEA(("masked_cross_entropy", "jensen_shannon"), iterations=10, reference_steps=3)


def test_rows_and_summary_of_an_ensemble():
    store = Memory()
    summary = evaluate(stage(small_sea()), Images(), store)
    rows = store.read()
    names = ["masked_cross_entropy", "jensen_shannon", "reference"]
    for name in ("a", "b"):
        row = rows[name]
        assert list(row["members"]) == names
        left = {m: ClassCounts.from_json(part["counts"]).accuracy() for m, part in row["members"].items()}
        assert row["figures"]["attacked_accuracy"] == min(left.values()) == left[row["winner"]]
        assert row["passes"]["backward"] == sum(part["passes"]["backward"] for part in row["members"].values())
        assert row["figures"]["norm"] <= 0.03
    figures, members = summary["figures"], summary["members"]
    for member in members.values():
        assert figures["attacked_accuracy/image_mean"] <= member["attacked_accuracy/image_mean"]
        assert figures["attacked_accuracy/pooled"] <= member["attacked_accuracy/pooled"]
        assert figures["attacked_miou/pooled"] <= member["attacked_miou/pooled"]
    assert sum(member["images_won"] for member in members.values()) == 3
    assert members["reference"]["backward_passes"] == 4 + 4 + 1
    image_wise = [
        min(ClassCounts.from_json(part["counts"]).miou() for part in rows[name]["members"].values())
        for name in ("a", "b")
    ]
    assert figures["worst_imagewise_miou/image_mean"] == pytest.approx(sum(image_wise) / 2)  # c has no label
    assert stage(small_sea()).summarise(list(rows.values()))["figures"] == figures


def test_a_single_attack_has_no_members():
    store = Memory()
    summary = evaluate(stage(PGD(3), name="pgd"), Images(), store)
    assert "members" not in summary
    assert "by_radius" not in summary
    counts = [ClassCounts.from_json(row["counts"]) for row in store.read().values()]
    assert summary["figures"]["attacked_miou/pooled"] == (counts[0] + counts[1]).miou()
    assert all("zero_gradients" in row["figures"] for row in store.read().values())


@pytest.mark.parametrize("attack", [PGD(4), small_sea()], ids=["pgd", "sea"])
def test_accuracy_does_not_rise_with_the_radius(attack):
    store, clean = Memory(), Memory()
    radii = (0, 0.03, 0.06, 0.061)
    summary = evaluate(stage(attack, 0.1, radii), Images(), store)
    prediction = evaluate(PredictionStage(network(), NAMES, CPU), Images(), clean)
    for name, row in store.read().items():
        accuracies = [part["figures"]["attacked_accuracy"] for part in (*row["radii"], row)]
        if name != "c":
            assert accuracies == sorted(accuracies, reverse=True)
            assert accuracies[0] == clean.read()[name]["figures"]["accuracy"]
        norms = [part["figures"]["norm"] for part in (*row["radii"], row)]
        assert all(norm <= radius for norm, radius in zip(norms, (*radii, 0.1)))
    table = summary["by_radius"]
    assert [line["radius"] for line in table] == [*radii, 0.1]
    for figure in ("attacked_accuracy/image_mean", "worst_imagewise_miou/image_mean", "attacked_miou/pooled"):
        values = [line[figure] for line in table]
        assert values == sorted(values, reverse=True)
        assert values[-1] == summary["figures"][figure] < values[0]
    assert table[0]["attacked_miou/pooled"] == prediction["figures"]["miou/pooled"]
    assert summary["threat"] == {"norm": "linf", "radius": 0.1}


def test_an_attack_that_finds_nothing_lower_keeps_what_a_smaller_radius_gave():
    class Worse(Attack):
        """Forgets where it began: the larger the radius, the less it changes."""

        norms = ("linf",)
        predictor = "scripted"

        def __call__(self, segmenter, image, target, threat, *, stream, hardware, start=None):
            wrong = torch.where(target == 255, 0, target)
            wrong[: int(0.1 / threat.radius)] += 1
            norm = threat.radius / 1000
            found = (image + norm).clamp(0, 1)
            norm = float((found - image).abs().max())
            return AttackResult(found, wrong % 3, threat, "scripted", norm, Passes(1, 1))

    store = Memory()
    evaluate(stage(Worse(), 0.03, (0.02,)), Images(), store)
    for name, row in store.read().items():
        assert row["counts"] == row["radii"][0]["counts"]
        assert row["figures"]["norm"] == pytest.approx(2e-5 if name != "c" else 3e-5, rel=0.01)  # float32 images
        assert row["passes"] == {"forward": 2, "backward": 2}


class Scripted(Attack):
    """Leaves so many correct rows at each radius as it is told, and remembers where it began."""

    norms = ("linf",)
    predictor = "scripted"

    def __init__(self, rows, votes=None):
        self.rows, self.starts, self.votes = rows, [], votes

    def __call__(self, segmenter, image, target, threat, *, stream, hardware, start=None):
        self.starts.append(start)
        wrong = (torch.where(target == 255, 0, target) + 1) % 3
        left = self.rows[threat.radius]
        wrong[:left] = torch.where(target == 255, 0, target)[:left]
        votes = None if self.votes is None else torch.full((3, *target.shape), self.votes, dtype=torch.int32)
        return AttackResult(
            (image + 0.9 * threat.radius).clamp(0, 1),
            wrong,
            threat,
            "scripted",
            float(((image + 0.9 * threat.radius).clamp(0, 1) - image).abs().max()),
            Passes(2, 3),
            votes=votes,
            num_votes=self.votes or 0,
            flags=(f"flag_{threat.radius}",),
            zero_gradients=threat.radius,
        )


def test_what_several_radii_add_up_to():
    """Every radius begins where the one before ended; passes, flags and candidates are those of all of them."""
    attack = Scripted({0.01: 9, 0.02: 5, 0.03: 3}, votes=7)
    sample = Images()[0]
    row, maps = stage(attack, 0.03, (0, 0.01, 0.02)).run(sample)
    assert attack.starts[0] is None
    for start, radius in zip(attack.starts[1:], (0.01, 0.02)):
        assert torch.allclose(start, (sample.image + 0.9 * radius).clamp(0, 1))
    assert row["passes"] == {"forward": 3 * 2 + 1, "backward": 3 * 3}, "one more forward pass at radius 0"
    assert row["flags"] == ["flag_0.01", "flag_0.02", "flag_0.03"]
    assert row["figures"]["zero_gradients"] == 0.03
    left = [int((torch.from_numpy(maps[f"prediction{part}"]) == sample.target).sum()) for part in ("_1", "_2", "")]
    assert left == [8 * 9, 4 * 9, 2 * 9], "row 2 has no label"
    assert [int(maps[f"candidates{part}"]) for part in ("_1", "_2", "")] == [1, 2, 3]
    assert "prediction_0" not in maps, "at radius 0 there is no attack"


def test_the_lowest_pooled_miou_may_come_from_a_smaller_radius():
    """Fewer correct pixels at the larger radius, but a lower mean IoU at the smaller one."""
    target = torch.tensor([[0] * 8 + [1, 2]])
    small = torch.tensor([[0] * 8 + [2, 1]])  # 8 right: both rare classes lost
    large = torch.tensor([[1] * 5 + [0] * 3 + [1, 2]])  # 5 right

    class Both(Scripted):
        def __call__(self, *arguments, **options):
            result = super().__call__(*arguments, **options)
            return replace(result, prediction=small if result.threat.radius == 0.01 else large)

    both = stage(Both({0.01: 0, 0.03: 0}), 0.03, (0.01,))
    row, _ = both.run(Sample("a", torch.rand(3, 1, 10), target))
    figures = both.summarise([row])["figures"]
    assert figures["attacked_accuracy/image_mean"] == 0.5
    assert figures["attacked_miou/pooled"] == pytest.approx(0.8 / 3 * 10 / 8, abs=0.07)
    assert figures["attacked_miou/pooled"] < ClassCounts.from_maps(large, target, 3).miou()
    assert figures["worst_imagewise_miou/image_mean"] == pytest.approx(ClassCounts.from_maps(small, target, 3).miou())


def test_a_winner_at_a_smaller_radius_is_no_member():
    class Forgetful(SEA):
        """Attacks at small radii only."""

        def __call__(self, segmenter, image, target, threat, *, stream, hardware, start=None):
            tiny = threat if threat.radius < 0.05 else Linf(1e-9)
            result = super().__call__(segmenter, image, target, tiny, stream=stream, hardware=hardware)
            return replace(result, threat=threat)

    row, _ = stage(Forgetful(("jensen_shannon",), iterations=10), 0.1, (0.04,)).run(Images()[0])
    assert row["figures"]["attacked_accuracy"] < 0.9
    assert row["winner"] == SMALLER_RADIUS
    assert row["radii"][0]["winner"] in row["members"]
    assert row["counts"] == row["radii"][0]["counts"]


@pytest.mark.parametrize("attack", [PGD(4), small_sea()], ids=["pgd", "sea"])
def test_images_side_by_side_are_what_they_are_alone(attack):
    """Two together and then the third; the model sees both of the two in one pass."""
    seen = []

    class Watched(torch.nn.Module):
        num_classes = 3

        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, images):
            seen.append(len(images))
            return self.inner(images)

    stores = []
    for at_once in (1, 2):
        hardware = Hardware(device="cpu", noise_batch=4, attack_batch=at_once)
        one = AttackStage(
            "x", attack, Linf(0.1), Watched(), NAMES, settings={}, seed=0, hardware=hardware, radii=(0, 0.03)
        )
        stores.append(Memory())
        evaluate(one, Images(), stores[-1])
        assert max(seen) == at_once
    alone, together = (store.read() for store in stores)
    for name in ("a", "b", "c"):
        for part in ("counts", "passes", "flags"):
            assert alone[name][part] == together[name][part]
        for kept, other in zip(stores[0].maps[name].values(), stores[1].maps[name].values(), strict=True):
            assert (kept == other).all()
    assert alone["a"].get("winner") == together["a"].get("winner")


def test_images_of_different_shapes_are_not_mixed():
    class Mixed(Images):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return replace(sample, image=sample.image[:, : 9 + index % 2], target=sample.target[: 9 + index % 2])

    store = Memory()
    hardware = Hardware(device="cpu", attack_batch=3)
    one = AttackStage("pgd", PGD(2), Linf(0.03), network(), NAMES, settings={}, seed=0, hardware=hardware)
    evaluate(one, Mixed(), store)
    assert [len(store.maps[name]["prediction"]) for name in ("a", "b", "c")] == [9, 10, 9]


def test_adversarial_images_are_kept_of_the_pictured_ones_only():
    kept = {}
    for pictured in (None, (), ("a",)):
        one = AttackStage(
            "pgd", PGD(1), Linf(0.03), network(), NAMES, settings={}, seed=0, hardware=CPU, pictured=pictured
        )
        kept[pictured] = ["adversarial" in one.run(Images()[index])[1] for index in (0, 1)]
    assert kept == {None: [True, True], (): [False, False], ("a",): [True, False]}


def test_the_bracket_is_checked_at_every_radius_within_the_certificate():
    """Certified up to .02 and attacked at .01, .02 and .03: what breaks at the last one only is no violation."""
    sample = Images()[0]
    clean = torch.where(sample.target == 255, 0, sample.target).numpy()
    certificates, labelled = Memory(), (sample.target != 255).numpy()
    certificates.save_map("a", classes=clean, certified=labelled)
    certifier = certified("c", "scripted", {"norm": "linf", "radius": 0.02})
    for rows, holds in (
        ({0.01: 10, 0.02: 10, 0.03: 0}, True),
        ({0.01: 10, 0.02: 9, 0.03: 0}, False),
        ({0.01: 9, 0.02: 8, 0.03: 0}, False),
    ):
        attacks = Memory()
        one = stage(Scripted(rows), 0.03, (0.01, 0.02))
        row, maps = one.run(sample)
        attacks.save_map("a", **maps)
        summary = {"name": "attack"} | one.summarise([row])
        if holds:
            assert check_pixels(certifier, certificates, summary, attacks, ["a"]).certified_pixels == labelled.sum()
        else:
            with pytest.raises(BracketError, match="'a'"):
                check_pixels(certifier, certificates, summary, attacks, ["a"])
    beyond = changed(certifier, threat={"norm": "linf", "radius": 0.005})
    assert check_pixels(beyond, certificates, summary, attacks, ["a"]) is None


def test_a_smoothed_model_may_be_attacked_at_several_radii():
    attack = PGD(2, smoothing=Smoothing(0.1, samples=2, votes=50))
    store = Memory()
    evaluate(stage(attack, 0.03, (0.001, 0.01)), Images(), store)
    for row in store.read().values():
        hits = [sum(part["counts"]["true_positive"]) for part in (*row["radii"], row)]
        assert hits == sorted(hits, reverse=True)


@pytest.mark.parametrize("attack", [PGD, SEA], ids=["pgd", "sea"])
def test_an_attack_on_a_smoothed_model_counts_what_the_votes_show(attack):
    """A majority of votes is an estimate; the attacked accuracy never falls below what the model still has right."""
    made = attack(
        smoothing=Smoothing(0.5, samples=2, votes=60), **({"iterations": 3} if attack is SEA else {"steps": 3})
    )
    one = stage(made, 0.03)
    sample, store = Images()[0], Memory()
    row, maps = one.run(sample)
    store.append({"image": "a", **row})
    summary = one.summarise([row])
    lost, voted = (sum(row[part]["target"]) - sum(row[part]["true_positive"]) for part in ("counts", "voted"))
    assert 0 <= lost < voted, "some pixels are outvoted within the votes' chance"
    assert row["counts"]["predicted"] == row["counts"]["true_positive"], "in whose place is not known"
    figures = summary["figures"]
    assert summary["confidence"] == 1 - 0.001
    assert figures["attacked_accuracy/image_mean"] > figures["voted_accuracy/image_mean"]
    assert figures["attacked_miou/pooled"] > figures["voted_miou/pooled"]
    outvoted = maps["prediction"][sample.target.numpy() != 255] != sample.target.numpy()[sample.target.numpy() != 255]
    assert outvoted.sum() == voted
    if attack is SEA:
        assert all(
            sum(member["counts"]["true_positive"]) >= sum(row["counts"]["true_positive"])
            for member in row["members"].values()
        )


@pytest.mark.parametrize(("radii", "members", "lost"), [((), 0, 1), ((0.01,), 0, 0), ((), 2, 0)])
def test_every_radius_and_member_has_its_share_of_the_error(radii, members, lost):
    """One pixel with 33 of 100 votes for its label and 67 for another class: p = 8.7e-4 for two such classes."""

    class Outvoting(Scripted):
        def __call__(self, segmenter, image, target, threat, **options):
            result = super().__call__(segmenter, image, target, threat, **options)
            votes = torch.tensor([33, 67, 0], dtype=torch.int32).view(3, 1, 1)
            one = MemberResult("one", result.prediction, 0.0, Passes(), duel=duels(votes, target))
            made = tuple(replace(one, name=str(number)) for number in range(members))
            return replace(result, votes=votes, num_votes=100, members=made, winner="0" if made else None)

    sample = Sample("a", torch.rand(3, 1, 1), torch.zeros(1, 1, dtype=torch.int64))
    row, _ = stage(Outvoting({0.01: 0, 0.03: 0}), 0.03, radii).run(sample)
    assert row["counts"]["true_positive"] == [1 - lost, 0, 0]
    assert all(part["counts"] == row["counts"] for part in (*row.get("radii", ()), *row.get("members", {}).values()))
    assert sum(row["voted"]["true_positive"]) == 0


def test_the_votes_of_every_radius_are_fresh():
    """What is kept of a smaller radius was chosen by its votes, and the next radius begins there."""
    seen = []

    class Listening(PGD):
        def __call__(self, *arguments, stream, **options):
            seen.append(stream.for_purpose("attack").for_purpose("attack evaluation"))
            return super().__call__(*arguments, stream=stream, **options)

    stage(Listening(1, smoothing=Smoothing(0.1, samples=2, votes=50)), 0.03, (0.01, 0.02)).run(Images()[0])
    drawn = [stream.generator(0, torch.device("cpu")).initial_seed() for stream in seen]
    assert len(set(drawn)) == 3


def test_the_report_has_a_table_of_members_and_one_of_radii(tmp_path):
    summary = evaluate(stage(small_sea(), 0.03, (0, 0.01)), Images(), Memory())
    report = write_report(tmp_path, title="t", command="c", entries=[Entry(summary)]).read_text()
    members = report.split("## sea: its members")[1].split("##")[0]
    assert "| jensen_shannon |" in members
    assert "images won" in members
    radii = report.split("## sea at several radii")[1].split("##")[0]
    assert "linf ≤ 0.01 (2.55/255)" in radii
    assert radii.count("| sea |") == 3


@pytest.mark.parametrize(("goal", "share"), [(Vanish((0, 2)), 1 / 3), (1, 1 / 4), (None, None)])
def test_a_goal_is_met_where_the_votes_show_it(goal, share):
    """Of four pixels class 1 outvotes the label clearly, hardly, and not; the last one has the label 1 itself."""

    class Voted(Scripted):
        @property
        def goal(self):
            return goal

        def __call__(self, segmenter, image, target, threat, **options):
            result = super().__call__(segmenter, image, target, threat, **options)
            votes = torch.tensor([[[2, 45, 90, 49]], [[98, 55, 10, 51]], [[0, 0, 0, 0]]], dtype=torch.int32)
            return replace(result, prediction=votes.argmax(0), votes=votes, num_votes=100)

    sample = Sample("a", torch.rand(3, 1, 4), torch.tensor([[0, 0, 0, 1]]))
    row, _ = stage(Voted({0.03: 0}), 0.03).run(sample)
    assert row["figures"].get("goal_share") == share


@pytest.mark.parametrize(("against", "kept"), [(55, True), (98, False)])
def test_an_object_is_lost_where_votes_show_it(against, kept):
    """Three of four pixels of an object are outvoted, hardly or clearly; half of them must be kept."""

    class Voted(Scripted):
        def __call__(self, segmenter, image, target, threat, **options):
            result = super().__call__(segmenter, image, target, threat, **options)
            own = torch.tensor([[100, 100 - against, 100 - against, 100 - against]])
            votes = torch.stack([own, 100 - own, torch.zeros_like(own)]).int()
            return replace(result, prediction=votes.argmax(0), votes=votes, num_votes=100)

    sample = Sample("a", torch.rand(3, 1, 4), torch.zeros(1, 4, dtype=torch.int64))
    options = {"settings": {}, "seed": 0, "hardware": CPU, "with_objects": True}
    of_objects = AttackStage("scripted", Voted({0.03: 0}), Linf(0.03), network(), NAMES, **options)
    row, _ = of_objects.run(sample)
    (right,) = ObjectCounts.from_json(row[OBJECTS]).hits
    assert right == (4 if kept else 1)
