"""Certificates against patches hold against every position of the patch and every answer where it shows."""

from itertools import product

import numpy as np
import pytest
import torch
from support.puppet import CPU, Puppet, certified, patched, planted_classes, positive_image

from certseg.certifiers import (
    DemaskedDetection,
    DemaskedRecovery,
    DerandomizedSmoothing,
    PatchDoubleMasking,
    demasked,
    double_masking,
)
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError
from certseg.patches.masks import MaskSet, covering_masks
from certseg.types import Patch

C = 3
SIZE, PATCH = (9, 11), (2, 2)


def pixels(count=1, patch=PATCH):
    return Patch(height=patch[0], width=patch[1], count=count)


def puppet_of(certifier, agreement, seed=0, size=SIZE):
    """The puppet of a certifier whose predictions take one round."""
    hidden = certifier.masks(size).hidden()
    planted = planted_classes(len(hidden) + 1, size, C, agreement, seed)
    return Puppet(positive_image(size), hidden, planted[1:], planted[0], C)


def recovery(masks="column", **options):
    return DemaskedRecovery(patch=options.pop("patch", pixels()), inpainter=None, masks=masks, **options)


def changed_by_one_class(certifier, model, images):
    """The pixels whose prediction some image with all answers of one class changes; answers of one class are the worst,
    because the certified class loses every vote to the same rival."""
    clean = certifier.predict(model, model.image, hardware=CPU)
    changed = torch.zeros_like(clean, dtype=torch.bool)
    for image in images:
        for rival in range(C):
            model.choice = dict.fromkeys(range(-1, len(model.planted)), rival)
            changed |= certifier.predict(model, image, hardware=CPU) != clean
    return changed


@pytest.mark.parametrize(
    ("masks", "number", "agreement"), [("column", 7, 0.8), ("row", 6, 0.8), ("three", 9, 0.75), ("four", 12, 0.75)]
)
def test_recovery_certifies_exactly_what_no_patch_changes(masks, number, agreement):
    size = (11, 14)  # 6 x 7 blocks
    certifier = recovery(masks, num_masks=number)
    model = puppet_of(certifier, agreement, size=size)
    certificate = certified(certifier, model, model.image)
    changed = changed_by_one_class(certifier, model, patched(model.image, PATCH))
    assert torch.equal(certificate.certified, ~changed)
    assert 0.1 < changed.float().mean() < 0.9
    unanimity = certified(recovery(masks, num_masks=number, rule="unanimity"), model, model.image)
    assert not (unanimity.certified & ~certificate.certified).any()
    assert unanimity.certified.sum() < certificate.certified.sum()
    for one, rule in ((certificate, "tight"), (unanimity, "unanimity")):
        assert next(iter(one.by_rule)) == rule
        assert torch.equal(one.certified, certificate.by_rule[rule])
    assert torch.equal(certificate.classes, certifier.predict(model, model.image, hardware=CPU))
    assert certificate.passes.forward == certifier.num_masks
    assert set(certificate.seconds) == {"inpainting", "network", "statistics"}


def test_with_as_few_masks_as_unanimity_needs_the_tight_rule_is_no_better():
    """With K = 2 T + 1 every vote outside A is needed, and every mask is outside some A."""
    certifier = recovery("three")
    certificate = certified(certifier, puppet_of(certifier, 0.9), positive_image(SIZE))
    assert certificate.certified.any()
    assert torch.equal(certificate.by_rule["tight"], certificate.by_rule["unanimity"])


def test_two_patches_and_what_is_seen_attacked_already():
    size = (4, 22)
    image, one, two = positive_image(size), pixels(1), pixels(2)
    certifiers = [recovery(patch=threat, num_masks=9) for threat in (one, two)]
    model = puppet_of(certifiers[1], 0.9, size=size)
    single, double = (certified(certifier, model, image) for certifier in certifiers)
    assert not (double.certified & ~single.certified).any()
    assert (single.certified & ~double.certified).any()
    assert double.certified.any()
    twice = [b for a in patched(image, PATCH) for b in patched(a, PATCH)][::29]
    changed = changed_by_one_class(certifiers[1], model, twice)
    assert not (double.certified & changed).any()
    assert (single.certified & changed).any()
    for rival in range(C):  # appendix C: certified against two, seen with one
        model.choice = dict.fromkeys(range(-1, 9), rival)
        for attacked in patched(image, PATCH):
            seen = certified(certifiers[0], model, attacked)
            assert seen.certified[double.certified].all()
            assert torch.equal(seen.classes[double.certified], double.classes[double.certified])


def test_a_recovery_that_counts_one_mask_fewer_is_caught(monkeypatch):
    def generous(votes, classes, touched):
        return exact(votes, classes, np.stack([row & (np.cumsum(row) > 1) for row in touched]))

    exact = demasked.is_won
    monkeypatch.setattr(demasked, "is_won", generous)
    certifier = recovery()
    model = puppet_of(certifier, 0.8)
    certificate = certified(certifier, model, model.image)
    assert (certificate.certified & changed_by_one_class(certifier, model, patched(model.image, PATCH))).any()


def detection_is_broken(certifier, model):
    """Whether some patch changes the network's class at a certified pixel without an alert."""
    clean = certified(certifier, model, model.image)
    silent = torch.zeros_like(clean.certified)
    for image in patched(model.image, PATCH):
        for rival in range(C):
            model.choice = dict.fromkeys(range(-1, len(model.planted)), rival)
            attacked = certified(certifier, model, image)
            silent |= clean.certified & attacked.certified & (attacked.classes != clean.classes)
    return bool(silent.any()), clean


@pytest.mark.parametrize(
    ("masks", "options"),
    [
        ("column", {"num_masks": 3}),
        ("row", {"num_masks": None, "width": 4}),
        ("block", {"num_masks": 2}),
        ("column", {"num_masks": None, "width": 3, "stride": 1}),
        ("column", {"num_masks": None}),
    ],
    ids=str,
)
def test_no_patch_changes_a_certified_pixel_without_an_alert(masks, options):
    certifier = DemaskedDetection(patch=pixels(), inpainter=None, masks=masks, **options)
    model = puppet_of(certifier, 0.97)
    broken, clean = detection_is_broken(certifier, model)
    assert not broken
    assert clean.certified.any()
    assert torch.equal(clean.classes, model.base)
    assert clean.passes.forward == certifier.masks(SIZE).num_masks + 1
    agree = (model.planted == model.base).all(dim=0)
    assert torch.equal(clean.certified, agree)


def test_detection_of_two_patches():
    certifier = DemaskedDetection(patch=pixels(2), inpainter=None, num_masks=4)
    assert certifier.masks(SIZE).num_masks == 6
    model = puppet_of(certifier, 0.97)
    clean = certified(certifier, model, model.image)
    for image in [b for a in patched(model.image, PATCH) for b in patched(a, PATCH)][::101]:
        for rival in range(C):
            model.choice = dict.fromkeys(range(-1, 6), rival)
            attacked = certified(certifier, model, image)
            assert not (clean.certified & attacked.certified & (attacked.classes != clean.classes)).any()


def test_detection_masks_that_leave_the_border_uncovered_are_caught(monkeypatch):
    def without_the_last(*arguments, **options):
        starts = np.array([0, 3])  # of 4 columns each; the patch at column 9 is in none
        edges = np.unique([0, SIZE[1], *starts, *(starts + 4)])
        visible = ~((edges[None, :-1] >= starts[:, None]) & (edges[None, 1:] <= starts[:, None] + 4))[:, None]
        return MaskSet([0, SIZE[0]], edges, visible, PATCH)

    monkeypatch.setattr(demasked, "covering_masks", without_the_last)
    certifier = DemaskedDetection(patch=pixels(), inpainter=None, num_masks=2)
    with pytest.raises(AssertionError, match="no mask hides"):
        certifier.masks(SIZE)
    monkeypatch.setattr(DemaskedDetection, "_checked", lambda self, masks: masks)
    assert detection_is_broken(certifier, puppet_of(certifier, 0.97))[0]


def double_puppet(certifier, agreement, size, num_classes, seed=0):
    """The puppet of double masking: pairs of masks in the order of (m, n), m <= n."""
    hidden = certifier.masks(size).hidden()
    pairs = [(m, n) for m in range(len(hidden)) for n in range(m, len(hidden))]
    joined = torch.stack([hidden[m] | hidden[n] for m, n in pairs])
    planted = planted_classes(len(pairs) + 1, size, num_classes, agreement, seed)
    return Puppet(positive_image(size), joined, planted[1:], planted[0], num_classes), pairs


def double_masking_is_broken(certifier, model, num_classes, every=1):
    """Whether some patch and some answers where it shows, those of the network itself among them, change the class of a
    certified pixel."""
    clean = certified(certifier, model, model.image)
    shown_before, broken = set(), False
    for image in patched(model.image, PATCH):
        place = (image != model.image).any(dim=0)
        masks = [torch.from_numpy(np.frombuffer(key, dtype=bool).reshape(place.shape).copy()) for key in model.known]
        free = (-1, *(i for i, mask in enumerate(masks) if (place & ~mask).any()))
        if free in shown_before:
            continue
        shown_before.add(free)
        for answers in list(product(range(num_classes), repeat=len(free)))[::every]:
            model.choice = dict(zip(free, answers))
            answer = certifier.predict(model, image, hardware=CPU)
            broken |= bool((answer != clean.classes)[clean.certified].any())
    return broken, clean


@pytest.mark.parametrize(
    ("masks", "number", "num_classes", "every"), [("column", 3, 2, 1), ("row", 3, 3, 1), ("block", 2, 2, 7)]
)
def test_double_masking_returns_the_certified_class_at_every_attacked_image(masks, number, num_classes, every):
    size = (9, 7)
    certifier = PatchDoubleMasking(patch=pixels(), inpainter=None, masks=masks, num_masks=number)
    model, pairs = double_puppet(certifier, 0.9, size, num_classes)
    broken, clean = double_masking_is_broken(certifier, model, num_classes, every)
    assert not broken
    assert 0 < clean.certified.float().mean() < 1
    same = (model.planted == model.planted[0]).all(dim=0)
    assert torch.equal(clean.certified, same)
    assert (model.base != clean.classes)[same].any()  # certified although the network itself disagrees
    assert clean.passes.forward == len(pairs) + 1
    assert torch.equal(clean.classes, certifier.predict(model, model.image, hardware=CPU))


class Doubting(torch.nn.Module):
    """A puppet that is sure of its answers (.95 of three classes) but for those at ``unsure`` pixels, by mask (.73)."""

    def __init__(self, puppet, unsure):
        super().__init__()
        self.puppet, self.unsure, self.num_classes = puppet, unsure, puppet.num_classes

    def forward(self, images):
        said = self.puppet(images)
        indices = self.puppet.asked[-len(images) :]
        nothing = torch.zeros(images.shape[-2:], dtype=torch.bool)
        unsure = torch.stack([nothing if index < 0 else self.unsure[index] for index in indices])
        return said * torch.where(unsure, 1.7, 3.6)[:, None]


@pytest.mark.parametrize(("least", "counts"), [(0.7, True), (0.9, False)])
def test_predictions_below_the_least_probability_neither_certify_nor_overrule_the_network(least, counts):
    size = (9, 7)
    certifier = PatchDoubleMasking(patch=pixels(), inpainter=None, masks="row", num_masks=3, min_probability=least)
    puppet, pairs = double_puppet(certifier, 1.0, size, C)
    unsure = torch.zeros(len(pairs), *size, dtype=torch.bool)
    unsure[pairs.index((0, 2)), 4, 5] = True  # of one pair, so one pixel is in doubt
    puppet.base = (puppet.base + 1) % C  # the network alone disagrees everywhere
    model = Doubting(puppet, unsure)
    certificate = certified(certifier, model, puppet.image)
    assert certificate.certified[4, 5] == counts
    assert certificate.certified.sum() == certificate.certified.numel() - (not counts)
    assert torch.equal(certificate.classes[certificate.certified], puppet.planted[0][certificate.certified])
    # mask 1 is not in the doubtful pair, so it overrules the network there all the same
    assert certificate.classes[4, 5] == puppet.planted[0][4, 5]
    unsure[:, 4, 5] = True
    doubted = certified(certifier, model, puppet.image).classes[4, 5]
    assert doubted == (puppet.planted[0] if counts else puppet.base)[4, 5]
    assert ("probability at least 0.9" in certifier.predictor) == (not counts)


def test_double_masking_with_a_least_probability_holds_against_every_attack():
    size = (9, 7)
    certifier = PatchDoubleMasking(patch=pixels(), inpainter=None, masks="row", num_masks=3, min_probability=0.9)
    puppet, pairs = double_puppet(certifier, 0.97, size, C)
    unsure = torch.rand(len(pairs), *size, generator=torch.Generator().manual_seed(1)) < 0.03
    model = Doubting(puppet, unsure)
    model.image, model.known, model.choice = puppet.image, puppet.known, puppet.choice
    clean = certified(certifier, model, puppet.image)
    assert torch.equal(clean.certified, (puppet.planted == puppet.planted[0]).all(dim=0) & ~unsure.any(dim=0))
    assert 0 < clean.certified.float().mean() < 1
    for image in patched(puppet.image, PATCH):
        for rival in range(C):
            puppet.choice = dict.fromkeys(range(-1, len(pairs)), rival)
            answer = certifier.predict(model, image, hardware=CPU)
            assert torch.equal(answer[clean.certified], clean.classes[clean.certified])


@pytest.mark.parametrize("least", [-0.1, 1.0, True, "high", float("nan")])
def test_a_least_probability_that_is_none_is_refused(least):
    with pytest.raises(ConfigError, match="min_probability"):
        PatchDoubleMasking(patch=pixels(), inpainter=None, min_probability=least)


def test_double_masking_on_the_network_alone_is_caught(monkeypatch):
    monkeypatch.setattr(double_masking, "_decide", lambda own, first, confirmed: own.long())
    certifier = PatchDoubleMasking(patch=pixels(), inpainter=None, masks="row", num_masks=3)
    model, _ = double_puppet(certifier, 0.97, (9, 7), C)
    assert double_masking_is_broken(certifier, model, C)[0]


def test_double_masking_certified_by_the_first_round_is_caught(monkeypatch):
    class FirstRound(PatchDoubleMasking):
        def _certify(self, predictions, masks):
            classes, _ = super()._certify(predictions, masks)
            first = predictions.of(masks.hidden())
            return classes, {"first": (first == first[0]).all(dim=0)}

    certifier = FirstRound(patch=pixels(), inpainter=None, masks="row", num_masks=3)
    model, _ = double_puppet(certifier, 0.8, (9, 7), C)
    assert double_masking_is_broken(certifier, model, C)[0]


def test_an_answer_takes_the_pairs_of_contradicting_masks_alone():
    certifier, one_by_one = (
        PatchDoubleMasking(patch=pixels(), inpainter=None, masks="row", num_masks=3),
        Hardware(device="cpu", noise_batch=1),
    )
    model, pairs = double_puppet(certifier, 1.0, (9, 7), C)
    certifier.predict(model, model.image, hardware=one_by_one)
    assert sorted(model.asked) == [-1, *(pairs.index((m, m)) for m in range(3))]
    model.asked.clear()
    model.planted[pairs.index((1, 1)), 2, 3] += 1
    model.planted %= C
    certifier.predict(model, model.image, hardware=one_by_one)
    assert sorted(model.asked) == [-1, *sorted(pairs.index(pair) for pair in [(0, 0), (1, 1), (2, 2), (0, 1), (1, 2)])]


def test_an_answer_asks_in_the_batches_of_the_certificate():
    """A network may round differently in another batch."""
    certifier = PatchDoubleMasking(patch=pixels(), inpainter=None, masks="block", num_masks=3)
    model, pairs = double_puppet(certifier, 1.0, (14, 15), C)
    model.planted[pairs.index((4, 4)), 2, 3] += 1
    model.planted %= C
    batches = []
    for call in (certifier.predict, lambda *args, **kw: certifier.certify(*args, stream=NoiseStream(0, "x"), **kw)):
        model.asked.clear()
        sizes = []
        handle = model.register_forward_hook(lambda module, args, _, sizes=sizes: sizes.append(len(args[0])))
        call(model, model.image, hardware=Hardware(device="cpu", noise_batch=3))
        handle.remove()
        ends = np.cumsum(sizes)
        batches.append({tuple(model.asked[end - size : end]) for size, end in zip(sizes, ends)})
    answer, certificate = batches
    assert answer < certificate
    asked = {index for batch in answer for index in batch}
    assert asked >= {index for index, pair in enumerate(pairs) if 4 in pair or pair[0] == pair[1]}


def test_masks_that_hide_everything_are_refused():
    with pytest.raises(ConfigError, match="Two masks hide all"):
        PatchDoubleMasking(patch=pixels(), inpainter=None, masks="column", num_masks=2).masks(SIZE)
    with pytest.raises(ConfigError, match="A mask hides all"):
        DemaskedDetection(patch=pixels(), inpainter=None, num_masks=1).masks(SIZE)


@pytest.mark.parametrize("options", [{"width": 2, "stride": 1}, {"width": 3, "stride": 2}, {}], ids=str)
def test_derandomized_smoothing(options):
    size = (3, 24)
    certifier = DerandomizedSmoothing(patch=pixels(1, (2, 1)), **options)
    model = puppet_of(certifier, 0.5, size=size)
    certificate = certified(certifier, model, model.image)
    changed = changed_by_one_class(certifier, model, patched(model.image, (2, 1)))
    assert not (certificate.certified & changed).any()
    assert certificate.certified.any()
    assert changed.any()


def test_a_lookup_of_whole_images_never_breaks_a_certificate():
    """Small images over a finite alphabet, one random answer for each: every patch with every content."""

    class Lookup(torch.nn.Module):
        num_classes = C

        def forward(self, images):
            maps = []
            for image in images:
                seed = int.from_bytes(image.mul(2).byte().numpy().tobytes()[:32], "little") % (2**31 - 1)
                maps.append(planted_classes(1, image.shape[1:], C, 0.0, seed)[0])
                maps[-1][image[0] > 0] = 1  # so that there is something to certify
                maps[-1][0] = 2
            return torch.nn.functional.one_hot(torch.stack(maps), C).permute(0, 3, 1, 2).float()

    size, model = (3, 5), Lookup()
    threat = pixels(1, (1, 1))
    certifiers = [
        DemaskedRecovery(patch=threat, inpainter=None),
        DemaskedDetection(patch=threat, inpainter=None, num_masks=3),
        PatchDoubleMasking(patch=threat, inpainter=None, masks="column", num_masks=3),
    ]
    image = positive_image(size, seed=3)
    for certifier in certifiers:
        clean = certified(certifier, model, image)
        assert clean.certified.any()
        for row, column in product(range(3), range(5)):
            for content in product((0.0, 1.0), repeat=3):
                attacked = image.clone()
                attacked[:, row, column] = torch.tensor(content)
                if certifier.name == "demasked_detection":
                    seen = certified(certifier, model, attacked)
                    kept = clean.certified & seen.certified
                    assert torch.equal(seen.classes[kept], clean.classes[kept])
                else:
                    answer = certifier.predict(model, attacked, hardware=CPU)
                    assert torch.equal(answer[clean.certified], clean.classes[clean.certified])


def test_masks_that_cover_are_those_of_the_certifier():
    certifier = PatchDoubleMasking(patch=pixels(), inpainter=None, num_masks=2)
    masks = certifier.masks(SIZE)
    assert masks is certifier.masks(SIZE)
    assert torch.equal(masks.hidden(), covering_masks("block", SIZE, pixels(), num_masks=2).hidden())
