"""Segmentation networks of torchvision, segmentation_models_pytorch and transformers, and one's own, built by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from torch import nn

from certseg.compute.atomic import first_line
from certseg.compute.extras import library
from certseg.errors import CheckpointError, ConfigError, ModelError
from certseg.models.any_network.normalisation import Normalisation, stated
from certseg.models.any_network.wrapped import Wrapped


def custom_network(
    *,
    num_classes: int,
    name: str,
    network: Callable[..., nn.Module] | nn.Module,
    classes_argument: str | None = "num_classes",
    **options: Any,
) -> Wrapped:
    """A network of one's own (``model=custom``).

    Args:
        num_classes: number of classes of the data set.
        name: how results and their folders call the network.
        network: what builds it, called with the number of classes alone; or the network itself.
        classes_argument: the name under which it takes the number of classes; None if it takes none.
        options: normalise, outputs, divisor and least of :class:`Wrapped`.

    Raises:
        ConfigError: what is to build it cannot be called so.
        ModelError: it builds no module.
    """
    if isinstance(network, nn.Module) or not callable(network):
        return Wrapped(network, num_classes, name=name, **options)
    arguments = {} if classes_argument is None else {classes_argument: num_classes}
    try:
        inspect.signature(network).bind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"model.network cannot be built with {', '.join(arguments) or 'no argument'}",
            received=error,
            remedy="Set model.classes_argument to what it calls the number of classes, or to null, and its other "
            "arguments under model.network",
        ) from error
    return Wrapped(network(**arguments), num_classes, name=name, **options)


def torchvision_network(
    *,
    num_classes: int,
    name: str,
    architecture: str,
    weights: str | None = None,
    normalise: Normalisation = "auto",
    **options: Any,
) -> Wrapped:
    """A segmentation network of torchvision (``model=torchvision``).

    Args:
        num_classes: number of classes of the data set.
        name: how results and their folders call the network.
        architecture: its name in torchvision, such as ``lraspp_mobilenet_v3_large``.
        weights: the name of weights that torchvision fetches, such as ``DEFAULT``; None for fresh ones.
        normalise: as of :class:`Wrapped`; ``auto`` for what the weights' preset states.
        options: outputs, divisor and least of :class:`Wrapped`.

    Raises:
        ConfigError: there is no such network or no such weights, or they are for another number of classes.
        CheckpointError: the weights cannot be fetched.
    """
    torchvision = library("torchvision", "this model")

    known = torchvision.models.list_models(module=torchvision.models.segmentation)
    if architecture not in known:
        raise ConfigError(
            "model.architecture is no segmentation network of torchvision",
            expected=", ".join(known),
            received=architecture,
        )
    if weights is None:
        network = torchvision.models.get_model(
            architecture, weights=None, weights_backbone=None, num_classes=num_classes
        )
        return _fresh(network, num_classes, stated(normalise, None), name=name, **options)
    offered = torchvision.models.get_model_weights(architecture)
    try:
        chosen = offered[weights]
    except KeyError as error:
        raise ConfigError(
            f"model.weights is none that torchvision has for {architecture}",
            expected=", ".join(["DEFAULT", *(entry.name for entry in offered)]),
            received=weights,
        ) from error
    categories = len(chosen.meta["categories"])
    if categories != num_classes:
        raise ConfigError(
            f"model.weights={weights} of {architecture} are for other classes",
            expected=f"{num_classes} classes, those of the data set",
            received=f"{categories} classes",
            remedy="Leave model.weights out and train the network, or use a data set of these classes",
        )
    network = _fetched(lambda: torchvision.models.get_model(architecture, weights=chosen), f"model.weights={weights}")
    preset = chosen.transforms()
    colours = stated(normalise, (tuple(preset.mean), tuple(preset.std)))
    wrapped = Wrapped(network, num_classes, normalise=colours, name=name, **options)
    wrapped.class_names = tuple(chosen.meta["categories"])
    return wrapped


def smp_network(
    *,
    num_classes: int,
    name: str,
    architecture: str,
    encoder: str,
    encoder_weights: str | None = None,
    settings: Mapping[str, Any] | None = None,
    channels: int = 3,
    normalise: Normalisation = "auto",
    **options: Any,
) -> Wrapped:
    """A network of segmentation_models_pytorch (``model=smp``).

    Args:
        num_classes: number of classes of the data set.
        name: how results and their folders call the network.
        architecture: its name in that library, such as ``unet``.
        encoder: the name of its encoder, such as ``resnet18``.
        encoder_weights: the name of the encoder's weights, which the library fetches, such as ``imagenet``; None for
            fresh ones.
        settings: further arguments of the network; None for none.
        channels: number of the images' channels.
        normalise: as of :class:`Wrapped`; ``auto`` for what the encoder's weights expect.
        options: outputs, divisor and least of :class:`Wrapped`.

    Raises:
        DependencyError: the library is missing.
        ConfigError: there is no such network or encoder.
        CheckpointError: the weights cannot be fetched.
    """
    smp = library("segmentation_models_pytorch", "this model")

    def made() -> nn.Module:
        network: nn.Module = smp.create_model(
            architecture,
            encoder_name=encoder,
            encoder_weights=encoder_weights,
            in_channels=channels,
            classes=num_classes,
            **dict(settings or {}),
        )
        return network

    try:
        network = made() if encoder_weights is None else _fetched(made, f"model.encoder_weights={encoder_weights}")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"segmentation_models_pytorch has no network architecture={architecture}, encoder={encoder}",
            received=first_line(error),
            remedy="See its documentation for the names it has",
        ) from error
    told = (
        None
        if encoder_weights is None or channels != 3
        else smp.encoders.get_preprocessing_params(encoder, encoder_weights)
    )
    return _fresh(network, num_classes, stated(normalise, _smp_colours(told), channels), name=name, **options)


def _smp_colours(told: Mapping[str, Any] | None) -> Normalisation:
    """Mean and standard deviation on the [0, 1] scale that an encoder's weights expect.

    Raises:
        ConfigError: they expect blue, green and red.
    """
    if told is None or told.get("mean") is None:
        return None
    if told.get("input_space", "RGB") != "RGB":
        raise ConfigError(
            "The weights of this encoder expect another order of colours, which model.normalise=auto does not give",
            received=told["input_space"],
            remedy="Choose others, or give model.normalise and a network of your own that turns the order",
        )
    scale = float((told.get("input_range") or (0, 1))[1])
    return tuple(v / scale for v in told["mean"]), tuple(v / scale for v in told["std"])


def transformers_network(
    *,
    num_classes: int,
    name: str,
    architecture: str,
    pretrained_model: str | None = None,
    settings: Mapping[str, Any] | None = None,
    channels: int = 3,
    normalise: Normalisation = "auto",
    **options: Any,
) -> Wrapped:
    """A network for semantic segmentation of transformers (``model=transformers``).

    Args:
        num_classes: number of classes of the data set.
        name: how results and their folders call the network.
        architecture: the name of its class, such as ``SegformerForSemanticSegmentation``.
        pretrained_model: folder or name of a model that transformers loads, which must have as many classes; None for
            fresh weights.
        settings: entries of the network's configuration; None for its defaults.
        channels: number of the images' channels, for a network with fresh weights.
        normalise: as of :class:`Wrapped`; ``auto`` for what the model's image processor states.
        options: outputs, divisor and least of :class:`Wrapped`.

    Raises:
        DependencyError: the library is missing.
        ConfigError: there is no such network, or a setting is none of it.
        CheckpointError: the model cannot be fetched, or has other classes.
    """
    transformers = library("transformers", "this model")
    kind = getattr(transformers, architecture, None)  # a name of that library's, given by the user
    if not isinstance(kind, type) or not architecture.endswith("ForSemanticSegmentation"):
        known = sorted(found for found in dir(transformers) if found.endswith("ForSemanticSegmentation"))
        raise ConfigError(
            "model.architecture is no class of transformers for semantic segmentation",
            expected=", ".join(known),
            received=architecture,
        )
    if pretrained_model is not None:
        network = _fetched(
            lambda: kind.from_pretrained(pretrained_model),  # type: ignore[attr-defined]  # of its base class
            f"model.pretrained_model={pretrained_model}",
        )
        colours = stated(normalise, _processor_colours(transformers, pretrained_model))
        wrapped = Wrapped(network, num_classes, normalise=colours, name=name, **options)
        config: Any = network.config
        wrapped.class_names = _names_in(config.id2label, num_classes)
        return wrapped
    default = kind.config_class()  # type: ignore[attr-defined]  # of its base class
    if unknown := [entry for entry in settings or {} if not hasattr(default, entry)]:
        raise ConfigError(
            f"model.settings holds what the configuration of {architecture} has not",
            expected=", ".join(sorted(default.to_diff_dict() | default.to_dict())),
            received=", ".join(unknown),
        )
    try:
        own = {"num_channels": channels} if channels != 3 else {}
        config = kind.config_class(num_labels=num_classes, **own, **dict(settings or {}))  # type: ignore[attr-defined]  # of its base
        network = kind(config)
    except Exception as error:  # the library checks little, and its networks raise whatever they run into
        raise ConfigError(
            f"The settings do not fit {architecture} of transformers", received=first_line(error)
        ) from error
    return _fresh(network, num_classes, stated(normalise, None, channels), name=name, **options)


def _processor_colours(transformers: ModuleType, model: str) -> Normalisation:
    """Mean and standard deviation that the image processor of a model states; None where there is none."""
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(model)
    except (OSError, ValueError, ImportError):  # of a folder without one
        return None
    told = processor.to_dict()
    if told.get("do_flip_channel_order", False):
        raise ConfigError(
            f"The image processor of {model} gives blue, green and red, which model.normalise=auto does not",
            remedy="Give model.normalise, and a network of your own that turns the order",
        )
    return _on_unit_scale(told)


def _on_unit_scale(told: Mapping[str, Any]) -> Normalisation:
    """What an image processor does to the values of 8-bit pictures, on the [0, 1] scale: it multiplies, by 1 / 255
    where it states no other factor and by 1 where it does not rescale, and then takes mean and standard deviation."""
    factor = float(told.get("rescale_factor") or 1.0 / 255.0) if told.get("do_rescale", True) else 1.0
    scale = 255.0 * factor if abs(255.0 * factor - 1.0) > 1e-6 else 1.0
    if told.get("do_normalize", False) and told.get("image_mean") is not None:
        mean, std = tuple(told["image_mean"]), tuple(told["image_std"])
    elif scale == 1.0:
        return "none"
    else:
        mean, std = (0.0,), (1.0,)
    return tuple(value / scale for value in mean), tuple(value / scale for value in std)


def _names_in(id2label: Mapping[int, str], num_classes: int) -> tuple[str, ...] | None:
    """The names of a model's classes in the order of their ids; None where it has the names a library makes up."""
    names = tuple(str(id2label.get(index, "")) for index in range(num_classes))
    return None if any(name in ("", f"LABEL_{index}") for index, name in enumerate(names)) else names


def _fresh(network: nn.Module, num_classes: int, normalise: Normalisation, **options: Any) -> Wrapped:
    """A network of which some weights at least are random, wrapped."""
    wrapped = Wrapped(network, num_classes, normalise=normalise, **options)
    wrapped.is_fresh = True
    return wrapped


def _fetched(make: Callable[[], nn.Module], setting: str) -> nn.Module:
    """What ``make`` builds with weights from the network.

    Raises:
        CheckpointError: they cannot be had.
    """
    try:
        made = make()
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"The weights of {setting} cannot be fetched",
            received=first_line(error),
            remedy="Where the machine has no connection, leave the setting out and give the file: model.checkpoint=...",
        ) from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"{setting} gives no network", received=type(made).__name__)
    return made
