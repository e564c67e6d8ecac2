"""certseg: how much of a segmentation survives an attacker, proven from below and attacked from above.

>>> import certseg, torch
>>> from certseg.certifiers import SegCertify
>>> model = torch.nn.Conv2d(3, 2, 1)
>>> model.num_classes = 2
>>> certificate = certseg.certify(model, torch.rand(3, 8, 8), SegCertify(sigma=0.25))
>>> certificate.certified.shape, round(certificate.threat.radius, 3)
(torch.Size([8, 8]), 0.169)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from torch import Tensor, nn

    from certseg.compute.hardware import Hardware
    from certseg.models.any_network import Wrapped
    from certseg.types import Attack, AttackResult, Certificate, Certifier, Segmenter, Threat

__version__ = "0.1.0"
__all__ = ["__version__", "attack", "certify", "wrap"]


def certify(
    model: Segmenter,
    image: Tensor,
    certifier: Certifier,
    *,
    name: str = "image",
    seed: int = 0,
    hardware: Hardware | None = None,
) -> Certificate:
    """Certify one image without any configuration.

    Args:
        model: the network, with ``num_classes``, that maps ``B x 3 x H x W`` images in [0, 1] to logits at the same
            resolution; a torch module is put on the hardware's device, and in eval mode
            until this returns.
        image: ``3 x H x W`` in [0, 1].
        certifier: what certifies, for example ``certseg.certifiers.SegCertify(sigma=0.25)``; its docstring states the
            claim.
        name: a name for the image; with ``seed`` it determines the noise.
        seed: the seed of the noise, a non-negative integer.
        hardware: device, precision and batch size; None takes the GPU if there is one, and the CPU else.

    Raises:
        ModelError: the model gives one image several answers where the certificate needs one, or its answer depends on
            the other images of a batch.
        CertsegError: the image, the model's output or the certifier's settings are not as they must be.
    """
    from certseg.certifiers.checked import certify_checked
    from certseg.compute.hardware import Hardware
    from certseg.compute.streams import NoiseStream
    from certseg.types import check_image

    hardware = hardware or Hardware()
    check_image(image, name)
    stream = NoiseStream(seed, name)
    with _placed(model, hardware) as segmenter:
        return certify_checked(certifier, segmenter, image, stream=stream, hardware=hardware)


def attack(
    model: Segmenter,
    image: Tensor,
    target: Tensor,
    threat: Threat,
    method: Attack,
    *,
    name: str = "image",
    seed: int = 0,
    hardware: Hardware | None = None,
) -> AttackResult:
    """Attack one image without any configuration.

    Args:
        model: the network, with ``num_classes``, that maps ``B x 3 x H x W`` images in [0, 1] to logits at the same
            resolution and is differentiable; a torch module is put on the hardware's device, and in eval mode
            until this returns.
        image: ``3 x H x W`` in [0, 1]; perturbations of a model smoothed on grey levels are measured from the image
            rounded to them.
        target: ``H x W`` int64 labels, 255 ignored.
        threat: what the attack may do, for example ``certseg.types.L2(0.5)``.
        method: the attack, for example ``certseg.attacks.PGD(steps=40)``.
        name: a name for the image; with ``seed`` it determines all random numbers.
        seed: the seed of the attack, a non-negative integer.
        hardware: device, precision and batch size; None takes the GPU if there is one, and the CPU else.

    Raises:
        ConfigError: the attack left its threat, or says that the model answers what it does not.
        CertsegError: the image, its labels, the model's output or the threat are not as they must be.
    """
    from certseg.compute.hardware import Hardware
    from certseg.compute.streams import NoiseStream
    from certseg.evaluation.budget import check_budget, check_prediction
    from certseg.types import check_image, check_target

    hardware = hardware or Hardware()
    check_image(image, name)
    stream = NoiseStream(seed, name)
    with _placed(model, hardware) as segmenter:
        check_target(target, image.shape[-2:], segmenter.num_classes)
        image = method.clean(image)
        result = method(segmenter, image.clone(), target.clone(), threat, stream=stream, hardware=hardware)
        check_budget(result, image, method.predictor, threat, name)
        check_prediction(result, segmenter, name, hardware)
    return result


def wrap(model: nn.Module, num_classes: int | None = None, **options: Any) -> Wrapped:
    """A segmenter around any network: images in [0, 1] in, logits of the same resolution out.

    Args:
        model: any torch module that takes ``B x 3 x h x w``; its answer may be a tensor, a mapping with ``out`` or
            ``logits``, an object with ``logits``, or a tuple that begins with the tensor, at any resolution. One
            channel becomes two classes.
        num_classes: the number of classes; None to ask the network by a pass.
        options: ``normalise`` (``none``, ``imagenet``, ``half`` or ``[means, standard deviations]``), ``outputs``
            (``logits`` or ``probabilities``), ``divisor`` and ``least`` of its input's sides, ``name``; see
            :class:`certseg.models.Wrapped`.

    Raises:
        ConfigError: an option is outside its domain.
        ModelError: ``model`` is no module, or the pass that asks for its classes fails.
    """
    from certseg.models.any_network import Wrapped

    return Wrapped(model, num_classes, **options)


@contextmanager
def _placed(model: Segmenter, hardware: Hardware) -> Iterator[Segmenter]:
    """The model on the hardware's device, in eval mode until the block ends: then every part has the mode it had. What
    is no torch module comes as it is.

    Raises:
        ModelError: it does not say how many classes it tells apart.
    """
    from torch import nn

    from certseg.types import segmenter_of

    segmenter_of(model)
    if not isinstance(model, nn.Module):
        yield model
        return
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield segmenter_of(hardware.place(model))
    finally:
        model.train(modes[0][1])  # which a network may answer by more than its flag
        for module, mode in modes:
            module.training = mode
