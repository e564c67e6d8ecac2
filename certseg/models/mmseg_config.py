"""Turning any mmsegmentation model config into one that certseg can build: pure functions on plain dictionaries.

Nothing is downloaded, so every reference to pretrained weights goes; the heads get the data set's number of classes;
unlabelled pixels do not dilute losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from certseg.errors import ModelError

_HEADS = ("decode_head", "auxiliary_head")


class Normalisation(NamedTuple):
    """What a network expects its input to look like: statistics on the 0..255 scale, in the network's channel order."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    rgb: bool


def plain(value: Any) -> Any:
    """Copy nested mappings and sequences into plain dicts, lists and tuples.

    >>> from types import MappingProxyType
    >>> plain(MappingProxyType({"head": (MappingProxyType({1: 2}),)}))
    {'head': ({'1': 2},)}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value) if type(value) in (list, tuple) else [plain(v) for v in value]
    return value


def without_downloads(value: Any) -> Any:
    """A copy in which no entry makes the network fetch weights; other initialisation settings stay.

    >>> without_downloads({"type": "ResNet", "depth": 18, "pretrained": "open-mmlab://resnet18"})
    {'type': 'ResNet', 'depth': 18}
    """
    if isinstance(value, dict):
        kept = {key: without_downloads(item) for key, item in value.items() if key != "pretrained"}
        if "init_cfg" in kept and (init := _without_pretrained(kept.pop("init_cfg"))):
            kept["init_cfg"] = init
        if kept.get("type") == "TIMMBackbone":
            kept.pop("checkpoint_path", None)
            kept["pretrained"] = False  # its default is True
        return kept
    if isinstance(value, (list, tuple)):
        return type(value)(without_downloads(item) for item in value)
    return value


def _without_pretrained(init: Any) -> Any:
    if isinstance(init, (list, tuple)):
        return [item for item in init if item.get("type") != "Pretrained"]
    return None if not init or init.get("type") == "Pretrained" else init


def with_classes(model: dict, num_classes: int) -> dict:
    """A copy whose decode and auxiliary heads predict ``num_classes`` classes and ignore void pixels in their losses.

    ``class_weight`` entries of losses are dropped if their length does not fit.

    Raises:
        ModelError: no head has a ``num_classes`` entry.
    """
    model = dict(model)
    for key in _HEADS:
        if model.get(key) is not None:
            model[key] = _head_with_classes(model[key], num_classes)
    if "decode_head" not in model or not _mentions(model["decode_head"], "num_classes"):
        raise ModelError(
            "The model config has no decode head with num_classes",
            expected="an mmsegmentation EncoderDecoder config",
            received=f"entries {', '.join(sorted(model))}",
        )
    return model


def _head_with_classes(head: Any, num_classes: int) -> Any:
    if isinstance(head, (list, tuple)):
        return [_head_with_classes(item, num_classes) for item in head]
    # binary heads of mmsegmentation may have one output and a threshold; here each class has its logit
    head = {key: value for key, value in head.items() if key not in ("out_channels", "threshold")}
    return _nested_with_classes(head, num_classes)


def _nested_with_classes(value: Any, num_classes: int) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_nested_with_classes(item, num_classes) for item in value)
    if not isinstance(value, dict):
        return value
    value = {key: _nested_with_classes(item, num_classes) for key, item in value.items()}
    if "num_classes" in value:
        value["num_classes"] = num_classes
    weight = value.get("class_weight")
    if weight is not None and (isinstance(weight, str) or len(weight) != num_classes):
        del value["class_weight"]
    if value.get("type") == "CrossEntropyLoss":
        value["avg_non_ignore"] = True
    return value


def _mentions(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_mentions(item, key) for item in value.values())
    return isinstance(value, (list, tuple)) and any(_mentions(item, key) for item in value)


def normalisation(preprocessor: Any) -> Normalisation:
    """Read the input statistics of an mmsegmentation ``data_preprocessor`` entry.

    mmsegmentation reads images as BGR; ``bgr_to_rgb`` or ``rgb_to_bgr`` swap channels before ``mean`` and ``std`` act.

    Raises:
        ModelError: the entry is missing, or describes something else than three-channel images.
    """
    if not isinstance(preprocessor, Mapping):
        raise ModelError(
            "The model config has no data_preprocessor",
            expected="data_preprocessor with mean, std (on the 0..255 scale) and bgr_to_rgb",
            received=preprocessor,
        )
    mean = preprocessor.get("mean") or (0.0, 0.0, 0.0)
    std = preprocessor.get("std") or (1.0, 1.0, 1.0)
    mean, std = tuple(float(v) for v in mean), tuple(float(v) for v in std)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ModelError(
            "The model is not for RGB images",
            expected="three means and three positive standard deviations in data_preprocessor",
            received=f"mean {mean}, std {std}",
        )
    rgb = bool(preprocessor.get("bgr_to_rgb")) or bool(preprocessor.get("rgb_to_bgr"))
    return Normalisation(mean, std, rgb)
