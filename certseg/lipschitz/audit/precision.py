"""The arithmetic that proofs are about: no autocast, and float32 products that are computed in float32."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Collection, Iterator

import torch

from certseg.errors import ModelError

_PRODUCTS = {"cpu": ("mkldnn.conv", "mkldnn.matmul"), "cuda": ("cuda.matmul", "cudnn.conv")}
_FULL = ("ieee", "none")  # what torch.backends.<...>.fp32_precision says of float32 products in float32


def check_arithmetic(dtype: torch.dtype, devices: Collection[str]) -> None:
    """Raise :class:`ModelError` if torch is set to compute float32 products at lower precision, or autocast is on.

    Args:
        dtype: the network's arithmetic; only float32 products can be of lower precision.
        devices: types of the devices that its weights are on, for example ``cuda``.
    """
    if any(torch.is_autocast_enabled(device) for device in {"cpu", *devices}):
        raise ModelError("No constant can be proven under autocast", remedy="Leave the autocast context")
    if dtype != torch.float32:
        return
    found = {name: _precision(name) for device in devices for name in _PRODUCTS.get(device, ())}
    reduced = [f"torch.backends.{name}.fp32_precision={kind}" for name, kind in found.items() if kind not in _FULL]
    if reduced:
        raise ModelError(
            "No constant can be proven while float32 products may be computed at lower precision (TF32, bfloat16)",
            expected="fp32_precision 'ieee'",
            received=", ".join(reduced),
            remedy="Set these to 'ieee', or compute in float64",
        )


@contextlib.contextmanager
def full_precision(device: torch.device, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Within the block, autocast is off on ``device``, and if ``dtype`` is float32 its products have full precision
    (neither TF32 nor bfloat16)."""
    with torch.autocast(device.type, enabled=False):
        if dtype != torch.float32:
            yield
            return
        names = [name for part in _PRODUCTS.values() for name in part]
        before = {name: _precision(name) for name in names}
        older = _older_settings()
        try:
            if older is not None:
                torch.set_float32_matmul_precision("highest")
                torch.backends.cudnn.allow_tf32 = False
            for name in names:
                _set_precision(name, "ieee")
            yield
        finally:
            if older is not None:
                torch.set_float32_matmul_precision(older[0])
                torch.backends.cudnn.allow_tf32 = older[1]
            for name, value in before.items():
                _set_precision(name, "none")
                if _precision(name) != value:  # else it was inherited
                    _set_precision(name, value)


def _precision(name: str) -> str:
    precision: str = operator.attrgetter(name)(torch.backends).fp32_precision
    return precision


def _set_precision(name: str, value: str) -> None:
    operator.attrgetter(name)(torch.backends).fp32_precision = value


def _older_settings() -> tuple[str, bool] | None:
    """torch's older switches for the same, which it refuses to tell where the newer ones contradict them."""
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return None
