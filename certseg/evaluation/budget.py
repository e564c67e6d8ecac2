"""Whether an attack stayed within what it was allowed: nothing is compared with a certificate on its word alone."""

from __future__ import annotations

from torch import Tensor

from certseg.attacks.geometry import perturbation_norm
from certseg.errors import ConfigError
from certseg.types import AttackResult, NormBall, Patch, Threat


def check_budget(result: AttackResult, image: Tensor, predictor: str, threat: Threat, name: str) -> None:
    """Check what an attack gave back for one image against what it was asked for.

    Args:
        result: what the attack gave back.
        image: the image it was given, ``3 x H x W`` in [0, 1].
        predictor: the model it announced to attack.
        threat: the threat it was given.
        name: the image's name, for messages.

    Raises:
        ConfigError: the result is about another model or threat, is no image of this shape in [0, 1], leaves the ball
            of a norm, or changes more than one patch can cover. Of several patches and of threats that certseg does not
            know only the first three are checked.
    """
    what = f"The attack on image {name!r}"
    if result.predictor != predictor:
        raise ConfigError(f"{what} is on another model than announced", expected=predictor, received=result.predictor)
    if result.threat != threat:
        raise ConfigError(f"{what} had another threat than it was given", expected=threat, received=result.threat)
    found = result.adversarial
    if found.shape != image.shape or not (float(found.min()) >= 0.0 and float(found.max()) <= 1.0):
        raise ConfigError(
            f"{what} did not end at an image",
            expected=f"shape {tuple(image.shape)}, values in [0, 1]",
            received=f"shape {tuple(found.shape)}, values from {float(found.min()):g} to {float(found.max()):g}",
        )
    if isinstance(threat, NormBall):
        norm = perturbation_norm(found, image, threat)
        if not norm <= threat.radius:
            raise ConfigError(f"{what} left its budget", expected=threat, received=f"a norm of {norm:.9g}")
    elif isinstance(threat, Patch) and threat.count == 1:
        height, width = image.shape[-2:]
        rows, columns = (found != image).any(dim=0).nonzero(as_tuple=True)
        sides = [int(ends.max() - ends.min()) + 1 if len(ends) else 0 for ends in (rows, columns)]
        allowed = threat.size(height, width)
        if any(side > most for side, most in zip(sides, allowed, strict=True)):
            raise ConfigError(
                f"{what} left its patch", expected=f"at most {allowed[0]} x {allowed[1]} pixels", received=sides
            )
