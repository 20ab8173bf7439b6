"""What a rehearsal drives in: a route, sensors, controls, and what happened.

Axes are the UE world's: x forward, y right, yaw clockwise seen from above, metres and degrees.

Dimension letters: N nodes of a route or points of an edge, A road users and things.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TICK_S = 0.05
"""The leaderboard's time step."""
LONGEST_TICKS = 4000
"""Of a route, after which the leaderboard stops it."""
WARM_UP_TICKS = 10
"""Before an agent's first."""

EARTH_RADIUS_M = 6378137.0
MAP_REFERENCES = {"Town12": (35.25, -101.875), "Town13": (35.25, -101.875)}
"""Town -> latitude and longitude of its origin; of every other, both are 0."""


@dataclass(frozen=True, eq=False)
class RouteTask:
    """A route to be driven."""

    id: int
    town: str
    scenario: str
    weather: int
    positions: np.ndarray
    """(N, 3), about 1 m apart."""
    yaw: np.ndarray
    """(N) along the route."""
    options: np.ndarray
    """(N) values of ``cache_schema.vocabulary.route.RoadOption``."""

    @property
    def reference(self) -> tuple[float, float]:
        """Latitude and longitude of the town's origin."""
        return MAP_REFERENCES.get(self.town, (0.0, 0.0))

    @cached_property
    def along(self) -> np.ndarray:
        """(N) metres from the start."""
        steps = np.linalg.norm(np.diff(self.positions, axis=0), axis=1)
        return np.concatenate([[0.0], np.cumsum(steps)])


class Pose(NamedTuple):
    """Where the ego is, and how fast."""

    x: float
    y: float
    yaw: float
    speed_m_s: float


class Event(NamedTuple):
    """An entry of a record's infractions."""

    kind: str
    """A key of ``results.INFRACTIONS``."""
    message: str
    outside_percent: float = 0.0
    """Of the route that was driven, outside of its lanes."""


class Control(Protocol):
    """``carla.VehicleControl``."""

    throttle: float
    steer: float
    brake: float


class World(Protocol):
    """What an agent drives in, tick by tick. It is the agent's ``hero_actor``, too."""

    kind: str
    """Of the rehearsal, as results name it."""
    route: RouteTask
    tick: int
    """Since the agent's first."""
    events: list[Event]
    """So far."""

    @property
    def pose(self) -> Pose:
        """Of the ego."""
        ...

    @property
    def completion(self) -> float:
        """Percent of the route."""
        ...

    @property
    def over(self) -> bool:
        """Whether the route has ended, well or not."""
        ...

    @property
    def road(self) -> np.ndarray:
        """(2, N, 2) left and right edge of the road; N may be 0."""
        ...

    def others(self) -> np.ndarray:
        """Return corners (A, 4, 2) of other road users and things, now and seen from above."""
        ...

    def attach(self, sensors: Sequence[Mapping[str, Any]]) -> None:
        """Mount an agent's sensors, and let the world warm up.

        Raises:
            RequestError: The world has no such sensor.
        """
        ...

    def sense(self) -> Mapping[str, tuple[int, Any]]:
        """Return the sensors' data of this tick: id -> (frame, data)."""
        ...

    def apply(self, control: Control) -> None:
        """Go on by one tick."""
        ...

    def finish(self) -> None:
        """Judge what can be judged at the end of a route only."""
        ...

    def metric_info(self) -> dict[str, list[float]]:
        """Return the ego's motion as ``AutonomousAgent.get_metric_info`` does."""
        ...


def geographic(positions: np.ndarray, reference: tuple[float, float]) -> np.ndarray:
    """Return latitude, longitude (degrees) and altitude (..., 3) of positions (..., 3).

    Args:
        positions: In the UE world, metres.
        reference: Latitude and longitude of the world's origin.

    Source: spec Bench2Drive 6, the Mercator projection of the leaderboard.
    """
    latitude, longitude = reference
    radius = EARTH_RADIUS_M * np.cos(np.radians(latitude))
    north = radius * np.log(np.tan(np.radians(90.0 + latitude) / 2)) - positions[..., 1]
    return np.stack(
        [
            np.degrees(2 * np.arctan(np.exp(north / radius))) - 90.0,
            longitude + np.degrees(positions[..., 0] / radius),
            positions[..., 2],
        ],
        axis=-1,
    )


def metric_info(
    pose: Pose, acceleration: tuple[float, float], yaw_rate_deg_s: float
) -> dict[str, list[float]]:
    """Return what the leaderboard's ``get_metric_info`` says of an ego on flat ground.

    Args:
        pose: Of the ego.
        acceleration: Forward and to the right, m/s2.
        yaw_rate_deg_s: Clockwise seen from above.
    """
    cos, sin = np.cos(np.radians(pose.yaw)), np.sin(np.radians(pose.yaw))
    forward, right = np.array([cos, sin, 0.0]), np.array([-sin, cos, 0.0])
    return {
        "acceleration": (acceleration[0] * forward + acceleration[1] * right).tolist(),
        "angular_velocity": [0.0, 0.0, float(yaw_rate_deg_s)],
        "forward_vector": forward.tolist(),
        "right_vector": right.tolist(),
        "location": [pose.x, pose.y, 0.0],
        "rotation": [0.0, 0.0, pose.yaw],
    }
