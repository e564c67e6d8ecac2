"""What composing the experiments of papers takes."""

import pytest
import torch


class Keep(torch.nn.Module):
    """An inpainter to be scripted."""

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return image


@pytest.fixture(scope="session")
def zits_folder(tmp_path_factory):
    """A folder with zits.pt, a TorchScript file."""
    folder = tmp_path_factory.mktemp("scripts")
    torch.jit.save(torch.jit.script(Keep()), str(folder / "zits.pt"))
    return folder


@pytest.fixture
def beside_zits(zits_folder, monkeypatch):
    """In the folder with zits.pt."""
    monkeypatch.chdir(zits_folder)
