"""Compare certseg's attacks with torchattacks' at an equal number of passes through the network.

    uv pip install --no-deps torchattacks==3.5.1      (its pinned requests would replace a newer one)
    python scripts/compare_attacks.py dataset=camvid dataset.root=data/camvid model.checkpoint=model.pt dataset.limit=10
        [compare.passes=183] [attack.radius=4/255]

Of torchattacks those run that take a map of labels: FGSM, PGD, MIFGSM, NIFGSM. Its APGD, Square and others judge an
image by one label. Pixels without label are handed to them as -100, which torch's cross-entropy leaves out. Prints the
share of labelled pixels that stay correct, mean over images, with passes and seconds per image.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from certseg.attacks import APGD, PGD, SEA
from certseg.attacks.geometry import perturbation_norm
from certseg.compute.streams import NoiseStream
from certseg.datasets import evenly_spaced
from certseg.errors import CertsegError, ConfigError
from certseg.pipeline.settings import build, parse
from certseg.pipeline.spec import RunSpec
from certseg.pipeline.trainings import build_dataset
from certseg.pipeline.weights import obtain
from certseg.types import IGNORE_INDEX, Linf, Sample

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
Attack = Callable[[nn.Module, Sample], Tensor]


def third_party(radius: float, passes: int) -> dict[str, Attack]:
    """torchattacks' attacks that can be made to run on label maps, with the step sizes of its documentation.

    Raises:
        ConfigError: torchattacks is not installed.
    """
    try:
        torchattacks = importlib.import_module("torchattacks")
    except ImportError as error:
        raise ConfigError(
            "torchattacks is not installed", remedy="uv pip install --no-deps torchattacks==3.5.1"
        ) from error

    def of(make: Callable[[nn.Module], Any]) -> Attack:
        def attack(segmenter: nn.Module, sample: Sample) -> Tensor:
            labels = torch.where(sample.target == IGNORE_INDEX, -100, sample.target)
            return make(segmenter)(sample.image[None], labels[None])[0].detach()

        return attack

    return {
        "torchattacks FGSM": of(lambda net: torchattacks.FGSM(net, eps=radius)),
        "torchattacks PGD, alpha 2/255": of(lambda net: torchattacks.PGD(net, radius, 2 / 255, passes)),
        "torchattacks PGD, alpha eps/10": of(lambda net: torchattacks.PGD(net, radius, radius / 10, passes)),
        "torchattacks MIFGSM": of(lambda net: torchattacks.MIFGSM(net, radius, 2 / 255, passes)),
        "torchattacks NIFGSM": of(lambda net: torchattacks.NIFGSM(net, radius, 2 / 255, passes)),
    }


def ours(radius: float, passes: int, hardware: Any) -> dict[str, Attack]:
    """certseg's attacks with the same number of forward-backward passes, or a few less.

    Raises:
        ConfigError: ``passes`` are too few to be shared out over SEA.
    """
    iterations = (passes - 11) // 4 - 3  # a member starts once in each of three stages, the reference takes 11
    if iterations < 3:
        raise ConfigError("compare.passes must be at least 35 to share them out over SEA", received=passes)
    attacks = {
        "certseg PGD": PGD(passes - 1),
        "certseg SegPGD": PGD(passes - 1, loss="balanced_cross_entropy"),
        "certseg CosPGD": PGD(passes - 1, loss="cosine_cross_entropy"),
        "certseg APGD": APGD(passes - 1),
        "certseg SEA": SEA(iterations=iterations),
    }

    def of(method: Any) -> Attack:
        def attack(segmenter: nn.Module, sample: Sample) -> Tensor:
            stream = NoiseStream(0, sample.name)
            return method(
                segmenter, sample.image, sample.target, Linf(radius), stream=stream, hardware=hardware
            ).adversarial

        return attack

    return {name: of(method) for name, method in attacks.items()}


class Counted(nn.Module):
    """A network that counts the images it is given."""

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter, self.num_classes, self.passes = segmenter, segmenter.num_classes, 0

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        self.passes += len(images)
        return self.segmenter(images)


def compare(spec: RunSpec, passes: int) -> list[tuple[str, float, float, float]]:
    """Name, accuracy left, passes and seconds per image of every attack.

    Raises:
        CertsegError: data, network or settings do not fit.
    """
    radius = spec.attack.radius
    theirs = third_party(radius, passes)
    hardware = build("hardware", spec.hardware)
    whole = build_dataset(spec)
    images = evenly_spaced(whole, spec.dataset.limit)
    folder = Path(spec.output) / whole.name
    network = Counted(obtain(spec, len(whole.class_names), hardware, folder).segmenter).eval()
    rows, device = [], hardware.torch_device
    for name, attack in (theirs | ours(radius, passes, hardware)).items():
        accuracies, network.passes, started = [], 0, time.perf_counter()
        for index in range(len(images)):
            sample = images[index]
            labelled = sample.target != IGNORE_INDEX
            if not labelled.any():
                continue
            torch.manual_seed(0)
            adversarial = attack(network, sample).cpu()
            norm = perturbation_norm(adversarial, sample.image, Linf(radius))
            if norm > radius + 1e-6:
                raise CertsegError(f"{name} left the ball on {sample.name}", received=norm)
            with torch.inference_mode():
                hits = network.segmenter(adversarial[None].to(device)).argmax(1)[0].cpu() == sample.target
            accuracies.append(float(hits[labelled].double().mean()))
        number = max(1, len(accuracies))
        seconds = (time.perf_counter() - started) / number
        rows.append((name, sum(accuracies) / number, network.passes / number, seconds))
        print(f"{name:32} {100 * rows[-1][1]:6.2f} %  {rows[-1][2]:6.0f} passes  {seconds:7.1f} s", flush=True)
    return rows


def main(arguments: list[str]) -> int:
    """Run the comparison; the exit status."""
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            own = ["+compare.passes=183", "variables=[compare]"]
            spec = parse(compose("config", overrides=["attack=sea", "certifier=none", *own, *arguments]))
        compare(spec, spec.variables["compare"]["passes"])
    except CertsegError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
