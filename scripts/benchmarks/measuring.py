"""What benchmarks share: clocks, peak memory, the network of the command line, verdicts."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from certseg.compute.hardware import Hardware
from certseg.errors import ConfigError
from certseg.models import Denoised, LipschitzNetwork, MMSegSegmenter
from certseg.pipeline.settings import build, parse
from certseg.pipeline.weights import build_segmenter

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MEMORY_GOAL = 1.01  # ratio
Network = MMSegSegmenter | LipschitzNetwork | Denoised
"""What the models of configs/model build."""


@dataclass(frozen=True)
class Bench:
    """What is measured on.

    Args:
        options: the command line.
        hardware: device, batch and precision.
        network: the network of the command line, with fresh weights.
        image: ``3 x H x W`` in [0, 1], a random image of the size in ``options``.
    """

    options: argparse.Namespace
    hardware: Hardware
    network: Network
    image: torch.Tensor

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return self.hardware.torch_device

    def clock(self, work: Callable[[], object]) -> float:
        """Seconds of one call: of the processor on the CPU, of the clock on the wall, synchronised, on a GPU."""
        return cpu_seconds(work) if self.device.type == "cpu" else seconds(work, self.device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of one call, synchronised with the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def cpu_seconds(work: Callable[[], object]) -> float:
    """Processor seconds of one call, which other processes on a busy machine lengthen less than the wall clock's."""
    start = time.process_time()
    work()
    return time.process_time() - start


def place(device: torch.device) -> str:
    """The device and how busy its machine is."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}; load average {os.getloadavg()[0]:.2f}"


def verdict(value: float, goal: float, unit: str = "") -> str:
    """The goal and whether ``value`` meets it."""
    return f"<= {goal:g}{unit}: {'met' if value <= goal else 'missed'}"


def prepare(options: argparse.Namespace) -> tuple[Hardware, Network, torch.Tensor]:
    """Hardware, network with fresh weights and a random image of the command line.

    Raises:
        ConfigError: the model is none of certseg's.
    """
    overrides = [f"model={options.model}", f"hardware={options.hardware}", *options.overrides]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        spec = parse(compose("config", overrides=overrides))
    hardware = build("hardware", spec.hardware)
    hardware.setup(0)
    image = torch.rand(3, *options.size, generator=torch.Generator().manual_seed(0))
    network = hardware.place(build_segmenter(spec.model, options.classes))
    if not isinstance(network, Network):
        raise ConfigError("Only models of certseg are measured", received=type(network).__name__)
    return hardware, network, image


def peak_memory(options: argparse.Namespace, n: int, work: Callable[[argparse.Namespace, int], Hardware]) -> int:
    """Peak memory, in bytes, of a fresh process that does ``work`` at size n: of the GPU if there is one, else of the
    process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, work, options, n).result()


def measure(work: Callable[[argparse.Namespace, int], Hardware], options: argparse.Namespace, n: int) -> int:
    """Peak memory, in bytes, of this process when it has done ``work``."""
    hardware = work(options, n)
    if hardware.torch_device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
