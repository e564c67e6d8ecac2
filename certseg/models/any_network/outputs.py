"""Logits out of whatever networks of others answer with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from certseg.errors import ModelError
from certseg.types import Sides

KINDS = ("logits", "probabilities")
SMALLEST = 1e-7
"""The probability below which the logarithm of one is not taken: close to what float32 tells from 1."""
_SLACK = 1e-3  # by which rounding may take probabilities out of [0, 1], and their sum from 1
_KEYS = ("out", "logits")  # of torchvision and transformers


def tensor_in(answer: Any, inputs: Tensor) -> Tensor:
    """The tensor of scores in a network's answer: itself, the entry ``out`` or ``logits`` of a mapping, the attribute
    ``logits``, or the first of a tuple or list; ``B x h x w`` counts as one channel where h and w are those of the
    input, up to one stride.

    Args:
        answer: what the network gave.
        inputs: ``B x C x H x W``, what it was shown.

    Raises:
        ModelError: there is none, it holds class ids in the place of scores, or it is of another number of images.
    """
    found, size = answer, (inputs.shape[-2], inputs.shape[-1])
    if isinstance(found, Mapping):
        found = next((found[key] for key in _KEYS if isinstance(found.get(key), Tensor)), None)
    elif isinstance(found, tuple | list):
        found = found[0] if found else None
    elif not isinstance(found, Tensor):
        found = getattr(found, "logits", None)  # of a class that is transformers' own
    if isinstance(found, Tensor) and not found.is_floating_point() and found.ndim in (3, 4):
        raise ModelError(
            "The network answers with the ids of classes, not with their scores",
            expected="a tensor B x K x h x w of logits or probabilities",
            received=f"{found.dtype} of shape {tuple(found.shape)}",
            remedy="Leave the argmax at its end out, for certificates and attacks need scores",
        )
    if isinstance(found, Tensor) and found.ndim == 3 and _is_map((found.shape[-2], found.shape[-1]), size):
        found = found[:, None]
    if isinstance(found, Tensor) and found.ndim == 4:
        if len(found) != len(inputs):
            raise ModelError(
                "The network answers for another number of images than it is shown",
                expected=f"scores of {len(inputs)}",
                received=f"shape {tuple(found.shape)}",
                remedy="Let it keep the batch in its answer, also of a single image",
            )
        return found
    kinds = f"{type(answer).__name__}" + (f" with {', '.join(map(str, answer))}" if isinstance(answer, Mapping) else "")
    raise ModelError(
        "The network's answer holds no map of scores",
        expected="a tensor B x K x h x w, a mapping with out or logits, an object with logits, or a tuple that begins "
        "with the tensor",
        received=f"{kinds}, in it a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else kinds,
    )


def _is_map(found: Sides, size: Sides) -> bool:
    """Whether both sides of a map are those of the input divided by one stride, up to rounding."""
    return abs(found[0] * size[1] - found[1] * size[0]) <= max(size) and max(found) <= max(size)


def logits_of(scores: Tensor, outputs: str) -> Tensor:
    """Logits ``B x K x h x w``, K >= 2, of a network's scores. One channel becomes two classes: the second where its
    logit is positive, or its probability above 1/2.

    Args:
        scores: ``B x K x h x w``, K >= 1.
        outputs: what the scores are, ``logits`` or ``probabilities``; of these the logarithm is taken, of none below
            :data:`SMALLEST`.

    Raises:
        ModelError: probabilities are not in [0, 1].
    """
    if outputs == "probabilities":
        low, high = (float(value) for value in scores.detach().aminmax())
        if low < -_SLACK or high > 1.0 + _SLACK:
            raise ModelError(
                "The network's answers are no probabilities",
                expected="values in [0, 1]",
                received=f"{low:.3g} to {high:.3g}",
                remedy="Set outputs=logits, which they seem to be",
            )
        if scores.shape[1] == 1:
            scores = torch.cat([1 - scores, scores], dim=1)
        return scores.clamp_min(SMALLEST).log()
    if scores.shape[1] == 1:
        return torch.cat([torch.zeros_like(scores), scores], dim=1)
    return scores


def look_like_probabilities(scores: Tensor) -> bool:
    """Whether all scores ``B x K x h x w`` of a picture lie in [0, 1], and of several classes add up to 1."""
    low, high = (float(value) for value in scores.detach().aminmax())
    if low < 0.0 or high > 1.0:
        return False
    return scores.shape[1] == 1 or bool((scores.detach().sum(dim=1) - 1.0).abs().amax() < _SLACK)
