"""Where and how tensors are computed: device, precision, seeds, ranks, clocks.

``precision`` is part of the model that is certified and the kind of device draws the noise, so both are part of a
result's key, and results are compared only where they agree. In bfloat16 so is ``compile``: with it logits are enlarged
in bfloat16, without it in float32 on the CPU. All other settings change rounding at most.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist

from certseg.checks import check_choice, check_count, check_flag
from certseg.errors import ConfigError

Network = TypeVar("Network", bound=torch.nn.Module)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PATIENCE = timedelta(hours=24)  # ranks that go on from uneven progress wait long for each other


@dataclass(frozen=True)
class Hardware:
    """The machine as a run uses it.

    Args:
        device: ``auto`` (the GPU of this rank if there is one, else the CPU), ``cpu`` or ``cuda``.
        precision: arithmetic of the forward passes that sample a smoothed model: ``float32``, ``bfloat16`` or
            ``float16`` (GPU only). The rounded network is the base classifier that gets certified.
        noise_batch: noisy copies of one image per forward pass; halved and retried when memory runs out.
        attack_batch: images of one shape that are attacked side by side, never more than ``noise_batch`` in one pass. A
            killed run loses the images it was on.
        channels_last: keep image tensors and weights in channels-last order.
        compile: run the network through ``torch.compile`` in certification and attack; on the CPU that needs a C++
            compiler.
        workers: processes that load training data.
        deterministic: ask torch for bit-reproducible kernels.
        threads: CPU threads per process; None leaves torch's default.

    Raises:
        ConfigError: a value is unknown or of the wrong type, or the machine has no such device.
    """

    device: str = "auto"
    precision: str = "float32"
    noise_batch: int = 8
    attack_batch: int = 1
    channels_last: bool = False
    compile: bool = False
    workers: int = 0
    deterministic: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        check_choice("hardware.device", self.device, ("auto", "cpu", "cuda"))
        check_choice("hardware.precision", self.precision, PRECISIONS)
        for name in ("channels_last", "compile", "deterministic"):
            check_flag(f"hardware.{name}", getattr(self, name))
        for name in ("noise_batch", "attack_batch"):
            check_count(f"hardware.{name}", getattr(self, name))
        check_count("hardware.workers", self.workers, 0)
        check_count("hardware.threads", self.threads, optional=True)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                "hardware.device is cuda but torch sees no GPU", remedy="Use hardware=auto or hardware=cpu"
            )
        if self.precision == "float16" and self.torch_device.type == "cpu":
            raise ConfigError("hardware.precision=float16 needs a GPU", remedy="Use bfloat16 or float32 on the CPU")

    @property
    def torch_device(self) -> torch.device:
        """The device this rank computes on."""
        if self.device == "cpu" or not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())

    def setup(self, seed: int) -> None:
        """Seed every generator, set threads and determinism, and join the process group when torchrun started us.

        Raises:
            ConfigError: ``seed`` is not a non-negative integer.
        """
        checked_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - the global generator is the one mmseg's transforms use
        torch.manual_seed(seed % 2**64)
        if self.threads:
            torch.set_num_threads(self.threads)
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        device = self.torch_device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        else:
            _keep_freed_memory()
        if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)

    def place(self, network: Network) -> Network:
        """Move ``network`` to the device in eval mode, in channels-last order and compiled if asked."""
        network = network.to(self.torch_device).eval()
        if self.channels_last:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        if self.compile and network._compiled_call_impl is None:
            network.compile()  # in place: attributes and parameter names stay
        return network

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context in which a network is sampled at ``precision``."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.torch_device.type, dtype=PRECISIONS[self.precision])


def checked_seed(seed: int) -> int:
    """``seed``, once it is known to be a non-negative integer.

    Raises:
        ConfigError: ``seed`` is anything else.
    """
    check_count("seed", seed, 0)
    return seed


def _keep_freed_memory() -> None:
    """Ask glibc to reuse the memory of freed tensors. By default every tensor above 128 KiB goes back to the system
    and the next one is faulted in page by page, a fifth of a small network's forward pass. Other C libraries have no
    such habit and are left alone."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in ((-4, 0), (-1, -1), (-2, 64 << 20)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            mallopt(option, value)


def rank() -> int:
    """This process's rank under torchrun, else 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes under torchrun, else 1."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for all ranks; does nothing without torchrun."""
    if dist.is_initialized():
        dist.barrier()


class Stopwatch:
    """Adds up wall-clock seconds by part, synchronised with the device at every mark.

    Args:
        device: the device whose work is waited for before a clock is read.

    >>> watch = Stopwatch(torch.device("cpu"))
    >>> with watch("sampling"):
    ...     pass
    >>> sorted(watch.seconds)
    ['sampling']
    """

    def __init__(self, device: torch.device):
        self._device = device
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Time the enclosed block and add it to ``seconds[part]``."""
        self._synchronise()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._synchronise()
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
