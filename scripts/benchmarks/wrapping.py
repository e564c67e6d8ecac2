"""Wrapped networks: the time of a pass through ``certseg.wrap`` against one through the bare network."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import certseg
from benchmarks.measuring import CONFIGS, cpu_seconds, place, seconds, verdict
from certseg.models import torchvision_network
from certseg.models.any_network.normalisation import mean_and_std
from certseg.pipeline.settings import build, parse

WRAP_GOAL = 1.03  # ratio


def benchmark_wrap(options: argparse.Namespace) -> None:
    """Print the table; see the script's docstring.

    Args:
        options: the command line.
    """
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        hardware = build("hardware", parse(compose("config", overrides=[f"hardware={options.hardware}"])).hardware)
    device = hardware.torch_device
    torch.set_num_threads(1)
    name = options.model
    network = torchvision_network(num_classes=options.classes, name=name, architecture=name).network.eval().to(device)
    images = torch.rand(options.batch, 3, *options.size, device=device)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in mean_and_std("imagenet"))
    table = Table("normalise", "seconds bare", "seconds wrapped", "ratio", "goal", title=f"{name}, {place(device)}")
    for normalise in ("none", "imagenet"):
        wrapped = certseg.wrap(network, options.classes, normalise=normalise).to(device)
        bare_pass = partial(_bare, network, images, None if normalise == "none" else (mean, std))
        ways: tuple[Callable[[], object], ...] = (bare_pass, partial(wrapped, images))
        times: list[list[float]] = [[], []]
        with torch.inference_mode():
            for _ in range(options.repeats + 1):  # the first round warms up
                for spent, way in zip(times, ways, strict=True):
                    spent.append(cpu_seconds(way) if device.type == "cpu" else seconds(way, device))
        bare, around = (statistics.median(spent[1:]) for spent in times)
        ratio = statistics.median(b / a for a, b in zip(times[0][1:], times[1][1:], strict=True))
        table.add_row(normalise, f"{bare:.4f}", f"{around:.4f}", f"{ratio:.3f}", verdict(ratio, WRAP_GOAL))
    Console().print(table)


def _bare(network: nn.Module, images: Tensor, colours: tuple[Tensor, Tensor] | None) -> Tensor:
    """What a user of the network writes without the wrapper."""
    inputs = images if colours is None else (images - colours[0]) / colours[1]
    logits: Tensor = network(inputs)["out"]
    return logits
