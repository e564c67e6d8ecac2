"""What is remembered of an object for as long as it lives, by its identity: networks need not be hashable."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """By object a dict that goes with it; an object that cannot be referred to weakly has an empty one each time.

    >>> class Network: pass
    >>> sizes, network = Remembered(), Network()
    >>> sizes.of(network)["batch"] = 8
    >>> sizes.of(network), sizes.of(Network())
    ({'batch': 8}, {})
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ReferenceType[Any], dict[Hashable, Value]]] = {}

    def of(self, owner: object) -> dict[Hashable, Value]:
        """What is remembered of an object, to be read and changed."""
        number = id(owner)
        if number in self._known and self._known[number][0]() is owner:
            return self._known[number][1]
        values: dict[Hashable, Value] = {}
        with contextlib.suppress(TypeError):
            self._known[number] = weakref.ref(owner, lambda _: self._known.pop(number, None)), values
        return values
