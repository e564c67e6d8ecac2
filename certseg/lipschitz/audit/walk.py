"""One walk through a module tree, and what is known about the values at each of its places."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.modules import module as every_module

from certseg.errors import ModelError
from certseg.lipschitz.audit.attributes import tensors_of
from certseg.lipschitz.operator_norms import NormBound

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_TENSORS = (Tensor, nn.Parameter)
_MARGIN = 16.0  # over the textbook bound of a sum's rounding error, for convolution algorithms that regroup terms


@dataclass(frozen=True)
class Span:
    """What is known about a tensor inside the network, over all images of one size.

    Args:
        lipschitz: l2 Lipschitz constant of the exact tensor as a function of the image.
        magnitude: l2 norm that the exact tensor never exceeds.
        error: l2 distance from the exact tensor that the computed one never exceeds.
        channels: number of channels of the tensor.
        size: height and width of the tensor.
    """

    lipschitz: float
    magnitude: float
    error: float
    channels: int
    size: tuple[int, int]

    def grown(
        self, norm: float, added: float = 0.0, *, channels: int | None = None, size: tuple[int, int] | None = None
    ) -> Span:
        """What is known after a linear map and a translation, computed without error.

        Args:
            norm: operator norm of the linear map.
            added: l2 norm of the translation.
            channels: number of channels after the map; None where it keeps them.
            size: height and width after the map; None where it keeps them.
        """
        return Span(
            self.lipschitz * norm,
            self.magnitude * norm + added,
            self.error * norm,
            self.channels if channels is None else channels,
            self.size if size is None else size,
        )

    def rounded(self, error: float) -> Span:
        """After further rounding errors of l2 norm ``error``."""
        return replace(self, error=self.error + error)


@dataclass(frozen=True)
class LayerBound:
    """One row of the audit's table.

    Args:
        name: the module's name in the network.
        kind: the name of the module's class.
        constant: upper bound of the module's own Lipschitz constant.
        lower: lower bound of the same constant.
        method: how the upper bound was found; ``exact`` where it is the constant itself.
    """

    name: str
    kind: str
    constant: float
    lower: float
    method: str


@dataclass
class Walk:
    """One walk through a module tree.

    Args:
        rules: what each type of module does (:data:`certseg.lipschitz.audit.rules.RULES`).
        unit: unit roundoff of the network's arithmetic.
        norms: bounds of convolutions by name, found in earlier walks over the same weights: of the norm, and of the
            norm with absolute weights.
        table: one row per module with a constant of its own, in the order of the walk.
    """

    rules: Mapping[type[nn.Module], Rule]
    unit: float
    norms: dict[str, tuple[NormBound, float]] = field(default_factory=dict)
    table: list[LayerBound] = field(default_factory=list)

    def __call__(self, module: nn.Module, span: Span, name: str) -> Span:
        """What is known after ``module``, called ``name``, from the ``span`` that is known before it.

        Raises:
            ModelError: the module has no rule, or is set in a way in which its rule does not hold.
        """
        check_untouched(module, name)
        rule = self.rules.get(type(module))
        if rule is None:
            raise ModelError(
                f"Nothing is known about the Lipschitz constant of {name or 'the network'} ({type(module).__name__})",
                expected=", ".join(sorted(kind.__name__ for kind in self.rules)),
                remedy="Build the network from these, or certify it by smoothing",
            )
        return rule(self, module, span, name)

    def note(
        self, module: nn.Module, name: str, constant: float, lower: float | None = None, method: str = "exact"
    ) -> None:
        """Add a row to the table; a constant without a lower bound is exact."""
        lower = constant if lower is None else lower
        self.table.append(LayerBound(name, type(module).__name__, constant, lower, method))

    def gamma(self, terms: int) -> float:
        """Relative error bound of a sum of ``terms`` products in any order."""
        product = terms * self.unit
        return _MARGIN * product / (1.0 - product) if product < 0.5 else math.inf


Rule: TypeAlias = Callable[[Walk, Any, Span, str], Span]
"""What is known after a module, from what is known before it, and the module's name. A rule takes modules of the type
that it is entered for."""


def hooks_of_all() -> tuple[Mapping[int, object], Mapping[int, object]]:
    """The forward hooks that torch calls for every module."""
    return every_module._global_forward_hooks, every_module._global_forward_pre_hooks


def check_untouched(module: nn.Module, name: str) -> None:
    """Raise :class:`ModelError` if something could make ``module`` compute anything else than its type says."""
    changes = {
        "it is in training mode": module.training,
        "it has forward hooks": any(getattr(module, hooks) for hooks in HOOKS),
        "all modules have forward hooks": any(hooks_of_all()),
        "a method of it is replaced": any(
            callable(value) or callable(getattr(type(module), name, None)) for name, value in vars(module).items()
        ),
        "its tensors are of a class of their own": any(
            type(tensor) not in _TENSORS for _, tensor in tensors_of(module)
        ),
        "its weights are parametrized": hasattr(module, "parametrizations"),
    }
    for what, holds in changes.items():
        if holds:
            raise ModelError(
                f"Nothing can be proven about {name or 'the network'} ({type(module).__name__}): {what}",
                remedy="Call eval(), and bake parametrized weights (certseg.lipschitz.audit.bake)",
            )


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """A setting of both axes, which modules hold as one number or as two.

    >>> pair(3), pair([1, 2])
    ((3, 3), (1, 2))
    """
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def joined(name: str, part: str) -> str:
    """The name of a part of a module, as torch gives it.

    >>> joined("body.0", "convolution"), joined("", "body")
    ('body.0.convolution', 'body')
    """
    return f"{name}.{part}" if name else part
