"""Lipschitz certificates: their cost against a forward pass and against smoothing, and what baking a network saves."""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.measuring import Bench, Network, place, prepare, verdict
from certseg.certifiers import Lipschitz, SegCertify
from certseg.certifiers.segcertify import Samples
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError
from certseg.lipschitz.audit import bake, full_precision
from certseg.lipschitz.worst_case import (
    CollectiveCounts,
    FlippableImage,
    budgets_of,
    class_attacks,
    flip_costs,
    worst_mean_iou,
)
from certseg.models import LipschitzNetwork

LIPSCHITZ_GOAL = 0.25  # ratio
MEAN_IOU_GOAL = 3.0  # seconds

Row = tuple[str, str, str, str, str, str]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class LipschitzBench(Bench):
    """Comparisons on a Lipschitz network."""

    network: LipschitzNetwork

    def medians(self, works: Mapping[Key, Callable[[], object]]) -> dict[Key, float]:
        """Median seconds of each, over interleaved repetitions after one to warm up."""
        for work in works.values():
            work()
        times = [{name: self.clock(work) for name, work in works.items()} for _ in range(self.options.repeats)]
        return {name: statistics.median(part[name] for part in times) for name in works}


def smooth_scene(classes: int, size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits ``K x H x W`` of regions with gradual borders, in the range of 1-Lipschitz networks, and labels
    ``H x W`` they get right at about seven pixels of ten; the first classes are the frequent ones."""
    generator = torch.Generator().manual_seed(0)

    def field(cell: int) -> torch.Tensor:
        coarse = torch.randn(1, classes, max(2, size[0] // cell), max(2, size[1] // cell), generator=generator)
        return torch.nn.functional.interpolate(coarse, size=tuple(size), mode="bilinear")[0]

    truth = field(128) + 0.3 * field(32) + torch.linspace(1.5, -1.5, classes)[:, None, None]
    return 0.03 * (truth + 0.45 * field(96) + 0.1 * field(8)), truth.argmax(dim=0)


def statistics_rows(bench: LipschitzBench) -> Iterator[Row]:
    """Costs and pixel accuracy against a forward pass, and the seconds of the bounds on mean IoU."""
    options, device = bench.options, bench.device
    images = bench.image[None].to(device)
    bound = bench.network.certified_bound(tuple(options.size))
    logits, target = (tensor.to(device) for tensor in smooth_scene(options.classes, options.size))
    budgets = budgets_of(bound, options.radii, device)

    def forward() -> Tensor:
        with torch.inference_mode():
            return bench.network(images)

    def pixel_accuracy() -> None:
        classes, costs = flip_costs(logits, bound)
        CollectiveCounts.of(costs, classes == target, torch.ones_like(target, dtype=torch.bool), budgets)

    def mean_iou(radius: float) -> float:
        flippable = FlippableImage.of(logits, target, bound)
        budget = bound.budget(radius)
        return worst_mean_iou(flippable, class_attacks(flippable, budget), budget)

    logits = logits.to(forward().dtype)
    spent = bench.medians({"forward": forward, "statistics": pixel_accuracy})
    ratio = spent["statistics"] / spent["forward"]
    yield (
        f"costs and pixel accuracy at {len(options.radii)} radii, {_size(options.size)} x {options.classes}",
        f"{spent['statistics']:.3f} s",
        f"forward pass of {options.model}",
        f"{spent['forward']:.3f} s",
        f"{ratio:.3f}",
        verdict(ratio, LIPSCHITZ_GOAL),
    )
    for radius in options.radii:
        took = bench.medians({"bound": partial(mean_iou, radius)})["bound"]
        yield (
            f"mean IoU at radius {radius:g} (at least {mean_iou(radius):.3f})",
            f"{took:.2f} s",
            "",
            "",
            "",
            verdict(took, MEAN_IOU_GOAL, " s"),
        )


def baking_rows(bench: LipschitzBench) -> Iterator[Row]:
    """A forward pass of plain convolutions against one that computes their weights first, as in training."""
    trained = copy.deepcopy(bench.network)  # its power iterations go on in eval mode
    parts = (trained.body, trained.head, trained.offset)
    parametrized = nn.Sequential(*parts).eval()
    baked = {
        name: nn.Sequential(*(bake(part, dtype) for part in parts))
        for name, dtype in (("float32", torch.float32), ("float64", torch.float64))
    }
    for batch in bench.options.batches:
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(batch, 3, *bench.options.small, generator=generator).to(bench.device)

        def run(network: nn.Module, dtype: torch.dtype, images: Tensor = images) -> None:
            with torch.inference_mode(), full_precision(images.device, dtype):
                network(images.to(dtype))

        works = {"parametrized": partial(run, parametrized, torch.float32)}
        works |= {name: partial(run, network, getattr(torch, name)) for name, network in baked.items()}
        spent = bench.medians(works)
        for name in baked:
            yield (
                f"baked forward pass, {_size(bench.options.small)}, batch {batch}, {name}",
                f"{spent[name]:.4f} s",
                "parametrized, float32",
                f"{spent['parametrized']:.4f} s",
                f"{spent[name] / spent['parametrized']:.3f}",
                "",
            )


def smoothing_rows(bench: LipschitzBench) -> Iterator[Row]:
    """SegCertify against Lipschitz certification of the same weights and image.

    Of Lipschitz certification what every image costs: the audit is made once for each network and size. Smoothing has
    no use for float64, in which the other computes by default, so both are stated.
    """
    options, device = bench.options, bench.device
    certifier = Lipschitz(radius=0.17, radii=options.radii, worst_case_iou=False)
    image = bench.image if tuple(options.small) == tuple(options.size) else _image(options.small)
    target = torch.randint(0, options.classes, tuple(options.small), generator=torch.Generator().manual_seed(0))
    images, stream = image[None].to(device), NoiseStream(0, "benchmark")

    def forward() -> Tensor:
        with torch.inference_mode():
            return bench.network(images)

    def certify() -> None:
        found = certifier.certify(bench.network, image, stream=stream, hardware=bench.hardware)
        certifier.score(found, target)

    own = str(forward().dtype).removeprefix("torch.")
    works: dict[tuple[str, str, int], Callable[[], object]] = {("forward", own, 1): forward, ("full", own, 1): certify}
    for arithmetic, network in _networks(bench, own).items():
        for n in options.n:
            works |= _smoothing_works(bench, network, SegCertify(sigma=0.25, tau=0.75, n=n), image, (arithmetic, n))
    spent = bench.medians(works)
    for arithmetic, n in [key[1:] for key in works if key[0] == "sampling"]:
        sampling = spent["sampling", arithmetic, n]
        whole = sampling + spent["statistics", arithmetic, n]
        name = f"SegCertify, n={n}, {_size(options.small)}, {arithmetic}"
        for what, ours, other, text in (
            ("sampling", sampling, spent["forward", own, 1], f"forward pass, {own}"),
            ("in full", whole, spent["full", own, 1], f"Lipschitz certificate in full, {own}"),
        ):
            yield f"{name}: {what}", f"{ours:.3f} s", text, f"{other:.4f} s", f"{ours / other:.0f}", ""


def _smoothing_works(
    bench: LipschitzBench, network: Network, certifier: SegCertify, image: Tensor, key: tuple[str, int]
) -> dict[tuple[str, str, int], Callable[[], object]]:
    """Sampling, and the statistics of the samples drawn last."""
    drawn: dict[str, Samples] = {}

    def sample() -> None:
        stream = NoiseStream(0, "benchmark")
        drawn["last"] = certifier.sample(network, image, stream=stream, hardware=bench.hardware)

    return {("sampling", *key): sample, ("statistics", *key): lambda: certifier.from_samples(drawn["last"])}


def _networks(bench: LipschitzBench, own: str) -> dict[str, Network]:
    """The network, and one of the same weights in float32 unless it is one already."""
    if own == "float32":
        return {own: bench.network}
    overrides = [*bench.options.overrides, "model.arithmetic=float32"]
    _, other, _ = prepare(argparse.Namespace(**vars(bench.options) | {"overrides": overrides}))
    other.load_state_dict(bench.network.state_dict())
    return {own: bench.network, "float32": other}


def _image(size: Sequence[int]) -> Tensor:
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(0))


def _size(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def benchmark_lipschitz(options: argparse.Namespace) -> None:
    """Print all comparisons."""
    options.n = [n for n in options.n if n < 1000] if options.quick else options.n
    hardware, network, image = prepare(options)
    if not isinstance(network, LipschitzNetwork):
        raise ConfigError("This benchmark needs a Lipschitz network", received=type(network).__name__)
    bench = LipschitzBench(options, hardware, network, image)
    torch.set_num_threads(1)
    console = Console(highlight=False, width=140)
    console.print(place(bench.device))
    table = Table("what", "", "against", "", "ratio", "goal")
    for rows in (statistics_rows, baking_rows, smoothing_rows):
        for row in rows(bench):
            table.add_row(*row)
    console.print(table)
