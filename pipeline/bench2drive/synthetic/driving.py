"""How the ego drives along a route: gently, behind its leader, and not through red."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.bench2drive.synthetic.route import STEP

if TYPE_CHECKING:
    from pipeline.bench2drive.synthetic.route import Route

DT = 0.1
COMFORT = 3.5
"""Acceleration and planned braking, m/s²."""
HARDEST = 6.0
"""Braking where plans change, m/s²."""
GRIP = 4.0
"""Sideways acceleration in curves, m/s²."""
GAP = 7.0
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
        time = np.arange(frames) * DT
        target = np.where((time >= self.slow_from) & (time < self.slow_until), self.slow_speed, self.speed)
        speed = np.empty(frames)
        now = self.speed
        for frame in range(frames):
            speed[frame] = now
            now += np.clip(target[frame] - now, -HARDEST * DT, COMFORT * DT)
        return self.s + np.cumsum(speed) * DT - speed[0] * DT, speed


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


def drive(
    route: Route, frames: int, *, speed: float, cruise: float, stop_line: StopLine | None, leader: Leader
) -> Drive:
    """Drive from the route's start at ``speed``; ``cruise`` is what the road allows where it is straight."""
    free = _plan_braking(np.minimum(cruise, np.sqrt(GRIP / np.maximum(np.abs(route.curvature), 1e-6))))
    leader_s, leader_speed = leader.drive(frames)
    distances, speeds, accelerations = np.zeros((3, frames))
    s = acceleration = 0.0
    for frame in range(frames):
        gap = leader_s[frame] - s - GAP
        target = min(
            float(np.interp(s, route.s, free)),
            float(np.sqrt(2 * COMFORT * max(gap, 0.0) + leader_speed[frame] ** 2)),
        )
        if stop_line and frame * DT < stop_line.green_at:
            target = min(target, float(np.sqrt(2 * COMFORT * max(stop_line.s - s, 0.0))))
        distances[frame], speeds[frame] = s, speed
        acceleration += 0.5 * (float(np.clip((target - speed) / 0.4, -HARDEST, COMFORT)) - acceleration)
        acceleration = max(acceleration, -speed / DT)
        accelerations[frame] = acceleration
        s += speed * DT / np.hypot(1.0, route.slope_of_shift(s))
        speed += acceleration * DT
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
        planned[index] = min(planned[index], np.sqrt(planned[index + 1] ** 2 + 2 * COMFORT * STEP))
    return planned
