"""SegCertify: statistics against a loop of scipy's tests, certification against its forward passes, memory."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from benchmarks.measuring import MEMORY_GOAL, peak_memory, place, prepare, seconds, verdict
from certseg.certifiers import SegCertify
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream

STATISTICS_GOAL = 0.1  # seconds
CERTIFICATION_GOAL = {"cpu": 1.05, "cuda": 1.08}  # ratio


def decide(counts: torch.Tensor, n: int) -> torch.Tensor:
    """All statistics of a certificate, from the table of p-values, which the certifier makes when it is built."""
    return SegCertify(sigma=0.25, tau=0.75, n=n).decide(counts)


def time_statistics(n: int, loop_pixels: int = 20_000) -> tuple[float, float]:
    """Seconds of p-values and decision on 1024 x 2048 counts on one thread, and of a binomtest loop extrapolated."""
    rng = np.random.default_rng(0)
    counts = rng.binomial(n, rng.beta(8, 1, size=(1024, 2048))).astype(np.int32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tensor = torch.from_numpy(counts)
        ours = statistics.median(seconds(lambda: decide(tensor, n), torch.device("cpu")) for _ in range(7))
    finally:
        torch.set_num_threads(threads)
    sample = rng.choice(counts.ravel(), loop_pixels)
    loop = seconds(
        lambda: [binomtest(int(c), n, 0.75, alternative="greater").pvalue for c in sample], torch.device("cpu")
    )
    return ours, loop * counts.size / loop_pixels


def forward_passes(
    network: Callable[[torch.Tensor], object], image: torch.Tensor, number: int, hardware: Hardware
) -> None:
    """The forward passes of a certification and nothing else."""
    batch = image.expand(hardware.noise_batch, -1, -1, -1).contiguous()
    if hardware.channels_last:
        batch = batch.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), hardware.autocast():
        for start in range(0, number, hardware.noise_batch):
            network(batch[: min(hardware.noise_batch, number - start)])


def certify_once(options: argparse.Namespace, n: int) -> Hardware:
    """Certify one image with n samples."""
    hardware, segmenter, image = prepare(options)
    SegCertify(sigma=0.25, tau=0.75, n=n).certify(segmenter, image, stream=NoiseStream(0, "x"), hardware=hardware)
    return hardware


def benchmark_segcertify(options: argparse.Namespace) -> None:
    """Print all three comparisons."""
    hardware, segmenter, image = prepare(options)
    device = hardware.torch_device
    certifier = SegCertify(sigma=0.25, tau=0.75, n0=10, n=options.n)
    on_device = image.to(device)
    passes = certifier.n0 + certifier.n

    def alone(network: Callable[[torch.Tensor], object]) -> None:
        for number in (certifier.n0, certifier.n):
            forward_passes(network, on_device, number, hardware)

    def whole() -> None:
        certifier.certify(segmenter, image, stream=NoiseStream(0, "benchmark"), hardware=hardware)

    works = [whole, lambda: alone(segmenter), lambda: alone(getattr(segmenter, "coarse_logits", segmenter))]
    for work in works:  # warm up
        work()
    times = np.array([[seconds(work, device) for work in works] for _ in range(options.repeats)])
    total, full, coarse = np.median(times, axis=0)
    ratio, ratio_coarse = np.median(times[:, :1] / times[:, 1:], axis=0)
    ours, loop = time_statistics(options.n)
    small, large = (peak_memory(options, n, certify_once) for n in (options.n, 10 * options.n))

    console = Console(highlight=False, width=120)
    console.print(place(device))
    table = Table("what", "", "against", "", "ratio", "goal")
    table.add_row(
        f"statistics, 1024 x 2048, n={options.n}, 1 thread",
        f"{ours:.4f} s",
        "scipy binomtest per pixel (extrapolated)",
        f"{loop:.1f} s",
        f"1 / {loop / ours:.0f}",
        verdict(ours, STATISTICS_GOAL, " s"),
    )
    table.add_row(
        f"certification, {options.size[0]} x {options.size[1]}, {passes} passes of {options.model} "
        f"(batch {hardware.noise_batch}, {hardware.precision})",
        f"{total:.3f} s",
        "forward passes alone, to logits at image size",
        f"{full:.3f} s",
        f"{ratio:.3f}",
        verdict(ratio, CERTIFICATION_GOAL[device.type]),
    )
    table.add_row(
        "the same",
        f"{total:.3f} s",
        "forward passes alone, to the network's own logits",
        f"{coarse:.3f} s",
        f"{ratio_coarse:.3f}",
        "",
    )
    table.add_row(
        f"peak memory at n={10 * options.n}",
        f"{large / 2**20:.0f} MiB",
        f"at n={options.n}",
        f"{small / 2**20:.0f} MiB",
        f"{large / small:.3f}",
        verdict(large / small, MEMORY_GOAL),
    )
    console.print(table)
