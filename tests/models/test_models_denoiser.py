"""Denoisers in front of a segmenter: shapes, gradients, and checkpoints of both parts or of one."""

import pytest
import torch
from support.training_fakes import TinySegmenter
from torch import nn

from certseg.errors import CheckpointError, ConfigError, ModelError
from certseg.models import Denoised, DnCNN, load_checkpoint, load_denoised, load_denoiser, save_checkpoint
from certseg.types import CoarseLogits, Segmenter


def images(*shape, seed=2):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def scrambled(module, seed=1):
    """The module with weights and statistics that none of its layers begins with, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.copy_(0.3 * torch.rand(value.shape, generator=generator) + 0.1)
    return module.eval()


def equal(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- DnCNN


@pytest.mark.parametrize("size", [(16, 24), (17, 23), (5, 2), (1, 1)])
@pytest.mark.parametrize("shrink", [1, 2, 3])
def test_denoised_images_have_the_size_of_the_image(size, shrink):
    denoiser = scrambled(DnCNN(shrink=shrink))
    x = images(2, 3, *size).requires_grad_()
    denoised = denoiser(x)
    assert denoised.shape == x.shape
    (gradient,) = torch.autograd.grad(denoised.square().sum(), x)
    assert bool((gradient.abs().sum(1) > 0).all())


def test_an_untrained_denoiser_changes_nothing():
    x = images(2, 3, 17, 23)
    assert torch.equal(DnCNN().eval()(x), x)


def test_the_layers_are_those_of_the_paper():
    denoiser = DnCNN(depth=17, width=64, shrink=1)
    kinds = [type(layer).__name__ for layer in denoiser.body]
    assert kinds == ["Conv2d", "ReLU", *["Conv2d", "BatchNorm2d", "ReLU"] * 15, "Conv2d"]
    weights = sum(parameter.numel() for parameter in denoiser.parameters())
    assert weights == 9 * (3 * 64 + 15 * 64 * 64 + 64 * 3) + 64 + 15 * 2 * 64 + 3


def test_noise_is_predicted_and_subtracted():
    denoiser = scrambled(DnCNN(shrink=1))
    x = images(1, 3, 8, 8)
    torch.testing.assert_close(denoiser(x), x - denoiser.body(x))


def test_images_in_a_batch_do_not_interact():
    denoiser, x = scrambled(DnCNN()), images(3, 3, 16, 16)
    torch.testing.assert_close(denoiser(x)[1:2], denoiser(x[1:2]))


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "wide", None])
@pytest.mark.parametrize("name", ["depth", "width", "shrink"])
def test_bad_arguments(name, value):
    with pytest.raises(
        ConfigError, match=rf"model\.denoiser\.{name} must be (an integer of at least 2|a positive integer)"
    ):
        DnCNN(**{name: value})


def test_one_layer_is_no_denoiser():
    with pytest.raises(ConfigError, match=r"model\.denoiser\.depth"):
        DnCNN(depth=1)


# --- the pair


def test_is_a_segmenter_with_the_segmenters_classes():
    pair = Denoised(DnCNN(), TinySegmenter(num_classes=4))
    assert isinstance(pair, Segmenter)
    assert pair.num_classes == 4


def test_the_identity_leaves_logits_and_losses_alone():
    segmenter, x = TinySegmenter().eval(), images(2, 3, 8, 8)
    labels = torch.zeros(2, 8, 8, dtype=torch.int64)
    pair = Denoised(nn.Identity(), segmenter)
    assert torch.equal(pair(x), segmenter(x))
    assert pair.loss(x, labels) == segmenter.loss(x, labels)


def test_the_segmenter_sees_what_the_denoiser_returns_and_gradients_pass_through_both():
    segmenter, denoiser = TinySegmenter().eval().double(), scrambled(DnCNN()).double()
    pair, labels = Denoised(denoiser, segmenter), torch.ones(2, 9, 7, dtype=torch.int64)
    x = images(2, 3, 9, 7).double().requires_grad_()
    denoised = denoiser(x)
    assert not torch.equal(denoised, x)
    torch.testing.assert_close(pair(x), segmenter(denoised))
    torch.testing.assert_close(pair.loss(x, labels), segmenter.loss(denoised, labels))
    torch.testing.assert_close(pair.loss_and_logits(x, labels).logits, segmenter(denoised))
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(pair(x).square().sum(), x)
    step = 1e-6
    with torch.no_grad():
        ahead, behind = (pair(x + sign * step * direction).square().sum() for sign in (1, -1))
    assert float((gradient * direction).sum()) == pytest.approx(float((ahead - behind) / (2 * step)), rel=1e-5)


class Coarse(TinySegmenter):
    """Shows logits at half resolution while ``enlarges`` is true."""

    enlarges = True

    def coarse_logits(self, images):
        return CoarseLogits(self(images[..., ::2, ::2]), False) if self.enlarges else None


def test_coarse_logits_are_the_segmenters_on_denoised_images():
    segmenter, denoiser, x = Coarse().eval(), scrambled(DnCNN()), images(1, 3, 8, 8)
    torch.testing.assert_close(
        Denoised(denoiser, segmenter).coarse_logits(x).logits, segmenter.coarse_logits(denoiser(x)).logits
    )
    assert Denoised(denoiser, TinySegmenter()).coarse_logits(x) is None


def test_the_denoiser_is_not_run_in_vain_twice():
    calls = []
    denoiser = nn.Identity()
    denoiser.register_forward_hook(lambda *_: calls.append(1))
    segmenter = Coarse()
    segmenter.enlarges = False
    pair = Denoised(denoiser, segmenter)
    assert [pair.coarse_logits(images(1, 3, *size)) for size in ((8, 8), (8, 8), (8, 6))] == [None] * 3
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("answer", "received"),
    [(lambda x: x[..., 1:], r"shape \(1, 3, 8, 7\)"), (lambda x: x[:, :1], r"shape \(1, 1, 8, 8\)"), (list, "list")],
)
def test_a_denoiser_returns_images(answer, received):
    class Wrong(nn.Module):
        def forward(self, x):
            return answer(x)

    with pytest.raises(ModelError, match=rf"shape it was given\. Expected: .*\(1, 3, 8, 8\)\. Received: {received}"):
        Denoised(Wrong(), TinySegmenter())(images(1, 3, 8, 8))


def test_a_denoiser_is_a_module():
    with pytest.raises(ConfigError, match=r"torch\.nn\.Module.*Received: function.*model\.denoiser\._target_"):
        Denoised(images, TinySegmenter())


def test_a_frozen_segmenter_stays_in_eval_mode():
    pair = Denoised(DnCNN(), TinySegmenter())
    pair.train()
    assert pair.segmenter.body[1].training
    pair.freeze_segmenter()
    for _ in range(2):
        assert not any(module.training for module in pair.segmenter.modules())
        pair.train()
    assert all(module.training for module in pair.denoiser.modules())
    assert not any(parameter.requires_grad for parameter in pair.segmenter.parameters())
    assert all(parameter.requires_grad for parameter in pair.denoiser.parameters())
    assert not any(module.training for module in pair.eval().modules())


# --- checkpoints


@pytest.fixture
def trained():
    """A pair as a training leaves it."""
    return scrambled(Denoised(DnCNN(), TinySegmenter(seed=7)))


def test_a_checkpoint_of_both_parts(trained, tmp_path):
    save_checkpoint(tmp_path / "model.pt", trained, {})
    for load in (load_checkpoint, load_denoised):
        fresh = Denoised(DnCNN(), TinySegmenter())
        filled = load(fresh, tmp_path / "model.pt")
        assert equal(fresh, trained)
    assert filled == {"segmenter", "denoiser"}


@pytest.mark.parametrize("own_format", [True, False])
def test_a_checkpoint_of_the_segmenter_alone_leaves_the_denoiser(trained, tmp_path, own_format):
    path = tmp_path / "model.pt"
    if own_format:
        save_checkpoint(path, trained.segmenter, {})
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in trained.segmenter.state_dict().items()}}, path)
    fresh = Denoised(DnCNN(), TinySegmenter())
    assert load_denoised(fresh, path) == {"segmenter"}
    assert equal(fresh.segmenter, trained.segmenter)
    assert equal(fresh.denoiser, DnCNN(depth=4)) is False  # its random first layers are its own
    assert not fresh.denoiser.body[-1].weight.any()


def test_a_pair_with_a_denoiser_without_weights(tmp_path):
    pair = Denoised(nn.Identity(), TinySegmenter(seed=7))
    save_checkpoint(tmp_path / "model.pt", pair, {})
    fresh = Denoised(nn.Identity(), TinySegmenter())
    assert load_denoised(fresh, tmp_path / "model.pt") == {"segmenter"}
    assert equal(fresh, pair)


@pytest.mark.parametrize("form", ["bare", "own", "whole"])
def test_a_checkpoint_of_the_denoiser(trained, tmp_path, form):
    path = tmp_path / "denoiser.pt"
    if form == "bare":
        torch.save(trained.denoiser.state_dict(), path)
    else:
        save_checkpoint(path, trained if form == "whole" else trained.denoiser, {})
    denoiser = DnCNN()
    load_denoiser(denoiser, path)
    assert equal(denoiser, trained.denoiser)


def test_a_denoiser_whose_part_is_called_denoiser(tmp_path):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.denoiser = nn.Conv2d(3, 3, 1)

    outer, other = Outer(), Outer()
    torch.save(outer.state_dict(), tmp_path / "denoiser.pt")
    load_denoiser(other, tmp_path / "denoiser.pt")
    assert equal(outer, other)


def test_errors_name_the_denoisers_settings(trained, tmp_path):
    with pytest.raises(CheckpointError, match=r"There is no checkpoint .*nowhere\.pt.*model\.denoiser\.checkpoint"):
        load_denoiser(DnCNN(), tmp_path / "nowhere.pt")
    torch.save({"state_dict": trained.denoiser.state_dict(), "more": print}, tmp_path / "unsafe.pt")
    with pytest.raises(CheckpointError, match=r"model\.denoiser\.trust_checkpoint=true"):
        load_denoiser(DnCNN(), tmp_path / "unsafe.pt")
    load_denoiser(denoiser := DnCNN(), tmp_path / "unsafe.pt", trust=True)
    assert equal(denoiser, trained.denoiser)
    save_checkpoint(tmp_path / "model.pt", trained, {})
    with pytest.raises(CheckpointError, match=r"does not fit the model\. Expected: \d+ tensors\. Received: .*shape"):
        load_denoiser(DnCNN(width=8), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_denoised(Denoised(DnCNN(width=8), TinySegmenter()), tmp_path / "model.pt")
