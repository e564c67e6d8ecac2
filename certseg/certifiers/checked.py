"""Certificates that have been looked at: what a certifier gives back has the form that everything behind it takes for
granted, for a mask of another shape or type would be counted into figures without a word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from certseg.certifiers.premise import check_again, check_premise
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError
from certseg.types import Certificate, Certifier, Passes, Segmenter


def certify_checked(
    certifier: Certifier, segmenter: Segmenter, image: Tensor, *, stream: NoiseStream, hardware: Hardware
) -> Certificate:
    """The certificate of one image, once the network has passed :func:`certseg.certifiers.premise.check_premise`, with
    the flags of that, and once it has passed :func:`check_certificate` itself. The certifier gets a copy of the image.

    Args:
        certifier: what certifies.
        segmenter: the network, in eval mode on the hardware's device.
        image: ``3 x H x W`` in [0, 1].
        stream: the random numbers of this image.
        hardware: device, precision and the largest batch.

    Raises:
        ModelError: the network is not what the guarantee takes it for, as seen before or after the certificate.
        ConfigError: the certificate has not the form it must have.
        CertsegError: what the certifier raises.
    """
    if not isinstance(certifier, Certifier):
        raise ConfigError(
            "This is no certifier",
            expected="an instance of a class derived from certseg.types.Certifier",
            received=repr(certifier),
        )
    flags = check_premise(certifier, segmenter, image, hardware)
    certificate = certifier.certify(segmenter, image.clone(), stream=stream, hardware=hardware)
    check_certificate(certificate, certifier, image, segmenter.num_classes, stream.name)
    check_again(certifier, segmenter, image, hardware, certificate)
    return replace(certificate, flags=(*certificate.flags, *flags)) if flags else certificate


def check_certificate(found: object, certifier: Certifier, image: Tensor, num_classes: int, name: str) -> None:
    """Check the form of one image's certificate, and that it promises what its certifier announces.

    Args:
        found: what the certifier gave back.
        certifier: what gave it.
        image: the image it is about, ``3 x H x W``.
        num_classes: the number of the network's classes.
        name: the image's name, for messages.

    Raises:
        ConfigError: it is no certificate; its classes are not int64, its mask is not bool or its levels are not uint8,
            or they are not of the image's height and width on the CPU; a class does not exist, a level is none of the
            guarantee's hierarchy; it has another guarantee than the certifier, assumptions aside; its passes are not
            :class:`certseg.types.Passes` or its seconds no numbers by name.
    """
    said = f"{certifier.name} gave image {name!r}"
    if not isinstance(found, Certificate):
        raise ConfigError(f"{said} no certificate", expected="a certseg.types.Certificate", received=type(found))
    if found.guarantee.provided(certifier.guarantee.assumption) != certifier.guarantee:
        raise ConfigError(
            f"{said} another guarantee than it announces",
            expected=certifier.guarantee,
            received=found.guarantee,
            remedy="Let certify() return the certifier's own guarantee; only an assumption may be added",
        )
    size = image.shape[-2:]
    _check_map(said, "classes", found.classes, torch.int64, size)
    _check_map(said, "certified", found.certified, torch.bool, size)
    low, high = (int(value) for value in found.classes.aminmax())
    if low < 0 or high >= num_classes:
        raise ConfigError(
            f"{said} a class that does not exist",
            expected=f"classes from 0 to {num_classes - 1}",
            received=f"classes from {low} to {high}",
            remedy="Keep the predicted class where a pixel is not certified, and let the mask say so",
        )
    names = certifier.guarantee.hierarchy
    if (found.levels is not None) != bool(names):
        raise ConfigError(
            f"{certifier.name} certifies {'groups of classes' if names else 'classes'}, but its certificate of image "
            f"{name!r} has {'no ' if found.levels is None else ''}levels",
            remedy="Let certify() give levels where its guarantee has a hierarchy, and nowhere else",
        )
    if found.levels is not None:
        _check_map(said, "levels", found.levels, torch.uint8, size)
        most = len(names) - 1
        if int(found.levels.max()) > most:
            raise ConfigError(
                f"{said} a level that does not exist", expected=f"0 to {most}", received=found.levels.max()
            )
    if not isinstance(found.passes, Passes):
        raise ConfigError(f"{said} no count of passes", expected="certseg.types.Passes", received=repr(found.passes))
    if not isinstance(found.seconds, Mapping):
        raise ConfigError(f"{said} no seconds", expected="seconds by the name of a part", received=repr(found.seconds))


def _check_map(said: str, what: str, found: object, dtype: torch.dtype, size: torch.Size) -> None:
    fits = isinstance(found, Tensor) and found.device.type == "cpu" and found.dtype == dtype and found.shape == size
    if not fits:
        told = (
            f"{found.dtype} of shape {tuple(found.shape)}, {found.device}" if isinstance(found, Tensor) else type(found)
        )
        raise ConfigError(
            f"{said} a certificate whose map {what!r} does not fit",
            expected=f"{dtype} of shape {tuple(size)} on the CPU",
            received=told,
        )
