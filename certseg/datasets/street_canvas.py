"""The camera, the weather and the canvas of a procedural street scene.

World coordinates in metres: ``u`` to the right of the road's middle line, ``y`` above the ground, ``z`` ahead of the
camera along the road, which may bend. The canvas is drawn at twice the final resolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from certseg.compute.opencv import cv2

ROAD, SIDEWALK, BUILDING, POLE, VEGETATION, SKY, PERSON, CAR = range(8)
SUPERSAMPLING = 2
NEAREST = 1.2  # metres; nothing is projected from closer
_SHIFT = 4  # fractional bits of cv2's polygon corners
_LIMIT = 1 << 14  # pixels; keeps corners inside cv2's integers
_ANGLES = np.linspace(0, 2 * np.pi, 13)[:-1]
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=-1)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera above a bending road.

    Args:
        focal: focal length in canvas pixels.
        centre: column and row of the vanishing point of a straight road.
        height: metres above the ground.
        bend: curvature of the road in 1/m.
        yaw: slope of the viewing direction against the road.
        offset: metres from the camera to the road's middle line.
        roll: rotation around the vanishing point in radians.
    """

    focal: float
    centre: tuple[float, float]
    height: float
    bend: float
    yaw: float
    offset: float
    roll: float

    def lateral(self, z):
        """Metres to the right of the camera axis of the road's middle line at depth ``z``."""
        return self.offset + self.yaw * z + 0.5 * self.bend * z * z

    def project(self, u, y, z) -> np.ndarray:
        """Canvas positions ``... x 2`` (column, row) of points; the arguments broadcast."""
        z = np.maximum(z, NEAREST)
        scale = self.focal / z
        dx = scale * (np.asarray(u) + self.lateral(z))
        dy = scale * (self.height - np.asarray(y))
        cos, sin = math.cos(self.roll), math.sin(self.roll)
        position = np.empty((*np.broadcast_shapes(dx.shape, dy.shape), 2))
        position[..., 0] = self.centre[0] + cos * dx - sin * dy
        position[..., 1] = self.centre[1] + sin * dx + cos * dy
        return position

    def ground(self, shape: tuple[int, int], farthest: float) -> tuple[int, np.ndarray, np.ndarray]:
        """What the lower part of the canvas would see of bare ground.

        Returns:
            ``(top, u, z)``: the first row with ground in it, and for each pixel from there down the ground's position,
            float32, where ``z`` is ``farthest`` at and above the horizon.
        """
        middle, horizon = self.centre
        top = min(max(0, math.floor(horizon - self._drop(shape))), shape[0] - 1)
        columns = np.arange(shape[1], dtype=np.float32)[None] + np.float32(0.5 - middle)
        rows = np.arange(top, shape[0], dtype=np.float32)[:, None] + np.float32(0.5 - horizon)
        cos, sin = np.float32(math.cos(self.roll)), np.float32(math.sin(self.roll))
        dx, dy = cos * columns + sin * rows, cos * rows - sin * columns
        lowest = np.float32(self.focal * self.height / farthest)
        z = np.float32(self.focal * self.height) / np.maximum(dy, lowest)
        return top, dx * z / np.float32(self.focal) - self.lateral(z), z

    def lowest_horizon(self, shape: tuple[int, int]) -> int:
        """The first row below which there is only ground."""
        return math.ceil(self.centre[1] + self._drop(shape))

    def _drop(self, shape: tuple[int, int]) -> float:
        return abs(math.tan(self.roll)) * max(self.centre[0], shape[1] - self.centre[0])

    def scale(self, z: float) -> float:
        """Canvas pixels per metre at depth ``z``."""
        return self.focal / max(z, NEAREST)


@dataclass(frozen=True)
class Weather:
    """Light and air.

    Args:
        light: factor on every surface colour, RGB.
        sun: 0 (overcast, no shadows) to 1.
        haze: colour distant things fade to, RGB 0 to 255.
        visibility: metres after which a colour has faded to 1/e.
        zenith: colour at the top of the sky.
        clouds: 0 (none) to 1.
    """

    light: np.ndarray
    sun: float
    haze: np.ndarray
    visibility: float
    zenith: np.ndarray
    clouds: float


class Canvas:
    """Image and labels under construction, far things first.

    Args:
        shape: canvas rows and columns.
        camera, weather: how things are seen.
    """

    def __init__(self, shape: tuple[int, int], camera: Camera, weather: Weather):
        self.camera, self.weather = camera, weather
        self.image = np.zeros((*shape, 3), dtype=np.uint8)
        self.labels = np.full(shape, SKY, dtype=np.uint8)

    def shade(self, colour, z: float) -> np.ndarray:
        """``colour`` (RGB, or one per row) as seen at depth ``z`` in this weather."""
        clear = math.exp(-z / self.weather.visibility)
        seen = colour * (self.weather.light * clear) + self.weather.haze * (1 - clear)
        return np.minimum(np.maximum(seen, 0), 255)

    def polygons(self, corners: Iterable[np.ndarray], colour, z: float, label: int | None) -> None:
        """Fill polygons given by canvas positions; ``label`` None leaves the labels as they are."""
        shade = self.shade(np.asarray(colour, dtype=np.float64), z).tolist()
        for polygon in corners:
            points = [_fixed(polygon)]
            cv2.fillPoly(self.image, points, shade, shift=_SHIFT)
            if label is not None:
                cv2.fillPoly(self.labels, points, label, shift=_SHIFT)

    def surface(self, points, colour, label: int | None) -> None:
        """Fill one polygon given by world points ``(u, y, z)``."""
        points = np.array(points, dtype=np.float64)
        depth = max(NEAREST, float(points[:, 2].sum()) / len(points))
        self.polygons([self.camera.project(points[:, 0], points[:, 1], points[:, 2])], colour, depth, label)

    def upright(self, points, z: float, colour, label: int | None) -> None:
        """Fill one polygon that faces the camera, given by world points ``(u, y)`` at one depth."""
        points = np.array(points, dtype=np.float64)
        self.polygons([self.camera.project(points[:, 0], points[:, 1], z)], colour, z, label)

    def discs(self, u, y, z: float, radius, colours: np.ndarray, label: int, squeeze=1.0) -> None:
        """Fill ellipses that face the camera at one depth, one after the other.

        Args:
            u, y: centres in metres, arrays of length ``N`` or numbers.
            z: depth.
            radius: half the width in metres, ``N`` or a number.
            colours: ``N x 3``.
            label: class id.
            squeeze: height over width, ``N`` or a number.
        """
        count = len(colours)
        centres = np.broadcast_to(self.camera.project(u, y, z), (count, 2))
        wide = np.broadcast_to(np.asarray(radius) * self.camera.scale(z), count)
        tall = wide * squeeze
        outlines = centres[:, None] + _CIRCLE * np.stack([wide, tall], axis=-1)[:, None]
        shades = self.shade(colours, z).tolist()
        for outline, shade in zip(_fixed(outlines), shades):
            cv2.fillConvexPoly(self.image, outline, shade, shift=_SHIFT)
            cv2.fillConvexPoly(self.labels, outline, label, shift=_SHIFT)

    def disc(self, u: float, y: float, z: float, radius: float, colour, label: int, squeeze: float = 1.0) -> None:
        """Fill one ellipse that faces the camera; arguments as in :meth:`discs`."""
        self.discs(u, y, z, radius, np.array([colour], dtype=np.float64), label, squeeze)


def _fixed(points: np.ndarray) -> np.ndarray:
    # cv2 puts integer positions at pixel centres, the camera at pixel corners
    return np.rint((np.minimum(np.maximum(points, -_LIMIT), _LIMIT) - 0.5) * (1 << _SHIFT)).astype(np.int32)


def mask_of(shape: tuple[int, int], corners: list[np.ndarray]) -> np.ndarray:
    """``rows x columns`` uint8, 255 inside any of the polygons given by canvas positions."""
    mask = np.zeros(shape, dtype=np.uint8)
    for polygon in corners:
        cv2.fillPoly(mask, [_fixed(polygon)], 255, shift=_SHIFT)
    return mask


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """``rows x columns`` float32 noise of mean 0 and deviation about 1 whose grains are ``cell`` pixels wide."""
    grid = (max(2, round(shape[0] / cell)), max(2, round(shape[1] / cell)))
    coarse = rng.standard_normal(grid, dtype=np.float32)
    if cell <= 1:
        return coarse
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
