"""Logits out of whatever networks of others answer with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from certseg.errors import ModelError

KINDS = ("logits", "probabilities")
SMALLEST = 1e-7
"""The probability below which the logarithm of one is not taken: close to what float32 tells from 1."""
_KEYS = ("out", "logits")  # of torchvision and transformers


def tensor_in(answer: Any) -> Tensor:
    """The tensor of scores in a network's answer: itself, the entry ``out`` or ``logits`` of a mapping, the attribute
    ``logits``, or the first of a tuple or list; ``B x h x w`` counts as one channel.

    Raises:
        ModelError: there is none.
    """
    found = answer
    if isinstance(found, Mapping):
        found = next((found[key] for key in _KEYS if isinstance(found.get(key), Tensor)), None)
    elif isinstance(found, tuple | list):
        found = found[0] if found else None
    elif not isinstance(found, Tensor):
        found = getattr(found, "logits", None)  # of a class that is transformers' own
    if isinstance(found, Tensor) and found.ndim == 3:
        found = found[:, None]
    if isinstance(found, Tensor) and found.ndim == 4:
        return found
    kinds = f"{type(answer).__name__}" + (f" with {', '.join(map(str, answer))}" if isinstance(answer, Mapping) else "")
    raise ModelError(
        "The network's answer holds no map of scores",
        expected="a tensor B x K x h x w, a mapping with out or logits, an object with logits, or a tuple that begins "
        "with the tensor",
        received=f"{kinds}, in it a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else kinds,
    )


def logits_of(scores: Tensor, outputs: str) -> Tensor:
    """Logits ``B x K x h x w``, K >= 2, of a network's scores. One channel becomes two classes: the second where its
    logit is positive, or its probability above 1/2.

    Args:
        scores: ``B x K x h x w``, K >= 1.
        outputs: what the scores are, ``logits`` or ``probabilities``; of these the logarithm is taken, of none below
            :data:`SMALLEST`.
    """
    if outputs == "probabilities":
        if scores.shape[1] == 1:
            scores = torch.cat([1 - scores, scores], dim=1)
        return scores.clamp_min(SMALLEST).log()
    if scores.shape[1] == 1:
        return torch.cat([torch.zeros_like(scores), scores], dim=1)
    return scores
