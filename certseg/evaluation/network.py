"""What stages have in common that run a network on images."""

from __future__ import annotations

from certseg.errors import ConfigError
from certseg.types import Segmenter, Stage, segmenter_of


class NetworkStage(Stage):
    """A stage that runs a network on every image.

    Args:
        segmenter: the network, in eval mode on the device of the run; None for a stage that only summarises rows that
            are there already.

    Raises:
        ModelError: it is no segmenter (:func:`certseg.types.segmenter_of`).
    """

    def __init__(self, segmenter: Segmenter | None) -> None:
        self._network = None if segmenter is None else segmenter_of(segmenter)

    @property
    def _segmenter(self) -> Segmenter:
        """The network.

        Raises:
            ConfigError: the stage was built without one.
        """
        if self._network is None:
            raise ConfigError(
                f"The stage {self.name} has no network: it can summarise finished rows, but not work on an image",
                remedy="Build the stage with a segmenter",
            )
        return self._network
