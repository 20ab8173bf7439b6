"""Positions in a clip of the ego, other road users, lights and signs. UE world, metres, degrees, 10 Hz."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from cache_schema.vocabulary.driving import TRAJECTORY_STEPS
from pipeline.bench2drive.geometry import LIDAR_TOP, pose_matrix, transform
from pipeline.bench2drive.ground_truth.trajectories import FRAMES_PER_STEP
from pipeline.bench2drive.ground_truth.visibility import CORNER_SIGNS
from pipeline.bench2drive.synthetic.driving import DT_S, Drive, Driver
from pipeline.bench2drive.synthetic.manoeuvres import draw_manoeuvre
from pipeline.bench2drive.synthetic.route import LANE_WIDTH_M, Route

if TYPE_CHECKING:
    from numpy.random import Generator

Kind = Literal["ego", "vehicle", "parked", "walker", "light", "sign", "prop"]

RED, GREEN = 0, 2
"""States of a traffic light."""

Size = tuple[float, float, float]
"""Half length, half width, half height."""
Colour = tuple[int, int, int]

CARS: tuple[tuple[str, Size], ...] = (
    ("vehicle.audi.tt", (2.09, 1.0, 0.69)),
    ("vehicle.dodge.charger_2020", (2.5, 1.05, 0.77)),
    ("vehicle.mini.cooper_s_2021", (2.28, 1.05, 0.88)),
    ("vehicle.nissan.patrol_2021", (2.78, 1.21, 1.02)),
)
LARGER: tuple[tuple[str, Size], ...] = (
    ("vehicle.ford.ambulance", (3.18, 1.18, 1.22)),
    ("vehicle.carlamotors.firetruck", (4.23, 1.45, 1.91)),
)
PAINTS: tuple[Colour, ...] = (
    *((200, 30, 30), (40, 60, 200), (220, 200, 40), (235, 235, 230), (30, 30, 35), (130, 135, 140)),
    *((40, 130, 60), (150, 90, 40)),
)
WEAVING_WIDTH_M, WEAVING_LENGTH_M = (0.3, 1.6), (20.0, 50.0)
"""How far to either side of its lane's middle a weaving ego comes, and the length of road of one wave: it
leaves by almost half a lane, and by up to 27 degrees. Its speed is not lowered for that."""
_PARKED_TESLA = "/Game/Carla/Static/Car/4Wheeled/ParkedVehicles/TeslaM3/SM_TeslaM3_parked.SM_TeslaM3_parked"
_TESLA: tuple[str, Size] = (_PARKED_TESLA, (2.4, 1.08, 0.74))


@dataclass(frozen=True, eq=False)
class Actor:
    """One actor through a whole clip of F frames."""

    kind: Kind
    id: int
    type_id: str
    extent: Size
    color: Colour
    location: np.ndarray
    """(F, 3) of the actor's origin."""
    rotation: np.ndarray
    """(F, 3) pitch, roll, yaw."""
    speed: np.ndarray
    """(F) metres a second."""
    rise: float
    """Height of the box's middle over the origin."""
    state: np.ndarray | None = None
    """(F) of a traffic light."""

    def pose(self, frame: int) -> np.ndarray:
        """(4, 4) actor to UE world."""
        return pose_matrix(self.location[frame], self.rotation[frame])

    def centre(self, frame: int) -> np.ndarray:
        """(3) middle of the box in the UE world."""
        return transform(self.pose(frame), np.array([0.0, 0.0, self.rise]))

    def corners(self, frame: int) -> np.ndarray:
        """(8, 3) corners in the UE world, in the order of the annotations' ``world_cord``."""
        return transform(self.pose(frame), CORNER_SIGNS * self.extent + (0.0, 0.0, self.rise))


@dataclass(frozen=True, eq=False)
class Scene:
    """The contents of a clip."""

    route: Route
    driver: Driver
    """Who drives the ego, and would from anywhere on its lane."""
    drive: Drive
    ego: Actor
    actors: tuple[Actor, ...]
    stop_line: float | None
    """Distance along the route of the line before a light that concerns the ego."""

    def driven_on(self, frame: int, *, s: float, speed: float) -> np.ndarray:
        """Return the driver's plan from a point in its lane, wherever beside that point the ego is.

        Args:
            frame: Now.
            s: Metres along the route.
            speed: Of the ego, m/s.

        Returns:
            (6, 2) places of the LiDAR in the UE world, metres, 0.5 s to 3 s from now.
        """
        frames = FRAMES_PER_STEP * np.arange(1, TRAJECTORY_STEPS + 1)
        ahead = self.driver.drive(frames[-1] + 1, speed=speed, s=s, first=frame)
        heading = np.stack([np.cos(ahead.yaw), np.sin(ahead.yaw)], axis=1)
        return (ahead.position + LIDAR_TOP.location[0] * heading)[frames]

    def weaving(self, rng: Generator) -> Scene:
        """Return the scene with an ego that weaves in and out of its lane, and begins at a lower speed."""
        frames, route = len(self.drive.s), self.route
        width, length = rng.uniform(*WEAVING_WIDTH_M), rng.uniform(*WEAVING_LENGTH_M)
        offset = width * np.sin(2 * np.pi * (route.s / length + rng.random()))
        speed = self.drive.speed[0] * rng.random()
        drive = self.driver.drive(frames, speed=speed, route=route.shifted(offset))
        return replace(self, drive=drive, ego=_ego(drive))


def draw_scene(scenario: str, frames: int, rng: Generator) -> Scene:
    """Draw a scene of F frames in which the ego drives the scenario."""
    plan = draw_manoeuvre(scenario, frames, rng)
    x, y = rng.uniform(-500, 500, 2)
    route = Route(plan.pieces, start=(x, y), yaw=rng.integers(4) * np.pi / 2)
    driver = Driver(route, frames, cruise=plan.cruise, stop_line=plan.stop_line, leader=plan.leader)
    ego_drive = driver.drive(frames, speed=plan.speed)
    along = _Along(route, frames)
    time = np.arange(frames) * DT_S
    line = plan.stop_line.s if plan.stop_line else None
    junction = 24.0 if line is None else line
    green_at = plan.stop_line.green_at if plan.stop_line else 0.0
    leader_s, leader_speed = plan.leader.drive(frames)

    def shift(s: np.ndarray) -> np.ndarray:
        return np.interp(s, route.s, route.shift)

    # From a stream of its own, so that what others look like changes nothing of how the ego drives.
    looks = rng.spawn(1)[0]

    def drawn(*models: tuple[str, Size]) -> tuple[str, Size, Colour]:
        type_id, extent = models[looks.integers(len(models))]
        return type_id, extent, PAINTS[looks.integers(len(PAINTS))]

    # A walker crosses before a red light and is across when it changes; else walkers keep to the pavement.
    crossing = 1.4 * (green_at - time) - 2.0 if line is not None else np.full(frames, 7.0 + rng.uniform(0, 1))
    walking = np.full(frames, junction + 5.0) if line is not None else rng.uniform(8, 18) + 1.3 * time
    actors = (
        along.actor(
            "vehicle", 201, *drawn(*CARS), leader_s, shift(leader_s), speed=leader_speed,
        ),
        along.actor(
            "vehicle", 202, *drawn(*CARS, *LARGER),
            rng.uniform(40, 60) - 8.0 * time, -2 * LANE_WIDTH_M, turn=180.0, speed=np.full(frames, 8.0),
        ),
        along.actor(
            "parked", 203, *drawn(_TESLA),
            np.full(frames, rng.uniform(12, 24) if plan.obstacle is None else plan.obstacle),
            4.6 if plan.obstacle is None else 0.0,
        ),
        along.actor(
            "vehicle", 204, "vehicle.bh.crossbike", (0.74, 0.43, 0.8), (150, 40, 170),
            rng.uniform(14, 22) + 3.0 * time, 2.9, speed=np.full(frames, 3.0),
        ),
        along.actor(
            "walker", 301, "walker.pedestrian.0015", (0.19, 0.19, 0.93), (240, 120, 30),
            walking, crossing, turn=-90.0 if line is not None else 0.0, rise=0.0, height=0.93,
        ),
        along.actor(
            "light", 401, "traffic.traffic_light", (0.2, 0.25, 0.5), (20, 20, 20),
            np.full(frames, junction + 14.0), 6.0, turn=90.0, rise=0.0, height=5.0,
            state=np.where(time < green_at, RED, GREEN),
        ),
        along.actor(
            "sign", 501, "traffic.stop", (0.35, 0.04, 0.35), (170, 20, 30),
            np.full(frames, junction + 40.0), 6.0, turn=90.0, rise=0.0, height=2.2,
        ),
        *(
            along.actor(
                "prop", 502 + number, "static.prop.constructioncone", (0.17, 0.17, 0.29), (250, 110, 10),
                np.full(frames, 30.0 + 1.5 * number), 3.7,
            )
            for number in range(3)
        ),
        *(
            along.actor(
                "vehicle", 601 + number, *drawn(*CARS, *LARGER),
                looks.uniform(75, 90) + 25.0 * number - 8.0 * time, -2 * LANE_WIDTH_M,
                turn=180.0, speed=np.full(frames, 8.0),
            )
            for number in range(looks.integers(3))
        ),
        *(
            along.actor(
                "parked", 701 + number, *drawn(_TESLA),
                np.full(frames, looks.uniform(34, 40) + 12.0 * number), 4.6,
            )
            for number in range(looks.integers(3))
        ),
    )  # fmt: skip
    return Scene(route, driver, ego_drive, _ego(ego_drive), actors, line)


def _ego(ego: Drive) -> Actor:
    frames = len(ego.s)
    # The body pitches and rolls a little as it speeds up and turns.
    pitch, roll = 0.3 * ego.acceleration, 0.3 * ego.speed * ego.yaw_rate
    return Actor(
        kind="ego",
        id=100,
        type_id="vehicle.lincoln.mkz_2020",
        extent=(2.45, 0.92, 0.75),
        color=(0, 0, 0),
        location=np.column_stack([ego.position, np.zeros(frames)]),
        rotation=np.column_stack([pitch, roll, _wrapped(np.degrees(ego.yaw))]),
        speed=ego.speed,
        rise=0.75,
    )


def _wrapped(degrees: np.ndarray) -> np.ndarray:
    return (degrees + 180.0) % 360.0 - 180.0


@dataclass(frozen=True)
class _Along:
    """Places actors on a route."""

    route: Route
    frames: int

    def actor(
        self,
        kind: Kind,
        number: int,
        type_id: str,
        extent: Size,
        color: Colour,
        s: np.ndarray,
        lateral: np.ndarray | float,
        *,
        turn: float = 0.0,
        speed: np.ndarray | None = None,
        rise: float | None = None,
        height: float = 0.0,
        state: np.ndarray | None = None,
    ) -> Actor:
        position, yaw = self.route.at(s, lateral)
        rotation = np.zeros((self.frames, 3))
        rotation[:, 2] = _wrapped(np.degrees(yaw) + turn)
        return Actor(
            kind=kind,
            id=number,
            type_id=type_id,
            extent=extent,
            color=color,
            location=np.column_stack([position, np.full(self.frames, height)]),
            rotation=rotation,
            speed=np.zeros(self.frames) if speed is None else speed,
            rise=extent[2] if rise is None else rise,
            state=state,
        )
