"""mmsegmentation as a library: its shipped configs, built networks (:class:`EncoderDecoder`) and training samples.

Only this module imports mmseg and mmengine inside ``certseg.models``, and only when a function needs them: importing
mmsegmentation takes seconds.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from certseg.errors import ModelError
from certseg.models.inference import label_edges
from certseg.models.mmseg_config import plain, with_classes, without_downloads

_EDGE_WIDTH = 4  # of the boundary labels PIDNet is trained with (arXiv 2206.02066, the shipped configs)


class EncoderDecoder(Protocol):
    """What certseg asks of a network of mmsegmentation, which has no types of its own; a module, once it is built.

    ``backbone`` and ``decode_head`` are of whatever class the config names; a cascade has a list of heads.
    """

    backbone: Any
    decode_head: Any
    align_corners: bool

    def modules(self) -> Iterator[nn.Module]:
        """The network itself and all its parts."""

    def extract_feat(self, inputs: Tensor) -> Any:
        """Features of normalised images ``B x 3 x H x W``, as the decode head takes them."""

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits ``B x K x h x w`` of normalised images, resized as ``batch_img_metas`` say."""

    def loss(self, inputs: Tensor, data_samples: list) -> Mapping[str, Tensor | list[Tensor]]:
        """Named losses of normalised images and their :func:`data_samples`."""


def shipped_configs() -> tuple[str, ...]:
    """Names of the configs shipped with mmsegmentation, without ``.py``, sorted."""
    root = _config_root()
    names = (path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.py"))
    return tuple(sorted(name for name in names if not name.startswith("_base_")))


def _config_root() -> Path:
    spec = importlib.util.find_spec("mmseg")
    if spec is None or spec.origin is None:
        raise ModelError("mmsegmentation is not installed", remedy="Install onedl-mmsegmentation")
    return Path(spec.origin).parent / ".mim" / "configs"


def model_config(config: Mapping | str, overrides: Mapping | None) -> dict:
    """The model config as a plain dict, read by name if need be, with ``overrides`` merged in.

    Raises:
        ModelError: the name is unknown (similar ones are told), or the overrides do not fit the config.
    """
    model = _shipped_model(config) if isinstance(config, str) else plain(config)
    if not overrides:
        return model
    with quiet_import():
        from mmengine.config import Config
    merged = Config({"model": model})
    try:
        merged.merge_from_dict({f"model.{key}": value for key, value in plain(overrides).items()})
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"model.overrides do not fit the model config ({error})", received=plain(overrides)) from error
    return plain(merged.to_dict()["model"])


def _shipped_model(name: str) -> dict:
    name = name.removesuffix(".py")
    names = shipped_configs()
    if name not in names:
        by_stem = [known for known in names if known.rsplit("/", 1)[-1] == name.rsplit("/", 1)[-1]]
        close = by_stem or difflib.get_close_matches(name, names, n=3, cutoff=0.3)
        raise ModelError(
            f"mmsegmentation ships no config {name!r}",
            expected=f"one of its {len(names)} configs, for example {' or '.join(close) or names[0]}",
            remedy="certseg.models.shipped_configs() lists them",
        )
    with quiet_import():
        from mmengine.config import Config

        content = Config.fromfile(_config_root() / f"{name}.py", import_custom_modules=False).to_dict()
    model = plain(content["model"])
    model.setdefault("data_preprocessor", content.get("data_preprocessor"))
    return model


def build(model: dict, num_classes: int) -> EncoderDecoder:
    """Build the network with freshly initialised weights, drawn from torch's generator.

    Raises:
        ModelError: the config does not describe a network that can be built here.
    """
    model = with_classes(without_downloads(model), num_classes)
    models, config_dict, default_scope = _registry()
    # some parts are looked up in mmcv's registry, which finds those of mmsegmentation in this scope only
    with _quiet(), default_scope.overwrite_default_scope("mmseg"):
        try:
            network = models.build(config_dict({"type": "EncoderDecoder", **model}))
        except (AssertionError, AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().split(". ")[0]
            raise ModelError(
                f"mmsegmentation cannot build the model ({type(error).__name__}: {reason})",
                remedy="Check model.config and model.overrides; a type that is not registered may need another package",
            ) from error
        _initialise(network)
    if not (dist.is_initialized() and torch.cuda.is_available()):
        _drop_sync_norm(network)
    return network


class _BatchNorm(nn.BatchNorm2d):
    """Batch normalisation of ``B x C``, ``B x C x N``, ``B x C x H x W``, ...: as many dimensions as SyncBN takes."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected at least 2D input (got {input.ndim}D input)")


def _drop_sync_norm(module: nn.Module) -> None:
    """Replace batch normalisation over processes, which is also some parts' default, by that of one process."""
    for name, child in module.named_children():
        if isinstance(child, nn.SyncBatchNorm):
            norm = _BatchNorm(child.num_features, child.eps, child.momentum)
            norm.affine, norm.track_running_stats = child.affine, child.track_running_stats
            norm.training = child.training
            norm._parameters, norm._buffers = child._parameters, child._buffers
            setattr(module, name, norm)
        else:
            _drop_sync_norm(child)


def _initialise(network: Any) -> None:
    """Draw all weights of a network of mmengine from torch's generator, by the network's own rules."""
    network.init_weights()


def has_plain_resize(network: EncoderDecoder) -> bool:
    """Whether the network's logits are the bilinear enlargement of what its decode head returns, and nothing more."""
    _registry()
    from mmseg.models import EncoderDecoder as PlainEncoderDecoder
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    head = network.decode_head
    return type(network) is PlainEncoderDecoder and all(
        getattr(type(head), name, None) is getattr(BaseDecodeHead, name) for name in ("predict", "predict_by_feat")
    )


@functools.cache
def _registry() -> tuple[Any, Any, Any]:
    """mmsegmentation's registry of models with certseg's in it, and mmengine's ``ConfigDict`` and ``DefaultScope``."""
    with quiet_import():
        import mmseg.models  # noqa: F401 - registers the networks
        from mmengine.config import ConfigDict
        from mmengine.registry import DefaultScope
        from mmseg.registry import MODELS

        from certseg.models.convnext import ConvStemConvNeXt
        from certseg.models.lip_deeplabv3 import LipDeepLabV3
        from certseg.models.lip_upernet import LipUPerNet
    MODELS.register_module(module=ConvStemConvNeXt)
    MODELS.register_module(name=["lip_deeplabv3", "LipDeepLabV3"], module=LipDeepLabV3)
    MODELS.register_module(name=["lip_upernet", "LipUPerNet"], module=LipUPerNet)
    return MODELS, ConfigDict, DefaultScope


def model_registry() -> Any:
    """mmsegmentation's registry of models with certseg's own in it: the backbone ``ConvStemConvNeXt``, and the
    segmenters ``lip_deeplabv3`` and ``lip_upernet``, which ``model_registry().build({"type": "lip_deeplabv3", ...})``
    builds from their arguments. These have the interface of certseg's segmenters, not that of ``BaseSegmentor``: they
    train with certseg's runner, not with mmsegmentation's."""
    return _registry()[0]


def data_samples(labels: Tensor, needs_edges: bool) -> list:
    """mmsegmentation's training samples of ``B x H x W`` labels, with class borders if the head wants them."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    size = tuple(labels.shape[-2:])
    meta = {"img_shape": size, "ori_shape": size, "pad_shape": size}
    samples = [SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=label[None])) for label in labels]
    if needs_edges:
        for sample, edge in zip(samples, label_edges(labels, _EDGE_WIDTH)):
            sample.gt_edge_map = PixelData(data=edge[None])
    return samples


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Hide what the libraries print and warn on import about packages and operators that certseg does not use."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore")
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the libraries tell while building: advice on configs, a line per initialised parameter."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet_import():
            yield
    finally:
        logger.setLevel(level)
