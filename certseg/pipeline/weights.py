"""The network of a run: built, and its weights loaded from a checkpoint, or trained once and found again."""

from __future__ import annotations

import functools
import hashlib
import pydoc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from certseg.checks import is_number
from certseg.compute.hardware import Hardware, rank
from certseg.datasets import Legend, TellsLegend, check_headers
from certseg.errors import CheckpointError, ConfigError
from certseg.metrics import FIGURES
from certseg.models import (
    Denoised,
    Wrapped,
    load_backbone,
    load_checkpoint,
    load_denoised,
    load_denoiser,
    reordered,
)
from certseg.pipeline import earlier_keys
from certseg.pipeline.class_order import class_order, order_of
from certseg.pipeline.console import say
from certseg.pipeline.keys import checkpoint_identity, loaded_digests, start_digests, training_identity
from certseg.pipeline.label_survey import check_training_labels
from certseg.pipeline.places import Identity
from certseg.pipeline.rehearsal import rehearse
from certseg.pipeline.settings import build
from certseg.pipeline.spec import ModelSpec, ObjectiveSpec, RunSpec, TrainingSpec
from certseg.pipeline.trainings import build_dataset, check_same_classes, find_or_train, training_data
from certseg.training import Recipe
from certseg.types import Certifier, SegmentationDataset, Segmenter, segmenter_of, sides_of

_BRINGING = ("weights", "encoder_weights", "pretrained_model")
"""Arguments of networks that name weights of their library."""


@dataclass(frozen=True)
class Network:
    """A segmenter with its weights, built when it is first asked for, so that a run with nothing left to compute does
    not wait for it.

    Args:
        load: gives the segmenter with its weights.
        hardware: the device and memory format that the segmenter is put into.
        origin: what decides the weights. For a trained network their digest is part of it, because the same settings
            may give other weights on another machine.
        label: what directories and tables call the network, for example ``upernet_tiny-noise``.
    """

    load: Callable[[], nn.Module]
    hardware: Hardware
    origin: Identity
    label: str

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides the weights, in plain values; keys and the files beside certified pictures hold it."""
        return self.origin.settings

    @functools.cached_property
    def segmenter(self) -> Segmenter:
        """The network on the hardware's device, in eval mode, without gradients of its weights.

        Raises:
            ModelError: it does not say its number of classes.
        """
        module = self.hardware.place(self.load())
        for part in module.modules():
            if isinstance(part, Wrapped):
                _tell(part.told)
        for parameter in module.parameters():
            parameter.requires_grad_(False)  # attacks differentiate with respect to the image only
        return segmenter_of(module)


def legend_of(spec: RunSpec) -> Legend:
    """Name and classes of the run's data set. Its files are read only if its class cannot tell them without (see
    :class:`certseg.datasets.TellsLegend`)."""
    target = spec.dataset.target
    if isinstance(pydoc.locate(target), TellsLegend):  # None for what does not exist, which build then says
        legend: Legend = build("dataset", replace(spec.dataset, target=f"{target}.legend"))
        return legend
    dataset = build_dataset(spec)
    return Legend(dataset.name, tuple(dataset.class_names), tuple(dataset.palette))


def build_segmenter(model: ModelSpec, num_classes: int) -> nn.Module:
    """The architecture of a model with fresh weights, behind its denoiser if there is one."""
    segmenter: nn.Module = build("model", model, num_classes=num_classes)
    if model.denoiser is None:
        return segmenter
    return Denoised(build("model/denoiser", model.denoiser), segmenter)


def _tell(sentence: str) -> None:
    """Say what was done to read a file."""
    if rank() == 0:
        say(sentence)


def _load(segmenter: nn.Module, model: ModelSpec) -> set[str]:
    """Fill ``segmenter`` from ``model.checkpoint`` and return the parts whose weights the file held."""
    path, trust = str(model.checkpoint), model.trust_checkpoint
    if isinstance(segmenter, Denoised):
        return load_denoised(segmenter, path, trust=trust, tell=_tell)
    load_checkpoint(segmenter, path, trust=trust, tell=_tell)
    return {"segmenter"}


def _load_denoiser(segmenter: nn.Module, model: ModelSpec) -> bool:
    """Fill the denoiser of ``segmenter`` from ``model.denoiser.checkpoint`` and return whether there is such a file."""
    denoiser = model.denoiser
    if denoiser is None or not denoiser.checkpoint or not isinstance(segmenter, Denoised):
        return False
    load_denoiser(segmenter.denoiser, denoiser.checkpoint, trust=denoiser.trust_checkpoint)
    return True


def _loaded(model: ModelSpec, num_classes: int, order: tuple[int, ...] | None) -> nn.Module:
    """The network with all its weights from the files the settings name, its classes in this order of those in the
    file.

    Raises:
        CheckpointError: a file cannot be read or does not fit, or none has the weights of the denoiser.
    """
    segmenter = build_segmenter(model, num_classes)
    filled = _load(segmenter, model)
    has_own_file = _load_denoiser(segmenter, model)
    is_fresh = not has_own_file and "denoiser" not in filled
    if isinstance(segmenter, Denoised) and is_fresh and segmenter.denoiser.state_dict():
        raise CheckpointError(
            f"model.checkpoint={model.checkpoint} holds no weights of the denoiser",
            remedy="Give model.denoiser.checkpoint=..., or train the denoiser: training=denoiser",
        )
    return reordered(segmenter, order)


def load_surrogate(model: ModelSpec, path: str, legend: Legend, hardware: Hardware) -> Segmenter:
    """A network of the run's architecture with the weights in ``attack.surrogate``, ready to be attacked.

    Args:
        model: the architecture.
        path: the file ``attack.surrogate``.
        legend: name and classes of the data set.
        hardware: the device and memory format that the network is put into.

    Raises:
        CheckpointError: the file cannot be read, does not fit, or names other classes than the data set.
        ModelError: the network does not say its number of classes.
    """
    segmenter = build_segmenter(model, len(legend.class_names))
    order = class_order(model, path, legend, trust=False)

    def load() -> nn.Module:
        return reordered(_filled(segmenter, path), order)

    return Network(load, hardware, Identity({}), "surrogate").segmenter


def _filled(segmenter: nn.Module, path: str | Path) -> nn.Module:
    load_checkpoint(segmenter, path)
    return segmenter


def _start(model: ModelSpec, training: TrainingSpec, num_classes: int) -> nn.Module:
    """The network a training starts from: fresh where the settings name no file."""
    segmenter = build_segmenter(model, num_classes)
    if training.starts_from_checkpoint and not model.pretrained:
        _load(segmenter, model)
    if model.backbone_checkpoint:
        load_backbone(segmenter, model.backbone_checkpoint, trust=model.trust_backbone_checkpoint)
    _load_denoiser(segmenter, model)
    return segmenter


def _check_start(model: ModelSpec, training: TrainingSpec | None) -> None:
    """Refuse files that contradict each other, and trainings without the weights they need."""
    if model.checkpoint and model.backbone_checkpoint:
        raise ConfigError(
            "model.checkpoint has a backbone already",
            received=f"model.backbone_checkpoint={model.backbone_checkpoint}",
            remedy="Give one of the two",
        )
    if model.pretrained and model.checkpoint:
        raise ConfigError(
            "model.pretrained=true uses the weights that the network comes with",
            received=f"model.checkpoint={model.checkpoint}",
            remedy="Leave one of the two out",
        )
    if training is None:
        return
    if training.starts_from_checkpoint and not (model.checkpoint or model.pretrained):
        raise ConfigError(
            f"training={training.name} starts from a trained segmenter",
            remedy="Give model.checkpoint=..., for example the model.pt of training=clean, or a network that comes "
            "with its weights: model.pretrained=true",
        )
    if training.freezes_backbone and not (model.checkpoint or model.backbone_checkpoint):
        raise ConfigError(
            "training.freeze_backbone=true would keep the backbone's random weights",
            remedy="Give model.backbone_checkpoint=..., or model.checkpoint=... and training.from_checkpoint=true",
        )


def _figure(name: str, value: float) -> str:
    """A figure of a validation under its full name, in its unit."""
    unit = FIGURES.key(name).figure.unit
    return " ".join(part for part in (name, unit.shown(value), unit.mark) if part)


def _trained(model: ModelSpec, num_classes: int, path: Path) -> nn.Module:
    """The network as a training left it in ``path``."""
    return _filled(build_segmenter(model, num_classes), path)


def _label(model: ModelSpec, origin: str) -> str:
    return "-".join([model.name, *([model.denoiser.name] if model.denoiser else []), origin])


def obtain(
    spec: RunSpec,
    legend: Legend,
    hardware: Hardware,
    folder: Path,
    wandb: Mapping[str, Any] | None = None,
    *,
    certifier: Certifier | None = None,
    evaluated: SegmentationDataset | None = None,
) -> Network:
    """Load or train the network.

    Args:
        spec: the run.
        legend: name and classes of the data set.
        hardware: the device that the network is trained on and put on.
        folder: the folder of the data set's results, in which trainings lie.
        wandb: arguments of ``wandb.init`` for the training's curves; None to track nothing.
        certifier: what the network is for: that it can be certified is found out before it is trained.
        evaluated: the images it is for, whose size and labels are looked at for the same reason; None where that is not
            known.

    Raises:
        ModelError: the network cannot do what it is for.
        DataError: no pixel of the training split has a label, a file of the data set cannot be used, or its splits have
            other classes than each other.
        CheckpointError: a checkpoint that the settings name cannot be read, does not fit, or names other classes than
            the data set.
        ConfigError: there is neither a checkpoint nor a training split, no checkpoint to start from, or one too many.
    """
    hardware.setup(spec.seed)
    model, training, num_classes = spec.model, spec.training, len(legend.class_names)
    _check_start(model, training)
    if spec.is_loaded and training is not None:
        _tell(_not_trained(model, training))
    if spec.is_loaded and model.pretrained:
        return _as_it_comes(spec, legend, hardware)
    if spec.is_loaded:
        order = class_order(model, str(model.checkpoint), legend)
        identity = Identity(checkpoint_identity(spec), _earlier_checkpoint(spec))
        load = functools.partial(_loaded, model, num_classes, order)
        return Network(load, hardware, identity, _label(model, "checkpoint"))
    remedy = "Give model.checkpoint=... or dataset.train_split=..."
    if training is None:
        raise ConfigError("There is no training", remedy="Give model.checkpoint=... or choose one: training=clean")
    if training.starts_from_checkpoint and not model.pretrained:
        class_order(model, str(model.checkpoint), legend, is_start=True)
    _tell_of_noise(training, certifier)
    recipe: Recipe = build("training", training)  # also where it is finished: a setting that is wrong is said
    data = training_data(spec, remedy)
    check_same_classes(data, legend.class_names)
    identity = _training(spec, data.fingerprint())
    label = _label(model, training.name)

    def parts() -> tuple[Recipe, nn.Module]:
        if evaluated is not None:
            check_headers(evaluated)
        check_training_labels(data, evaluated)
        network = _start(model, training, num_classes)
        first = sides_of(data[0].image)
        sizes = [recipe.crop_of(first) or first, *([] if evaluated is None else [sides_of(evaluated[0].image)])]
        rehearse(network, certifier, sizes, hardware, data[0].image.shape[0])
        return recipe, network

    trained = find_or_train(spec, data, folder / label, identity, parts, hardware, wandb)
    report = trained.report
    if rank() == 0:
        cost = f"Trained in {report.seconds:.0f} s, {report.seconds_per_iteration:.2g} s per iteration"
        verb = "Reused training" if report.reused else cost
        figures = ", ".join(_figure(name, value) for name, value in sorted(report.figures.items()))
        say(f"{verb}: {trained.directory}" + (f" (validation: {figures})" if figures else ""))
    load = functools.partial(_trained, model, num_classes, report.checkpoint)
    return Network(load, hardware, _with_weights(identity, report.weights_sha256), label)


def _as_it_comes(spec: RunSpec, legend: Legend, hardware: Hardware) -> Network:
    """The network with the weights it comes with, which are told by their digest: what a library fetches under a name
    may be another thing tomorrow."""
    network, what = build_segmenter(spec.model, len(legend.class_names)), f"{spec.model.name}, as it comes,"
    inner = network.segmenter if isinstance(network, Denoised) else network
    if isinstance(inner, Wrapped):
        _check_weights(spec.model, inner)
    if isinstance(network, Denoised) and not _load_denoiser(network, spec.model) and network.denoiser.state_dict():
        raise ConfigError(
            "The denoiser in front of model.pretrained=true has no weights",
            remedy="Give model.denoiser.checkpoint=..., or train it: training=denoiser",
        )
    order = order_of(spec.model, what, inner.class_names if isinstance(inner, Wrapped) else None, legend)
    identity = Identity({**checkpoint_identity(spec), "weights": _digest(network)})
    ordered = reordered(network, order)
    return Network(lambda: ordered, hardware, identity, _label(spec.model, "pretrained"))


def _check_weights(model: ModelSpec, network: Wrapped) -> None:
    """Raise ConfigError if weights that are said to come with a network are random."""
    if model.pretrained and network.is_fresh:
        raise ConfigError(
            f"model.pretrained=true, but {model.name} comes with random weights",
            expected="weights of the whole network: model.weights=DEFAULT with model=torchvision, "
            "model.pretrained_model=... with model=transformers",
            remedy="Give them, or model.checkpoint=... in the place of model.pretrained=true, or train it",
        )


def _digest(network: nn.Module) -> str:
    """SHA-256 of a network's structure as it prints itself, of what it does to colours, and of its weights with their
    names: a library may read all of them from one folder."""
    digest = hashlib.sha256(repr(network).encode())
    for part in network.modules():
        if isinstance(part, Wrapped):
            digest.update(f"{part.told} {part.mean.tolist()} {part.std.tolist()}".encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _brought(spec: RunSpec) -> dict[str, str]:
    """The digest of weights that a network brings into its training from elsewhere than a file that keys know; empty
    where it brings none."""
    brings = spec.model.pretrained or any(spec.model.arguments.get(name) for name in _BRINGING)
    if not brings:
        return {}
    legend = legend_of(spec)
    segmenter = build("model", spec.model, num_classes=len(legend.class_names))
    if isinstance(segmenter, Wrapped):
        _check_weights(spec.model, segmenter)
        if spec.model.pretrained:
            order_of(spec.model, f"{spec.model.name}, as it comes,", segmenter.class_names, legend, is_start=True)
    return {"start_weights": _digest(segmenter)}


def _tell_of_noise(training: TrainingSpec, certifier: Certifier | None) -> None:
    """Say where a network is trained with other noise than its certificates are sampled with."""
    objective = training.objective.arguments if isinstance(training.objective, ObjectiveSpec) else {}
    learned, sampled = objective.get("sigma"), None if certifier is None else certifier.settings.get("sigma")
    if is_number(learned) and is_number(sampled) and learned != sampled:
        _tell(
            f"The network is trained with noise of sigma {learned:g} and certified with {sampled:g}: it best bears the "
            "noise it was trained with (training.objective.sigma, certifier.sigma)."
        )


def _not_trained(model: ModelSpec, training: TrainingSpec) -> str:
    """That a training is left out, and what would make it happen."""
    if model.pretrained:
        return (
            f"training={training.name} is not run: the weights that {model.name} comes with are used as they are "
            "(model.pretrained=true). With model.pretrained=false it is trained."
        )
    return (
        f"training={training.name} is not run: the weights in model.checkpoint are used as they are. With "
        "training.from_checkpoint=true the training starts from them."
    )


def _training(spec: RunSpec, fingerprint: str) -> Identity:
    """What decides the weights of the run's training, given the fingerprint of the training split."""
    composed = spec.settings_of_earlier
    earlier = earlier_keys.training_identity(composed, fingerprint, start_digests(spec)) if composed else None
    brought = _brought(spec)
    return Identity({**training_identity(spec, fingerprint), **brought}, None if brought else earlier)


def _earlier_checkpoint(spec: RunSpec) -> dict[str, Any] | None:
    composed = None if spec.model.map_classes else spec.settings_of_earlier
    return earlier_keys.checkpoint_identity(composed, loaded_digests(spec)) if composed else None


def _with_weights(identity: Identity, digest: str) -> Identity:
    """The identity of a trained network: the same settings may give other weights on another machine."""
    own = {"weights": digest}
    earlier = None if identity.earlier is None else {**identity.earlier, **own}
    return Identity({**identity.settings, **own}, earlier)
