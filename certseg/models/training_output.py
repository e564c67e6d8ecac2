"""The logits from which a network of mmsegmentation computes its training losses: :func:`recorded_logits`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from certseg.errors import ModelError
from certseg.models.mmseg_library import EncoderDecoder

# which of several training outputs is the one a head predicts with; the others are trained as its aids
_PREDICTION = {"DAHead": 0, "EncHead": 0, "DDRHead": 0, "PIDHead": 1, "IterativeDecodeHead": -1}


@contextlib.contextmanager
def recorded_logits(network: EncoderDecoder) -> Iterator[list[Tensor]]:
    """Record, in the list yielded, the logits from which mmsegmentation's deciding head computes its loss.

    The head's ``loss_by_feat`` is replaced for the block: mmsegmentation calls ``forward`` of its heads directly, which
    no hook of torch notices. Of several heads in a row (a cascade) the last one decides.

    Raises:
        ModelError: the head computes several logits and which of them predict is not known, or none.
    """
    heads = network.decode_head
    head: Any = heads[-1] if isinstance(heads, nn.ModuleList) else heads
    compute = head.loss_by_feat
    found: list[Tensor] = []

    def record(logits: Any, *arguments: Any, **settings: Any) -> Any:
        found.append(_prediction(head, logits))
        return compute(logits, *arguments, **settings)

    head.loss_by_feat = record
    try:
        yield found
    finally:
        del head.loss_by_feat  # the method of the class is back
    if not found:
        raise _unknown(head)


def _prediction(head: Any, logits: Any) -> Tensor:
    kind = type(head).__name__
    if not isinstance(logits, Tensor) and kind in _PREDICTION:
        logits = logits[_PREDICTION[kind]]
    if not isinstance(logits, Tensor) or logits.ndim != 4 or logits.shape[1] != head.num_classes:
        raise _unknown(head)
    return logits


def _unknown(head: object) -> ModelError:
    return ModelError(
        f"It is not known which training output of {type(head).__name__} is the prediction",
        remedy="Use an objective that needs no logits, such as training=noise",
    )
