"""What a data set, a certifier, an attack and their company must offer, and what they may.

Certifiers, attacks and stages derive from the classes below. What is optional has a default here, so that a class of
one's own states what it has and nothing else, and nobody looks for attributes. Data sets, inpainters and stores need
only have the members their protocol names. Networks are in :mod:`certseg.types.segmenters`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError
from certseg.types.attempts import Attempt
from certseg.types.guarantees import Guarantee
from certseg.types.images import Sample
from certseg.types.region_tests import RegionTest
from certseg.types.results import AttackResult, Certificate, Maps, MinimumNormResult, Row, Samples, Score
from certseg.types.segmenters import Segmenter
from certseg.types.threats import Sides, Threat
from certseg.types.vanishing import Goal


@runtime_checkable
class Inpainter(Protocol):
    """Fills in the hidden pixels of images from the visible ones; each image on its own, and always alike."""

    @property
    def name(self) -> str:
        """A word for tables."""

    @property
    def settings(self) -> Mapping[str, object]:
        """Everything that decides the result, in plain values."""

    def __call__(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Images ``B x 3 x H x W`` in [0, 1], equal to ``images`` wherever ``hidden`` (``B x H x W`` bool) is False."""


class Distribution(ABC):
    """What a network is smoothed over: noise on its input.

    ``str(distribution)`` names it with everything that decides it, for it becomes part of the smoothed model's name.
    """

    @abstractmethod
    def fill(self, out: Tensor, generator: torch.Generator) -> None:
        """Fill ``out`` (any shape, contiguous float32) with one draw from the distribution."""

    @abstractmethod
    def radius(self, tau: float) -> float:
        """The radius, in the norm of :meth:`threat`, within which a class of probability above ``tau`` keeps a
        probability above 1/2.

        Raises:
            ConfigError: ``tau`` lies outside [0.5, 1).
        """

    @abstractmethod
    def threat(self, radius: float) -> Threat:
        """The threat that a radius of this distribution is about."""


class SegmentationDataset(Protocol):
    """A split of a data set: a sequence of :class:`Sample` with names known without reading the images."""

    name: str
    split: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """Read one sample."""

    def names(self) -> tuple[str, ...]:
        """The names of all samples, in order."""

    def fingerprint(self) -> str:
        """Hex digest that changes when the split's content changes and stays when its folder moves."""


class Sampling(Protocol):
    """The part of a certifier that draws, apart from the part that decides: what it drew can be kept and decided again
    for another tau, alpha or correction."""

    @property
    def samples_identity(self) -> Mapping[str, object]:
        """What decides :meth:`sample`, in plain values."""

    def sample(self, segmenter: Segmenter, image: Tensor, *, stream: NoiseStream, hardware: Hardware) -> Samples:
        """Draw the samples of one image, with the arguments of :meth:`Certifier.certify`."""

    def from_samples(self, samples: Samples) -> Certificate:
        """The certificate that :meth:`Certifier.certify` gives for an image with these samples."""


class Certifier(ABC):
    """Proves for single images which pixels no attacker within a threat can change.

    A certifier of one's own has :attr:`name`, :attr:`guarantee`, :attr:`settings` and :meth:`certify`; everything else
    has a default.
    """

    name: str
    """A word for tables and folders."""

    revision: int = 1
    """Grows when rows change under equal settings; those of earlier revisions are then not used any more."""

    @property
    @abstractmethod
    def guarantee(self) -> Guarantee:
        """What every certificate of this certifier promises."""

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Everything that decides the rows, in plain values: numbers, texts, lists of them. Results with other settings
        are other results."""

    @abstractmethod
    def certify(self, segmenter: Segmenter, image: Tensor, *, stream: NoiseStream, hardware: Hardware) -> Certificate:
        """Certify one image.

        Args:
            segmenter: the network, in eval mode on the hardware's device.
            image: ``3 x H x W`` in [0, 1].
            stream: the random numbers of this image; they depend on the run's seed and the image's name alone.
            hardware: device, precision, and the number of copies of an image per forward pass.

        Returns:
            The certificate, its tensors on the CPU.
        """

    @property
    def threat(self) -> Threat:
        """The attacks that the certificates hold for."""
        return self.guarantee.threat

    @property
    def predictor(self) -> str:
        """The model that the certificates are about."""
        return self.guarantee.predictor

    @property
    def is_sampled(self) -> bool:
        """Whether certificates depend on random numbers. Where they do, the seed, the precision and, where
        :attr:`draws_on_device` says so, the kind of device are part of what a result is."""
        return True

    @property
    def draws_on_device(self) -> bool:
        """Whether the random numbers, if there are any, depend on the kind of device that draws them."""
        return True

    def check_size(self, size: Sides) -> None:  # noqa: B027 - most certifiers take every size
        """Raise :class:`certseg.errors.ConfigError` if no pixel of an image of this height and width could ever be
        certified. By default every size is accepted."""

    def check_model(self, segmenter: Segmenter) -> None:  # noqa: B027 - most certifiers take every network
        """Raise :class:`certseg.errors.ModelError` if no network of this kind can be certified, whatever its weights.
        It is asked before a training, too. By default every network is accepted."""

    def premise(self, segmenter: Segmenter, hardware: Hardware) -> Callable[[Tensor], Tensor]:
        """What the guarantee takes for a function of single images, ``B x 3 x H x W`` to logits ``B x K x H x W``: by
        default the network, at the precision at which it is sampled if it is. Its behaviour is checked before the first
        certificate (:mod:`certseg.certifiers.premise`)."""
        if self.guarantee.is_deterministic:
            return segmenter

        def sampled(images: Tensor) -> Tensor:
            with hardware.autocast():
                return segmenter(images)

        return sampled

    def sampling(self) -> Sampling | None:
        """The part that draws samples, where these can be kept for other decisions; None, the default, where not."""
        return None

    def region_test(self, samples: int) -> RegionTest | None:
        """A test of whole regions by so many samples, with the noise and error rate of this certifier; None, the
        default, where there is none."""
        return None

    def score(self, certificate: Any, target: Tensor) -> Score:
        """What the labels ``H x W`` (int64, 255 for none) add to the row of one of this certifier's certificates."""
        return Score()

    def summarise(self, rows: Sequence[Row], class_names: Sequence[str]) -> dict[str, Any]:
        """What the rows add to a summary: ``figures`` and ``class_iou`` join those of every certifier, anything else
        stands beside them. Nothing by default."""
        return {}

    def views(self, segmenter: Segmenter, image: Tensor, *, hardware: Hardware, name: str) -> Maps:
        """Further maps of an image that is to be looked at, such as masked copies; none by default."""
        return {}


class AnyAttack:
    """What every attack says of itself. Attacks within a budget derive from :class:`Attack`, those that look for the
    smallest perturbation from :class:`SmallestAttack`."""

    norms: tuple[str, ...] = ()
    """The kinds of threat (:attr:`certseg.types.threats.Threat.norm`) it knows."""

    needs_gradient: bool = False
    """Whether it differentiates the network. That the network can be is then found out before the first image."""

    @property
    def predictor(self) -> str:
        """The attacked model, in the words of certificates; ``base``, the default, is the network itself."""
        return "base"

    def clean(self, image: Tensor) -> Tensor:
        """What the attacked model takes for the image ``C x H x W`` in [0, 1], from which perturbations are measured:
        the image itself by default, of a model smoothed on grey levels the image rounded to them."""
        return image

    @property
    def num_votes(self) -> int:
        """Of an attack on a model whose answer is random the number of votes that its results tell it by; 0, the
        default, where the prediction of a result is the answer."""
        return 0

    @property
    def instead(self) -> str:
        """Of an attack that needs a gradient the choice that attacks the same model without, for messages."""
        return "attack=square"

    @property
    def goal(self) -> Goal | None:
        """None for an attack that is after every labelled pixel alike, else what it is after."""
        return None

    def with_surrogate(self, surrogate: Segmenter) -> Self:
        """The same attack that also knows another network for the same classes.

        Raises:
            ConfigError: an attack of this kind has no use for one.
        """
        raise ConfigError(f"{type(self).__name__} takes no attack.surrogate", remedy="Leave it out, or use attack=sea")

    def against(self, defence: Any) -> Self:
        """The same attack on the answer of a certifier in the place of the network's.

        Raises:
            ConfigError: an attack of this kind cannot.
        """
        raise ConfigError(
            f"{type(self).__name__} takes no attack.defence",
            remedy="Leave it out, or use attack=patch_defended or attack=square_defended",
        )


class Attack(AnyAttack, ABC):
    """Looks within a threat for the image on which a model does worst.

    An attack of one's own has :attr:`norms` and :meth:`__call__`.
    """

    side_by_side: bool = False
    """Whether :meth:`together` is quicker than one image after the other."""

    @abstractmethod
    def __call__(
        self,
        segmenter: Segmenter,
        image: Tensor,
        target: Tensor,
        threat: Threat,
        *,
        stream: NoiseStream,
        hardware: Hardware,
        start: Tensor | None = None,
    ) -> AttackResult:
        """Attack one image.

        Args:
            segmenter: the network, differentiable with respect to its input, on the hardware's device.
            image: ``3 x H x W`` in [0, 1].
            target: ``H x W`` int64 labels, 255 ignored.
            threat: what the attack may do, of a kind among :attr:`norms`.
            stream: the random numbers of this image; they depend on the run's seed and the image's name alone.
            hardware: device, and the number of copies of an image per forward pass.
            start: a point within the threat to begin at, the result at a smaller radius; None begins as the attack
                likes.
        """

    def together(
        self,
        segmenter: Segmenter,
        images: Sequence[Tensor],
        targets: Sequence[Tensor],
        threat: Threat,
        *,
        streams: Sequence[NoiseStream],
        hardware: Hardware,
        starts: Sequence[Tensor] | None = None,
    ) -> Sequence[AttackResult]:
        """Attack images of one shape side by side; by default one after the other. Each gets what it would get alone,
        up to the rounding of a batch. Arguments are those of :meth:`__call__`, with one image, target, stream and start
        for each attack."""
        begins: Sequence[Tensor | None] = [None] * len(images) if starts is None else starts
        return [
            self(segmenter, image, target, threat, stream=stream, hardware=hardware, start=begin)
            for image, target, stream, begin in zip(images, targets, streams, begins, strict=True)
        ]

    def check_size(self, size: Sides, threat: Threat) -> None:
        """Raise :class:`certseg.errors.ConfigError` if images of this height and width cannot be attacked within the
        threat. By default every size is accepted."""


class SmallestAttack(AnyAttack, ABC):
    """Looks for the smallest perturbation with which a model no longer does what it should."""

    @abstractmethod
    def __call__(
        self, segmenter: Segmenter, image: Tensor, target: Tensor, *, stream: NoiseStream, hardware: Hardware
    ) -> MinimumNormResult:
        """Attack one image.

        Args:
            segmenter: the network, differentiable with respect to its input, on the hardware's device.
            image: ``3 x H x W`` in [0, 1].
            target: ``H x W`` int64 labels, 255 ignored.
            stream: the random numbers of this image; they depend on the run's seed and the image's name alone.
            hardware: the device that is computed on.
        """


class Stage(ABC):
    """Work done on every image: the clean prediction, a certifier or an attack."""

    kind: str
    """``prediction``, ``certifier`` or ``attack``."""

    name: str
    """A word for tables and folders."""

    @abstractmethod
    def run(self, sample: Sample) -> tuple[Row, Maps]:
        """Work on one image: its row, without the image's name, and the maps to store beside it."""

    @abstractmethod
    def summarise(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Figures over a data set, as a function of the rows alone: at least ``figures``, ``class_iou`` and
        ``settings``."""

    @property
    def at_once(self) -> int:
        """How many images of one shape are worked on side by side."""
        return 1

    def run_together(self, samples: Sequence[Sample]) -> list[tuple[Row, Maps]]:
        """Work on images of one shape side by side; by default one after the other."""
        return [self.run(sample) for sample in samples]

    @property
    def guarantee(self) -> Guarantee | None:
        """What the certificates of this stage promise; None where it certifies nothing."""
        return None

    @property
    def attempt(self) -> Attempt | None:
        """What the attack of this stage is allowed to do; None where there is none."""
        return None


class Store(Protocol):
    """Where rows and maps live; :class:`certseg.reporting.RowStore` on disk."""

    def append(self, row: Row) -> None:
        """Add one row, on disk when this returns."""

    def read(self) -> dict[str, Row]:
        """All finished rows by image."""

    def save_map(self, name: str, **arrays: np.ndarray) -> object:
        """Store the maps of one image."""

    def load_map(self, name: str) -> Maps:
        """The maps of one image."""
