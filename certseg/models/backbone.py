"""The backbone of a segmenter: finding it, freezing it, and filling it with weights from elsewhere.

The weights may be those of an ImageNet classifier or of another segmenter, whatever names they have there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from certseg.errors import CheckpointError, ConfigError
from certseg.models.checkpoint import check_fit, read_weights
from certseg.models.denoiser import inner_segmenter

_SETTING = "model.backbone_checkpoint"
_WRAPPERS = re.compile(r"^(?:(?:module|base_model|model|_orig_mod|segmenter|network)\.)+")
# what a classifier has beyond its backbone; norm<i> is mmpretrain's normalisation of its last stage
_HEAD = re.compile(r"^(?:head|fc|classifier|norm|norm_pre|norm\d|normali[sz]er?|mean|std)(?:\.|$)")
# the names of ConvNeXt's parts, all as timm's classifiers have them
_COMMON_NAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^timm_model\.", ""),
        (r"^(stem|stages)_(\d+)\.", r"\1.\2."),  # timm's feature extractors
        (r"^stem\.stem\.", "stem."),  # the robust classifiers of Singh et al.
        (r"^downsample_layers\.0\.(?:stem\.)?", "stem."),  # from here on the authors' names, and mmpretrain's
        (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
        (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
        (r"\.(?:dwconv|depthwise_conv)\.", ".conv_dw."),
        (r"\.(?:pwconv|pointwise_conv)(\d)\.", r".mlp.fc\1."),
    )
)


def backbone_of(segmenter: nn.Module) -> nn.Module:
    """The backbone of ``segmenter``, of the network behind its denoiser if there is one.

    Raises:
        ConfigError: the network has no part of that name.
    """
    network = inner_segmenter(segmenter)
    backbone = getattr(network, "backbone", None)  # anybody's module may have one; nothing else asks for it
    if not isinstance(backbone, nn.Module):
        raise ConfigError(
            f"{type(network).__name__} has no part that it calls its backbone",
            remedy=f"Leave {_SETTING} and training.freeze_backbone as they are, or choose a model of mmsegmentation",
        )
    return backbone


def freeze_backbone(segmenter: nn.Module) -> list[nn.Module]:
    """Take the gradients from the parameters of the backbone of ``segmenter``.

    Returns:
        its batch normalisations, which the caller keeps in eval mode, so that their statistics stay as they are.

    Raises:
        ConfigError: ``segmenter`` has no backbone.
    """
    backbone = backbone_of(segmenter)
    backbone.requires_grad_(False)
    return [module for module in backbone.modules() if isinstance(module, _BatchNorm)]


def load_backbone(segmenter: nn.Module, path: str | os.PathLike, *, trust: bool = False) -> None:
    """Fill the backbone of ``segmenter``, every tensor of it, and nothing else.

    Args:
        segmenter: a network with a ``backbone``, also behind a denoiser; untouched when an error is raised.
        path: a checkpoint of a classifier or of a segmenter with this backbone: see :func:`backbone_weights`.
        trust: allow the file to run code while it is unpickled. Only for files whose source you trust.

    Raises:
        CheckpointError: the file cannot be read, tensors are missing, left over or of another shape, or its backbone
            saw images normalised in another way.
        ConfigError: ``segmenter`` has no backbone.
    """
    backbone = backbone_of(segmenter)
    wanted = backbone.state_dict()
    stored = read_weights(path, trust=trust, setting=_SETTING).tensors
    _check_normalisation(path, stored, segmenter)
    tensors = backbone_weights(stored, wanted)
    check_fit(
        path,
        tensors,
        wanted,
        part="backbone",
        remedy=f"Give {_SETTING} a classifier with the backbone of the model, its stem included: "
        "model=upernet_convnext_t has a patchify stem, model=upernet_convnext_t_convstem a convolutional one",
    )
    backbone.load_state_dict(tensors, strict=False)  # all but counters of batch normalisation are there


def backbone_weights(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint under the names that a backbone has for them.

    ConvNeXt's are recognised by its authors' names, timm's (classifiers and feature extractors), mmpretrain's, and
    those of the robust classifiers with convolutional stem of Singh et al.; other backbones by their own names. In a
    segmenter what stands below ``backbone.`` counts. Wrappers such as ``module.`` are looked through, classifier heads
    left out, and weights of 1 x 1 convolutions and linear layers are taken for each other.

    Args:
        tensors: the tensors of the checkpoint, by name.
        wanted: the backbone's state dict.

    Returns:
        what was recognised under the names in ``wanted``, and what was not under its own, for the caller to refuse.

    Raises:
        CheckpointError: two tensors would have one name.

    >>> stored = {"module.downsample_layers.0.0.weight": torch.ones(1), "head.fc.bias": torch.zeros(1)}
    >>> backbone_weights(stored, {"stem.0.weight": torch.empty(1)})
    {'stem.0.weight': tensor([1.])}
    """
    found = _renamed(tensors, lambda name: _WRAPPERS.sub("", name))
    if any(name.startswith("backbone.") for name in found):
        inner = {name: tensor for name, tensor in found.items() if name.startswith("backbone.")}
        found = _renamed(inner, lambda name: _WRAPPERS.sub("", name.removeprefix("backbone.")))
    names = {_common_name(name): name for name in wanted}
    weights = {}
    for name, tensor in found.items():
        target = names.get(_common_name(name))
        if target in weights or (target is None and name in weights):
            raise CheckpointError("Two tensors of the checkpoint have one name in the backbone", received=name)
        if target is not None:
            weights[target] = _shaped(tensor, wanted[target])
        elif not _HEAD.match(name):
            weights[name] = tensor
    return weights


def _check_normalisation(path: str | os.PathLike, tensors: Mapping[str, Tensor], segmenter: nn.Module) -> None:
    """Raise CheckpointError if the checkpoint says what its backbone's images were normalised with, and ``segmenter``
    does otherwise."""
    buffers = dict(inner_segmenter(segmenter).named_buffers(recurse=False))
    for kind in ("mean", "std"):
        used = buffers.get(kind)
        if used is None:
            continue
        used = used.detach().flatten().double().cpu()
        for name, tensor in tensors.items():
            if re.fullmatch(rf"(?:.+\.)?normali[sz]er?\.{kind}|{kind}", _WRAPPERS.sub("", name)) is None:
                continue
            values = tensor.detach().flatten().double().cpu()
            values = values / 255 if values.abs().max() > 2 else values  # of images from 0 to 255
            if values.shape != used.shape or not torch.allclose(values, used, atol=2e-3):
                raise CheckpointError(
                    f"The backbone in {path} was trained on images with another {kind}",
                    expected=f"{[round(float(v), 4) for v in used]} as the model has it, on the [0, 1] scale",
                    received=[round(float(v), 4) for v in values],
                    remedy="Give the model the checkpoint's own: model.overrides.data_preprocessor.mean and .std, on "
                    "the scale from 0 to 255",
                )


def _renamed(tensors: Mapping[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    """Tensors under new names.

    Raises:
        CheckpointError: two would have the same.
    """
    renamed = {rename(name): tensor for name, tensor in tensors.items()}
    if len(renamed) < len(tensors):
        names = [rename(name) for name in tensors]
        twice = next(name for name in names if names.count(name) > 1)
        raise CheckpointError("Two tensors of the checkpoint have one name without their wrappers", received=twice)
    return renamed


def _common_name(name: str) -> str:
    for pattern, replacement in _COMMON_NAMES:
        name = pattern.sub(replacement, name)
    return name


def _shaped(tensor: Tensor, wanted: Tensor) -> Tensor:
    """``tensor``, in the shape of ``wanted`` if they differ in being a linear layer and a 1 x 1 convolution."""
    are_pointwise = {tuple(tensor.shape[2:]), tuple(wanted.shape[2:])} == {(), (1, 1)}
    return tensor.reshape(wanted.shape) if are_pointwise and tensor.shape[:2] == wanted.shape[:2] else tensor
