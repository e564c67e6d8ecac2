"""Lipschitz certificates: costs and pixel accuracy against a forward pass, seconds of the bounds on mean IoU."""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import cpu_seconds, prepare, verdict
from certseg.metrics.lipschitz import (
    CollectiveCounts,
    FlippableImage,
    budgets_of,
    class_attacks,
    flip_costs,
    worst_mean_iou,
)

LIPSCHITZ_GOAL = 0.25  # ratio
MEAN_IOU_GOAL = 3.0  # seconds


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
