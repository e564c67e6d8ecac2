"""Whether a network behaves as a guarantee presumes: one answer for one image, whatever else is in its batch.

What a module is called says nothing about that (functional dropout, stochastic depth, random crops, statistics of the
batch), so its behaviour is looked at: one image is shown alone, again, and in batches at several places beside another
one. A network that passes may still be random where nobody looked; one that fails is never certified without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from certseg.compute.forward import check_logits
from certseg.compute.hardware import Hardware
from certseg.errors import ModelError
from certseg.types import Certifier, Segmenter

ROUNDING = 1e-3
"""Share of the largest logit by which two passes of one image may differ, as kernels for other batches round."""

RANDOM = "random_network"
"""The flag of a certificate that is about a network with random answers: what is smoothed is then noise and network
together, by independent draws of both."""

_seen: WeakKeyDictionary[Segmenter, dict[Hashable, tuple[str, ...]]] = WeakKeyDictionary()


def check_premise(certifier: Certifier, segmenter: Segmenter, image: Tensor, hardware: Hardware) -> tuple[str, ...]:
    """Check that a network is the kind of function that a certifier's guarantee needs, once for each image shape.

    A guarantee without error probability needs a fixed function of each image. One by sampling allows for a network
    with random answers, if its draws are independent of each other: the answer for an image must not depend on the
    others in its batch.

    Args:
        certifier: gives the guarantee, and the function that is to be fixed (:meth:`certseg.types.Certifier.premise`).
        segmenter: the network, in eval mode on the hardware's device.
        image: ``3 x H x W`` in [0, 1].
        hardware: device, precision and the largest batch.

    Returns:
        Flags for the certificate: :data:`RANDOM` where a smoothed network is random by itself, else none.

    Raises:
        ModelError: the answer changes from call to call and the guarantee needs a fixed one, or the answer depends on
            the batch.
    """
    known = _seen.setdefault(segmenter, {})
    key = (type(certifier), certifier.predictor, tuple(image.shape), hardware)
    if key not in known:
        known[key] = _flags(certifier, segmenter, image, hardware)
    return known[key]


def _flags(certifier: Certifier, segmenter: Segmenter, image: Tensor, hardware: Hardware) -> tuple[str, ...]:
    shown = image.to(hardware.torch_device, torch.float32)
    function = certifier.premise(segmenter, hardware)
    functions = [function]
    if certifier.guarantee.is_deterministic and function is not segmenter:  # what hides much also hides habits
        functions.append(segmenter)
    with torch.inference_mode():
        found = [_differences(one, segmenter.num_classes, shown, hardware.noise_batch) for one in functions]
    alone, together = (max(differences) for differences in zip(*found, strict=True))
    if alone > ROUNDING and certifier.guarantee.is_deterministic:
        raise ModelError(
            f"certifier={certifier.name} needs a network that gives one image one answer",
            expected=f"logits that differ by at most {ROUNDING:g} of the largest from call to call",
            received=f"a difference of {alone:.2g} of the largest",
            remedy="Switch off what is random in it (dropout, stochastic depth, crops), or certify it by smoothing, "
            "which allows for random networks: certifier=segcertify",
        )
    if alone <= ROUNDING < together:
        raise ModelError(
            "The network's answer for an image depends on the other images in its batch; no certificate allows that",
            expected=f"logits that differ by at most {ROUNDING:g} of the largest",
            received=f"a difference of {together:.2g} of the largest",
            remedy="Let it normalise by stored statistics (eval mode), or set hardware.noise_batch=1",
        )
    return (RANDOM,) if alone > ROUNDING else ()


def _differences(
    function: Callable[[Tensor], Tensor], num_classes: int, image: Tensor, most: int
) -> tuple[float, float]:
    """How far the logits of one image lie apart, as a share of the largest: from call to call, and between alone and
    beside others."""
    other = (1.0 - image) / 2.0  # has another mean and other extremes
    single = [_logits(function, image[None], num_classes) for _ in range(3)]
    alone = [logits[0] for logits in single]
    beside: list[Tensor] = []
    for batch in ([other, image, image, image], [image, image, other]):
        images = torch.stack(batch[: max(1, most)])
        logits = _logits(function, images, num_classes)
        beside += [one for one, shown in zip(logits, batch, strict=False) if shown is image]
    largest = max(float(logits.abs().amax()) for logits in alone) or 1.0
    apart = [float((logits - alone[0]).abs().amax()) / largest for logits in alone[1:]]
    within = [float((logits - alone[0]).abs().amax()) / largest for logits in beside]
    return max(apart), max(within, default=0.0)


def _logits(function: Callable[[Tensor], Tensor], images: Tensor, num_classes: int) -> Tensor:
    logits = function(images)
    check_logits(logits, images, num_classes)
    return logits.float()
