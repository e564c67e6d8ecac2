"""Hardware: what is refused before anything runs, and how a run is seeded."""

import dataclasses
import random
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from support.linear_pixels import two_classes

from certseg.compute.hardware import Hardware
from certseg.errors import ConfigError


@pytest.fixture
def same_threads():
    """Give back torch's number of threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("device", value) for value in ("gpu", None, 0, ["cpu"])],
        *[("precision", value) for value in ("int8", None, 16, ["float32"])],
        *[("noise_batch", value) for value in (0, -1, 2.0, "8", True, None)],
        *[("workers", value) for value in (-1, 1.5, "2", False, None)],
        *[("threads", value) for value in (0, -2, 1.0, "all", True)],
        *[(name, value) for name in ("channels_last", "compile", "deterministic") for value in ("yes", 1, None)],
    ],
)
def test_hardware_refuses(field, value):
    with pytest.raises(ConfigError, match=rf"^hardware\.{field} must be .*Received: ") as caught:
        Hardware(**{"device": "cpu", field: value})
    assert repr(value) in str(caught.value)


def test_every_argument_is_checked():
    for field in dataclasses.fields(Hardware):
        with pytest.raises(ConfigError, match=rf"hardware\.{field.name}"):
            Hardware(**{field.name: object()})


def test_float16_needs_a_gpu():
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        Hardware(device="cpu", precision="float16")


@pytest.mark.parametrize("seed", [-1, 1.0, "1", None, True])
def test_a_seed_is_a_non_negative_integer(seed):
    with pytest.raises(ConfigError, match="seed must be a non-negative integer"):
        Hardware(device="cpu").setup(seed)


@pytest.mark.parametrize("seed", [0, 2**32 + 5, 2**64 + 7])
def test_setup_makes_every_generator_repeat(seed, same_threads):
    draws = []
    for _ in range(2):
        Hardware(device="cpu", threads=1).setup(seed)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))  # noqa: NPY002 - the one that is seeded
    assert draws[0] == draws[1]
    assert torch.get_num_threads() == 1


def test_ranks_wait_for_each_other_for_a_day(monkeypatch, same_threads):
    calls = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **options: calls.append((backend, options)))
    Hardware(device="cpu", threads=1).setup(0)
    assert calls == [("gloo", {"timeout": timedelta(hours=24)})]


def test_a_network_is_compiled_once_and_in_place(monkeypatch):
    model, eager = two_classes(), torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: eager(self, backend="eager"))
    hardware = Hardware(device="cpu", compile=True)
    assert hardware.place(model) is model
    call = model._compiled_call_impl
    assert call is not None
    assert hardware.place(model)._compiled_call_impl is call
    assert Hardware(device="cpu").place(two_classes())._compiled_call_impl is None
