"""Whether a network behaves as a guarantee presumes: one answer for one image, whatever else is in its batch.

What a module is called says nothing about that (functional dropout, stochastic depth, random crops, statistics of the
batch), so its behaviour is looked at: one image is shown alone, again, and in batches at several places beside another
one; now and then again, for what happens rarely is not seen at once. A network that passes may still be random where
nobody looked; one that fails is never certified without a word.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from certseg.compute.forward import check_logits
from certseg.compute.hardware import PRECISIONS, Hardware
from certseg.compute.remembered import Remembered
from certseg.errors import ModelError
from certseg.types import Certificate, Certifier, Segmenter

ROUNDING = 1e-3
"""Share of a pixel's margin by which two passes of one image may differ, as kernels for other batches round. The margin
is how far the winning logit lies above the largest other: a class that a huge number masks hides nothing in it."""

RANDOM = "random_network"
"""The flag of a certificate that is about a network with random answers: what is smoothed is then noise and network
together, by independent draws of both."""

VARYING = "answers_vary_with_batch"
"""The flag of a certificate by sampling whose network, on the image that was looked at, gave a pixel another class from
call to call or in another batch, by no more than rounding explains."""

_UNITS = {torch.float32: 1e-5, torch.float64: 1e-5}  # rounding of a logit, as a share of it
_UNIT_TF32 = 2e-3  # of GPUs that multiply with 10 bits
_PASSES = 20  # of certificates, for each further look


@dataclass
class _Known:
    """What was found of one network under one certifier.

    Args:
        certifier: a reference to the certifier.
        state: the network's state when it was looked at.
        flags: what its certificates are flagged with.
        passes: forward passes of certificates since it was last looked at.
    """

    certifier: Callable[[], Certifier | None]
    state: Hashable
    flags: tuple[str, ...]
    passes: int = 0


_seen: Remembered[_Known] = Remembered()


def check_premise(certifier: Certifier, segmenter: Segmenter, image: Tensor, hardware: Hardware) -> tuple[str, ...]:
    """Check that a network is the kind of function that a certifier's guarantee needs: before the first certificate of
    each image shape, and whenever the network's weights, modes or plain attributes have changed.

    A guarantee without error probability needs a fixed function of each image. One by sampling allows for a network
    with random answers if its draws are independent of each other. Those of the images of one batch may be shared in
    part, which only many passes would show, so a random network is sampled one copy per pass.

    Args:
        certifier: gives the guarantee, and the function that is to be fixed (:meth:`certseg.types.Certifier.premise`).
        segmenter: the network, in eval mode on the hardware's device.
        image: ``3 x H x W`` in [0, 1].
        hardware: device, precision and the largest batch.

    Returns:
        Flags for the certificate: :data:`RANDOM` where a smoothed network is random by itself, :data:`VARYING` where
        one decides otherwise by rounding, else none.

    Raises:
        ModelError: the answer changes from call to call and the guarantee needs a fixed one or batches are sampled, or
            the answer depends on the batch.
    """
    known, key = _seen.of(segmenter), (id(certifier), tuple(image.shape), hardware)
    found = known.get(key)
    if found is None or found.certifier() is not certifier or found.state != _state(segmenter):
        flags = _flags(certifier, segmenter, image, hardware)
        found = known[key] = _Known(_reference(certifier), _state(segmenter), flags)
    return found.flags


def check_again(
    certifier: Certifier, segmenter: Segmenter, image: Tensor, hardware: Hardware, certificate: Certificate
) -> None:
    """Look again, after a certificate without error probability, at the image it is about: once for every
    twenty forward passes that certificates have cost, so that what a network does rarely is seen over a data set.

    Args:
        certifier: gave the certificate.
        segmenter: the network.
        image: ``3 x H x W`` in [0, 1].
        hardware: device, precision and the largest batch.
        certificate: tells how many passes it cost.

    Raises:
        ModelError: the answer changes from call to call or with the batch.
    """
    found = _seen.of(segmenter).get((id(certifier), tuple(image.shape), hardware))
    if not certifier.guarantee.is_deterministic or found is None:
        return
    found.passes += certificate.passes.forward
    if found.passes >= _PASSES:
        found.passes = 0
        found.flags = _flags(certifier, segmenter, image, hardware, singles=2, batches=1)


def _reference(certifier: Certifier) -> Callable[[], Certifier | None]:
    """A weak reference, or to a certifier that has none a strong one."""
    try:
        return weakref.ref(certifier)
    except TypeError:
        return lambda: certifier


def _state(segmenter: Segmenter) -> Hashable:
    """What may change in a network that is a torch module: tensors, modes, hooks and plain attributes."""
    if not isinstance(segmenter, torch.nn.Module):
        return None
    return tuple(part for module in segmenter.modules() for part in _parts(module))


def _parts(module: torch.nn.Module) -> Iterator[Hashable]:
    for name, value in vars(module).items():
        if isinstance(value, bool | float | str):  # whole numbers may count calls
            yield name, value
        elif isinstance(value, dict) and name in ("_parameters", "_buffers"):
            yield from ((key, t.data_ptr(), _version(t)) for key, t in value.items() if isinstance(t, Tensor))
        elif isinstance(value, dict) and name.endswith("hooks"):
            yield name, len(value)


def _version(tensor: Tensor) -> int:
    """How often a tensor was written to; tensors made in inference mode do not count."""
    return -1 if tensor.is_inference() else tensor._version


def _flags(
    certifier: Certifier, segmenter: Segmenter, image: Tensor, hardware: Hardware, singles: int = 3, batches: int = 2
) -> tuple[str, ...]:
    shown = image.to(hardware.torch_device, torch.float32)
    function = certifier.premise(segmenter, hardware)
    functions = [function]
    if certifier.guarantee.is_deterministic and function is not segmenter:  # what hides much also hides habits
        functions.append(segmenter)
    precision = torch.float32 if certifier.guarantee.is_deterministic else PRECISIONS[hardware.precision]
    looks = [_Look(one, segmenter.num_classes, shown, hardware.noise_batch, precision) for one in functions]
    with torch.inference_mode():
        alone, together = (max(parts) for parts in zip(*(look.differences(singles, batches) for look in looks)))
        if alone.ratio > 1.0 and not certifier.guarantee.is_deterministic:
            if hardware.noise_batch > 1:
                raise ModelError(
                    "The network is random: whether copies of an image in one batch draw independently of each other, "
                    "as samples must, cannot be seen from its answers",
                    expected="one copy per pass",
                    received=f"hardware.noise_batch={hardware.noise_batch}",
                    remedy="Set hardware.noise_batch=1, or switch off what is random in it",
                )
            return (RANDOM,)
    if alone.ratio > 1.0:
        raise ModelError(
            f"certifier={certifier.name} needs a network that gives one image one answer",
            expected="logits whose margins differ from call to call by rounding alone",
            received=str(alone),
            remedy="Switch off what is random in it (dropout, stochastic depth, crops), let it compute in float32 if "
            "it rounds by itself, or certify it by smoothing, which allows for random networks: certifier=segcertify",
        )
    if together.ratio > 1.0:
        raise ModelError(
            "The network's answer for an image depends on the other images in its batch; no certificate allows that",
            expected="logits whose margins differ from batch to batch by rounding alone",
            received=str(together),
            remedy="Let it normalise by stored statistics (eval mode) and compute in float32, whose rounding is small, "
            "or set hardware.noise_batch=1",
        )
    varies = not certifier.guarantee.is_deterministic and any(look.decided_otherwise for look in looks)
    return (VARYING,) if varies else ()


class _Difference(NamedTuple):
    """The largest difference between margins of one pixel.

    Args:
        ratio: its size, in what rounding explains.
        size: in logits.
    """

    ratio: float
    size: float

    def __str__(self) -> str:
        return f"a difference of {self.size:.2g}, where rounding explains {self.size / self.ratio:.1g}"


class _Look:
    """A function of images that is looked at on one image.

    Args:
        function: ``B x 3 x H x W`` to logits.
        num_classes: K.
        image: ``3 x H x W`` on the function's device.
        most: the largest batch.
        precision: the type that the function computes with, whatever that of its answer is.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], num_classes: int, image: Tensor, most: int, precision: torch.dtype
    ) -> None:
        self._function, self._num_classes, self._image, self._most = function, num_classes, image, most
        self._precision = precision
        self._other = (1.0 - image) / 2.0  # has another mean and other extremes
        self._winner: Tensor | None = None
        self.decided_otherwise = False

    def differences(self, singles: int, batches: int) -> tuple[_Difference, _Difference]:
        """How far the margins of one image lie apart: from call to call, and between alone and beside others.
        :attr:`decided_otherwise` then tells whether some pixel had another class than the first time, or a tie.

        Args:
            singles: calls with the image alone, at least 2.
            batches: calls with others, at most 2.
        """
        logits = self._logits(self._image[None])
        first = self._margins(logits)[0]
        unit = max(_unit(logits.dtype, logits.device), _unit(self._precision, logits.device))
        top = logits.float().abs().gather(1, logits.float().argmax(dim=1, keepdim=True))[0, 0]
        rounding = ROUNDING * torch.maximum(first, first.flatten().float().quantile(0.25)) + unit * top
        rounding = rounding.clamp_min(torch.finfo(torch.float32).tiny)
        apart = [self._margins(self._logits(self._image[None]))[0] for _ in range(singles - 1)]
        beside: list[Tensor] = []
        for places in ((False, True, True, True), (True, True, False))[:batches]:
            batch = places[: max(1, self._most)]
            margins = self._margins(self._logits(torch.stack([self._image if one else self._other for one in batch])))
            beside += [margin for margin, is_image in zip(margins, batch) if is_image]
        self.decided_otherwise = any(bool(((other > 0.0) != (first > 0.0)).any()) for other in [*apart, *beside])

        def largest(others: list[Tensor]) -> _Difference:
            return max((_largest((other - first).abs(), rounding) for other in others), default=_Difference(0.0, 0.0))

        return largest(apart), largest(beside)

    def _margins(self, logits: Tensor) -> Tensor:
        """``B x H x W``, how far the class that won the first time lies above the largest other; below 0 where another
        one wins."""
        values = logits.float()
        if self._winner is None:
            self._winner = values[:1].argmax(dim=1, keepdim=True)
        winner = self._winner.expand(len(values), -1, -1, -1)
        own = values.gather(1, winner)[:, 0]
        if values.shape[1] == 1:
            return own
        margins: Tensor = own - values.scatter(1, winner, -torch.inf).amax(dim=1)
        return margins

    def _logits(self, images: Tensor) -> Tensor:
        logits = self._function(images)
        check_logits(logits, images, self._num_classes)
        return logits


def _largest(difference: Tensor, rounding: Tensor) -> _Difference:
    ratios = (difference / rounding).flatten()
    worst = int(ratios.argmax())
    return _Difference(float(ratios[worst]), float(difference.flatten()[worst]))


def _unit(dtype: torch.dtype, device: torch.device) -> float:
    """By how much, as a share of it, a logit may be rounded that is computed with numbers of this type."""
    if dtype not in _UNITS:
        return 4.0 * torch.finfo(dtype).eps
    has_tf32 = device.type == "cuda" and torch.backends.cudnn.allow_tf32
    return _UNIT_TF32 if has_tf32 else _UNITS[dtype]
