"""Any network as a segmenter: :class:`Wrapped`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certseg.checks import check_choice, check_count, check_word
from certseg.compute.atomic import first_line
from certseg.errors import ModelError
from certseg.models.any_network.normalisation import Normalisation, mean_and_std
from certseg.models.any_network.outputs import KINDS, logits_of, look_like_probabilities, tensor_in
from certseg.models.inference import resize_logits
from certseg.types import IGNORE_INDEX, CoarseLogits, TrainingOutput
from certseg.types.images import check_images, check_labels

_PROBE = 64  # pixels a side of the image by which the number of classes is found


class Wrapped(nn.Module):
    """A network that maps images in [0, 1] to logits of the same resolution, around one that need not.

    Colours are normalised. Sides that are too short or do not divide are lengthened on the right and at the bottom by
    repeating the last column and row, and the logits are cut back: that is a part of the predictor which is attacked
    and certified. Logits at a lower resolution are enlarged bilinearly.

    Args:
        network: any torch module that takes images ``B x C x h x w`` and answers as :func:`tensor_in` of
            :mod:`certseg.models.any_network.outputs` reads.
        num_classes: the number of classes; None to ask the network by a pass. One channel counts as two classes.
        normalise: what the network expects of colours: ``none``, ``imagenet``, ``half``, or ``[means, standard
            deviations]`` on the [0, 1] scale, one of each for a channel; None for none.
        outputs: what the network answers with, ``logits`` or ``probabilities``; None for logits, if they do not look
            like probabilities, in eval mode on a picture.
        divisor: what the sides of its input must be multiples of.
        least: the shortest side it takes, in pixels.
        name: how results and their folders call the network: letters, digits, ``.``, ``_`` and ``-``.

    Raises:
        ConfigError: an argument is outside its domain.
        ModelError: ``network`` is no module, or the pass that asks for its classes fails.

    The pass of a picture raises :class:`ModelError` where the network answers otherwise than stated.

    >>> wrapped = Wrapped(nn.Conv2d(3, 1, kernel_size=3, stride=2, padding=1))
    >>> wrapped.num_classes, tuple(wrapped(torch.rand(1, 3, 5, 7)).shape)
    (2, (1, 2, 5, 7))
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        num_classes: int | None = None,
        *,
        normalise: Normalisation = None,
        outputs: str | None = None,
        divisor: int = 1,
        least: int = 1,
        name: str = "custom",
    ):
        super().__init__()
        if not isinstance(network, nn.Module):
            raise ModelError(
                "What is to be wrapped is no network", expected="a torch.nn.Module", received=repr(network)
            )
        if outputs is not None:
            check_choice("model.outputs", outputs, KINDS)
        check_count("model.divisor", divisor)
        check_count("model.least", least)
        check_word("model.name", name)
        mean, std = mean_and_std(normalise)
        self.network, self.divisor, self.least, self.name = network, divisor, least, name
        self.outputs, self._may_be_probabilities = outputs or "logits", outputs is None
        self.is_fresh = False
        """Whether all or some weights are random, where the one who built it knows."""
        self.class_names: tuple[str, ...] | None = None
        """The names of the classes, in the order of the logits, where the network's library tells them."""
        self._is_plain = (mean, std) == mean_and_std(None)
        self.channels = len(mean) if len(mean) > 1 else None
        """Number of the images' channels, where the normalisation tells it."""
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self._without_coarse: set[tuple[int, int]] = set()
        check_count("num_classes", num_classes, 2, optional=True)
        self.num_classes = self._found_classes() if num_classes is None else num_classes

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``B x num_classes x H x W`` of images ``B x C x H x W`` in [0, 1].

        Raises:
            ModelError: the images are none, or have other channels than the normalisation, or the network answers with
                no map of scores or with other classes.
        """
        check_images(images, self.channels)
        height, width = images.shape[-2:]
        inputs = self._inputs(images)
        logits = resize_logits(self._logits(inputs), inputs.shape[-2:])
        return logits if inputs.shape[-2:] == (height, width) else logits[..., :height, :width]

    def coarse_logits(self, images: Tensor) -> CoarseLogits | None:
        """The network's logits at its own resolution where those of :meth:`forward` are their enlargement, else
        None."""
        size = (images.shape[-2], images.shape[-1])
        if size in self._without_coarse:
            return None
        if self._padding(size) == (0, 0):
            logits = self._logits(self._inputs(images))
            if logits.shape[-2] < size[0] and logits.shape[-1] < size[1]:
                return CoarseLogits(logits, align_corners=False)
        self._without_coarse.add(size)  # the next time the network is not run in vain
        return None

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The cross-entropy over labelled pixels, 0 without any, by name.

        Args:
            images: ``B x 3 x H x W`` in [0, 1], or noisy ones around it.
            labels: ``B x H x W`` int64 in 0..num_classes - 1, or 255 where there is no label.

        Raises:
            ModelError: images or labels are not as stated.
        """
        return self.loss_and_logits(images, labels).losses

    def loss_and_logits(self, images: Tensor, labels: Tensor) -> TrainingOutput:
        """The cross-entropy over labelled pixels, 0 without any, and the logits it comes from.

        Args:
            images: ``B x 3 x H x W`` in [0, 1], or noisy ones around it.
            labels: ``B x H x W`` int64 in 0..num_classes - 1, or 255 where there is no label.

        Raises:
            ModelError: images or labels are not as stated.
        """
        check_labels(labels, images, self.num_classes)
        logits = self(images)
        summed = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
        loss = summed / (labels != IGNORE_INDEX).sum().clamp_min(1)
        return TrainingOutput({"loss_ce": loss}, logits, labels)

    @property
    def told(self) -> str:
        """How pictures are shown to the network and what its answers are taken for, in a sentence."""
        colours = "as they come, in [0, 1]"
        if not self._is_plain:
            mean, std = (", ".join(f"{v:g}" for v in part.flatten().tolist()) for part in (self.mean, self.std))
            colours = f"less {mean} over {std}"
        return f"{self.name} is shown colours {colours}; its answers are taken for {self.outputs}."

    def _inputs(self, images: Tensor) -> Tensor:
        inputs = images if self._is_plain else (images - self.mean) / self.std
        bottom, right = self._padding((images.shape[-2], images.shape[-1]))
        return F.pad(inputs, (0, right, 0, bottom), mode="replicate") if bottom or right else inputs

    def _logits(self, inputs: Tensor) -> Tensor:
        scores = tensor_in(self.network(inputs), inputs)
        if self._may_be_probabilities and not self.training:
            self._look_at(scores, inputs)
        logits = logits_of(scores, self.outputs)
        if logits.shape[1] != self.num_classes:
            raise ModelError(
                f"{self.name} answers with other classes than it is to tell apart",
                expected=f"{self.num_classes} channels" + (", or a single one" if self.num_classes == 2 else ""),
                received="a single channel" if scores.shape[1] == 1 else f"{scores.shape[1]} channels",
                remedy="Give the network the data set's number of classes, or choose the data set it is for: with "
                "dataset=folder dataset.num_classes says how many",
            )
        return logits

    def _look_at(self, scores: Tensor, inputs: Tensor) -> None:
        """Refuse what looks like probabilities: taken as logits, one channel of them never says the first class, and
        the gradients of several fade."""
        if float(inputs.detach().amax() - inputs.detach().amin()) == 0.0:  # no picture, with which sizes are tried
            return
        self._may_be_probabilities = look_like_probabilities(scores)
        if self._may_be_probabilities:
            raise ModelError(
                f"The answers of {self.name} look like probabilities: all of them lie in [0, 1]"
                + ("" if scores.shape[1] == 1 else ", and those of a pixel add up to 1"),
                remedy="Set outputs=probabilities (model.outputs on the command line), or outputs=logits if they are "
                "logits all the same",
            )

    def _padding(self, size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns to add below and to the right so that the network accepts ``size``."""
        bottom, right = (-(-max(side, self.least) // self.divisor) * self.divisor - side for side in size)
        return bottom, right

    def _found_classes(self) -> int:
        tensors = [*self.network.parameters(), *self.network.buffers()]
        device = tensors[0].device if tensors else torch.device("cpu")
        inputs = self._inputs(torch.full((1, self.channels or 3, _PROBE, _PROBE), 0.5)).to(device)
        modes = [(module, module.training) for module in self.network.modules()]
        self.network.eval()
        try:
            with torch.no_grad():
                scores = tensor_in(self.network(inputs), inputs)
                return max(2, scores.shape[1])
        except ModelError:
            raise
        except Exception as error:  # whatever a network of anybody's raises
            raise ModelError(
                f"{type(self.network).__name__} cannot take an image of {inputs.shape[-2]} x {inputs.shape[-1]} pixels",
                received=first_line(error),
                remedy="Give num_classes, divisor or least if it needs certain sides, and for other channels than "
                "three a normalisation with as many",
            ) from error
        finally:
            for module, mode in modes:
                module.training = mode
