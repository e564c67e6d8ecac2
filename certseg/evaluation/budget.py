"""Whether an attack stayed within what it was allowed and says what is true: nothing is compared with a certificate on
its word alone."""

from __future__ import annotations

import torch
from torch import Tensor

from certseg.attacks.geometry import perturbation_norm
from certseg.certifiers.premise import ROUNDING
from certseg.compute.forward import check_logits
from certseg.compute.hardware import Hardware
from certseg.errors import ConfigError
from certseg.types import AttackResult, MinimumNormResult, NormBall, Patch, Segmenter, Threat


def check_budget(result: object, image: Tensor, predictor: str, threat: Threat, name: str) -> None:
    """Check what an attack gave back for one image against what it was asked for.

    Args:
        result: what the attack gave back.
        image: the image it was given, ``3 x H x W`` in [0, 1].
        predictor: the model it announced to attack.
        threat: the threat it was given.
        name: the image's name, for messages.

    Raises:
        ConfigError: it is no result of an attack, or one about another model or threat; it is no image of this shape
            and type in [0, 1], leaves the ball of a norm, states another norm than it has, or changes more than one
            patch can cover. Of several patches and of threats that certseg does not know the form alone is checked.
    """
    what = f"The attack on image {name!r}"
    if not isinstance(result, AttackResult):
        raise ConfigError(f"{what} gave no result", expected="a certseg.types.AttackResult", received=type(result))
    if result.predictor != predictor:
        raise ConfigError(f"{what} is on another model than announced", expected=predictor, received=result.predictor)
    if result.threat != threat:
        raise ConfigError(f"{what} had another threat than it was given", expected=threat, received=result.threat)
    found = result.adversarial
    _check_image(found, image, what)
    if isinstance(threat, NormBall):
        norm = perturbation_norm(found, image, threat)
        if not norm <= threat.radius:
            raise ConfigError(
                f"{what} left its budget {threat}",
                expected=f"a norm of at most {threat.radius:.10g} in float64",
                received=f"{norm:.10g}",
                remedy="Rounding to float32 may leave it, too: certseg.attacks.geometry.project brings an image back",
            )
        if not abs(result.norm - norm) <= 1e-3 * threat.radius:
            raise ConfigError(f"{what} states another norm than it has", expected=norm, received=result.norm)
    elif isinstance(threat, Patch) and threat.count == 1:
        height, width = image.shape[-2:]
        rows, columns = (found != image).any(dim=0).nonzero(as_tuple=True)
        sides = [int(ends.max() - ends.min()) + 1 if len(ends) else 0 for ends in (rows, columns)]
        allowed = threat.size(height, width)
        if any(side > most for side, most in zip(sides, allowed, strict=True)):
            raise ConfigError(
                f"{what} left its patch", expected=f"at most {allowed[0]} x {allowed[1]} pixels", received=sides
            )


def check_smallest(result: object, image: Tensor, predictor: str, name: str) -> None:
    """Check what an attack that looks for the smallest perturbation gave back for one image.

    Args:
        result: what the attack gave back.
        image: the image it was given, ``3 x H x W`` in [0, 1].
        predictor: the model it announced to attack.
        name: the image's name, for messages.

    Raises:
        ConfigError: it is no such result, is about another model, is no image of this shape and type in [0, 1], or
            states another distance than it has.
    """
    what = f"The attack on image {name!r}"
    if not isinstance(result, MinimumNormResult):
        raise ConfigError(f"{what} gave no result", expected="a certseg.types.MinimumNormResult", received=type(result))
    if result.predictor != predictor:
        raise ConfigError(f"{what} is on another model than announced", expected=predictor, received=result.predictor)
    _check_image(result.adversarial, image, what)
    distance = float((result.adversarial.double() - image.double()).norm())
    if not abs(result.distance - distance) <= 1e-3 * max(distance, 1e-6):
        raise ConfigError(f"{what} states another distance than it has", expected=distance, received=result.distance)


def check_prediction(
    result: AttackResult | MinimumNormResult, segmenter: Segmenter, name: str, hardware: Hardware
) -> None:
    """Check that what an attack says the network answers at its image is what the network answers there.

    One more forward pass, for the network itself alone (``base``): the answer of another predictor is random, or costs
    what the attack cost, and is taken from the attack. A pixel may differ where the two classes tie up to rounding. A
    network that gives one image several answers is not asked.

    Args:
        result: what the attack gave back, its image in form.
        segmenter: the network, in eval mode on the hardware's device.
        name: the image's name, for messages.
        hardware: where it is computed.

    Raises:
        ConfigError: the map has not the image's height and width, is not of integers or holds classes that do not
            exist, or the network answers otherwise.
    """
    what, size = f"The attack on image {name!r}", result.adversarial.shape[-2:]
    told = result.prediction
    integers = (
        isinstance(told, Tensor) and not (told.is_floating_point() or told.is_complex()) and told.dtype != torch.bool
    )
    if not integers or told.device.type != "cpu" or told.shape != size:
        raise ConfigError(
            f"{what} gave a prediction that does not fit",
            expected=f"integers of shape {tuple(size)} on the CPU",
            received=f"{told.dtype} of shape {tuple(told.shape)}" if isinstance(told, Tensor) else type(told),
        )
    low, high = (int(value) for value in told.aminmax())
    if low < 0 or high >= segmenter.num_classes:
        raise ConfigError(
            f"{what} predicts a class that does not exist",
            expected=f"classes from 0 to {segmenter.num_classes - 1}",
            received=f"classes from {low} to {high}",
        )
    if result.predictor != "base":
        return
    wrong, logits = _wrong(result, segmenter, hardware)
    if wrong and torch.equal(logits, _wrong(result, segmenter, hardware)[1]):
        raise ConfigError(
            f"{what} says that the network answers what it does not",
            expected="its prediction at the adversarial image that is given back",
            received=f"another class at {wrong} pixel{'s' if wrong > 1 else ''}",
            remedy="Compute the prediction at the very tensor that is returned",
        )


def _wrong(result: AttackResult | MinimumNormResult, segmenter: Segmenter, hardware: Hardware) -> tuple[int, Tensor]:
    """The number of pixels whose class is told wrongly, ties aside, and the network's logits."""
    images = result.adversarial[None].to(hardware.torch_device)
    with torch.inference_mode():
        logits = segmenter(images)
    check_logits(logits, images, segmenter.num_classes)
    one = logits[0].float().cpu()
    short = one.amax(dim=0) - one.gather(0, result.prediction.long()[None])[0]
    return int((short > ROUNDING * float(one.abs().amax())).sum()), one


def _check_image(found: object, image: Tensor, what: str) -> None:
    if not isinstance(found, Tensor) or found.shape != image.shape or found.dtype != image.dtype:
        raise ConfigError(
            f"{what} did not end at an image",
            expected=f"{image.dtype} of shape {tuple(image.shape)}",
            received=f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found),
        )
    if not (float(found.min()) >= 0.0 and float(found.max()) <= 1.0):
        raise ConfigError(
            f"{what} did not end at an image",
            expected="values in [0, 1]",
            received=f"values from {float(found.min()):g} to {float(found.max()):g}",
        )
