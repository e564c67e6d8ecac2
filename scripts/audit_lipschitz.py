"""Audit the Lipschitz constant of a trained network and write its certificate.

    python scripts/audit_lipschitz.py checkpoint=outputs/<...>/train-<key>/model.pt

rebuilds the network from what the checkpoint says about itself, bakes its weights into plain convolutions, bounds every
layer and prints one row per layer, the constant, and the largest local norm found by power iteration at images of a
data set, which must lie below it. Writes ``certificate.json`` beside the checkpoint.

Further settings: dataset=<choice of configs/dataset> and root=<its folder>, whose images local norms are measured at
(by default drawn street scenes), images=<how many>, size=[height,width] of the images (pooling and resizing depend on
it; by default that of the first image), arithmetic=float64|float32. Exits with status 2 and one line where nothing can
be proven.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from certseg.checks import check_count, checked_size
from certseg.compute.atomic import replacing
from certseg.datasets import evenly_spaced
from certseg.errors import BracketError, CheckpointError, ConfigError, ModelError
from certseg.lipschitz.audit import local_norm
from certseg.lipschitz.layers import PositionBias
from certseg.models import LipschitzNetwork
from certseg.models.checkpoint import fill, read_weights
from certseg.pipeline.console import explain
from certseg.pipeline.names import CLASS, import_path
from certseg.pipeline.settings import build, parse
from certseg.pipeline.spec import ObjectSpec
from certseg.pipeline.trainings import build_dataset
from certseg.types import LipschitzBound

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DEFAULTS = {
    "checkpoint": None,
    "dataset": "streets",
    "root": None,
    "size": None,
    "arithmetic": None,
    "images": 2,
}
_STEPS = 30


def settings_of(arguments: list[str]) -> dict[str, Any]:
    """The command line over :data:`DEFAULTS`.

    Raises:
        ConfigError: a setting is unknown, malformed or missing.
    """
    try:
        given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(arguments))  # a dict, for it comes from such a list
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError("Cannot read the command line", received=str(error).splitlines()[0]) from error
    settings = {**DEFAULTS, **given}
    if unknown := sorted(settings.keys() - DEFAULTS.keys()):
        raise ConfigError("Unknown setting", expected=", ".join(DEFAULTS), received=", ".join(unknown))
    if not settings["checkpoint"]:
        raise ConfigError("There is nothing to audit", remedy="Give checkpoint=<model.pt of a Lipschitz network>")
    checked_size("size", settings["size"], optional=True)
    check_count("images", settings["images"], 0)
    return settings


def network_of(path: str, arithmetic: str | None) -> LipschitzNetwork:
    """The network that a checkpoint of certseg describes, with its weights and in eval mode.

    Raises:
        CheckpointError: the file cannot be read or does not say which network it belongs to.
        ModelError: the network is no Lipschitz network.
    """
    weights = read_weights(path)
    meta = weights.meta or {}
    model = meta.get("identity", {}).get("model")
    if not isinstance(model, Mapping) or not {"_target_", CLASS} & model.keys() or "classes" not in meta:
        raise CheckpointError(
            f"{path} does not say which network it belongs to", expected="a model.pt that certseg trained"
        )
    options = {k: v for k, v in model.items() if k not in (CLASS, "_target_", "denoiser")}
    target = model["_target_"] if "_target_" in model else import_path(model[CLASS])  # of earlier versions, of today
    if arithmetic is not None and "arithmetic" in options:
        options["arithmetic"] = arithmetic
    spec = ObjectSpec(target=target, arguments=options)
    network = build("model", spec, num_classes=len(meta["classes"]))
    if not isinstance(network, LipschitzNetwork) or "denoiser" in model:
        raise ModelError(f"{options.get('name')} is no Lipschitz network", received=target)
    fill(network, weights, path)
    return network.eval()


def translations(network: LipschitzNetwork) -> dict[str, Any]:
    """What is added to the logits: nothing that a certificate depends on, all that they do."""
    bias, offset = network.head.bias, network.offset
    return {
        "bias": None if bias is None else bias.tolist(),
        "offset": offset.map[0].tolist() if isinstance(offset, PositionBias) else None,
    }


def images_of(settings: Mapping[str, Any]) -> tuple[tuple[int, int], list[torch.Tensor]]:
    """The size to audit at, and images ``3 x H x W`` of it to measure local norms at, spread over the data set.

    Raises:
        ConfigError: there is no such data set.
        DataError: the data set cannot be read.
    """
    overrides = [f"dataset={settings['dataset']}"]
    overrides += [] if settings["root"] is None else [f"++dataset.root={json.dumps(str(settings['root']))}"]
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            spec = parse(compose("config", overrides=overrides))
    except HydraException as error:
        raise ConfigError("Unknown data set", received=str(error).splitlines()[0]) from error
    whole = build_dataset(spec)
    chosen = evenly_spaced(whole, max(1, settings["images"]))
    images = [chosen[index].image for index in range(len(chosen))]
    height, width = settings["size"] or images[0].shape[-2:]
    size = height, width
    resized = [
        F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0].clamp(0, 1)
        if image.shape[-2:] != size
        else image
        for image in images
    ]
    return size, resized[: settings["images"]]


def report(
    network: LipschitzNetwork, bound: LipschitzBound, size: tuple[int, int], norms: list[float], console: Console
) -> dict[str, Any]:
    """Print the certificate and return it in JSON values.

    Raises:
        BracketError: a local norm is above the constant.
    """
    certificate = network.certificate(size)
    table = Table("layer", "kind", "constant", "at least", "bound")
    for layer in certificate.layers:
        table.add_row(layer.name, layer.kind, f"{layer.constant:.9g}", f"{layer.lower:.6f}", layer.method)
    console.print(table)
    claimed = "none" if network.constant is None else f"{network.constant:g}"
    console.print(f"constant of the features at {size[0]}x{size[1]}: {bound.constant:.12g} (built for {claimed})")
    if network.constant is not None and bound.constant > network.constant:
        excess = bound.constant / network.constant - 1.0
        console.print(f"that is {excess:.2g} above the constant it is built for; certificates use what was proven")
    console.print(
        f"rounding slack of a logit: {bound.slack:.3g} ({certificate.dtype}{', ' if bound.flags else ''}"
        f"{', '.join(bound.flags)})"
    )
    console.print(f"weights: sha256 {certificate.weights}")
    if norms:
        console.print(f"largest local norm found: {max(norms):.9g}, {max(norms) / bound.constant:.1%} of the constant")
        if max(norms) > bound.constant * (1.0 + 1e-9):
            raise BracketError("A local norm is above the proven constant", received=max(norms))
    return {
        **certificate.plain(),
        "slack": bound.slack,
        "flags": list(bound.flags),
        "claimed": network.constant,
        "padding": "zeros",
        "local_norms": norms,
        "head": None if bound.head is None else bound.head.tolist(),
        **translations(network),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def main(arguments: list[str]) -> int:
    """Audit what ``arguments`` name; the process's exit status."""
    if "--help" in arguments or "-h" in arguments:
        print(__doc__.strip())
        return 0
    try:
        settings = settings_of(arguments)
        network = network_of(settings["checkpoint"], settings["arithmetic"])
        size, images = images_of(settings)
        bound = network.certified_bound(size)
        norms = [local_norm(network.features, image[None], _STEPS) for image in images]
        content = report(network, bound, size, norms, Console())
        path = Path(settings["checkpoint"]).with_name("certificate.json")
        with replacing(path) as file:
            file.write(json.dumps(content, indent=2).encode() + b"\n")
        print(f"written to {path}")
    except Exception as error:
        return explain(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
