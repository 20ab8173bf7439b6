"""Camera images of a scene: flat ground, road, lines and shaded cuboids, the far ones first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from pipeline.bench2drive.geometry import CAMERAS, IMAGE_HEIGHT, IMAGE_WIDTH, A, transform
from pipeline.bench2drive.ground_truth.visibility import CORNER_SIGNS
from pipeline.bench2drive.synthetic.route import LANE_WIDTH_M, LEFT, RIGHT, STRAIGHT, Route
from pipeline.bench2drive.synthetic.scene import RED, Actor, Colour, Scene, Size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.random import Generator

NEAREST_M = 0.2
VIEW_M = 70.0
STRIP_M = 3.0
ROAD_EDGES_M = (-2.5 * LANE_WIDTH_M, 0.5 * LANE_WIDTH_M + 0.5)
"""Left and right edge of the road, to the right of its reference line."""

SKY = {0: (150, 190, 235), 3: (170, 180, 190), 7: (120, 128, 136), 14: (18, 20, 40), 18: (200, 190, 180)}
"""Weather id -> colour of the sky."""
BRIGHTNESS = {0: 1.0, 3: 0.85, 7: 0.7, 14: 0.45, 18: 0.9}
"""Weather id -> light on everything else."""

VISIBILITY_M = {0: 1000.0, 3: 400.0, 7: 150.0, 14: 400.0, 18: 100.0}
"""Weather id -> distance at which haze leaves 1 / e of a surface's colour; the sky's is the rest."""
CROSSING_M = 60.0
"""How far the roads of a crossing reach, from its middle."""

GRASS, ROAD, PAVEMENT, WHITE, YELLOW = (
    (96, 120, 70),
    (85, 85, 90),
    (140, 135, 130),
    (235, 235, 235),
    (230, 190, 40),
)

FACES = np.array([[0, 1, 3, 2], [4, 5, 7, 6], [0, 1, 5, 4], [2, 3, 7, 6], [0, 2, 6, 4], [1, 3, 7, 5]])
"""Corners of the front, back, right, left, top and bottom of a cuboid."""
NORMALS = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
SHADES = np.array((0.8, 0.8, 0.65, 0.65, 1.0, 0.4))


@dataclass(frozen=True, eq=False)
class Cuboid:
    """A box to draw."""

    pose: np.ndarray
    """(4, 4) middle of the box to UE world."""
    extent: Size
    colour: Colour


class Painter:
    """Paints the frames of one scene."""

    def __init__(self, scene: Scene, weather: int, rng: Generator) -> None:
        self.scene = scene
        self.sky = SKY[weather]
        self.light = BRIGHTNESS[weather]
        self.visibility_m = VISIBILITY_M[weather]
        roads = [*_crossing_roads(scene.route), _Stretch(scene.route, *scene.route.s[[0, -1]])]
        painted = [_road(stretch) for stretch in roads]
        self.quads = np.concatenate([quads for quads, _ in painted])
        self.colours = np.array([colour for _, colours in painted for colour in colours])
        self.quad_middles = self.quads.mean(1)
        self.scenery = _scenery(roads, rng)

    def paint(self, frame: int, ego: np.ndarray | None = None) -> Iterator[tuple[str, Image.Image]]:
        """Yield each camera's name and 1600x900 image.

        Args:
            frame: When: where the other road users are.
            ego: (4, 4) pose in the UE world of the ego with the cameras; as the scene drives it, if None.
        """
        if ego is None:
            ego = self.scene.ego.pose(frame)
        near = np.linalg.norm(self.quad_middles[:, :2] - ego[:2, 3], axis=1) < VIEW_M
        meadow = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * 2000.0 + (*ego[:2, 3], 0)
        quads = np.concatenate([meadow[None], self.quads[near]])
        colours = np.concatenate([[GRASS], self.colours[near]])
        cuboids = [*self.scenery, *(part for actor in self.scene.actors for part in _cuboids(actor, frame))]
        cuboids = [cuboid for cuboid in cuboids if np.linalg.norm((cuboid.pose - ego)[:2, 3]) < VIEW_M]
        for name, mount in CAMERAS.items():
            world2cam = A.T @ np.linalg.inv(ego @ mount.sensor2ego)
            canvas = _Canvas(world2cam, mount.intrinsic, self.sky, self.light, self.visibility_m)
            canvas.fill(quads, colours)
            for cuboid in sorted(cuboids, key=canvas.distance, reverse=True):
                canvas.cuboid(cuboid)
            yield name, canvas.image


class _Canvas:
    """One camera's image while it is drawn."""

    def __init__(
        self, world2cam: np.ndarray, intrinsic: np.ndarray, sky: Colour, light: float, visibility_m: float
    ) -> None:
        self.world2cam = world2cam
        self.intrinsic = intrinsic
        self.eye = np.linalg.inv(world2cam)[:3, 3]
        self.sky = np.array(sky)
        self.light = light
        self.visibility_m = visibility_m
        self.image = Image.new("RGB", (IMAGE_WIDTH, IMAGE_HEIGHT), sky)
        self._draw = ImageDraw.Draw(self.image)

    def distance(self, cuboid: Cuboid) -> float:
        return float(np.linalg.norm(cuboid.pose[:3, 3] - self.eye))

    def cuboid(self, cuboid: Cuboid) -> None:
        corners = transform(cuboid.pose, CORNER_SIGNS * cuboid.extent)
        faces = corners[FACES]  # (6, 4, 3)
        towards = ((self.eye - faces.mean(1)) * (NORMALS @ cuboid.pose[:3, :3].T)).sum(1) > 0
        self.fill(faces[towards], _dim(np.array(cuboid.colour), SHADES)[towards])

    def fill(self, quads: np.ndarray, colours: np.ndarray) -> None:
        """Fill quadrilaterals (Q, 4, 3) of the UE world with colours (Q, 3), in this order."""
        points = transform(self.world2cam, quads)
        ahead = points[..., 2] > NEAREST_M
        clear = np.exp(-np.linalg.norm(points.mean(1), axis=1) / self.visibility_m)[:, None]
        hazy = np.rint(_dim(colours, self.light) * clear + self.sky * (1 - clear)).astype(int).tolist()
        whole: np.ndarray = np.all(ahead, axis=1)
        pixels = self._pixels(np.where(whole[:, None, None], points, 1.0))
        seen = _meets_image(pixels)
        for index in np.flatnonzero(np.where(whole, seen, ahead.any(1))):
            corners = pixels[index] if whole[index] else self._pixels(_cut(points[index]))
            if whole[index] or _meets_image(corners):
                self._draw.polygon([(x, y) for x, y in corners.tolist()], fill=tuple(hazy[index]))

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        """Project points (..., 3) in optical axes to pixels (..., 2)."""
        pixels = points @ self.intrinsic.T
        return pixels[..., :2] / pixels[..., 2:]


def _meets_image(polygons: np.ndarray) -> np.ndarray:
    """Return whether the box around each polygon (..., N, 2) and the image overlap."""
    low, high = polygons.min(-2), polygons.max(-2)
    return (high >= 0).all(-1) & (low <= (IMAGE_WIDTH, IMAGE_HEIGHT)).all(-1)


def _dim(colours: np.ndarray, light: np.ndarray | float) -> np.ndarray:
    """Return colours (..., 3) under some light (...), rounded."""
    return np.rint(colours * np.asarray(light)[..., None])


def _cut(polygon: np.ndarray) -> np.ndarray:
    """Clip a polygon (N, 3) in optical axes at the nearest plane."""
    kept = []
    for here, there in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if here[2] > NEAREST_M:
            kept.append(here)
        if (here[2] > NEAREST_M) != (there[2] > NEAREST_M):
            kept.append(here + (there - here) * (NEAREST_M - here[2]) / (there[2] - here[2]))
    return np.array(kept)


class _Stretch(NamedTuple):
    """A part of a road: metres along it."""

    route: Route
    begin: float
    end: float


def _crossing_roads(route: Route) -> Iterator[_Stretch]:
    """Yield the roads that lead away from junctions, on all sides: which of them to take, no image shows."""
    junction = np.isin(route.option, (LEFT, RIGHT, STRAIGHT))
    entries = np.flatnonzero(junction & ~np.roll(junction, 1))
    exits = np.flatnonzero(junction & ~np.roll(junction, -1))
    for entry, leave in zip(entries, exits, strict=True):
        # An arc leaves by the line that crosses the middle, as far from there as it has entered.
        here, there = np.array([[route.x[at], route.y[at]] for at in (entry, leave)])
        forward = np.array([np.cos(route.yaw[entry]), np.sin(route.yaw[entry])])
        ahead = float((there - here) @ forward)
        middle = here + forward * (ahead / 2 if route.option[entry] == STRAIGHT else ahead)
        for quarter in range(-1, 2):
            yaw = route.yaw[entry] + quarter * np.pi / 2
            yield _Stretch(Route((), start=(middle[0], middle[1]), yaw=yaw), 0.0, CROSSING_M)


def _road(stretch: _Stretch) -> tuple[np.ndarray, list[Colour]]:
    """Return a road and its lines as quadrilaterals (Q, 4, 3) and their colours, in drawing order."""
    route = stretch.route
    half = LANE_WIDTH_M / 2
    edge, right_edge = ROAD_EDGES_M
    bands = (
        (edge - 3.0, half + 4.5, PAVEMENT, False),
        (edge, right_edge, ROAD, False),
        (edge, edge + 0.15, WHITE, False),
        (-3 * half, -3 * half + 0.15, YELLOW, False),
        (-half - 0.08, -half + 0.08, WHITE, True),
        (half - 0.15, half, WHITE, False),
    )
    starts = np.arange(stretch.begin, stretch.end - STRIP_M, STRIP_M)
    quads, colours = [], []
    for left, right, colour, dashed in bands:
        begins = starts[::2] if dashed else starts
        sides = [(begins, left), (begins, right), (begins + STRIP_M, right), (begins + STRIP_M, left)]
        corners = np.stack([route.at(s, lateral)[0] for s, lateral in sides], axis=1)  # (strips, 4, 2)
        quads.append(np.concatenate([corners, np.zeros((*corners.shape[:2], 1))], axis=2))
        colours += [colour] * len(begins)
    return np.concatenate(quads), colours


def _scenery(roads: Sequence[_Stretch], rng: Generator) -> list[Cuboid]:
    """Put houses and trees beside the last road, clear of every one wherever it turns."""
    cuboids = []
    route = roads[-1].route
    within = [(s.route, (s.route.s >= s.begin) & (s.route.s <= s.end)) for s in roads]
    road = np.concatenate([np.stack([r.x, r.y], axis=1)[inside] for r, inside in within])
    for s in np.arange(route.s[0], route.s[-1], 9.0):
        for side in (-1, 1):
            lateral = side * rng.uniform(14, 26) - LANE_WIDTH_M
            half_height = rng.uniform(2, 5)
            extent = (rng.uniform(1, 4), rng.uniform(1, 4), half_height)
            red, green, blue = (int(channel) for channel in rng.integers(60, 200, 3))
            position, yaw = route.at(s, lateral)
            if np.linalg.norm(road - position, axis=1).min() < 12.0:
                continue
            pose = np.eye(4)
            pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
            pose[:3, 3] = (*position, half_height)
            cuboids.append(Cuboid(pose, extent, (red, green, blue)))
    return cuboids


def _cuboids(actor: Actor, frame: int) -> Iterator[Cuboid]:
    pose = actor.pose(frame)
    pose[:3, 3] = actor.centre(frame)
    colour = actor.color
    if actor.state is not None:
        colour = (255, 20, 20) if actor.state[frame] == RED else (20, 255, 60)
    yield Cuboid(pose, actor.extent, colour)
    if actor.kind in ("light", "sign"):
        pole = pose.copy()
        bottom = pose[2, 3] - actor.extent[2]
        pole[2, 3] = bottom / 2
        yield Cuboid(pole, (0.08, 0.08, bottom / 2), (60, 60, 60))
