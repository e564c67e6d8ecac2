"""What certseg's own classes are called in keys: by names that do not depend on where their files lie.

Whoever moves or renames a class changes its path here, and no key changes with it. A class that is not certseg's own is
called by its import path and what tells its source (:mod:`certseg.pipeline.foreign`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from certseg.pipeline.foreign import distribution, told_with_source

PATHS = {
    "alma_prox": "certseg.attacks.ALMAProx",
    "apgd": "certseg.attacks.APGD",
    "asma": "certseg.attacks.ASMA",
    "dag": "certseg.attacks.DAG",
    "defence": "certseg.attacks.Defence",
    "pdpgd": "certseg.attacks.PDPGD",
    "pgd": "certseg.attacks.PGD",
    "patch_pgd": "certseg.attacks.PatchPGD",
    "sea": "certseg.attacks.SEA",
    "smoothing": "certseg.attacks.Smoothing",
    "square": "certseg.attacks.Square",
    "adaptive_certify": "certseg.certifiers.AdaptiveCertify",
    "demasked_detection": "certseg.certifiers.DemaskedDetection",
    "demasked_recovery": "certseg.certifiers.DemaskedRecovery",
    "derandomized_smoothing": "certseg.certifiers.DerandomizedSmoothing",
    "indiv_class": "certseg.certifiers.IndivClass",
    "joint_class": "certseg.certifiers.JointClass",
    "lipschitz": "certseg.certifiers.Lipschitz",
    "patch_double_masking": "certseg.certifiers.PatchDoubleMasking",
    "segcertify": "certseg.certifiers.SegCertify",
    "hardware": "certseg.compute.hardware.Hardware",
    "ade20k": "certseg.datasets.ADE20K",
    "coco": "certseg.datasets.COCO",
    "coco_stuff10k": "certseg.datasets.COCOStuff10k",
    "camvid": "certseg.datasets.CamVid",
    "cityscapes": "certseg.datasets.Cityscapes",
    "folder": "certseg.datasets.Folder",
    "kvasir_seg": "certseg.datasets.KvasirSEG",
    "oxford_pets": "certseg.datasets.OxfordPets",
    "pascal_context": "certseg.datasets.PascalContext",
    "streets": "certseg.datasets.Streets",
    "voc2012": "certseg.datasets.VOC2012",
    "custom_network": "certseg.models.custom_network",
    "dncnn": "certseg.models.DnCNN",
    "lip_deeplabv3": "certseg.models.LipDeepLabV3",
    "lip_upernet": "certseg.models.LipUPerNet",
    "mmseg_segmenter": "certseg.models.MMSegSegmenter",
    "onnx_network": "certseg.models.onnx_network",
    "smp_network": "certseg.models.smp_network",
    "torchscript_network": "certseg.models.torchscript_network",
    "torchvision_network": "certseg.models.torchvision_network",
    "transformers_network": "certseg.models.transformers_network",
    "black": "certseg.patches.inpainting.Black",
    "learned": "certseg.patches.inpainting.Learned",
    "masked_unet": "certseg.patches.inpainting.MaskedUNet",
    "mean_colour": "certseg.patches.inpainting.MeanColour",
    "navier_stokes": "certseg.patches.inpainting.NavierStokes",
    "telea": "certseg.patches.inpainting.Telea",
    "torchscript": "certseg.patches.inpainting.TorchScript",
    "no_tracking": "certseg.reporting.tracking.NoTracking",
    "wandb_tracking": "certseg.reporting.tracking.WandbTracking",
    "adversarial_objective": "certseg.training.AdversarialObjective",
    "augmentation": "certseg.training.Augmentation",
    "clean_objective": "certseg.training.CleanObjective",
    "consistency_objective": "certseg.training.ConsistencyObjective",
    "denoiser_objective": "certseg.training.DenoiserObjective",
    "inpainter_objective": "certseg.training.InpainterObjective",
    "lipschitz_objective": "certseg.training.LipschitzObjective",
    "masked_objective": "certseg.training.MaskedObjective",
    "noise_objective": "certseg.training.NoiseObjective",
    "recipe": "certseg.training.Recipe",
    "patch": "certseg.types.Patch",
}
"""The import path of each class by its name in keys."""

BUILT_BY = {
    "onnx_network": "onnxruntime",
    "smp_network": "segmentation_models_pytorch",
    "torchvision_network": "torchvision",
    "transformers_network": "transformers",
}
"""The libraries that define what some of them build, and whose versions keys therefore hold."""

_NAMES = {path.rpartition(".")[2]: name for name, path in PATHS.items()}
CLASS = "class"
"""Keys hold the name of a class under this word; configs hold its import path under ``_target_``."""


def logical_name(target: str) -> str:
    """What the class at an import path is called in keys. A class of certseg without a name in :data:`PATHS` is called
    by the last part of its path."""
    own = target.rpartition(".")[2]
    return _NAMES.get(own, own) if is_own(target) else target


def name_in_keys(target: str) -> str:
    """What keys call the class at an import path: its logical name, with the version of the library that defines what
    it builds if there is one; or for one that is not certseg's own its import path and what tells its source apart.

    Raises:
        ConfigError: the source of a class that is not certseg's own cannot be read.
    """
    if not is_own(target):
        return told_with_source(target)
    name = logical_name(target)
    return f"{name}@{distribution(BUILT_BY[name])}" if name in BUILT_BY else name


def is_own(target: str) -> bool:
    """Whether an import path leads into certseg."""
    return target.partition(".")[0] == "certseg"


def foreign_parts(value: Any, place: str = "") -> dict[str, str]:
    """What keys call every class in settings that is not certseg's own, by the place of its ``_target_``.

    Raises:
        ConfigError: the source of such a class cannot be read.
    """
    found: dict[str, str] = {}
    if isinstance(value, Mapping):
        target = value.get("_target_")
        if target is not None and not is_own(str(target)):
            found[place] = told_with_source(str(target))
        for name, part in value.items():
            found |= foreign_parts(part, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            found |= foreign_parts(part, f"{place}[{number}]")
    return found


def is_all_own(value: Any) -> bool:
    """Whether every ``_target_`` in settings leads into certseg."""
    if isinstance(value, Mapping):
        target = value.get("_target_")
        return (target is None or is_own(str(target))) and all(is_all_own(part) for part in value.values())
    return not isinstance(value, list | tuple) or all(is_all_own(part) for part in value)


def import_path(name: str) -> str:
    """The import path of the class that keys call ``name``; a name that is not in :data:`PATHS` is a path itself."""
    return PATHS.get(name, name)


def named(value: Any) -> Any:
    """Settings as keys hold them: with the name of the class in the place of every ``_target_``."""
    if isinstance(value, Mapping):
        return {
            (CLASS if key == "_target_" else key): name_in_keys(str(entry)) if key == "_target_" else named(entry)
            for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [named(entry) for entry in value]
    return value
