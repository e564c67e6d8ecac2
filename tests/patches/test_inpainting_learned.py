"""The learned inpainter: blind to what is hidden, trained on the certifiers' masks, loaded from its checkpoint."""

import dataclasses
import pickle

import pytest
import torch
from support.training_fakes import RECIPE, Bands, TinySegmenter, train_bands
from torch import nn

from certseg.certifiers import DemaskedRecovery
from certseg.errors import CheckpointError, ConfigError
from certseg.models import save_checkpoint
from certseg.patches.inpainting import Learned, MaskedUNet, pyramid_fill
from certseg.patches.masks import covering_masks, erase, recovery_masks
from certseg.training import InpainterObjective, TrainableInpainter
from certseg.training.hidden import KINDS, draw_hidden
from certseg.types import Inpainter, Patch

SMALL = {"width": 8, "depth": 2, "shrink": 2}


def network(seed=0, **settings):
    """Random weights, those of the head too."""
    torch.manual_seed(seed)
    net = MaskedUNet(**(SMALL | settings))
    nn.init.normal_(net.head.weight, std=0.1)
    return net


def store(path, net):
    save_checkpoint(path, TrainableInpainter(net, 3), {})
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A checkpoint of random weights."""
    return store(tmp_path_factory.mktemp("inpainter") / "model.pt", network())


def masks_of(size):
    patch = Patch(height=4, width=5)
    three = recovery_masks("three", size, patch).hidden()
    return torch.cat([three, covering_masks("column", size, patch, num_masks=3).hidden()])


def test_hidden_pixels_are_unread_bit_for_bit(file):
    size, inpainter = (33, 46), Learned(file)
    hidden = masks_of(size)
    images = torch.rand(len(hidden), 3, *size, generator=torch.Generator().manual_seed(1))
    filled = inpainter(images, hidden)
    assert isinstance(inpainter, Inpainter)
    assert 0 <= float(filled.min()) <= float(filled.max()) <= 1
    visible = ~hidden[:, None].expand_as(images)
    assert torch.equal(filled[visible], images[visible])
    for other in (0.5, 1e30, -torch.inf, torch.inf, torch.nan):
        attacked = torch.where(visible, images, torch.full_like(images, other))
        assert torch.equal(inpainter(attacked, hidden), filled)
    changed = torch.where(visible, 1 - images, images)
    assert not torch.equal(inpainter(changed, hidden)[~visible], filled[~visible])  # visible pixels are read
    assert not torch.equal(filled, pyramid_fill(erase(images, hidden), (~hidden)[:, None].float()))


def test_one_image_does_not_depend_on_the_others(file):
    hidden = masks_of((24, 32))
    images = torch.rand(len(hidden), 3, 24, 32, generator=torch.Generator().manual_seed(2))
    together = Learned(file)(images, hidden)
    for index in (0, len(hidden) - 1):
        part = slice(index, index + 1)
        torch.testing.assert_close(Learned(file)(images[part], hidden[part]), together[part], atol=1e-5, rtol=0)


def test_gradients_reach_visible_pixels_alone_also_after_inference_mode(file):
    inpainter, hidden = Learned(file), torch.zeros(1, 16, 20, dtype=torch.bool)
    hidden[..., 5:12] = True
    images = torch.rand(1, 3, 16, 20)
    with torch.inference_mode():
        inpainter(images, hidden)
    images.requires_grad_(True)
    filled = inpainter(images, hidden)
    filled.masked_select(hidden[:, None]).sum().backward()
    assert images.grad.masked_select(~hidden[:, None]).any()
    assert not images.grad.masked_select(hidden[:, None]).any()


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (33, 46)])
def test_a_fresh_network_is_the_pyramid_at_any_size(size):
    images = torch.rand(2, 3, *size)
    hidden = torch.rand(2, *size) < 0.7
    erased = erase(images, hidden)
    fresh = MaskedUNet(**SMALL)(erased, hidden)
    assert torch.equal(fresh, pyramid_fill(erased, (~hidden)[:, None].float()))
    assert torch.equal(fresh[~hidden[:, None].expand_as(fresh)], images[~hidden[:, None].expand_as(images)])


def test_the_pyramid_takes_means_of_what_is_visible():
    row = torch.tensor([[0.2, 0.0, 0.0, 0.0, 0.6, 0.8, 0.0, 0.0]]).expand(1, 3, 1, 8)
    seen = torch.tensor([[1.0, 0, 0, 0, 1, 1, 0, 0]]).expand(1, 1, 1, 8)
    # half resolution: .2 hole .7 hole; quarter: .2 .7; holes there, bilinear: .75 * .2 + .25 * .7, and .7
    expected = torch.tensor([0.2, 0.75 * 0.2 + 0.25 * 0.325, 0.325 * 0.75 + 0.2 * 0.25, 0.325 * 0.75 + 0.7 * 0.25])
    filled = pyramid_fill(row, seen)[0, 0, 0]
    torch.testing.assert_close(filled[:4], expected)
    torch.testing.assert_close(filled[4:], torch.tensor([0.6, 0.8, 0.7, 0.7]))
    assert not pyramid_fill(torch.zeros(1, 3, 5, 6), torch.zeros(1, 1, 5, 6)).any()
    flat = torch.full((1, 3, 9, 13), 0.4)
    one = torch.zeros(1, 1, 9, 13)
    one[..., 8, 12] = 1
    torch.testing.assert_close(pyramid_fill(flat * one, one), flat)


def test_results_are_told_apart_by_the_weights(file, tmp_path):
    copy = tmp_path / "copy.pt"
    copy.write_bytes(file.read_bytes())
    other = Learned(store(tmp_path / "other.pt", network(seed=1)))
    assert Learned(copy, name="mine").settings == Learned(file).settings != other.settings
    patch = Patch(share=0.01)
    first, second = (DemaskedRecovery(patch=patch, inpainter=inpainter) for inpainter in (Learned(file), other))
    assert first.settings != second.settings
    assert first.predictor != second.predictor


def test_any_architecture_is_told_by_its_file(tmp_path):
    net = network(seed=3, width=5, depth=1, shrink=3)
    images, hidden = torch.rand(2, 3, 10, 13), torch.rand(2, 10, 13) < 0.5
    with torch.no_grad():
        expected = net(erase(images, hidden), hidden).clamp(0, 1)
    filled = Learned(store(tmp_path / "model.pt", net))(images, hidden)
    at = hidden[:, None].expand_as(images)
    torch.testing.assert_close(filled[at], expected[at])


def test_files_that_hold_no_inpainter(file, tmp_path):
    with pytest.raises(ConfigError, match=r"needs its weights.*training=inpainter"):
        Learned(None)
    for missing in (tmp_path / "nowhere.pt", tmp_path):
        with pytest.raises(CheckpointError, match="Cannot read the inpainter"):
            Learned(missing)
    for name, content in (("text", b"no archive"), ("code", pickle.dumps({"state_dict": TinySegmenter}))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{name} is no checkpoint"):
            Learned(tmp_path / name)
    save_checkpoint(tmp_path / "segmenter.pt", TinySegmenter(), {})
    with pytest.raises(CheckpointError, match=r"holds no inpainter.*body\.0\.weight.*model\.pt"):
        Learned(tmp_path / "segmenter.pt")
    stored = torch.load(file, weights_only=True)
    for change in ({"architecture": torch.tensor([8, 2, 4])}, {"extra": torch.zeros(1)}, {"stem.weight": None}):
        weights = stored["state_dict"] | {f"inpainter.{name}": value for name, value in change.items()}
        kept = {name: value for name, value in weights.items() if value is not None}
        torch.save(stored | {"state_dict": kept}, tmp_path / "changed.pt")
        with pytest.raises(CheckpointError, match="of another architecture") as error:
            Learned(tmp_path / "changed.pt")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("settings", [{"width": 0}, {"depth": 9}, {"shrink": 2.0}, {"depth": True}])
def test_what_a_network_cannot_be(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        MaskedUNet(**settings)


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        ("column", 0.6, 0.95),
        ("row", 0.6, 0.95),
        ("three", 0.7, 0.96),
        ("four", 0.75, 0.97),
        ("strips", 0.01, 0.95),
        ("blocks", 0.005, 0.8),
    ],
)
def test_masks_are_those_of_the_certifiers(kind, least, most):
    generator = torch.Generator().manual_seed(0)
    masks = [draw_hidden(kind, (48, 64), (0.005, 0.02), generator) for _ in range(30)]
    shares = [float(mask.float().mean()) for mask in masks]
    assert all(mask.shape == (48, 64) and mask.dtype == torch.bool for mask in masks)
    assert least < min(shares) <= max(shares) < most
    assert len({mask.numpy().tobytes() for mask in masks}) > 20
    again = draw_hidden(kind, (48, 64), (0.005, 0.02), torch.Generator().manual_seed(0))
    assert torch.equal(again, masks[0])
    if kind in ("column", "row"):
        axis = 0 if kind == "column" else 1
        assert all(bool((mask.all(axis) == mask.any(axis)).all()) for mask in masks)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_large_patches_on_small_images(kind):
    generator = torch.Generator().manual_seed(0)
    masks = [draw_hidden(kind, (60, 80), (0.04, 0.04), generator) for _ in range(60)]
    assert all(0 < mask.float().mean() < 1 for mask in masks)


def test_the_loss_is_the_mean_error_of_hidden_pixels_and_of_their_border(monkeypatch):
    hidden = torch.zeros(8, 24, dtype=torch.bool)
    hidden[:, 10:] = True
    monkeypatch.setattr("certseg.training.inpainting.draw_hidden", lambda *_: hidden)
    images = torch.full((2, 3, 8, 24), 0.5)
    seen = []

    class Fixed(TrainableInpainter):
        def forward(self, erased, hidden):
            seen.append(erased)
            filled = torch.full_like(erased, 0.75)  # .25 off
            filled[..., 10:13] = 0.9  # .4 off within 3 pixels of what is visible
            filled[..., :10] = 9.0  # does not count
            return filled

    losses = InpainterObjective(border=0.5)(Fixed(MaskedUNet(**SMALL), 3), images, None)
    assert losses["loss_hidden"].item() == pytest.approx((3 * 0.4 + 11 * 0.25) / 14)
    assert losses["loss_border"].item() == pytest.approx(0.5 * 0.4)
    assert not seen[0][..., 10:].any()
    assert set(InpainterObjective(border=0)(Fixed(MaskedUNet(**SMALL), 3), images, None)) == {"loss_hidden"}
    fixed, labels = Fixed(MaskedUNet(**SMALL), 3), torch.zeros(8, 24, dtype=torch.int64)
    measured = InpainterObjective().validate(fixed, images[:1], labels, torch.Generator())["hidden"]
    assert (measured + measured).figures()["absolute_error/pooled"] == pytest.approx((3 * 0.4 + 11 * 0.25) / 14)


@pytest.mark.parametrize(
    "bad",
    [
        {"masks": []},
        {"masks": "column"},
        {"masks": ["diagonal"]},
        {"shares": [0.01]},
        {"shares": [0.02, 0.01]},
        {"shares": [0, 0.01]},
        {"shares": [0.01, 0.5]},
        {"border": -1},
        {"border": True},
    ],
    ids=str,
)
def test_settings_outside_their_domain(bad):
    with pytest.raises(ConfigError, match=rf"^training\.objective\.{next(iter(bad))} must be"):
        InpainterObjective(**bad)


class Fence(Bands):
    """Bright and dark columns, 4 pixels wide each, of a brightness of their own for every image: they go on where they
    are hidden, which averages do not know."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        bright = torch.arange(self._size[1]) // 4 % 2
        return dataclasses.replace(sample, image=(0.1 + (0.4 + 0.05 * (index % 6)) * bright).expand(3, *self._size))


def test_training_beats_the_pyramid_and_can_be_resumed(tmp_path, one_thread):
    recipe = dataclasses.replace(
        RECIPE, name="inpainter", objective=InpainterObjective(), iterations=60, crop=None, lr=5e-3, validations=1
    )
    quick = dataclasses.replace(recipe, iterations=9, validations=0)
    before = network()
    nn.init.zeros_(before.head.weight)
    fences = {"train_set": Fence(), "val_set": Fence(count=3, split="val", seed=1)}
    trained, report = train_bands(tmp_path / "long", TrainableInpainter(before, 3), recipe, **fences)
    assert set(report.figures) == {"hidden/absolute_error/pooled"}
    sample = Fence(count=1, split="val", seed=1)[0]
    image = sample.image[None]

    def error(net):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            measured = [InpainterObjective().validate(net, image, sample.target, generator)["hidden"] for _ in range(8)]
        return sum(measured[1:], start=measured[0]).figures()["absolute_error/pooled"]

    assert error(trained.eval()) < 0.7 * error(TrainableInpainter(MaskedUNet(**SMALL), 3))
    filled = Learned(report.checkpoint)(image, torch.ones(1, 24, 32) > 0)
    assert filled.shape == image.shape

    class Stop(Exception):
        """Ends a training in the middle."""

    class Interrupted(TrainableInpainter):
        calls = 0

        def forward(self, erased, hidden):
            self.calls += 1
            if self.calls > 8:
                raise Stop
            return super().forward(erased, hidden)

    whole, _ = train_bands(tmp_path / "whole", TrainableInpainter(network(), 3), quick)
    with pytest.raises(Stop):
        train_bands(tmp_path / "cut", Interrupted(network(), 3), quick)
    resumed, report = train_bands(tmp_path / "cut", TrainableInpainter(network(seed=9), 3), quick)
    assert report.resumed == 1
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())


def test_a_segmenter_is_not_trained_by_this(tmp_path):
    with pytest.raises(ConfigError, match=r"trains an inpainter.*TinySegmenter.*training=inpainter"):
        train_bands(tmp_path, recipe=dataclasses.replace(RECIPE, objective=InpainterObjective()))


def test_every_kind_is_drawn_by_default():
    assert InpainterObjective().masks == KINDS
