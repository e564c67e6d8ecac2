"""Speed as ratios against something run in the same process.

    python scripts/benchmark.py segcertify [--size 360 480] [--model upernet_tiny] [--n 100] [--hardware auto]

``statistics``: the table of p-values and Holm for a 1024 x 2048 image at n=100 on one core, against one
``scipy.stats.binomtest`` per pixel (timed on a sample of pixels, extrapolated). ``certification``: the whole of
``SegCertify.certify`` against the same forward passes alone, at the same batch and precision, medians over interleaved
repetitions; once against passes that give logits at image size, as every user of the network needs them, once against
those that stop at the network's own resolution, which is where certification on the CPU decides. ``peak memory``: of a
process that certifies one image with ten times as many samples, against one with n.

    python scripts/benchmark.py sea [--size 360 480] [--model upernet_tiny] [--iterations 20] [--hardware auto]

APGD on the masked cross-entropy in both norms, from the checks before to the prediction after, against as many forward
and backward passes of the mean cross-entropy alone; medians over interleaved repetitions. ``peak memory``: as above, of
an attack with ten times the iterations.

    python scripts/benchmark.py lipschitz [--size 1024 2048] [--model lip_deeplabv3] [--classes 19] [--radii 0.17 1.0]

``pixel accuracy``: costs and collective accuracy from logits, against the forward pass of the Lipschitz network itself,
as certification computes both: float64 logits, the audited constant, distances between the rows of the head. ``mean
IoU``: the bounds at each radius, each from the logits. Processor seconds of one thread. The weights are fresh, the
logits those of a made-up scene.

Each row states its goal and whether it is met; the exit status does not depend on it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as run.py does

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest
from torch.nn.functional import cross_entropy

from certseg.attacks import APGD
from certseg.certifiers import SegCertify
from certseg.hardware import Hardware
from certseg.metrics.lipschitz import (
    CollectiveCounts,
    FlippableImage,
    budgets_of,
    class_attacks,
    flip_costs,
    worst_mean_iou,
)
from certseg.noise import NoiseStream
from certseg.pipeline.network import build_segmenter
from certseg.pipeline.settings import resolve
from certseg.types import L2, Linf, Threat

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
STATISTICS_GOAL = 0.1  # seconds
CERTIFICATION_GOAL = {"cpu": 1.05, "cuda": 1.08}  # ratio
ATTACK_GOAL = 1.10  # ratio
MEMORY_GOAL = 1.01  # ratio
LIPSCHITZ_GOAL = 0.25  # ratio
MEAN_IOU_GOAL = 3.0  # seconds


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


def decide(counts: torch.Tensor, n: int) -> torch.Tensor:
    """All statistics of a certificate, from the table of p-values, which the certifier makes when it is built."""
    return SegCertify(sigma=0.25, tau=0.75, n=n).decide(counts)


def verdict(value: float, goal: float, unit: str = "") -> str:
    """The goal and whether ``value`` meets it."""
    return f"<= {goal:g}{unit}: {'met' if value <= goal else 'missed'}"


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


def prepare(options: argparse.Namespace) -> tuple[Hardware, torch.nn.Module, torch.Tensor]:
    """Hardware, network with fresh weights and a random image of the command line."""
    overrides = [f"model={options.model}", f"hardware={options.hardware}", *options.overrides]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        settings = resolve(compose("config", overrides=overrides))
    hardware = Hardware(**{k: v for k, v in settings["hardware"].items() if k != "_target_"})
    hardware.setup(0)
    image = torch.rand(3, *options.size, generator=torch.Generator().manual_seed(0))
    return hardware, hardware.place(build_segmenter(settings, options.classes)), image


def certify_once(options: argparse.Namespace, n: int) -> Hardware:
    """Certify one image with n samples."""
    hardware, segmenter, image = prepare(options)
    SegCertify(sigma=0.25, tau=0.75, n=n).certify(segmenter, image, stream=NoiseStream(0, "x"), hardware=hardware)
    return hardware


def peak_memory(
    options: argparse.Namespace, n: int, work: Callable[[argparse.Namespace, int], Hardware] = certify_once
) -> int:
    """Peak memory, in bytes, of a fresh process that does ``work`` at size n: of the GPU if there is one, else of the
    process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, work, options, n).result()


def _measure(work: Callable[[argparse.Namespace, int], Hardware], options: argparse.Namespace, n: int) -> int:
    hardware = work(options, n)
    if hardware.torch_device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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
    small, large = (peak_memory(options, n) for n in (options.n, 10 * options.n))

    console = Console(highlight=False, width=120)
    console.print(place(device))
    table = Table("what", "", "against", "", "ratio", "goal")
    table.add_row(
        f"statistics, 1024 x 2048, n={options.n}, 1 thread", f"{ours:.4f} s",
        "scipy binomtest per pixel (extrapolated)", f"{loop:.1f} s", f"1 / {loop / ours:.0f}",
        verdict(ours, STATISTICS_GOAL, " s"),
    )  # fmt: skip
    table.add_row(
        f"certification, {options.size[0]} x {options.size[1]}, {passes} passes of {options.model} "
        f"(batch {hardware.noise_batch}, {hardware.precision})",
        f"{total:.3f} s", "forward passes alone, to logits at image size", f"{full:.3f} s", f"{ratio:.3f}",
        verdict(ratio, CERTIFICATION_GOAL[device.type]),
    )  # fmt: skip
    table.add_row(
        "the same", f"{total:.3f} s", "forward passes alone, to the network's own logits", f"{coarse:.3f} s",
        f"{ratio_coarse:.3f}", "",
    )  # fmt: skip
    table.add_row(
        f"peak memory at n={10 * options.n}", f"{large / 2**20:.0f} MiB", f"at n={options.n}",
        f"{small / 2**20:.0f} MiB", f"{large / small:.3f}", verdict(large / small, MEMORY_GOAL),
    )  # fmt: skip
    console.print(table)


def random_labels(options: argparse.Namespace) -> torch.Tensor:
    """Labels no attack gets wrong at every pixel: ``H x W`` int64."""
    return torch.randint(options.classes, tuple(options.size), generator=torch.Generator().manual_seed(1))


def attack_once(options: argparse.Namespace, iterations: int) -> Hardware:
    """Attack one image."""
    hardware, segmenter, image = prepare(options)
    stream, target = NoiseStream(0, "x"), random_labels(options)
    APGD(iterations)(segmenter, image, target, Linf(4 / 255), stream=stream, hardware=hardware)
    return hardware


def benchmark_sea(options: argparse.Namespace) -> None:
    """Print APGD's own cost in both norms, and its memory."""
    hardware, segmenter, image = prepare(options)
    segmenter.requires_grad_(False)  # as in a run: only the image has a gradient
    device, target = hardware.torch_device, random_labels(options)
    on_device, labels = image.to(device), target[None].to(device)

    def alone() -> None:
        for _ in range(options.iterations + 1):
            leaf = on_device[None].detach().requires_grad_(True)
            torch.autograd.grad(cross_entropy(segmenter(leaf), labels), leaf)
        with torch.inference_mode():
            segmenter(on_device[None])

    def attack(threat: Threat) -> Callable[[], object]:
        method = APGD(options.iterations, loss="masked_cross_entropy")
        return lambda: method(segmenter, image, target, threat, stream=NoiseStream(0, "x"), hardware=hardware)

    rivals = {"l-inf": attack(Linf(4 / 255)), "l2": attack(L2(1.0))}
    table = Table("what", "", "against", "", "ratio", "goal")
    alone()  # warm up
    for norm, rival in rivals.items():
        if rival().passes.backward != options.iterations + 1:
            raise AssertionError("the attack stopped early: nothing can be said about its iterations")
        pairs = [(seconds(alone, device), seconds(rival, device)) for _ in range(options.repeats)]
        ratio = statistics.median(b / a for a, b in pairs)
        table.add_row(
            f"APGD, {norm}, {options.size[0]} x {options.size[1]}, {options.iterations} iterations on {options.model}",
            f"{statistics.median(b for _, b in pairs):.3f} s", "forward and backward passes alone",
            f"{statistics.median(a for a, _ in pairs):.3f} s", f"{ratio:.3f}", verdict(ratio, ATTACK_GOAL),
        )  # fmt: skip
    small, large = (peak_memory(options, n, attack_once) for n in (options.iterations, 10 * options.iterations))
    table.add_row(
        f"peak memory at {10 * options.iterations} iterations", f"{large / 2**20:.0f} MiB",
        f"at {options.iterations}", f"{small / 2**20:.0f} MiB", f"{large / small:.3f}",
        verdict(large / small, MEMORY_GOAL),
    )  # fmt: skip
    console = Console(highlight=False, width=120)
    console.print(place(device))
    console.print(table)


def smooth_scene(classes: int, size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits ``K x H x W`` of regions with gradual borders, in the range of 1-Lipschitz networks, and labels
    ``H x W`` they get right at about seven pixels of ten; the first classes are the frequent ones."""
    generator = torch.Generator().manual_seed(0)

    def field(cell: int) -> torch.Tensor:
        coarse = torch.randn(1, classes, max(2, size[0] // cell), max(2, size[1] // cell), generator=generator)
        return torch.nn.functional.interpolate(coarse, size=tuple(size), mode="bilinear")[0]

    truth = field(128) + 0.3 * field(32) + torch.linspace(1.5, -1.5, classes)[:, None, None]
    return 0.03 * (truth + 0.45 * field(96) + 0.1 * field(8)), truth.argmax(dim=0)


def benchmark_lipschitz(options: argparse.Namespace) -> None:
    """Print the statistics of a Lipschitz certificate against a forward pass, and the seconds of its bounds."""
    _, network, image = prepare(options)
    torch.set_num_threads(1)
    bound = network.eval().certified_bound(tuple(options.size))
    logits, target = smooth_scene(options.classes, options.size)
    budgets = budgets_of(bound, options.radii)

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return network(image[None])

    def pixel_accuracy() -> None:
        classes, costs = flip_costs(logits, bound)
        CollectiveCounts.of(costs, classes == target, torch.ones_like(target, dtype=torch.bool), budgets)

    logits = logits.to(forward().dtype)  # also warms up, as does
    pixel_accuracy()
    pairs = [(cpu_seconds(forward), cpu_seconds(pixel_accuracy)) for _ in range(options.repeats)]
    ratio = statistics.median(b / a for a, b in pairs)
    console = Console(highlight=False, width=120)
    console.print(f"CPU, 1 thread; load average {os.getloadavg()[0]:.2f}")
    table = Table("what", "", "against", "", "ratio", "goal")
    size = f"{options.size[0]} x {options.size[1]} x {options.classes}"
    table.add_row(
        f"costs and pixel accuracy at {len(options.radii)} radii, {size}",
        f"{statistics.median(b for _, b in pairs):.3f} s", f"forward pass of {options.model}",
        f"{statistics.median(a for a, _ in pairs):.3f} s", f"{ratio:.3f}", verdict(ratio, LIPSCHITZ_GOAL),
    )  # fmt: skip
    for radius in options.radii:
        bounds = []

        def mean_iou(radius: float = radius, bounds: list[float] = bounds) -> None:
            flippable = FlippableImage.of(logits, target, bound)
            budget = bound.budget(radius)
            bounds.append(worst_mean_iou(flippable, class_attacks(flippable, budget), budget))

        mean_iou()  # warm up
        spent = statistics.median(cpu_seconds(mean_iou) for _ in range(options.repeats))
        table.add_row(
            f"mean IoU at radius {radius:g} (at least {bounds[-1]:.3f})", f"{spent:.2f} s", "", "", "",
            verdict(spent, MEAN_IOU_GOAL, " s"),
        )  # fmt: skip
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run a benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    segcertify = commands.add_parser("segcertify", help="statistics and sampling overhead of SegCertify")
    segcertify.add_argument("--n", type=int, default=100)
    segcertify.set_defaults(run=benchmark_segcertify, repeats=5)
    sea = commands.add_parser("sea", help="overhead and memory of APGD")
    sea.add_argument("--iterations", type=int, default=20)
    sea.set_defaults(run=benchmark_sea, repeats=7)
    for command in (segcertify, sea):
        command.add_argument("--size", type=int, nargs=2, default=(360, 480), metavar=("H", "W"))
        command.add_argument("--model", default="upernet_tiny", help="a preset of configs/model")
        command.add_argument("--classes", type=int, default=19)
        command.add_argument("--repeats", type=int)
        command.add_argument("--hardware", default="auto", help="a choice of configs/hardware")
        command.add_argument("overrides", nargs="*", help="further settings, for example hardware.noise_batch=4")
    lipschitz = commands.add_parser("lipschitz", help="statistics of Lipschitz certificates")
    lipschitz.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"))
    lipschitz.add_argument("--model", default="lip_deeplabv3", help="a Lipschitz preset of configs/model")
    lipschitz.add_argument("--classes", type=int, default=19)
    lipschitz.add_argument("--radii", type=float, nargs="+", default=[0.17, 1.0])
    lipschitz.add_argument("--repeats", type=int, default=3)
    lipschitz.add_argument("overrides", nargs="*", help="further settings, for example model.size=S")
    lipschitz.set_defaults(run=benchmark_lipschitz, hardware="cpu")
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main()
