"""What an attack with patches reached on one image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from certseg.patches.canvas import Corners
from certseg.types import IGNORE_INDEX, AttackResult, Maps


@dataclass(frozen=True)
class PatchResult(AttackResult):
    """What an attack with patches reached on one image; ``norm`` is the share of the image's pixels that it changed.

    Args:
        alerts: ``H x W`` bool, where a detection raises an alert at the attacked image; None where there are none.
        patch: height and width of a rectangle in pixels.
        corners: row and column of the upper left pixel of each rectangle.
    """

    alerts: Tensor | None = None
    patch: tuple[int, int] = (0, 0)
    corners: Corners = ()

    def own_figures(self, target: Tensor) -> dict[str, float]:
        """Height and width of a rectangle in pixels; where there are alerts also the shares of the labelled pixels that
        raise one and that are wrong without one, NaN where no pixel is labelled."""
        figures: dict[str, float] = dict(zip(("patch_height", "patch_width"), self.patch, strict=True))
        if self.alerts is None:
            return figures
        labelled = target != IGNORE_INDEX
        silent = (self.prediction != target) & ~self.alerts
        shares = {"alert_share": self.alerts, "silent_error_share": silent}
        return figures | {name: float(part[labelled].double().mean()) for name, part in shares.items()}

    def own_facts(self) -> dict[str, object]:
        """Row and column of the upper left pixel of each rectangle, as ``corners``."""
        return {"corners": [list(corner) for corner in self.corners]}

    def own_maps(self) -> Maps:
        """The alerts, where there are some."""
        return {} if self.alerts is None else {"alerts": self.alerts.numpy()}
