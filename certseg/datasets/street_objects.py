"""What stands in a procedural street: functions that draw a building, tree, hedge, car, person or pole on a canvas."""

from __future__ import annotations

import numpy as np

from certseg.datasets.street_canvas import BUILDING, CAR, NEAREST, PERSON, POLE, VEGETATION, Canvas

_GLASS = np.array([62.0, 74.0, 88.0])
FINE = 9.0  # canvas pixels per metre below which details are left out
BUS = 2.4  # metres: higher vehicles have upright walls
_CLEARANCE = 0.22
_TYRE = np.array([24.0, 24.0, 26.0])


def building(canvas: Canvas, rng: np.random.Generator, side: int, wall: float, near: float, far: float) -> None:
    """A house with its front along the road at ``u = side * wall`` from depth ``near`` to ``far``."""
    height = rng.uniform(5, 19)
    base = _facade_colour(rng)
    u = side * wall
    _gable(canvas, rng, u, side, near, height, base)
    z = np.linspace(far, max(near, NEAREST), 5)
    floor_z = np.concatenate([z, z[::-1]])
    heights = np.concatenate([np.zeros(5), np.full(5, height)])
    lit = 0.85 + 0.15 * side * rng.choice([-1, 1])
    canvas.surface(np.stack([np.full(10, u), heights, floor_z], axis=1), base * lit, BUILDING)
    if near < 70:
        _windows(canvas, rng, u, near, far, height, base * lit)


def _facade_colour(rng: np.random.Generator) -> np.ndarray:
    kinds = np.array(
        [
            [168, 96, 78],
            [196, 178, 146],
            [150, 150, 152],
            [214, 206, 196],
            [120, 104, 92],
            [176, 150, 110],
            [98, 108, 120],
        ]
    )
    return kinds[rng.integers(len(kinds))] * rng.uniform(0.75, 1.1) + rng.uniform(-14, 14, 3)


def _gable(
    canvas: Canvas, rng: np.random.Generator, u: float, side: int, near: float, height: float, base: np.ndarray
) -> None:
    """The wall across the road direction, and the roof's end above it."""
    if near <= NEAREST:
        return
    deep = u + side * rng.uniform(7, 16)
    wall = [(u, 0, near), (deep, 0, near), (deep, height, near), (u, height, near)]
    canvas.surface(wall, base * 0.72, BUILDING)
    if rng.random() < 0.4:
        top = height + rng.uniform(1.5, 4)
        roof = [(u, height, near), (deep, height, near), ((u + deep) / 2, top, near)]
        canvas.surface(roof, np.array([120, 66, 54]) * rng.uniform(0.6, 1.1), BUILDING)


def _windows(
    canvas: Canvas, rng: np.random.Generator, u: float, near: float, far: float, height: float, base: np.ndarray
) -> None:
    storey, bay = rng.uniform(2.8, 3.6), rng.uniform(2.2, 4.0)
    width, tall = bay * rng.uniform(0.35, 0.65), storey * rng.uniform(0.4, 0.65)
    start = max(near, NEAREST + 0.3)
    left = np.arange(start + (bay - width) / 2, min(far, start + 60) - width, bay)
    bottom = np.arange(0.9 + (rng.random() < 0.4) * storey, height - tall - 0.2, storey)
    if not len(left) or not len(bottom):
        return
    z, y = (grid.ravel() for grid in np.meshgrid(left, bottom))
    corners_z = z[:, None] + width * np.array([0, 1, 1, 0])
    corners_y = y[:, None] + tall * np.array([0, 0, 1, 1])
    panes = canvas.camera.project(u, corners_y, corners_z)
    colours = (_GLASS * rng.uniform(0.5, 1.2), _GLASS * rng.uniform(1.1, 1.9), base * rng.uniform(1.1, 1.3))
    kind = rng.choice(3, size=len(panes), p=[0.62, 0.28, 0.10])
    for index, colour in enumerate(colours):
        chosen = list(panes[kind == index])
        if chosen:
            canvas.polygons(chosen, colour, float(z.mean()), BUILDING)
    if rng.random() < 0.5:  # a shop on the ground floor
        ends = np.array([start, far])
        for low, high, colour in ((0.4, 2.3, _GLASS * 0.7), (2.4, 3.0, _dye(rng))):
            band = [(u, low, ends[0]), (u, low, ends[1]), (u, high, ends[1]), (u, high, ends[0])]
            canvas.surface(band, colour, BUILDING)


def _dye(rng: np.random.Generator) -> np.ndarray:
    """A colour of cloth: mostly grey, sometimes vivid."""
    return rng.uniform(25, 205) + rng.uniform(0, 1) ** 1.5 * rng.uniform(-90, 90, 3)


def tree(canvas: Canvas, rng: np.random.Generator, u: float, z: float) -> None:
    """A tree whose crown is a heap of leaf clusters, darker below."""
    trunk, crown = rng.uniform(1.6, 2.8), rng.uniform(1.2, 2.8)
    thick = rng.uniform(0.10, 0.22)
    bark = np.array([74, 60, 48]) * rng.uniform(0.7, 1.2)
    top = trunk + 0.8 * crown
    stem = [(u - thick, 0), (u + thick, 0), (u + thick / 2, top), (u - thick / 2, top)]
    canvas.upright(stem, z, bark, VEGETATION)
    green = _leaf_colour(rng)
    seen = canvas.camera.scale(z) * crown  # the finer, the larger it is in the image
    clusters = 34 if seen > 30 else 16 if seen > 12 else 6
    across, up = rng.normal(0, 0.45, (2, clusters)).clip(-1, 1)
    up.sort()
    colours = green * (0.82 + 0.3 * up + rng.uniform(-0.16, 0.16, clusters))[:, None]
    radii = crown * rng.uniform(0.2, 0.42, clusters) * (34 / clusters) ** 0.3
    centres = u + across * crown, trunk + crown * (0.9 + up)
    canvas.discs(*centres, z, radii, colours, VEGETATION, rng.uniform(0.7, 1.1, clusters))


def hedge(canvas: Canvas, rng: np.random.Generator, u: float, near: float, far: float) -> None:
    """A row of bushes along the road."""
    green, height = _leaf_colour(rng) * 0.85, rng.uniform(0.5, 1.5)
    for z in np.arange(far, max(near, NEAREST + 1), -0.55 * height - 0.2):
        radius = height * rng.uniform(0.5, 0.75)
        canvas.disc(u + rng.normal(0, 0.15), radius * 0.8, z, radius, green * rng.uniform(0.8, 1.2), VEGETATION)


def _leaf_colour(rng: np.random.Generator) -> np.ndarray:
    kinds = np.array([[70, 98, 46], [92, 112, 52], [56, 84, 52], [126, 112, 52], [150, 104, 48]])
    return kinds[rng.choice(5, p=[0.35, 0.25, 0.25, 0.1, 0.05])] * rng.uniform(0.7, 1.15)


def _box(left: float, right: float, low: float, high: float) -> list[tuple[float, float]]:
    return [(left, low), (right, low), (right, high), (left, high)]


def car(canvas: Canvas, rng: np.random.Generator, u: float, z: float, away: bool) -> None:
    """A car, van or bus whose near end is at depth ``z``; ``away`` shows its tail lights."""
    length, width, height = _car_size(rng)
    paint = _paint(rng)
    belt = 0.56 * height if height < 2 else 0.42 * height
    inset = 0.0 if height > BUS else rng.uniform(0.08, 0.2)
    left, right = u - width / 2, u + width / 2
    seen, corner = (right, right - inset) if u + canvas.camera.lateral(z) < 0 else (left, left + inset)
    below = [(left, 0, z), (right, 0, z), (right, 0, z + length), (left, 0, z + length)]
    canvas.surface(below, (22, 22, 24), None)
    _car_side(canvas, seen, corner, z, (length, height, belt), paint)
    canvas.upright(_box(left, right, _CLEARANCE, belt), z, paint * 0.92, CAR)
    roof = [(left, belt, z), (right, belt, z), (right - inset, height, z + 0.1), (left + inset, height, z + 0.1)]
    canvas.surface(roof, paint * 0.85, CAR)
    high = height - 0.14
    pane = [(left + 0.12, belt), (right - 0.12, belt), (right - inset - 0.1, high), (left + inset + 0.1, high)]
    canvas.upright(pane, z, _GLASS * rng.uniform(0.5, 1.1), CAR)
    if canvas.camera.scale(z) < FINE:
        return
    lamp = (196, 30, 26) if away else (250, 246, 222)
    for edge, inward in ((left, 1), (right, -1)):
        canvas.upright(_box(edge, edge + inward * 0.3, belt - 0.3, belt - 0.1), z, lamp, CAR)
        canvas.upright(_box(edge, edge + inward * 0.2, 0, _CLEARANCE + 0.08), z, _TYRE, CAR)
    canvas.upright(_box(left, right, 0.2, 0.36), z, paint * 0.45, CAR)
    canvas.upright(_box(u - 0.26, u + 0.26, 0.4, 0.52), z, (220, 218, 205), CAR)


def _car_size(rng: np.random.Generator) -> tuple[float, float, float]:
    kind = rng.choice(3, p=[0.8, 0.14, 0.06])
    length, width, height = ((4.2, 1.78, 1.48), (5.2, 1.95, 2.1), (9.0, 2.45, 3.0))[kind]
    return tuple(np.array([length, width, height]) * rng.uniform(0.93, 1.08, 3))


def _paint(rng: np.random.Generator) -> np.ndarray:
    kinds = np.array(
        [
            [32, 34, 38],
            [188, 190, 192],
            [112, 116, 120],
            [226, 226, 224],
            [142, 30, 30],
            [36, 62, 116],
            [58, 84, 66],
            [176, 140, 60],
        ]
    )
    return kinds[rng.choice(8, p=[0.2, 0.18, 0.2, 0.16, 0.09, 0.1, 0.04, 0.03])] * rng.uniform(0.8, 1.1)


def _car_side(
    canvas: Canvas, u: float, corner: float, z: float, size: tuple[float, float, float], paint: np.ndarray
) -> None:
    """The long side of a car in the plane ``u``; ``corner`` is where the near end's roof meets it."""
    length, height, belt = size
    end = z + length
    slope, bonnet = (0.0, 0.0) if height > BUS else (0.5, 1.0)
    canvas.surface([(u, _CLEARANCE, z), (u, _CLEARANCE, end), (u, belt, end), (u, belt, z)], paint, CAR)
    front, back = z + 0.1, end - bonnet
    canvas.surface([(u, belt, z), (corner, height, front), (u, height, front + slope)], paint * 0.7, CAR)
    cabin = [(u, belt, z), (u, belt, back), (u, height, back - slope), (u, height, front + slope)]
    canvas.surface(cabin, paint * 0.9, CAR)
    low, high = belt + 0.05, height - 0.12
    pane = [(u, low, z + 0.4), (u, low, back - 0.2), (u, high, back - slope - 0.1), (u, high, z + 0.4 + slope)]
    canvas.surface(pane, _GLASS * 0.6, CAR)
    if canvas.camera.scale(z) < FINE:
        return
    angles = np.linspace(0, 2 * np.pi, 13)[:-1]
    for axle in (z + 0.8, end - 0.8):
        wheel = np.stack([np.full(12, u), 0.33 + 0.33 * np.sin(angles), axle + 0.33 * np.cos(angles)], axis=1)
        canvas.surface(wheel, _TYRE, CAR)
        hub = np.stack([np.full(12, u), 0.33 + 0.17 * np.sin(angles), axle + 0.17 * np.cos(angles)], axis=1)
        canvas.surface(hub, (112, 112, 116), CAR)


def person(canvas: Canvas, rng: np.random.Generator, u: float, z: float) -> None:
    """A pedestrian, standing or walking."""
    tall = rng.uniform(1.5, 1.9) if rng.random() < 0.85 else rng.uniform(1.0, 1.4)
    coat, trousers = _dye(rng), _dye(rng) * 0.6
    skin = np.array([206, 164, 136]) * rng.uniform(0.45, 1.1)
    stride, broad = rng.uniform(0, 0.28), tall * rng.uniform(0.11, 0.15)
    hip, shoulder = 0.47 * tall, 0.83 * tall
    for way in (-1, 1):
        foot, hand = u + way * stride, u + way * (broad + rng.uniform(0.02, 0.16))
        leg = [(u + way * 0.02, hip), (u + way * broad * 0.9, hip), (foot + way * 0.1, 0), (foot - way * 0.04, 0)]
        canvas.upright(leg, z, trousers * (1 if way > 0 else 0.8), PERSON)
        if canvas.camera.scale(z) < FINE:
            continue
        inner, outer = u + way * broad * 0.8, u + way * broad * 1.15
        arm = [(inner, shoulder), (outer, shoulder), (hand + 0.04, hip), (hand - 0.04, hip)]
        canvas.upright(arm, z, coat * 0.8, PERSON)
    waist = broad * 0.85
    torso = [(u - broad, shoulder), (u + broad, shoulder), (u + waist, hip - 0.06), (u - waist, hip - 0.06)]
    canvas.upright(torso, z, coat, PERSON)
    canvas.disc(u, 0.925 * tall, z, 0.068 * tall, skin, PERSON, 1.2)
    if canvas.camera.scale(z) < FINE:
        return
    canvas.disc(u, 0.955 * tall, z, 0.064 * tall, rng.uniform(15, 110) * np.ones(3), PERSON, 0.8)


def pole(canvas: Canvas, rng: np.random.Generator, u: float, z: float) -> None:
    """A lamp post with an arm over the road, a traffic light, or a pole with a sign."""
    grey = np.array([112, 114, 114]) * rng.uniform(0.5, 1.3)
    kind = rng.choice(3, p=[0.35, 0.2, 0.45])
    height = (rng.uniform(5, 8), rng.uniform(2.8, 3.6), rng.uniform(2.2, 3.0))[kind]
    # far away at least 0.8 pixels of the final image wide, so that its label is visible in the image too
    half = max(rng.uniform(0.06, 0.12), 0.8 / canvas.camera.scale(z))
    canvas.upright(_box(u - half, u + half, 0, height), z, grey, POLE)
    if kind == 0:
        reach = u - np.sign(u) * rng.uniform(1.0, 2.4)
        arm = [(u, height), (reach, height + 0.4), (reach, height + 0.25), (u, height - 2 * half)]
        canvas.upright(arm, z, grey, POLE)
        canvas.disc(reach, height + 0.25, z, 0.3, (214, 212, 190), POLE, 0.45)
    elif kind == 1:
        canvas.upright(_box(u - 0.17, u + 0.17, height - 0.1, height + 0.85), z, (30, 32, 30), POLE)
        lit = rng.integers(3)
        for index, colour in enumerate(((40, 210, 120), (240, 180, 40), (230, 40, 30))):
            canvas.disc(u, height + 0.08 + 0.28 * index, z, 0.1, np.array(colour) * (1 if index == lit else 0.25), POLE)
    else:
        _sign(canvas, rng, u, height, z)


def _sign(canvas: Canvas, rng: np.random.Generator, u: float, y: float, z: float) -> None:
    rim = np.array([[196, 36, 32], [36, 72, 160], [232, 230, 224], [226, 186, 40]])[rng.integers(4)]
    inner = np.array([[232, 230, 226], [40, 76, 168], [30, 30, 30]])[rng.integers(3)]
    shape, r = rng.integers(3), rng.uniform(0.3, 0.45)
    if shape == 0:
        canvas.disc(u, y, z, r, rim, POLE)
        canvas.disc(u, y, z, 0.68 * r, inner, POLE)
        return
    corners = np.array([[-1, -0.8], [1, -0.8], [0, 1]] if shape == 1 else _box(-1, 1, -1, 1))
    for scale, colour in ((r, rim), (0.62 * r, inner)):
        canvas.upright((u, y) + scale * corners, z, colour, POLE)
