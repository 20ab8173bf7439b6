"""The ego's motion along a route: smooth, behind its leader, and stopping at red lights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.bench2drive.synthetic.route import STEP_M

if TYPE_CHECKING:
    from pipeline.bench2drive.synthetic.route import Route

DT_S = 0.1
COMFORT_MPS2 = 3.5
"""Acceleration and planned braking, m/s²."""
HARDEST_MPS2 = 6.0
"""Braking where plans change, m/s²."""
GRIP_MPS2 = 4.0
"""Sideways acceleration in curves, m/s²."""
GAP_M = 7.0
"""Metres between the middles of two standing cars."""


@dataclass(frozen=True)
class StopLine:
    """A red light that turns green."""

    s: float
    green_at: float
    """Seconds."""


@dataclass(frozen=True)
class Leader:
    """A car ahead in the ego's lane: it drives at a speed, may slow down, and speeds up again."""

    s: float
    speed: float
    slow_speed: float
    slow_from: float
    slow_until: float

    def drive(self, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Distance along the route (F) and speed (F) at every frame."""
        time = np.arange(frames) * DT_S
        target = np.where((time >= self.slow_from) & (time < self.slow_until), self.slow_speed, self.speed)
        speed = np.empty(frames)
        now = self.speed
        for frame in range(frames):
            speed[frame] = now
            now += np.clip(target[frame] - now, -HARDEST_MPS2 * DT_S, COMFORT_MPS2 * DT_S)
        return self.s + np.cumsum(speed) * DT_S - speed[0] * DT_S, speed


@dataclass(frozen=True, eq=False)
class Drive:
    """The ego at every frame: metres, seconds, radians, UE world."""

    s: np.ndarray
    position: np.ndarray
    """(F, 2)."""
    yaw: np.ndarray
    speed: np.ndarray
    acceleration: np.ndarray
    yaw_rate: np.ndarray


class Driver:
    """Chooses how fast the ego drives: by the road's bends, the car ahead, and a red light.

    Args:
        route: The road.
        frames: For so long the leader's motion is known; it stands from then on.
        cruise: What the road allows where it is straight, m/s.
        stop_line: Of a red light, if there is one.
        leader: The car ahead.
    """

    def __init__(
        self, route: Route, frames: int, *, cruise: float, stop_line: StopLine | None, leader: Leader
    ) -> None:
        self.route = route
        self.stop_line = stop_line
        limit = np.minimum(cruise, np.sqrt(GRIP_MPS2 / np.maximum(np.abs(route.curvature), 1e-6)))
        self._free = _plan_braking(limit)
        self._leader_s, self._leader_speed = leader.drive(frames)

    def drive(
        self, frames: int, *, speed: float, s: float = 0.0, first: int = 0, route: Route | None = None
    ) -> Drive:
        """Drive for F frames.

        Args:
            frames: F.
            speed: In the first of them, m/s.
            s: Metres along the route in the first of them.
            first: Its number in the clip, which decides where the leader is, and about the light.
            route: The same road with another lane. Speeds are chosen as if it were the driver's own.
        """
        route = route or self.route
        distances, speeds, accelerations = np.zeros((3, frames))
        acceleration = 0.0
        for index in range(frames):
            target = self._target(s, first + index)
            distances[index], speeds[index] = s, speed
            acceleration += 0.5 * (
                float(np.clip((target - speed) / 0.4, -HARDEST_MPS2, COMFORT_MPS2)) - acceleration
            )
            acceleration = max(acceleration, -speed / DT_S)
            accelerations[index] = acceleration
            s += speed * DT_S / np.hypot(1.0, route.slope_of_shift(s))
            speed += acceleration * DT_S
        return _along(route, distances, speeds, accelerations)

    def _target(self, s: float, frame: int) -> float:
        now = min(frame, len(self._leader_s) - 1)
        gap = self._leader_s[now] - s - GAP_M
        target = min(
            float(np.interp(s, self.route.s, self._free)),
            float(np.sqrt(2 * COMFORT_MPS2 * max(gap, 0.0) + self._leader_speed[now] ** 2)),
        )
        line = self.stop_line
        if line and frame * DT_S < line.green_at:
            target = min(target, float(np.sqrt(2 * COMFORT_MPS2 * max(line.s - s, 0.0))))
        return target


def _along(route: Route, distances: np.ndarray, speeds: np.ndarray, accelerations: np.ndarray) -> Drive:
    slope = route.slope_of_shift(distances)
    position, yaw = route.at(distances, np.interp(distances, route.s, route.shift))
    yaw = yaw + np.arctan(slope)
    curvature = np.interp(distances, route.s, route.curvature + _curvature_of_shift(route))
    return Drive(distances, position, yaw, speeds, accelerations, speeds * curvature)


def _curvature_of_shift(route: Route) -> np.ndarray:
    return np.gradient(np.arctan(route.slope_of_shift(route.s)), route.s)


def _plan_braking(limit: np.ndarray) -> np.ndarray:
    """Lower speed limits along the route to what still allows braking for the ones ahead."""
    planned = limit.copy()
    for index in range(len(planned) - 2, -1, -1):
        planned[index] = min(planned[index], np.sqrt(planned[index + 1] ** 2 + 2 * COMFORT_MPS2 * STEP_M))
    return planned
