"""One walk through a module tree, and what is known about the values at each of its places."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import nn
from torch.nn.modules import module as every_module

from certseg.errors import ModelError
from certseg.lipschitz.norms import NormBound

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_MARGIN = 16.0  # over the textbook bound of a sum's rounding error, for convolution algorithms that regroup terms


@dataclass(frozen=True)
class Span:
    """What is known about a tensor inside the network, over all images of one size.

    Args:
        lipschitz: of the exact value as a function of the image.
        magnitude: no exact value has a larger l2 norm.
        error: no computed value is further than this, in l2, from the exact one.
        channels: of the tensor.
        size: height and width.
    """

    lipschitz: float
    magnitude: float
    error: float
    channels: int
    size: tuple[int, int]

    def grown(self, norm: float, added: float = 0.0, **changes: object) -> Span:
        """After a linear map of this norm and a translation of norm ``added``, computed without error."""
        return replace(
            self,
            lipschitz=self.lipschitz * norm,
            magnitude=self.magnitude * norm + added,
            error=self.error * norm,
            **changes,
        )

    def rounded(self, error: float) -> Span:
        """After further rounding errors of l2 norm ``error``."""
        return replace(self, error=self.error + error)


@dataclass(frozen=True)
class LayerBound:
    """One row of the audit's table: a module, its own constant, a lower bound of that, and how it was found."""

    name: str
    kind: str
    constant: float
    lower: float
    method: str


@dataclass
class Walk:
    """One walk through a module tree.

    Args:
        rules: what each type of module does; :data:`certseg.lipschitz.audit.rules.RULES`.
        unit: unit roundoff of the network's arithmetic.
        norms: bounds of convolutions by name, found in earlier walks over the same weights.
        table: one row per module with a constant of its own, in order.
    """

    rules: Mapping[type[nn.Module], Callable[[Walk, nn.Module, Span, str], Span]]
    unit: float
    norms: dict[str, tuple[NormBound, float]] = field(default_factory=dict)
    table: list[LayerBound] = field(default_factory=list)

    def __call__(self, module: nn.Module, span: Span, name: str) -> Span:
        """What is known after ``module``.

        Raises:
            ModelError: the module has no rule, or its rule does not hold as it is set.
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

    def note(self, module: nn.Module, name: str, constant: float, lower: float | None = None, method: str = "exact"):
        """Add a row to the table."""
        lower = constant if lower is None else lower
        self.table.append(LayerBound(name, type(module).__name__, constant, lower, method))

    def gamma(self, terms: int) -> float:
        """Relative error bound of a sum of ``terms`` products in any order."""
        product = terms * self.unit
        return _MARGIN * product / (1.0 - product) if product < 0.5 else math.inf


def hooks_of_all() -> tuple[Mapping, Mapping]:
    """The forward hooks that torch calls for every module."""
    return every_module._global_forward_hooks, every_module._global_forward_pre_hooks


def check_untouched(module: nn.Module, name: str) -> None:
    """Raise ModelError if something could make ``module`` compute other than its type says."""
    changes = {
        "it is in training mode": module.training,
        "it has forward hooks": any(getattr(module, hooks) for hooks in HOOKS),
        "all modules have forward hooks": any(hooks_of_all()),
        "a method of it is replaced": any(callable(getattr(type(module), name, None)) for name in vars(module)),
        "its weights are parametrized": hasattr(module, "parametrizations"),
    }
    for what, holds in changes.items():
        if holds:
            raise ModelError(
                f"Nothing can be proven about {name or 'the network'} ({type(module).__name__}): {what}",
                remedy="Call eval(), and bake parametrized weights (certseg.lipschitz.audit.bake)",
            )


def joined(name: str, part: str) -> str:
    """The name of a part of a module, as torch gives it."""
    return f"{name}.{part}" if name else part
