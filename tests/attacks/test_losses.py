"""The losses of attacks against their formulas, their gradients and the golden vectors."""

import math

import numpy as np
import pytest
import torch
from support.shared import SHARED, needs_shared

from certseg.attacks.losses import (
    COMPARED_BY,
    LOSSES,
    Pixels,
    class_balanced_masked_cross_entropy,
    cross_entropy,
    mean_over_labelled,
    number_labelled,
)

GOLDEN = SHARED / "golden" / "sea_losses.npz"
CASES = {
    "cross_entropy": ("ce__official", 0.0),
    "masked_cross_entropy": ("mask_ce__official", 0.0),
    "jensen_shannon": ("js__official", 0.0),
    "masked_spherical": ("mask_spherical__paper", 0.0),
    "cosine_cross_entropy": ("cossim_sigmoid_detached__paper", 0.0),
}
CASES |= {
    f"balanced_cross_entropy/{t}/{kind}": (f"balanced_ce_t{t}__{kind}", (t - 1) / 10)
    for t in (1, 2, 5, 10)
    for kind in ("official", "paper")
}


@pytest.fixture
def golden():
    data = dict(np.load(GOLDEN))
    labels = torch.from_numpy(data["labels"])
    data["target"] = torch.where(labels < 0, 255, labels)
    data["leaf"] = torch.from_numpy(data["logits"]).requires_grad_()
    return data


def value_and_gradient(loss, leaf, target, *arguments, **options):
    values = loss(Pixels(leaf, target), *arguments, **options)
    return values.detach().numpy(), torch.autograd.grad(values.sum(), leaf)[0].numpy()


@needs_shared("golden", "sea_losses.npz")
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_the_golden_ones(case, golden):
    leaf, progress = CASES[case]
    values, gradient = value_and_gradient(LOSSES[case.split("/")[0]], golden["leaf"], golden["target"], progress)
    np.testing.assert_allclose(values, golden[leaf], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(gradient, golden[f"{leaf}/grad"], rtol=1e-9, atol=1e-12)


@needs_shared("golden", "sea_losses.npz")
def test_given_class_weights_are_the_golden_ones(golden):
    weights = torch.from_numpy(golden["class_weights"])
    values, gradient = value_and_gradient(
        class_balanced_masked_cross_entropy, golden["leaf"], golden["target"], class_weights=weights
    )
    np.testing.assert_allclose(values, golden["mask_ce_classbal__official"], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(gradient, golden["mask_ce_classbal__official/grad"], rtol=1e-9, atol=1e-12)


@needs_shared("golden", "sea_losses.npz")
def test_the_cosine_is_of_a_sigmoid_as_in_the_papers_and_not_of_a_softmax_as_in_the_code(golden):
    values, gradient = value_and_gradient(LOSSES["cosine_cross_entropy"], golden["leaf"], golden["target"])
    assert np.abs(values - golden["cospgd_softmax_detached__official"]).max() > 0.1
    np.testing.assert_allclose(values, golden["cossim_sigmoid__paper"], rtol=1e-10, atol=1e-12)
    assert np.abs(gradient - golden["cossim_sigmoid__paper/grad"]).max() > 0.01  # its weight has no gradient here


@needs_shared("golden", "sea_losses.npz")
def test_jensen_shannon_survives_underflow_where_the_textbook_form_is_nan(golden):
    labels = torch.from_numpy(golden["js_underflow/labels"])
    leaf = torch.from_numpy(golden["js_underflow/logits32"]).requires_grad_()
    assert np.isnan(golden["js_underflow/official_map32"]).any()
    values, gradient = value_and_gradient(LOSSES["jensen_shannon"], leaf, labels)
    np.testing.assert_allclose(values, golden["js_underflow/map64"], atol=1e-6)
    assert np.isfinite(gradient).all()


def logits_and_target(dtype=torch.float64, batch=2):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(batch, 4, 5, 3, generator=generator, dtype=dtype)
    target = torch.randint(4, (batch, 5, 3), generator=generator)
    target[0, 0] = 255
    target[:, 4, :2] = 255
    return logits, target


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"cosine_cross_entropy"}))
def test_gradients_are_those_of_the_values(name):
    logits, target = logits_and_target()
    leaf = logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda u: LOSSES[name](Pixels(u, target), 0.4), leaf)


def test_the_gradient_of_the_cosine_loss_is_the_weighted_one_of_cross_entropy():
    logits, target = logits_and_target()
    leaf = logits.requires_grad_()
    score = logits.detach().sigmoid()
    label = torch.where(target == 255, 0, target)
    cosine = (score.gather(1, label[:, None]) / score.norm(dim=1, keepdim=True)).squeeze(1)
    _, gradient = value_and_gradient(LOSSES["cosine_cross_entropy"], leaf, target)
    (expected,) = torch.autograd.grad((cosine * cross_entropy(Pixels(leaf, target))).sum(), leaf)
    np.testing.assert_allclose(gradient, expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_pixels_without_label_give_no_loss_and_no_gradient(name):
    logits, target = logits_and_target(torch.float32)
    leaf = logits.requires_grad_()
    values, gradient = value_and_gradient(LOSSES[name], leaf, target, 0.5)
    ignored = (target == 255).numpy()
    assert not values[ignored].any()
    assert not gradient.swapaxes(0, 1)[:, ignored].any()
    assert gradient.any()
    void = Pixels(leaf, torch.full_like(target, 255))
    mean = mean_over_labelled(LOSSES[name](void, 0.5), number_labelled(void.target))
    assert mean.tolist() == [0.0, 0.0]
    assert not torch.autograd.grad(mean.sum(), leaf)[0].any()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("factor", [0.0, 100.0, 1e4])
def test_confident_and_empty_logits_stay_finite_in_float32(name, factor):
    logits, target = logits_and_target(torch.float32)
    values, gradient = value_and_gradient(LOSSES[name], (logits * factor).requires_grad_(), target, 0.5)
    assert np.isfinite(values).all()
    assert np.isfinite(gradient).all()


def test_jensen_shannon_of_confident_float32_logits_is_that_of_float64():
    logits, target = logits_and_target(torch.float32)
    single, double = (
        value_and_gradient(LOSSES["jensen_shannon"], (logits * 100).to(dtype).requires_grad_(), target)
        for dtype in (torch.float32, torch.float64)
    )
    np.testing.assert_allclose(single[0], double[0], atol=1e-6)
    np.testing.assert_allclose(single[1], double[1], atol=1e-4)
    assert single[0].max() == pytest.approx(math.log(2.0))


MASKED = ("masked_cross_entropy", "balanced_cross_entropy", "class_balanced_masked_cross_entropy")


@pytest.mark.parametrize(
    ("given_as", "falling"),
    [
        (lambda u: u, MASKED),
        (lambda u: u - 5, (*MASKED, "masked_spherical")),
        (lambda u: u.log_softmax(1), (*MASKED, "masked_spherical")),
    ],
    ids=["logits", "negative logits", "log-probabilities"],
)
def test_losses_that_fall_as_pixels_flip_do_not_compare_points(given_as, falling):
    """Of two pixels the first flips: a loss that is then lower must not say that the point is worse."""
    target = torch.zeros(1, 1, 2, dtype=torch.int64)
    before = Pixels(given_as(torch.tensor([[[[0.1, 3.0]], [[0.0, 0.0]]]])), target)
    after = Pixels(given_as(torch.tensor([[[[-0.1, 3.0]], [[0.0, 0.0]]]])), target)
    for name, compared in COMPARED_BY.items():
        rises = LOSSES[compared or name](after).sum() > LOSSES[compared or name](before).sum()
        assert rises, name
    for name in falling:
        assert LOSSES[name](after).sum() < LOSSES[name](before).sum()


def test_a_cosine_weight_that_falls_does_not_compare_points():
    """A pixel that is wrong by more has less cosine: the weighted loss falls while the cross-entropy rises."""
    target = torch.zeros(1, 1, 1, dtype=torch.int64)
    before, after = (Pixels(torch.tensor([[[[u]], [[2.0]]]]), target) for u in (-4.0, -6.0))
    assert LOSSES["cosine_cross_entropy"](after).sum() < LOSSES["cosine_cross_entropy"](before).sum()
    compared = LOSSES[COMPARED_BY["cosine_cross_entropy"]]
    assert compared(after).sum() > compared(before).sum()


def test_multi_margin_is_torchs():
    logits, target = logits_and_target()
    leaf = logits.requires_grad_()
    values, gradient = value_and_gradient(LOSSES["multi_margin"], leaf, target)
    flat, labels = leaf.permute(0, 2, 3, 1).reshape(-1, 4), target.flatten()
    expected = torch.nn.functional.multi_margin_loss(flat, torch.where(labels == 255, 0, labels), reduction="none")
    expected = torch.where(labels == 255, 0.0, expected)
    np.testing.assert_allclose(values.ravel(), expected.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(gradient, torch.autograd.grad(expected.sum(), leaf)[0].numpy(), atol=1e-12)
    confident = Pixels(torch.tensor([[[[5.0]], [[3.9]]]], requires_grad=True), torch.zeros(1, 1, 1).long())
    assert not LOSSES["multi_margin"](confident).any()


def test_classes_of_an_image_weigh_the_same_by_default():
    target = torch.tensor([[[0, 0, 0], [0, 0, 1], [2, 2, 255]]])
    logits = torch.zeros(1, 4, 3, 3)
    logits.scatter_(1, torch.where(target == 255, 0, target)[:, None], 1.0)  # all correct, all equally so
    values = class_balanced_masked_cross_entropy(Pixels(logits, target))[0]
    shares = [float(values[target[0] == c].sum()) for c in (0, 1, 2)]
    assert shares == pytest.approx([shares[0]] * 3)
    plain = cross_entropy(Pixels(logits, target))
    assert float(values.sum()) == pytest.approx(float(plain.sum()))  # weights are 1 on average


@pytest.mark.parametrize("classes", [3, 300])
def test_the_prediction_is_argmax_also_where_logits_are_tied(classes):
    logits = torch.randn(2, classes, 6, 7, generator=torch.Generator().manual_seed(0)).round()  # full of ties
    target = torch.randint(classes, (2, 6, 7), generator=torch.Generator().manual_seed(1))
    target[target == 255] = 0
    target[0, 0] = 255
    pixels = Pixels(logits, target)
    assert torch.equal(pixels.decision[0].long(), logits.argmax(dim=1))
    assert torch.equal(pixels.correct, (logits.argmax(dim=1) == target) & (target != 255))
