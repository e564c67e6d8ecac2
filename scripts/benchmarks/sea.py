"""APGD: the time of an attack against its forward and backward passes alone, memory against iterations."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy

from benchmarks.measuring import MEMORY_GOAL, peak_memory, place, prepare, seconds, verdict
from certseg.attacks import APGD
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.types import L2, AttackResult, Linf, Threat

ATTACK_GOAL = 1.10  # ratio


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

    def attack(threat: Threat) -> Callable[[], AttackResult]:
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
            f"{statistics.median(b for _, b in pairs):.3f} s",
            "forward and backward passes alone",
            f"{statistics.median(a for a, _ in pairs):.3f} s",
            f"{ratio:.3f}",
            verdict(ratio, ATTACK_GOAL),
        )
    small, large = (peak_memory(options, n, attack_once) for n in (options.iterations, 10 * options.iterations))
    table.add_row(
        f"peak memory at {10 * options.iterations} iterations",
        f"{large / 2**20:.0f} MiB",
        f"at {options.iterations}",
        f"{small / 2**20:.0f} MiB",
        f"{large / small:.3f}",
        verdict(large / small, MEMORY_GOAL),
    )
    console = Console(highlight=False, width=120)
    console.print(place(device))
    console.print(table)
