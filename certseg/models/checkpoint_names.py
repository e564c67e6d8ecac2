"""Names of weights in files of other libraries, as a module of certseg has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from certseg.errors import CheckpointError

_WRAPPER = re.compile(r"(?:module|_orig_mod|model|net|network)\.")
_OWN = "network."  # where certseg's adapters keep the network


@dataclass(frozen=True)
class Renamed:
    """Tensors under the names of a module.

    Args:
        tensors: by name.
        prefix: what was taken from the front of their names; empty for nothing.
        left_out: names of tensors without that prefix, left out because the module has no place for them.
    """

    tensors: dict[str, Tensor]
    prefix: str
    left_out: tuple[str, ...]


def renamed(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Renamed:
    """The tensors of a file as a module names them, as far as prefixes go.

    Wrappers put ``module.`` (parallel training), ``_orig_mod.`` (compilation), ``model.`` or ``net.`` (training loops)
    in front of names, also several of them. Of all prefixes in the file, and with or without the ``network.`` of
    certseg's adapters, that is taken which gives most of the names wanted; the shortest of several. Tensors without the
    prefix are left out where those with it are all that is wanted, as a loop keeps weights of its loss beside the
    network's.

    Args:
        found: the tensors of the file.
        wanted: the state dict of the module.

    Raises:
        CheckpointError: tensors with several prefixes fit alike.
    """
    prefixes = sorted({prefix for key in found for prefix in _prefixes(key)}, key=len)
    own = ("", _OWN) if any(key.startswith(_OWN) for key in wanted) else ("",)
    ways = [(prefix, front) for prefix in prefixes for front in own]
    fits = {way: len(_below(found, *way).keys() & wanted.keys()) for way in ways}
    prefix, front = max(ways, key=lambda way: fits[way], default=("", ""))
    rivals = {way[0] for way in ways if fits[way] == fits[prefix, front] > 0 and not _is_within(way[0], prefix)}
    if rivals:
        raise CheckpointError(
            "The file holds several networks of these names",
            expected="the weights of one",
            received=", ".join(repr(name) for name in sorted({prefix, *rivals})) + " in front of its names",
            remedy="Save the state dict of the one that is meant",
        )
    below = _below(found, prefix, front)
    if below.keys().isdisjoint(wanted):
        return Renamed(dict(found), "", ())
    others = tuple(key for key in found if not key.startswith(prefix))
    if missing_names(below, wanted):
        return Renamed(below | {key: found[key] for key in others}, prefix, ())
    return Renamed(below, prefix, others)


def missing_names(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What a module needs and a file lacks. Counters of batch normalisation are missing in old files, and change
    nothing in evaluation."""
    return [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]


def _is_within(one: str, other: str) -> bool:
    """Whether one of two prefixes begins with the other: they are then about the same tensors."""
    return one.startswith(other) or other.startswith(one)


def _prefixes(key: str) -> list[str]:
    """What may have been put in front of a name: nothing, its first wrapper, its first two, and so on."""
    prefixes = [""]
    while match := _WRAPPER.match(key, len(prefixes[-1])):
        prefixes.append(key[: match.end()])
    return prefixes


def _below(found: Mapping[str, Tensor], prefix: str, front: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, with ``front`` in its place."""
    return {front + key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
