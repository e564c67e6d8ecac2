"""Adversarial training: the time of a step against that of a clean one."""

from __future__ import annotations

import argparse
import statistics
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import place, prepare, seconds
from certseg.training import AdversarialObjective, CleanObjective


def benchmark_adversarial(options: argparse.Namespace) -> None:
    """Print the time of AT2 and AT5 over that of clean training, each step with its backward pass and AdamW."""
    hardware, segmenter, image = prepare(options)
    device = hardware.torch_device
    images = image.expand(options.batch, -1, -1, -1).contiguous().to(device)
    labels = torch.randint(options.classes, (options.batch, *options.size), generator=torch.Generator().manual_seed(1))
    labels = labels.to(device)
    attacks = {f"AT{n}": AdversarialObjective(steps=n) for n in options.steps}
    objectives: dict[str, CleanObjective | AdversarialObjective] = {"clean": CleanObjective(), **attacks}
    segmenter.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(segmenter.parameters(), 1e-4)

    def step(name: str) -> None:
        losses = objectives[name](segmenter, images, labels)
        optimiser.zero_grad()
        torch.stack([value for key, value in losses.items() if "loss" in key]).sum().backward()
        optimiser.step()

    for name in objectives:  # warm up
        step(name)
    times = np.array([[seconds(partial(step, name), device) for name in objectives] for _ in range(options.repeats)])
    ratios = np.median(times / times[:, :1], axis=0)
    table = Table("training", "a step", "against clean", "passes of the attack")
    for name, own, ratio in zip(objectives, np.median(times, axis=0), ratios):
        passes = attacks[name].steps if name in attacks else 0
        table.add_row(name, f"{own:.3f} s", f"{ratio:.2f}", f"{passes}")
    console = Console(highlight=False, width=120)
    console.print(f"{place(device)}; batch {options.batch} of {options.size[0]} x {options.size[1]}, {options.model}")
    console.print(table)
    spread = statistics.median(times[:, 0].tolist())
    console.print(f"an epoch costs as many times more as a step; clean: {spread / options.batch:.4f} s an image")
