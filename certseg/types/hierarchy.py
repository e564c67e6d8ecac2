"""Classes joined into ever coarser groups: what a pixel may be certified as where its class is not stable."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certseg.errors import ConfigError
from certseg.types import MOST_CLASSES


@dataclass(frozen=True)
class Hierarchy:
    """Levels of groups of classes. Every level partitions the K classes, and each one joins groups of the level below.

    Level 0 is the classes themselves. A group has one name, one id and one level, the lowest on which it stands: a
    class that a coarser level leaves alone is that class, of level 0. Ids ``0 .. K - 1`` are the classes, then come
    the groups of several classes in order of their levels.

    Args:
        names: for each level and class the name of its group, ``names[l][c]``; ``names[0]`` are the class names.
            :meth:`of` builds them from what each level joins.

    Raises:
        ConfigError: a level is no partition or does not coarsen the one below, a name stands for several groups, a
            level has a single group, which would say nothing, or there are more than 255 groups.
    """

    names: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(tuple(level) for level in self.names))  # from JSON they are lists
        _check(self.names)

    @classmethod
    def of(cls, class_names: Sequence[str], levels: Sequence[Mapping[str, Sequence[str]]]) -> Hierarchy:
        """The hierarchy of these classes whose level l joins what ``levels[l - 1]`` says.

        Args:
            class_names: the names of the data set's classes, in the order of their ids.
            levels: finest first; each maps the name of a new group to the names it joins, at least two of the level
                below. What a level does not mention stays as it is. An empty sequence leaves the classes alone.

        Raises:
            ConfigError: a level names what the level below does not have, joins fewer than two names or one name
                twice, or gives a group a name that is taken; and what the constructor raises.
        """
        names = [tuple(class_names)]
        if isinstance(levels, str | Mapping) or not isinstance(levels, Sequence):
            raise ConfigError("The hierarchy must be a list of levels", received=levels)
        for number, joined in enumerate(levels, start=1):
            names.append(_joined(names, number, joined))
        return cls(tuple(names))

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return len(self.names[0])

    @property
    def num_levels(self) -> int:
        """Number of levels, that of the classes included."""
        return len(self.names)

    @functools.cached_property
    def groups(self) -> tuple[str, ...]:
        """The name of each group by its id, ``G`` of them."""
        return tuple(dict.fromkeys(name for level in self.names for name in level))

    @functools.cached_property
    def table(self) -> Tensor:
        """``L x K`` int64, the id of each class's group on each level."""
        ids = {name: index for index, name in enumerate(self.groups)}
        return torch.tensor([[ids[name] for name in level] for level in self.names])

    @functools.cached_property
    def members(self) -> Tensor:
        """``G x K`` bool, the classes of each group."""
        return (self.table[:, None] == torch.arange(len(self.groups))[:, None]).any(dim=0)

    @functools.cached_property
    def levels(self) -> Tensor:
        """``G`` uint8, the level of each group."""
        found = [(self.table == group).any(dim=1).to(torch.uint8).argmax() for group in range(len(self.groups))]
        return torch.stack(found).to(torch.uint8)

    def ids(self, classes: Tensor, levels: Tensor) -> Tensor:
        """The group of each pixel: ids of the shape of ``classes`` (int64) and ``levels`` (integers)."""
        return self.table.to(classes.device)[levels.long(), classes]

    def __str__(self) -> str:
        """The groups of several classes, level by level: ``vehicle = car + truck; obstacle = pole + vehicle``."""
        texts = []
        for below, level in zip(self.names, self.names[1:]):
            parts = {name: dict.fromkeys(low for low, high in zip(below, level) if high == name) for name in level}
            texts.append(", ".join(f"{name} = {' + '.join(low)}" for name, low in parts.items() if len(low) > 1))
        return "; ".join(texts)


def _joined(names: Sequence[tuple[str, ...]], number: int, joined: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The names of level ``number``, which joins names of the last of ``names`` as ``joined`` says."""
    below, where = names[-1], f"Level {number} of the hierarchy"
    if not isinstance(joined, Mapping) or not joined:
        raise ConfigError(f"{where} must join something", expected="a mapping from names to lists", received=joined)
    new: dict[str, str] = {}
    for group, parts in joined.items():
        if not isinstance(group, str) or isinstance(parts, str) or not isinstance(parts, Sequence) or len(parts) < 2:
            raise ConfigError(
                f"{where} must join at least two names into {group!r}",
                received=parts,
                remedy="A name that no group joins stays as it is",
            )
        if any(group in level for level in names):
            raise ConfigError(f"{where} gives a group the name {group!r}, which is taken")
        for part in parts:
            if part not in below:
                raise ConfigError(
                    f"{where} joins {part!r}, which the level below does not have",
                    expected=", ".join(dict.fromkeys(below)),
                )
            if part in new:
                raise ConfigError(f"{where} joins {part!r} twice", received=f"{new[part]} and {group}")
            new[part] = group
    return tuple(new.get(name, name) for name in below)


def _check(names: tuple[tuple[str, ...], ...]) -> None:
    """Raise :class:`ConfigError` as :class:`Hierarchy` says."""
    if not names or len({len(level) for level in names}) != 1 or len(set(names[0])) != len(names[0]):
        raise ConfigError("A hierarchy needs different class names and on each level one group for each class")
    members: dict[str, frozenset[int]] = {}
    for number, level in enumerate(names):
        groups = {name: frozenset(c for c, other in enumerate(level) if other == name) for name in level}
        if len(groups) < 2:
            raise ConfigError(
                f"Level {number} of the hierarchy has a single group, which says nothing about a pixel",
                received=", ".join(groups) or "no class",
                remedy="Leave the level out",
            )
        if number and any(len({level[c] for c in members[name]}) > 1 for name in names[number - 1]):
            raise ConfigError(f"Level {number} of the hierarchy does not coarsen the level below it")
        if any(members.setdefault(name, group) != group for name, group in groups.items()):
            raise ConfigError("Two groups of the hierarchy have one name", received=", ".join(groups))
    if len(set(members.values())) < len(members):
        raise ConfigError("A group of the hierarchy has two names", received=", ".join(members))
    if len(members) > MOST_CLASSES:  # maps keep ids in bytes, and one value says that there is none
        raise ConfigError(f"A hierarchy may have at most {MOST_CLASSES} groups", received=len(members))
