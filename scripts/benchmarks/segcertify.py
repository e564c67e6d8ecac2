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
from certseg.smoothing.noise import Gaussian

STATISTICS_GOAL = 0.1  # seconds
NOISE_GOAL = 1.0  # ratio
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


def time_noise(image: torch.Tensor, hardware: Hardware, repeats: int) -> tuple[float, float, float]:
    """Seconds for a batch of noisy copies of an image on its device, exact and in floating point, and the median of
    their ratios; repetitions take turns."""
    out = torch.empty(hardware.noise_batch, *image.shape, device=image.device)
    kinds = [Gaussian(0.25, grey_levels) for grey_levels in (255, None)]

    def draw(noise: Gaussian) -> float:
        return seconds(lambda: noise.copies(image, NoiseStream(0, "benchmark"), 0, out), image.device)

    for noise in kinds:  # warm up
        draw(noise)
    times = np.array([[draw(noise) for noise in kinds] for _ in range(repeats)])
    exact, floating = np.median(times, axis=0)
    return exact, floating, float(np.median(times[:, 0] / times[:, 1]))


def certify_once(options: argparse.Namespace, n: int) -> Hardware:
    """Certify one image with n samples."""
    hardware, segmenter, image = prepare(options)
    SegCertify(sigma=0.25, tau=0.75, n=n).certify(segmenter, image, stream=NoiseStream(0, "x"), hardware=hardware)
    return hardware


def benchmark_segcertify(options: argparse.Namespace) -> None:
    """Print all comparisons."""
    hardware, segmenter, image = prepare(options)
    device = hardware.torch_device
    certifier = SegCertify(sigma=0.25, tau=0.75, n0=10, n=options.n)
    floating = SegCertify(sigma=0.25, tau=0.75, n0=10, n=options.n, grey_levels=None)
    on_device = image.to(device)
    passes = certifier.n0 + certifier.n

    def alone(network: Callable[[torch.Tensor], object]) -> None:
        for number in (certifier.n0, certifier.n):
            forward_passes(network, on_device, number, hardware)

    def whole(certifier: SegCertify = certifier) -> None:
        certifier.certify(segmenter, image, stream=NoiseStream(0, "benchmark"), hardware=hardware)

    works = [
        whole,
        lambda: alone(segmenter),
        lambda: alone(getattr(segmenter, "coarse_logits", segmenter)),
        lambda: whole(floating),
    ]
    for work in works:  # warm up
        work()
    times = np.array([[seconds(work, device) for work in works] for _ in range(options.repeats)])
    total, full, coarse, by_float = np.median(times, axis=0)
    ratio, ratio_coarse, ratio_float = np.median(times[:, :1] / times[:, 1:], axis=0)
    exact_noise, float_noise, ratio_noise = time_noise(on_device, hardware, 5 * options.repeats)
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
        "the same",
        f"{total:.3f} s",
        "with floating point noise",
        f"{by_float:.3f} s",
        f"{ratio_float:.3f}",
        "",
    )
    table.add_row(
        f"{hardware.noise_batch} noisy copies, exact",
        f"{exact_noise * 1000:.2f} ms",
        "in floating point (normal_)",
        f"{float_noise * 1000:.2f} ms",
        f"{ratio_noise:.3f}",
        verdict(ratio_noise, NOISE_GOAL),
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
