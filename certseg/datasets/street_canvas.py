"""The camera, the weather and the canvas of a procedural street scene.

World coordinates in metres: ``u`` to the right of the road's middle line, ``y`` above the ground, ``z`` ahead of the
camera along the road, which may bend. The canvas is drawn at twice the final resolution. :class:`Camera` projects,
:class:`Weather` colours, :class:`Canvas` is drawn on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import ArrayLike

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

    @overload
    def lateral(self, z: float) -> float: ...
    @overload
    def lateral(self, z: np.ndarray) -> np.ndarray: ...
    def lateral(self, z: float | np.ndarray) -> float | np.ndarray:
        """Metres to the right of the camera axis of the road's middle line at depth ``z``."""
        return self.offset + self.yaw * z + 0.5 * self.bend * z * z

    def project(self, u: ArrayLike, y: ArrayLike, z: ArrayLike) -> np.ndarray:
        """Canvas positions ``... x 2`` (column, row) of points; the arguments broadcast."""
        depth = np.maximum(z, NEAREST)
        scale = self.focal / depth
        dx = scale * (np.asarray(u) + self.lateral(depth))
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
    """Light and air; colours are RGB, 0 to 255.

    Args:
        light: factor on every surface colour, one per channel.
        sun: strength of the shadows, 0 (overcast, none) to 1.
        haze: colour distant things fade to.
        visibility: metres after which a colour has faded to 1/e.
        zenith: colour at the top of the sky.
        clouds: how much of the sky they cover, 0 (none) to 1.
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
        shape: rows and columns of the canvas.
        camera: where things are seen from.
        weather: the light they are seen in.
    """

    def __init__(self, shape: tuple[int, int], camera: Camera, weather: Weather):
        self.camera, self.weather = camera, weather
        self.image = np.zeros((*shape, 3), dtype=np.uint8)
        self.labels = np.full(shape, SKY, dtype=np.uint8)

    def shade(self, colour: ArrayLike, z: float) -> np.ndarray:
        """``colour`` (RGB, or one per row) as seen at depth ``z`` in this weather."""
        clear = math.exp(-z / self.weather.visibility)
        seen = np.asarray(colour) * (self.weather.light * clear) + self.weather.haze * (1 - clear)
        return np.minimum(np.maximum(seen, 0), 255)

    def polygons(self, corners: Iterable[np.ndarray], colour: ArrayLike, z: float, label: int | None) -> None:
        """Fill polygons given by canvas positions; ``label`` None leaves the labels as they are."""
        shade = self.shade(np.asarray(colour, dtype=np.float64), z).tolist()
        for polygon in corners:
            points = [_fixed(polygon)]
            cv2.fillPoly(self.image, points, shade, shift=_SHIFT)
            if label is not None:
                cv2.fillPoly(self.labels, points, label, shift=_SHIFT)

    def surface(self, points: ArrayLike, colour: ArrayLike, label: int | None) -> None:
        """Fill one polygon given by world points ``(u, y, z)``."""
        corners = np.array(points, dtype=np.float64)
        depth = max(NEAREST, float(corners[:, 2].sum()) / len(corners))
        self.polygons([self.camera.project(corners[:, 0], corners[:, 1], corners[:, 2])], colour, depth, label)

    def upright(self, points: ArrayLike, z: float, colour: ArrayLike, label: int | None) -> None:
        """Fill one polygon that faces the camera, given by world points ``(u, y)`` at one depth."""
        corners = np.array(points, dtype=np.float64)
        self.polygons([self.camera.project(corners[:, 0], corners[:, 1], z)], colour, z, label)

    def discs(
        self,
        u: ArrayLike,
        y: ArrayLike,
        z: float,
        radius: ArrayLike,
        colours: np.ndarray,
        label: int,
        squeeze: float | np.ndarray = 1.0,
    ) -> None:
        """Fill ellipses that face the camera at one depth, one after the other.

        Args:
            u: metres to the right of the road's middle line of the centres, ``N`` values or one for all.
            y: metres above the ground of the centres, ``N`` values or one for all.
            z: depth in metres.
            radius: half the width in metres, ``N`` values or one for all.
            colours: ``N x 3`` RGB colours, 0 to 255.
            label: class id of all.
            squeeze: height over width, ``N`` values or one for all; 1 by default.
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

    def disc(
        self, u: float, y: float, z: float, radius: float, colour: ArrayLike, label: int, squeeze: float = 1.0
    ) -> None:
        """Fill one ellipse that faces the camera, ``2 * radius`` metres wide and ``squeeze`` times as high, with its
        centre at ``(u, y, z)``."""
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
