"""A run as one frozen object: what the composed config says, parsed once, each field saying whether it decides results.

    spec = RunSpec.of(settings)          # plain settings, as certseg.pipeline.settings.parse gives them
    spec.model.name, spec.attack.radius, spec.seed

Every group is a spec of its own: the settings that the pipeline itself reads are fields; all others are ``arguments``
of the class in ``_target_``, which are identity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from certseg.errors import ConfigError
from certseg.metrics import ObjectSettings
from certseg.pipeline.declarations import (
    ANYTHING,
    COUNT,
    DERIVED,
    FLAG,
    FULL_TEXT,
    LEFT_OUT,
    MAPPING,
    STOP_OR_SKIP,
    TEXT,
    TEXT_OR_NULL,
    WORDS,
    LeftOut,
    by_content,
    identity,
    not_identity,
    read,
    spec_kind,
    told,
)
from certseg.pipeline.names import is_all_own


@dataclass(frozen=True, kw_only=True)
class ObjectSpec:
    """A class and what it is built with.

    Args:
        target: import path of the class.
        arguments: keyword arguments of its constructor; objects among them are mappings with their own ``_target_``.
    """

    target: str = identity(TEXT)
    arguments: Mapping[str, Any] = identity(MAPPING, default=dict)


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(ObjectSpec):
    """The data of a run. The images of a split and their content take part in keys by the split's fingerprint.

    Args:
        name: what folders and tables call the data set, where it can be chosen; None for what its class calls it.
        root: the data set's folder.
        split: the split that is attacked and certified.
        lists: a folder with files that list the images of each split.
        values: which values of label files mean which class; None where they are class ids.
        colours: which colours of label files mean which class; None where they have no colours.
        ignore_colours: the colours that mean "no label"; None for none.
        quantise: whether pixels of label files are read as the nearest declared value or colour.
        bands: which channels of image files are read; None for what a screen shows.
        window: which values of image files become 0 and 1; None for 0 and 255.
        objects: whether the evaluated split reads which object each pixel belongs to, which its fingerprint then holds.
        limit: how many images are evaluated, evenly spaced over the split; None for all.
        train_split: the split that networks are trained on; None for none.
        val_split: the split that trainings validate on; None for none.
        on_error: what happens where an image cannot be read: ``stop`` ends the run, before its work where the file's
            header tells; ``skip`` reads every file of a split first and leaves out those that cannot be read.
        hierarchy: groups of the classes, which a certifier's settings may refer to; None for none.
    """

    name: Any = identity(ANYTHING, default=LEFT_OUT, argument=True, off=None)
    root: Any = not_identity(ANYTHING, default=LEFT_OUT, argument=True)
    split: str | None | LeftOut = not_identity(TEXT_OR_NULL, default=LEFT_OUT, argument=True)
    lists: Any = not_identity(ANYTHING, default=LEFT_OUT, argument=True)
    values: Any = identity(ANYTHING, default=LEFT_OUT, argument=True, off=None)
    colours: Any = identity(ANYTHING, default=LEFT_OUT, argument=True, off=None)
    ignore_colours: Any = identity(ANYTHING, default=LEFT_OUT, argument=True, off=None)
    quantise: Any = identity(ANYTHING, default=LEFT_OUT, argument=True, off=False)
    bands: Any = identity(ANYTHING, default=LEFT_OUT, argument=True, off=None)
    window: Any = identity(ANYTHING, default=LEFT_OUT, argument=True, off=None)
    objects: Any = not_identity(ANYTHING, default=LEFT_OUT, argument=True)
    limit: int | None = not_identity(ANYTHING, default=None)
    train_split: str | None = not_identity(TEXT_OR_NULL, default=None)
    val_split: str | None = not_identity(TEXT_OR_NULL, default=None)
    on_error: str = not_identity(STOP_OR_SKIP, default="stop")
    hierarchy: Any = not_identity(ANYTHING, default=None)

    @property
    def reading(self) -> tuple[Any, Any]:
        """The settings ``bands`` and ``window``, None where nobody gave them."""
        bands, window = (None if value is LEFT_OUT else value for value in (self.bands, self.window))
        return bands, window


@dataclass(frozen=True, kw_only=True)
class DenoiserSpec(ObjectSpec):
    """The denoiser in front of a network.

    Args:
        name: what folders and tables call the denoiser.
        checkpoint: file with the denoiser's weights; None for none. Keys hold the digest of its content.
        trust_checkpoint: whether that file may run code of its own when it is read.

    Raises:
        ConfigError: the name is no plain word.
    """

    name: str = identity(ANYTHING, default="denoiser")
    checkpoint: str | None = told(TEXT_OR_NULL, default=None)
    trust_checkpoint: bool = not_identity(FLAG, default=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(self.name)):
            raise ConfigError(
                "model.denoiser.name must be a plain word, for it becomes part of a folder's name",
                expected="letters, digits, '.', '_' and '-', the first a letter or digit",
                received=repr(self.name),
            )


@dataclass(frozen=True, kw_only=True)
class ModelSpec(ObjectSpec):
    """The network of a run.

    Args:
        name: what folders and tables call the network.
        checkpoint: file with the network's weights; None for none. Keys hold the digest of its content.
        trust_checkpoint: whether that file may run code of its own when it is read.
        backbone_checkpoint: file with the weights that the backbone starts a training from; None for none. Keys hold
            the digest of its content.
        trust_backbone_checkpoint: whether that file may run code of its own when it is read.
        file: file with a network and its weights; keys hold the digest of its content.
        pretrained: whether the network has the weights it comes with, so that none are loaded and, but in a training
            that starts from a trained network, none are trained.
        map_classes: whether the classes of the checkpoint, which are those of the data set in another order, are put
            into the data set's order.
        trust_classes: whether the classes of the checkpoint are those of the data set whatever their names are.
        denoiser: the denoiser in front of the network; None for none.
    """

    name: str = identity(TEXT, argument=True)
    checkpoint: str | None = told(TEXT_OR_NULL, default=None)
    trust_checkpoint: bool = not_identity(FLAG, default=False)
    backbone_checkpoint: str | None = told(TEXT_OR_NULL, default=None)
    trust_backbone_checkpoint: bool = not_identity(FLAG, default=False)
    file: str | None | LeftOut = by_content(default=LEFT_OUT, argument=True)
    pretrained: bool = identity(FLAG, default=False, off=False)
    map_classes: bool = identity(FLAG, default=False, off=False)
    trust_classes: bool = not_identity(FLAG, default=False)
    denoiser: DenoiserSpec | None = identity(spec_kind(DenoiserSpec, optional=True), default=None, off=None)


@dataclass(frozen=True, kw_only=True)
class InpainterSpec(ObjectSpec):
    """What fills hidden pixels while a network is trained on masked images.

    Args:
        checkpoint: file with the inpainter's weights. Keys hold the digest of its content.
        path: file with the inpainter's network and weights. Keys hold the digest of its content.
    """

    checkpoint: str | None | LeftOut = by_content(default=LEFT_OUT, argument=True)
    path: str | None | LeftOut = by_content(default=LEFT_OUT, argument=True)


@dataclass(frozen=True, kw_only=True)
class ObjectiveSpec(ObjectSpec):
    """What a step of a training minimises.

    Args:
        inpainter: what fills the hidden pixels in a training on masked images; None in any other.
    """

    inpainter: InpainterSpec | None | LeftOut = identity(
        spec_kind(InpainterSpec, optional=True), default=LEFT_OUT, argument=True
    )


@dataclass(frozen=True, kw_only=True)
class TrainingSpec(ObjectSpec):
    """The recipe of a training.

    Args:
        name: what folders and tables call the training.
        objective: what a step minimises.
        from_checkpoint: whether the training starts from the weights in ``model.checkpoint``. Keys then hold the digest
            of that file's content.
        freeze_backbone: whether the backbone keeps its weights.
        ema: share that a moving average of the weights keeps in a step; None for no average.
        validations: how many times the training validates; 0 for never.
        val_images: how many images it validates on; None for all.
        checkpoint_interval: iterations from one saved state to the next, from which a killed training goes on.
        inpainter: the network of ``training=inpainter``, which is trained in the place of a segmenter; None otherwise.
    """

    name: str = identity(TEXT, argument=True)
    objective: ObjectiveSpec | None | LeftOut = identity(
        spec_kind(ObjectiveSpec, optional=True), default=LEFT_OUT, argument=True
    )
    from_checkpoint: bool | LeftOut = told(FLAG, default=LEFT_OUT, argument=True)
    freeze_backbone: bool | LeftOut = identity(FLAG, default=LEFT_OUT, argument=True, off=False)
    ema: float | None | LeftOut = identity(ANYTHING, default=LEFT_OUT, argument=True, off=None)
    validations: int | LeftOut = not_identity(ANYTHING, default=LEFT_OUT, argument=True)
    val_images: int | None | LeftOut = not_identity(ANYTHING, default=LEFT_OUT, argument=True)
    checkpoint_interval: int | LeftOut = not_identity(ANYTHING, default=LEFT_OUT, argument=True)
    inpainter: ObjectSpec | None = identity(spec_kind(ObjectSpec, optional=True), default=None, off=None)

    @property
    def starts_from_checkpoint(self) -> bool:
        """Whether the training starts from the weights in ``model.checkpoint``."""
        return self.from_checkpoint is True

    @property
    def freezes_backbone(self) -> bool:
        """Whether the backbone keeps its weights."""
        return self.freeze_backbone is True


@dataclass(frozen=True, kw_only=True)
class SmoothingSpec(ObjectSpec):
    """The smoothed model that an attack is on.

    Args:
        grey_levels: number of steps from 0 to 1 to which that model rounds images; None for floating point noise.
    """

    grey_levels: int | None | LeftOut = identity(ANYTHING, default=LEFT_OUT, argument=True, off=None)


@dataclass(frozen=True, kw_only=True)
class AttackSpec(ObjectSpec):
    """An attack and its budget. Norm, radius and patch become a threat, and keys hold that threat.

    Args:
        name: what folders and tables call the attack; by default the class's name in small letters.
        norm: kind of the threat, such as ``l2``; empty for the first that the attack knows.
        radius: the largest norm of a perturbation, or a list of them; None for that of the certifier's threat.
        surrogate: file with the weights of another network that the attack also uses; None for none. Keys hold the
            digest of its content.
        patch: size and number of the patches that an attack paints; empty for those of the certifier's threat.
        smoothing: the smoothed model that is attacked; None for the network itself.
        defence: how a patch attack differentiates through the certifier, which is built with that certifier; None for
            an attack on the network's own answer.
    """

    name: str = not_identity(TEXT, default="")
    norm: str = told(TEXT, default="")
    radius: Any = told(ANYTHING, default=None)
    surrogate: str | None = by_content()
    patch: Mapping[str, Any] = told(MAPPING, default=dict)
    smoothing: SmoothingSpec | None | LeftOut = identity(
        spec_kind(SmoothingSpec, optional=True), default=LEFT_OUT, argument=True
    )
    defence: ObjectSpec | None = identity(spec_kind(ObjectSpec, optional=True), default=None, off=None)

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.target.rpartition(".")[2].lower())


@dataclass(frozen=True, kw_only=True)
class CertifierSpec(ObjectSpec):
    """A certifier. Once it is built, its name, predictor and ``settings`` say what decides its certificates."""

    target: str = told(TEXT)
    arguments: Mapping[str, Any] = told(MAPPING, default=dict)


@dataclass(frozen=True, kw_only=True)
class HardwareSpec(ObjectSpec):
    """Where and how tensors are computed.

    Args:
        device: the device that computes. Its kind decides which random numbers are drawn, and keys hold that kind.
        precision: the precision of the passes that sample a smoothed model, which is part of what is certified.
    """

    target: str = not_identity(TEXT)
    device: str | LeftOut = told(ANYTHING, default=LEFT_OUT, argument=True)
    precision: str | LeftOut = told(ANYTHING, default=LEFT_OUT, argument=True)
    arguments: Mapping[str, Any] = not_identity(MAPPING, default=dict)


@dataclass(frozen=True, kw_only=True)
class TrackingSpec(ObjectSpec):
    """Where results are sent besides the disk."""

    target: str = not_identity(TEXT)
    arguments: Mapping[str, Any] = not_identity(MAPPING, default=dict)


@dataclass(frozen=True, kw_only=True)
class MetricsSpec:
    """Which figures are computed besides the usual ones.

    Args:
        focus: names of classes that get figures of their own: recall, Dice, and images that miss them.
        objects: names of classes whose labelled objects get figures of their own. Whether there are any is part of the
            keys of rows, which then tell of all objects.
        objects_share: the share of its pixels with which an object is kept. Keys of certificates hold it where there
            are objects.
        objects_sizes: sides in pixels of the squares that part small, medium and large objects of COCO's images.
        objects_minimum: objects of fewer pixels are counted apart.
        objects_samples: noisy copies by which objects are tested as wholes; 0 for no such test. Keys of certificates
            hold it, with the classes and the minimum, where there is one.

    Raises:
        ConfigError: a setting is outside its domain.
    """

    focus: Sequence[str] = not_identity(WORDS, default=())
    objects: Sequence[str] = told(WORDS, default=())
    objects_share: float = told(default=ObjectSettings.share)
    objects_sizes: Sequence[int] = not_identity(default=ObjectSettings.sizes)
    objects_minimum: int = told(default=ObjectSettings.minimum)
    objects_samples: int = told(default=ObjectSettings.samples)

    def __post_init__(self) -> None:
        self.of_objects  # noqa: B018 - it checks the settings

    @property
    def of_objects(self) -> ObjectSettings:
        """What figures of objects are about."""
        return ObjectSettings(
            tuple(self.objects), self.objects_share, self.objects_sizes, self.objects_minimum, self.objects_samples
        )


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run.

    Args:
        dataset: the images and labels that the network is trained on, attacked on and certified on.
        model: the network.
        training: how the network comes by its weights where no checkpoint gives them; None for no training.
        attack: the attack on the network; None for none.
        certifier: the certifier of the network; None for none.
        hardware: where and how tensors are computed.
        tracking: where results are sent besides the disk.
        metrics: which figures are computed besides the usual ones.
        seed: the seed of training, noise and attacks.
        output: folder below which results are kept and found again.
        input: a picture or a folder of pictures to certify in the place of the data set; None for the data set.
        pictures: how many images the report shows.
        expected: what a paper found, as text for the report; None for nothing.
        variables: settings that an experiment adds at the top level for others to refer to, by name.
        composed: the plain settings that the run was parsed from, for records and for the keys of earlier versions.
    """

    dataset: DatasetSpec = identity(spec_kind(DatasetSpec))
    model: ModelSpec = identity(spec_kind(ModelSpec))
    training: TrainingSpec | None = identity(spec_kind(TrainingSpec, optional=True))
    attack: AttackSpec | None = identity(spec_kind(AttackSpec, optional=True))
    certifier: CertifierSpec | None = told(spec_kind(CertifierSpec, optional=True))
    hardware: HardwareSpec = told(spec_kind(HardwareSpec))
    tracking: TrackingSpec = not_identity(spec_kind(TrackingSpec))
    metrics: MetricsSpec = told(spec_kind(MetricsSpec), default=MetricsSpec())
    seed: int = identity(COUNT)
    output: str = not_identity(FULL_TEXT)
    input: str | None = not_identity(TEXT_OR_NULL, default=None)
    pictures: int = not_identity(COUNT, default=0)
    expected: str | None = not_identity(TEXT_OR_NULL, default=None)
    variables: Mapping[str, Any] = not_identity(MAPPING, default=dict)
    composed: Mapping[str, Any] = not_identity(DERIVED, default=dict)

    def __post_init__(self) -> None:
        for name in ("focus", "objects"):
            if self.input is not None and (chosen := getattr(self.metrics, name)):
                raise ConfigError(
                    f"metrics.{name} has no meaning for pictures without labels",
                    received=f"input={self.input} metrics.{name}=[{', '.join(chosen)}]",
                    remedy="Leave one of the two out",
                )

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> RunSpec:
        """The run that plain settings describe.

        Args:
            settings: those of ``configs/config.yaml``, every reference in them resolved. Settings that are not known
                there are allowed where ``variables`` lists their names.

        Raises:
            ConfigError: a setting is missing, unknown or of another kind than it must be.
        """
        own = WORDS.read(settings.get("variables", []), "variables")
        if missing := [name for name in own if name not in settings]:
            raise ConfigError("variables lists what is not set", received=", ".join(missing), remedy="Set it")
        known = {name: value for name, value in settings.items() if name not in own}
        run: RunSpec = read(cls, {**known, "variables": {name: settings[name] for name in own}})
        return replace(run, composed=dict(settings))

    @property
    def settings_of_earlier(self) -> Mapping[str, Any] | None:
        """The plain settings, for the keys of earlier versions; None where a field was changed since they were parsed,
        for they would then tell of another run, and where a class is not certseg's own, for those keys tell
        neither its source nor its version."""
        if not self.composed or not is_all_own(self.composed):
            return None
        return self.composed if RunSpec.of(self.composed) == self else None

    @property
    def is_loaded(self) -> bool:
        """Whether the network has its weights from ``model.checkpoint`` or comes with them, without a training."""
        starts = self.training is not None and self.training.starts_from_checkpoint
        return (bool(self.model.checkpoint) or self.model.pretrained) and not starts
