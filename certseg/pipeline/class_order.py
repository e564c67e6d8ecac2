"""Whether the classes of a checkpoint are those of the data set, in the same order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from certseg.compute.hardware import rank
from certseg.datasets import Legend
from certseg.errors import CheckpointError, ConfigError
from certseg.models.checkpoint import read_weights
from certseg.pipeline.console import say
from certseg.pipeline.spec import ModelSpec

_SHOWN = 8  # classes named in one message


def class_order(
    model: ModelSpec, path: str, legend: Legend, *, is_start: bool = False, trust: bool | None = None
) -> tuple[int, ...] | None:
    """Which class of a checkpoint each class of the data set is; None where they are the same.

    Names count as the same if they differ in capitals, spaces, ``_`` and ``-`` alone. Checkpoints of certseg name their
    classes, and so do those of mmsegmentation (``dataset_meta``, or ``CLASSES``); of one that names none the order
    cannot be compared, which is said.

    Args:
        model: the network; its ``trust_classes`` takes the order as it is, its ``map_classes`` another one.
        path: the checkpoint.
        legend: name and classes of the data set.
        is_start: whether a training starts from the checkpoint: that may be of other classes, but not of the same ones
            in another order.
        trust: whether the file may run code of its own when it is read; None for what ``trust_checkpoint`` says.

    Raises:
        CheckpointError: the file cannot be read, or names other classes, or the same in another order and
            ``map_classes`` is not set.
    """
    _check_settings(model)
    if model.trust_classes:
        return None  # not even read
    named = read_weights(path, trust=model.trust_checkpoint if trust is None else trust).class_names
    return order_of(model, path, named, legend, is_start=is_start)


def order_of(
    model: ModelSpec, path: str, named: Sequence[str] | None, legend: Legend, *, is_start: bool = False
) -> tuple[int, ...] | None:
    """Which of the classes ``named``, None where they have no names, each class of the data set is; see
    :func:`class_order`, whose other arguments these are. ``path`` is what weights are called in messages.

    Raises:
        CheckpointError: the classes are others, or the same in another order and ``map_classes`` is not set.
    """
    _check_settings(model)
    if model.trust_classes:
        return None
    if named is None:
        _tell(f"{path} names no classes: they are taken to be those of the data set {legend.name}, in its order.")
        return None
    found, wanted = list(map(_plain, named)), list(map(_plain, legend.class_names))
    if found == wanted:
        return None
    if sorted(found) == sorted(wanted) and len(set(found)) == len(found):
        order = tuple(found.index(name) for name in wanted)
        if model.map_classes and not is_start:
            return order
        raise _permuted(path, legend, named, order, is_start)
    if is_start:
        _tell(f"The training starts from {path}, whose classes are others than those of the data set {legend.name}.")
        return None
    first = next(index for index, (a, b) in enumerate(itertools.zip_longest(found, wanted)) if a != b)
    expected, received = (
        f"{len(names)} classes" + "".join(f", {first} is {name!r}" for name in names[first : first + 1])
        for names in (legend.class_names, named)
    )
    raise CheckpointError(
        f"The classes of {path} are not those of the data set {legend.name}",
        expected=expected,
        received=received,
        remedy="Choose the data set that the checkpoint was trained on (dataset=folder takes dataset.class_names); if "
        "only the names differ, set model.trust_classes=true",
    )


def _check_settings(model: ModelSpec) -> None:
    """Raise ConfigError where classes are to be put into another order and taken as they are."""
    if model.map_classes and model.trust_classes:
        raise ConfigError(
            "model.map_classes and model.trust_classes contradict each other", remedy="Leave one of them out"
        )


def _permuted(path: str, legend: Legend, named: Sequence[str], order: Sequence[int], is_start: bool) -> CheckpointError:
    moved = [(index, source) for index, source in enumerate(order) if index != source]
    shown = ", ".join(f"{legend.class_names[index]} is {source} there" for index, source in moved[:_SHOWN])
    more = f" and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
    other = "if its head is to learn another order, set model.trust_classes=true"
    return CheckpointError(
        f"{path} has the classes of the data set {legend.name} in another order",
        expected=f"0 {legend.class_names[0]}, 1 {legend.class_names[1]}, ...",
        received=f"0 {named[0]}, 1 {named[1]}, ...: {shown}{more}",
        remedy=f"Start from a checkpoint in the data set's order; {other}"
        if is_start
        else "Set model.map_classes=true to put them into the data set's order",
    )


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _tell(line: str) -> None:
    if rank() == 0:
        say(line)
