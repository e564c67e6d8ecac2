"""Streets: procedural street scenes with 8 classes, drawn on demand; needs no files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from certseg.checks import check_count, checked_size
from certseg.datasets.files import Legend, checked_split, digest
from certseg.datasets.reading import to_sample
from certseg.datasets.street_scene import draw
from certseg.errors import ConfigError
from certseg.types import Sample

CLASS_NAMES = ("road", "sidewalk", "building", "pole", "vegetation", "sky", "person", "car")
PALETTE = (
    (128, 64, 128),
    (244, 35, 232),
    (70, 70, 70),
    (220, 220, 0),
    (107, 142, 35),
    (70, 130, 180),
    (220, 20, 60),
    (0, 0, 142),
)
COUNTS = {"train": 300, "val": 50, "test": 100}
DRAWING = 1  # raise whenever the drawing changes a pixel
_SMALLEST = 16
_CACHE_BYTES = 2**29


class Streets:
    """Street scenes drawn by numpy and OpenCV: the same ``(seed, split, index, size)`` gives the same sample.

    The bonnet of the camera's own car, where there is one, carries the ignore index. Scenes are drawn when first asked
    for and kept in memory while the whole split fits into half a gigabyte.

    Args:
        split: name of the split, ``train``, ``val`` or ``test``; splits share no scene.
        size: ``[height, width]`` in pixels, at least 16 each; 128 x 256 by default.
        count: number of scenes; None for 300 in ``train``, 50 in ``val`` and 100 in ``test``. A smaller count gives the
            first scenes of a larger one.
        seed: integer >= 0; another seed gives other scenes.

    Raises:
        ConfigError: size, count or seed is out of range.
        DataError: the split is unknown.

    >>> sample = Streets(size=(16, 32), count=1)[0]
    >>> sample.name, sample.image.shape, sample.target.shape
    ('test_0000', torch.Size([3, 16, 32]), torch.Size([16, 32]))
    """

    name = "streets"
    class_names = CLASS_NAMES
    palette = PALETTE

    def __init__(self, split: str = "test", size: Sequence[int] = (128, 256), count: int | None = None, seed: int = 0):
        self.split = checked_split(split, COUNTS, "streets")
        checked = checked_size("dataset.size", size)
        if min(checked) < _SMALLEST:
            raise ConfigError(
                "dataset.size is too small for streets",
                expected=f"[height, width] of at least {_SMALLEST}",
                received=size,
            )
        self.size = checked
        for option, value, lowest in (("count", COUNTS[split] if count is None else count, 1), ("seed", seed, 0)):
            check_count(f"dataset.{option}", value, lowest)
        self.count = COUNTS[split] if count is None else count
        self.seed = seed
        self._drawn: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._keep = self.count * checked[0] * checked[1] * 4 <= _CACHE_BYTES

    @classmethod
    def legend(cls, **settings: Any) -> Legend:
        """The eight classes, which do not depend on the constructor's arguments ``settings``."""
        return Legend(cls.name, cls.class_names, cls.palette)

    def __len__(self) -> int:
        """Number of scenes."""
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """Draw one scene, or take it from memory."""
        position = range(self.count)[index]
        scene = self._drawn.get(position)
        if scene is None:
            stream = np.random.SeedSequence([self.seed, list(COUNTS).index(self.split), position])
            scene = draw(np.random.default_rng(stream), self.size)
            if self._keep:
                self._drawn[position] = scene
        return to_sample(f"{self.split}_{position:04d}", *scene)

    def names(self) -> tuple[str, ...]:
        """The names of all scenes, in order."""
        return tuple(f"{self.split}_{index:04d}" for index in range(self.count))

    def fingerprint(self) -> str:
        """Hex digest of everything the scenes depend on."""
        return digest(self.name, DRAWING, self.split, self.size, self.count, self.seed)
