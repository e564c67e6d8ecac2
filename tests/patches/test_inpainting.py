"""Inpainters never see what is hidden and never change what is visible."""

import pytest
import torch

from certseg.errors import CheckpointError, ConfigError, ModelError
from certseg.patches.inpainting import Black, Inpainting, MeanColour, NavierStokes, Telea, TorchScript
from certseg.patches.masks import covering_masks, recovery_masks
from certseg.types import Inpainter, Patch


class Blur(torch.nn.Module):
    """An inpainter to be scripted: a blur of image and mask."""

    def __init__(self, sides: int = 8):
        super().__init__()
        self.sides = sides
        self.conv = torch.nn.Conv2d(4, 3, 5, padding=2)

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        assert image.shape[2] % self.sides == 0
        assert image.shape[3] % self.sides == 0
        return 2 * self.conv(torch.cat([image, mask], dim=1))  # also outside [0, 1]


class Flat(torch.nn.Module):
    """Returns no images."""

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return image.mean(dim=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """TorchScript files by name."""
    folder = tmp_path_factory.mktemp("scripts")
    torch.manual_seed(0)
    for name, module in (("blur", Blur()), ("flat", Flat())):
        torch.jit.save(torch.jit.script(module), str(folder / f"{name}.pt"))
    return folder


@pytest.fixture(params=["black", "mean", "telea", "navier_stokes", "torchscript"])
def inpainter(request, files):
    """Every inpainter."""
    makers = {
        "black": Black,
        "mean": MeanColour,
        "telea": Telea,
        "navier_stokes": NavierStokes,
        "torchscript": lambda: TorchScript(files / "blur.pt"),
    }
    return makers[request.param]()


def masks_of(size):
    recovery = recovery_masks("three", size, Patch(height=4, width=5)).hidden()
    return torch.cat([recovery, covering_masks("column", size, Patch(height=4, width=5), num_masks=3).hidden()])


def test_hidden_pixels_are_unread_bit_for_bit(inpainter):
    size = (33, 46)
    hidden = masks_of(size)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(len(hidden), 3, *size, generator=generator)
    filled = inpainter(images, hidden)
    assert isinstance(inpainter, Inpainter)
    assert filled.shape == images.shape
    assert filled.dtype == images.dtype
    assert 0 <= float(filled.min()) <= float(filled.max()) <= 1
    visible = ~hidden[:, None].expand_as(images)
    assert torch.equal(filled[visible], images[visible])
    for other in (torch.rand(images.shape, generator=generator), torch.full_like(images, torch.nan)):
        attacked = torch.where(visible, images, other)
        assert torch.equal(inpainter(attacked, hidden), filled)
    changed = images.clone()
    changed[visible] = 1 - changed[visible]
    if inpainter.name != "black":
        assert not torch.equal(inpainter(changed, hidden)[~visible], filled[~visible])  # visible pixels are read


def test_one_image_does_not_depend_on_the_others(inpainter):
    hidden = masks_of((24, 32))
    images = torch.rand(len(hidden), 3, 24, 32, generator=torch.Generator().manual_seed(2))
    together = inpainter(images, hidden)
    for index in (0, len(hidden) - 1):
        part = slice(index, index + 1)
        assert torch.allclose(inpainter(images[part], hidden[part]), together[part], atol=1e-6)


def test_an_inpainter_that_reads_everything_is_given_nothing_to_read():
    """Even one that would copy the patch: the base class has erased it."""

    class Copying(Inpainting):
        name = "copying"

        def _fill(self, erased, hidden):
            return erased.flip(-1)

    hidden = torch.zeros(1, 4, 6, dtype=torch.bool)
    hidden[..., :2] = True
    image = torch.rand(1, 3, 4, 6)
    attacked = image.clone()
    attacked[..., :2] = 0.123
    assert torch.equal(Copying()(image, hidden), Copying()(attacked, hidden))


@pytest.mark.parametrize("kind", [MeanColour, Telea, NavierStokes])
def test_a_flat_image_is_restored(kind):
    colour = torch.tensor([51, 102, 204]) / 255
    image = colour[:, None, None].expand(3, 20, 30)[None]
    hidden = torch.zeros(1, 20, 30, dtype=torch.bool)
    hidden[:, 4:14, 5:20] = True
    assert torch.allclose(kind()(image, hidden), image, atol=3.1 / 255)


def test_telea_and_navier_stokes_continue_what_is_near():
    ramp = torch.linspace(0, 1, 40).expand(1, 3, 30, 40).contiguous()
    hidden = torch.zeros(1, 30, 40, dtype=torch.bool)
    hidden[:, :, 18:22] = True
    for kind in (Telea, NavierStokes):
        assert (kind()(ramp, hidden) - ramp).abs().max() < 0.1 < (MeanColour()(ramp, hidden) - ramp).abs().max() + 0.1


def test_nothing_visible_gives_black():
    hidden = torch.ones(1, 8, 8, dtype=torch.bool)
    for kind in (Black, MeanColour):
        assert not kind()(torch.rand(1, 3, 8, 8), hidden).any()


def test_settings_name_the_file_by_its_content(files, tmp_path):
    copy = tmp_path / "copy.pt"
    copy.write_bytes((files / "blur.pt").read_bytes())
    assert TorchScript(copy, name="lama").settings == TorchScript(files / "blur.pt").settings
    assert TorchScript(copy).settings != TorchScript(files / "flat.pt").settings
    assert Telea(5).settings == {"radius": 5}


def test_what_a_user_can_mend(files, tmp_path):
    image, hidden = torch.rand(1, 3, 9, 9), torch.ones(1, 9, 9, dtype=torch.bool)
    with pytest.raises(ConfigError, match="needs the file"):
        TorchScript(None)
    with pytest.raises(ConfigError, match="multiple"):
        TorchScript(files / "blur.pt", multiple=0)
    with pytest.raises(CheckpointError, match="nowhere"):
        TorchScript(tmp_path / "nowhere.pt")
    (tmp_path / "bad.pt").write_bytes(b"no archive")
    with pytest.raises(CheckpointError, match="bad"):
        TorchScript(tmp_path / "bad.pt")
    with pytest.raises(ModelError, match="return images"):
        TorchScript(files / "flat.pt")(image, hidden)
    with pytest.raises(ModelError, match="failed on images of 9 x 9"):
        TorchScript(files / "blur.pt", multiple=1)(image, hidden)
    with pytest.raises(ModelError, match="do not fit"):
        Black()(image, hidden.float())
    with pytest.raises(ModelError, match="do not fit"):
        Black()(image, hidden[:, 1:])
    for radius in (0, 101, 2.5, True):
        with pytest.raises(ConfigError, match="radius"):
            Telea(radius)


def test_a_filling_that_is_not_finite_is_refused():
    class Broken(Inpainting):
        name = "broken"

        def _fill(self, erased, hidden):
            return erased / 0

    with pytest.raises(ModelError, match="broken"):
        Broken()(torch.rand(1, 3, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool))


def test_the_mean_colour_is_that_of_visible_pixels_bit_for_bit():
    hidden = torch.cat([masks_of((33, 46)), torch.ones(1, 33, 46, dtype=torch.bool)])
    images = torch.rand(len(hidden), 3, 33, 46, generator=torch.Generator().manual_seed(0))
    images.requires_grad_()
    erased = images.masked_fill(hidden[:, None], 0.0)
    colour = erased.sum(dim=(2, 3)) / (~hidden).sum(dim=(1, 2)).clamp_min(1)[:, None]
    expected = torch.where(hidden[:, None], colour[..., None, None], erased)
    filled = MeanColour()(images, hidden)
    assert torch.equal(filled, expected)
    weights = torch.rand(images.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((part * weights).sum(), images)[0] for part in (filled, expected)]
    torch.testing.assert_close(*gradients)
    with pytest.raises(ModelError, match="NaN"):
        MeanColour()(torch.full_like(images, torch.nan), hidden)
