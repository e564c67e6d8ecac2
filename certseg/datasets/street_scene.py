"""One procedural street scene: :func:`draw` composes weather, camera, sky, ground, everything that stands, sensor."""

from __future__ import annotations

import numpy as np

from certseg.compute.opencv import cv2
from certseg.datasets import street_objects as things
from certseg.datasets.street_canvas import (
    BUILDING,
    CAR,
    PERSON,
    POLE,
    ROAD,
    SIDEWALK,
    SKY,
    SUPERSAMPLING,
    VEGETATION,
    Camera,
    Canvas,
    Weather,
    mask_of,
    smooth_noise,
)
from certseg.types import IGNORE_INDEX

FARTHEST = 140.0  # metres


class Street:
    """The plan of a street, drawn at random.

    All widths are in metres; ``verge`` is the strip between sidewalk and walls on either side, and ``green`` says on
    which side a park takes the place of most houses.
    """

    def __init__(self, rng: np.random.Generator):
        self.lanes = int(rng.choice([2, 2, 3, 4]))
        self.lane = rng.uniform(2.9, 3.6)
        self.half = self.lanes * self.lane / 2 + rng.uniform(0.2, 2.2)
        self.sidewalk = rng.uniform(1.6, 4.0, 2)
        self.verge = np.where(rng.random(2) < 0.45, rng.uniform(0.8, 5.0, 2), 0.0)
        self.green = rng.random(2) < 0.25
        self.phase = rng.uniform(0, 50)

    def wall(self, side: int) -> float:
        """Metres from the road's middle to the walls on ``side`` (-1 left, 1 right)."""
        index = (side + 1) // 2
        return self.half + self.sidewalk[index] + self.verge[index]


def draw(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Image ``H x W x 3`` uint8 RGB and labels ``H x W`` uint8 of a new scene."""
    shape = (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING)
    street, camera, weather = Street(rng), _camera(rng, shape), _weather(rng)
    canvas = Canvas(shape, camera, weather)
    _sky(canvas, rng)
    _skyline(canvas, rng)
    plan = _plan(street, rng)
    _ground(canvas, rng, street, plan)
    for _, draw_thing, where in sorted(plan, key=lambda entry: -entry[0]):
        draw_thing(canvas, rng, *where)
    image = _texture(canvas, rng)
    labels = canvas.labels.copy()
    if rng.random() < 0.6:
        _bonnet(image, labels, rng)
    return _sensor(image, size, rng), labels[::SUPERSAMPLING, ::SUPERSAMPLING].copy()


def _camera(rng: np.random.Generator, shape: tuple[int, int]) -> Camera:
    focal = rng.uniform(0.72, 0.95) * float(np.sqrt(shape[0] * shape[1] / 2))
    return Camera(
        focal=focal,
        centre=(shape[1] * rng.uniform(0.42, 0.58), shape[0] * rng.uniform(0.42, 0.54)),
        height=rng.uniform(1.3, 2.0),
        bend=rng.normal(0, 0.0022),
        yaw=rng.normal(0, 0.03),
        offset=rng.uniform(-2.6, 0.6),
        roll=rng.normal(0, 0.012),
    )


def _weather(rng: np.random.Generator) -> Weather:
    kind = rng.choice(4, p=[0.4, 0.3, 0.15, 0.15])
    light = (
        np.array([1.08, 1.05, 0.98]),
        np.array([0.86, 0.88, 0.9]),
        np.array([0.9, 0.9, 0.88]),
        np.array([0.72, 0.56, 0.5]),
    )
    haze = ([196, 210, 224], [190, 194, 198], [208, 208, 204], [214, 164, 128])
    zenith = ([92, 140, 206], [168, 174, 182], [192, 196, 200], [92, 96, 140])
    visibility = (rng.uniform(120, 400), rng.uniform(80, 250), rng.uniform(28, 70), rng.uniform(70, 200))
    dim = rng.uniform(0.75, 1.1)
    return Weather(
        light=light[kind] * dim,
        sun=(rng.uniform(0.6, 1.0), 0.0, 0.0, rng.uniform(0.2, 0.6))[kind],
        haze=np.array(haze[kind]) * min(1.1, dim + 0.05),
        visibility=visibility[kind],
        zenith=np.array(zenith[kind]) * dim,
        clouds=rng.uniform(0, 1) if kind != 2 else 0.0,
    )


def _sky(canvas: Canvas, rng: np.random.Generator) -> None:
    shape = canvas.labels.shape
    rows, columns = min(canvas.camera.lowest_horizon(shape) + 2, shape[0]), shape[1]
    zenith, haze = canvas.weather.zenith.astype(np.float32), canvas.weather.haze.astype(np.float32)
    height = np.clip(np.arange(rows, dtype=np.float32) / canvas.camera.centre[1], 0, 1)[:, None, None] ** 1.3
    sky = zenith * (1 - height) + haze * height  # rows x 1 x 3
    bulk = smooth_noise(rng, (rows, columns), columns / 7) + 0.5 * smooth_noise(rng, (rows, columns), columns / 22)
    cover = np.clip(bulk - np.float32(1.1 - 1.6 * canvas.weather.clouds), 0, 1)[..., None] * np.float32(0.8)
    cloud = np.minimum(haze * np.float32(1.08) + 12, 255)
    canvas.image[:rows] = np.clip(sky + (cloud - sky) * cover, 0, 255)


def _skyline(canvas: Canvas, rng: np.random.Generator) -> None:
    """Distant houses and woods on the horizon."""
    position = -120.0
    while position < 120:
        width, tall = rng.uniform(6, 26), rng.uniform(3, 16)
        wood = rng.random() < 0.5
        colour = np.array([70, 90, 60]) if wood else rng.uniform(90, 170) * np.array([1.0, 0.96, 0.9])
        steps = np.linspace(0, width, 7)
        top = tall * (0.7 + 0.3 * rng.random(7)) if wood else np.full(7, tall)
        outline = [(position, 0), (position + width, 0), *zip(position + steps[::-1], top)]
        points = [(u - canvas.camera.lateral(FARTHEST), y, FARTHEST) for u, y in outline]
        canvas.surface(points, colour, VEGETATION if wood else BUILDING)
        position += width * rng.uniform(0.7, 1.1)


def _plan(street: Street, rng: np.random.Generator) -> list:
    """What stands where: ``(sort depth, function, its place)``, drawn in the order of falling depth."""
    plan: list = []
    for side in (-1, 1):
        _plan_walls(plan, street, rng, side)
        _plan_sidewalk(plan, street, rng, side)
        _plan_cars(plan, street, rng, side)
    for _ in range(rng.poisson(0.5)):  # somebody crosses
        z = rng.uniform(7, 40)
        plan.append((z, things.person, (rng.uniform(-1, 1) * street.half, z)))
    return plan


def _plan_walls(plan: list, street: Street, rng: np.random.Generator, side: int) -> None:
    wall, z = street.wall(side), -4.0
    green = street.green[(side + 1) // 2]
    while z < FARTHEST - 10:
        length = rng.uniform(7, 24)
        if rng.random() < (0.75 if green else 0.12):  # a garden or park instead of a house
            plan.append((z + length, things.hedge, (side * (wall + 0.6), z, z + length)))
            for tree_z in np.arange(max(z, 4), z + length, rng.uniform(3, 6)):
                plan.append((tree_z + 0.3, things.tree, (side * (wall + rng.uniform(1, 7)), tree_z)))
        else:
            plan.append((z + length, things.building, (side, wall + rng.uniform(0, 0.8), z, z + length)))
        z += length + (rng.uniform(1, 6) if rng.random() < 0.35 else 0.0)


def _plan_sidewalk(plan: list, street: Street, rng: np.random.Generator, side: int) -> None:
    index = (side + 1) // 2
    curb = side * (street.half + 0.45)
    verge = side * (street.half + street.sidewalk[index] + street.verge[index] / 2)
    if rng.random() < 0.55:
        where = verge if street.verge[index] else curb
        for z in np.arange(rng.uniform(5, 16), 110, rng.uniform(8, 18)):
            plan.append((z, things.tree, (where + rng.normal(0, 0.1), z + rng.normal(0, 0.8))))
    for z in np.arange(rng.uniform(4, 14), 80, rng.uniform(9, 22)):
        plan.append((z, things.pole, (curb + rng.normal(0, 0.1), z)))
    crowd = rng.poisson(rng.choice([1.0, 4.0, 9.0]))
    for z in rng.gamma(2.0, 6.5, crowd) + 3.5:
        across = rng.uniform(0.2, 0.9) * street.sidewalk[index]
        for companion in range(1 + (rng.random() < 0.25)):
            plan.append((z + 0.1 * companion, things.person, (side * (street.half + across) + 0.6 * companion, z)))


def _plan_cars(plan: list, street: Street, rng: np.random.Generator, side: int) -> None:
    away = side > 0
    if rng.random() < 0.5:  # parked along the curb
        z = rng.uniform(3.5, 14)
        while z < 90:
            if rng.random() < 0.7:
                plan.append((z, things.car, (side * (street.half - 1.0), z, away)))
            z += rng.uniform(5.6, 8)
    z = rng.uniform(6, 30) if away else rng.uniform(4, 24)
    middle = side * street.lane * (0.5 if street.lanes < 4 else rng.choice([0.5, 1.5]))
    while z < 100 and rng.random() < 0.7:
        plan.append((z + 0.05, things.car, (middle + rng.normal(0, 0.2), z, away)))
        z += rng.uniform(8, 40)


def _ground(canvas: Canvas, rng: np.random.Generator, street: Street, plan: list) -> None:
    weather = canvas.weather
    top, u, z = canvas.camera.ground(canvas.labels.shape, FARTHEST)
    v = z + np.float32(street.phase)
    reach, index = np.abs(u), (u > 0).astype(np.int8)
    road = reach < street.half
    paved = (
        reach
        < (street.half + street.sidewalk + np.where((street.verge == 0) & ~street.green, 1e3, 0)).astype(np.float32)[
            index
        ]
    )
    asphalt = rng.uniform(72, 118) * (1 + rng.normal(0, 0.02, 3))
    paving = rng.uniform(92, 164) * (np.array([1.0, 0.97, 0.92]) + rng.normal(0, 0.025, 3))
    grass = np.array([92, 108, 56]) * rng.uniform(0.75, 1.15)
    kind = np.where(paved, np.uint8(1), np.uint8(2))
    kind[road] = 0
    colour = np.stack([asphalt, paving, grass]).astype(np.float32)[kind]
    close = int(np.argmax(z.min(axis=1) < 25))  # rows above it show paving too far away for its joints
    tile = np.minimum(u[close:] % np.float32(0.9), v[close:] % np.float32(0.9))
    colour[close:][(tile < 0.06) & (kind[close:] == 1)] *= 0.82
    colour[(reach > street.half - 0.02) & (reach < street.half + 0.22)] = paving * rng.uniform(0.62, 1.2)
    _paint_marks(colour, rng, street, u, v, z, canvas.camera.focal)
    depth = z[:, z.shape[1] // 2, None]  # fading may ignore the camera's roll
    factor = _world_noise(rng, u, v) * (0.16 * np.exp(-depth / 22)) + 1
    factor *= _shadows(canvas, rng, street, plan)[top:]
    clear = np.exp(-depth / np.float32(weather.visibility))
    colour *= (np.maximum(factor, np.float32(0.1)) * clear)[..., None]
    colour *= weather.light.astype(np.float32)
    colour += (1 - clear)[..., None] * weather.haze.astype(np.float32)
    below = z < FARTHEST - 1e-3
    np.copyto(canvas.image[top:], np.minimum(colour, 255).astype(np.uint8), where=below[..., None])
    classes = np.array([ROAD, SIDEWALK, VEGETATION], dtype=np.uint8)
    np.copyto(canvas.labels[top:], classes[kind], where=below)


def _paint_marks(
    colour: np.ndarray,
    rng: np.random.Generator,
    street: Street,
    u: np.ndarray,
    v: np.ndarray,
    z: np.ndarray,
    focal: float,
) -> None:
    """Lines, a crossing and patches, drawn on ``colour``, the ground as it lies at ``(u, v)``."""
    white, wear = rng.uniform(165, 225), rng.uniform(0.3, 0.9)
    half = np.maximum(np.float32(0.07), np.float32(0.45 / focal) * z)
    reach = np.abs(u)
    marks = np.zeros(u.shape, dtype=bool)
    for line in range(1, street.lanes):
        marks |= np.abs(u - np.float32((line - street.lanes / 2) * street.lane)) < half
    marks &= ((v % np.float32(9)) < rng.uniform(3, 5)) | ((street.lanes == 4) & (reach < 0.3))
    if rng.random() < 0.5:
        marks |= np.abs(reach - np.float32(street.lanes * street.lane / 2)) < half
    if rng.random() < 0.35:
        start = street.phase + rng.uniform(5, 26)
        marks |= (v > start) & (v < start + 3) & (reach < street.half - 0.2) & (u % 1.0 < 0.5)
    colour[marks] += np.float32(wear) * (np.float32(white) - colour[marks])
    for _ in range(rng.integers(0, 5)):  # patched asphalt
        at, ahead = rng.uniform(-1, 1) * street.half, street.phase + rng.uniform(3, 25)
        patch = (np.abs(u - at) < rng.uniform(0.3, 1.3)) & (np.abs(v - ahead) < rng.uniform(0.4, 3))
        colour[patch & (reach < street.half)] *= rng.uniform(0.72, 1.15)


def _world_noise(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Noise that lies on the ground: 8 and 2 cells per metre."""
    tile = rng.standard_normal((128, 128), dtype=np.float32)
    total = np.zeros_like(u)
    for cells, weight in ((8.0, 0.7), (1.5, 0.7)):
        columns, rows = np.float32(cells) * u, np.float32(cells) * v
        total += weight * cv2.remap(tile, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return total


def _shadows(canvas: Canvas, rng: np.random.Generator, street: Street, plan: list) -> np.ndarray:
    """Factor on the ground's brightness: shadows of walls, trees and persons, and dark ground below cars."""
    camera, sun = canvas.camera, canvas.weather.sun
    side, slant = rng.choice([-1, 1]), rng.uniform(0.3, 1.2)
    outlines = []
    angles = np.linspace(0, 2 * np.pi, 17)[:-1]
    for _, thing, where in plan:
        if thing is things.building and where[0] == side:
            wall, near, far = where[1:]
            z = np.concatenate([np.linspace(far, max(near, 1.5), 6), np.linspace(max(near, 1.5), far, 6)])
            cast = side * (wall - slant * rng.uniform(4, 12))
            outlines.append(camera.project(np.repeat([side * wall, cast], 6), 0, z))
        elif thing is things.tree:
            u, z = where[0] - side * 2.5 * slant, where[1]
            outlines.append(camera.project(u + 2.4 * np.cos(angles), 0, z + 1.6 * np.sin(angles)))
        elif thing in (things.person, things.pole):
            u, z = where
            tip = u - side * 1.8 * slant
            outlines.append(camera.project([u - 0.15, u + 0.15, tip, tip], 0, [z, z, z + 0.25, z - 0.1]))
    mask = cv2.blur(mask_of(canvas.labels.shape, outlines), (3, 3)).astype(np.float32) / 255
    return 1 - 0.55 * sun * mask


def _texture(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """The canvas as float32 with leaves, plaster and cloth made uneven, each kind of surface by its own amount."""
    shape = canvas.labels.shape
    cell = max(1.0, shape[1] / 256)
    fine, coarse = smooth_noise(rng, shape, 2 * cell), smooth_noise(rng, shape, 7 * cell)
    fine_share, coarse_share = np.zeros(256, np.float32), np.zeros(256, np.float32)
    for label, small, large in (
        (ROAD, 0.02, 0.03),
        (SIDEWALK, 0.03, 0.03),
        (BUILDING, 0.06, 0.055),
        (POLE, 0.05, 0.05),
        (VEGETATION, 0.16, 0.11),
        (SKY, 0.0, 0.02),
        (PERSON, 0.09, 0.08),
        (CAR, 0.04, 0.08),
    ):
        fine_share[label], coarse_share[label] = small, large
    factor = 1 + fine_share[canvas.labels] * fine + coarse_share[canvas.labels] * coarse
    haze = canvas.weather.haze.astype(np.float32)  # what has faded into it shows no texture
    image = canvas.image.astype(np.float32) - haze
    image *= np.maximum(factor, 0.2)[..., None]
    return np.maximum(image + haze, 0)


def _bonnet(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
    """The car that carries the camera, which nobody labels."""
    rows, columns = labels.shape
    height, middle = rows * rng.uniform(0.05, 0.13), columns * rng.uniform(0.45, 0.55)
    top = int(rows - height) - 1
    row, column = np.mgrid[top:rows, :columns].astype(np.float32)
    edge = rows - height * (1 - ((column - middle) / (columns * rng.uniform(0.5, 0.7))) ** 2)
    inside = row > edge
    paint = rng.uniform(20, 120) * (1 + rng.normal(0, 0.06, 3))
    gloss = 1 + 0.8 * np.exp(-(((row - edge) / (0.2 * height + 1)) ** 2))
    image[top:][inside] = (paint * gloss[..., None])[inside]
    labels[top:][inside] = IGNORE_INDEX


def _sensor(image: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Lens blur, vignette, exposure, shot and read noise, 8 bits."""
    picture = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    blur = rng.uniform(0.25, 0.7) * max(1.0, size[1] / 256)
    picture = cv2.GaussianBlur(picture, (0, 0), blur) / 255
    rows, columns = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j].astype(np.float32)
    picture *= (1 - rng.uniform(0, 0.18) * (rows**2 + columns**2) / 2)[..., None]
    picture = np.clip(picture * rng.uniform(0.85, 1.15), 0, 1) ** rng.uniform(0.85, 1.2)
    shot, read = rng.uniform(0.01, 0.045), rng.uniform(0.004, 0.015)
    noise = rng.standard_normal(picture.shape, dtype=np.float32)
    picture += noise * np.sqrt(shot**2 * picture + read**2)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
