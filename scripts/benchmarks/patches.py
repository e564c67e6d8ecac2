"""Patch certificates: the time of a whole certificate against its forward passes alone, and where it goes."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.measuring import Bench, place, prepare, seconds, verdict
from benchmarks.segcertify import forward_passes
from certseg.certifiers import DemaskedDetection, DemaskedRecovery, PatchCertificate, PatchDoubleMasking
from certseg.compute.streams import NoiseStream
from certseg.patches.inpainting import Black, Learned, MeanColour, Telea
from certseg.types import Inpainter, Patch

PATCH_GOAL = 1.15  # ratio, with an inpainter that fills a batch at once
PARTS = ("inpainting", "network", "statistics")

Certifier = DemaskedRecovery | DemaskedDetection | PatchDoubleMasking
Row = tuple[str, ...]


def certifiers(inpainter: Inpainter | None) -> dict[str, Certifier]:
    """What is measured by its words: the settings of the configurations, and the further masks of recovery."""
    small, large = Patch(share=0.005), Patch(share=0.01)
    return {
        **{
            f"recovery, {masks}": DemaskedRecovery(patch=small, inpainter=inpainter, masks=masks)
            for masks in ("column", "three", "four")
        },
        "detection, column": DemaskedDetection(patch=large, inpainter=inpainter),
        "double masking, block": PatchDoubleMasking(patch=small, inpainter=inpainter),
    }


def inpainters(options: argparse.Namespace) -> dict[str, tuple[Inpainter, bool]]:
    """By name an inpainter, and whether it fills a batch at once."""
    found = {"black": (Black(), True), "mean_colour": (MeanColour(), True), "telea": (Telea(), False)}
    return found | ({} if options.inpainter is None else {"learned": (Learned(options.inpainter), True)})


def rounds(certifier: Certifier, size: tuple[int, int]) -> tuple[int, ...]:
    """Masked copies of each round of a certificate; those of a round share their batches."""
    masks = certifier.masks(size).num_masks
    return (masks, masks * (masks - 1) // 2) if isinstance(certifier, PatchDoubleMasking) else (masks,)


@dataclass
class Timed:
    """A certificate, and how long it and its parts took.

    Args:
        work: certifies once.
        clock: the seconds of one call.
        spent: seconds of each call so far.
        shares: share of each of :data:`PARTS` of the wall-clock seconds, for each call so far.
    """

    work: Callable[[], PatchCertificate]
    clock: Callable[[Callable[[], object]], float]
    spent: list[float] = field(default_factory=list)
    shares: list[dict[str, float]] = field(default_factory=list)

    def __call__(self) -> PatchCertificate:
        """Certify once more."""
        made: list[PatchCertificate] = []
        wall: list[float] = []

        def work() -> None:
            wall.append(seconds(lambda: made.append(self.work()), torch.device("cpu")))

        self.spent.append(self.clock(work))
        self.shares.append({part: made[0].seconds.get(part, 0.0) / wall[0] for part in PARTS})
        return made[0]

    def parts(self) -> str:
        """Median share of each part of the wall-clock seconds."""
        medians = [statistics.median(shares[part] for shares in self.shares[1:]) for part in PARTS]
        return " / ".join(f"{100 * value:.1f}" for value in medians)


class PatchBench(Bench):
    """Certificates against their forward passes."""

    @property
    def own(self) -> Callable[[Tensor], object] | None:
        """What gives all a masked copy needs where that is less than logits at image size: as certification decides."""
        on_cpu = self.device.type == "cpu" and not self.hardware.compile
        return getattr(self.network, "coarse_logits", None) if on_cpu else None

    def alone(self, network: Callable[[Tensor], object], copies: Sequence[int], unmasked: int) -> None:
        """The forward passes of a certificate: of masked copies in rounds, and of the image itself where it needs
        that."""
        image = self.image.to(self.device)
        forward_passes(self.network, image, unmasked, self.hardware)
        for number in copies:
            forward_passes(network, image, number, self.hardware)

    def rows(self) -> Iterator[Row]:
        """One row for each certifier and inpainter; those of a certifier are measured in turns."""
        filled = inpainters(self.options)
        for words in certifiers(None):
            made = {name: certifiers(inpainter)[words] for name, (inpainter, _) in filled.items()}
            yield from self._compared(words, made, {name: batched for name, (_, batched) in filled.items()})

    def _compared(self, words: str, made: dict[str, Certifier], is_batched: dict[str, bool]) -> Iterator[Row]:
        networks: list[Callable[[Tensor], object]] = [self.network] if self.own is None else [self.own, self.network]
        timed = {name: Timed(partial(self._certificate, certifier), self.clock) for name, certifier in made.items()}
        copies = rounds(next(iter(made.values())), (self.image.shape[-2], self.image.shape[-1]))
        certificates = [work() for work in timed.values()]  # warm up
        unmasked = _unmasked(certificates, copies)
        for network in networks:
            self.alone(network, copies, unmasked)  # warm up too
        baselines = []
        for _ in range(self.options.repeats):
            baselines.append([self.clock(partial(self.alone, network, copies, unmasked)) for network in networks])
            for work in timed.values():
                work()
        for name, work in timed.items():
            ratios = [
                statistics.median(spent / alone[i] for spent, alone in zip(work.spent[1:], baselines, strict=True))
                for i in range(len(networks))
            ]
            alone = [statistics.median(part[i] for part in baselines) for i in range(len(networks))]
            full = ("", "") if len(networks) == 1 else (f"{alone[1]:.3f} s", f"{ratios[1]:.3f}")
            yield (
                f"{words}, {sum(copies) + unmasked} passes, {name}",
                f"{statistics.median(work.spent[1:]):.3f} s",
                work.parts(),
                f"{alone[0]:.3f} s",
                f"{ratios[0]:.3f}",
                verdict(ratios[0], PATCH_GOAL) if is_batched[name] else "",
                *full,
            )

    def _certificate(self, certifier: Certifier) -> PatchCertificate:
        stream = NoiseStream(0, "benchmark")
        return certifier.certify(self.network, self.image, stream=stream, hardware=self.hardware)


def _unmasked(certificates: Sequence[PatchCertificate], copies: Sequence[int]) -> int:
    """How many passes of the certificates, 0 or 1, are of the image itself; all others are of masked ``copies``."""
    number = certificates[0].passes.forward - sum(copies)
    for certificate in certificates:
        if number not in (0, 1) or certificate.passes.forward != number + sum(copies) or certificate.flags:
            raise AssertionError(
                f"{certificate.passes.forward} forward passes ({', '.join(certificate.flags)}), not those of "
                f"{sum(copies)} masked copies in batches of hardware.noise_batch: they cannot be timed alone"
            )
    return number


def benchmark_patches(options: argparse.Namespace) -> None:
    """Print all comparisons."""
    options.repeats = 1 if options.quick else options.repeats
    bench = PatchBench(options, *prepare(options))
    torch.set_num_threads(1)
    console = Console(highlight=False, width=160)
    console.print(place(bench.hardware.torch_device))
    height, width = options.size
    table = Table(
        "what",
        "certificate",
        f"% {' / '.join(PARTS)}",
        "passes alone",
        "ratio",
        "goal",
        "at image size",
        "ratio",
        title=f"{height} x {width}, {options.model}, {options.classes} classes, batch {bench.hardware.noise_batch}",
    )
    for row in bench.rows():
        table.add_row(*row)
    console.print(table)
