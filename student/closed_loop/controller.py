"""Follow waypoints: steering, throttle and brake from a plan and the present speed.

Source: spec Bench2Drive 6 and closed loop 3, ORION's closed-loop agent and its controller.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cache_schema.errors import FeatureError

STEP_S = 0.5
"""Time between waypoints."""


class Control(NamedTuple):
    """The controls of a tick, and the values that they follow from."""

    steer: float
    """-1 (left) to 1 (right)."""
    throttle: float
    """0 to 0.75."""
    brake: float
    """0 or 1."""
    desired_speed_m_s: float
    angle: float
    """Of the aim point from straight ahead; 1 is 90 degrees to the right."""
    aim: tuple[float, float]
    """Point that is steered towards, metres, LiDAR frame (x right, y forward)."""


@dataclass
class _PID:
    proportional: float
    integral: float
    derivative: float
    window: deque[float] = field(default_factory=lambda: deque([0.0] * 40, maxlen=40))

    def __call__(self, error: float) -> float:
        change = error - self.window[-1]
        self.window.append(error)
        mean = sum(self.window) / len(self.window)
        return self.proportional * error + self.integral * mean + self.derivative * change


class WaypointController:
    """Two PID controllers with memory: make a new one for every route."""

    aim_distance_m = 3.5
    """Steer at the waypoint, or midpoint of two, nearest to this distance."""
    slowest_m_s = 0.05
    """Brake below this desired speed."""
    overspeed = 1.1
    """Brake above this ratio of speed to desired speed."""
    throttle_limit = 0.75
    speed_error_limit_m_s = 0.25

    def __init__(self) -> None:
        self._turn = _PID(1.1, 0.5, 0.4)
        self._speed = _PID(5.0, 0.5, 1.0)

    def step(self, waypoints: np.ndarray, speed_m_s: float) -> Control:
        """Follow a plan for one tick.

        Args:
            waypoints: (6, 2) positions in metres, LiDAR frame (x right, y forward), 0.5 s apart.
            speed_m_s: Present speed.
        """
        first, second = waypoints[0], waypoints[1]
        desired = float(0.75 * np.linalg.norm(first) + 0.25 * np.linalg.norm(second - first)) / STEP_S
        candidates = np.stack([waypoints[:-1], (waypoints[:-1] + waypoints[1:]) / 2], axis=1).reshape(-1, 2)
        nearest = np.abs(np.linalg.norm(candidates, axis=1) - self.aim_distance_m).argmin()
        x, y = candidates[nearest].tolist()
        angle = (90.0 - math.degrees(math.atan2(y, x))) / 90.0 if y > 0.02 else 0.0
        steer = min(max(self._turn(angle), -1.0), 1.0)

        brake = desired < self.slowest_m_s or speed_m_s / desired > self.overspeed
        error = min(max(desired - speed_m_s, 0.0), self.speed_error_limit_m_s)
        throttle = min(max(self._speed(error), 0.0), self.throttle_limit)
        return Control(steer, 0.0 if brake else throttle, float(brake), desired, angle, (x, y))


class AgentController:
    """The controls that ORION's agent sends: a ``WaypointController`` that does not accelerate when fast.

    Make a new one for every route. The agent's other rules, on small brakes and on throttle beside a brake,
    and its limits change nothing: the controller brakes fully, without throttle, or not at all.
    """

    fastest_m_s = 5.0
    """Above this speed there is no throttle, whatever the plan."""

    def __init__(self) -> None:
        self._controller = WaypointController()

    def step(self, waypoints: np.ndarray, speed_m_s: float) -> Control:
        """Follow a plan for one tick; see ``WaypointController.step``.

        Raises:
            FeatureError: The plan is not finite, and nothing follows from it.
        """
        if not np.isfinite(waypoints).all():
            raise FeatureError(
                "the plan of the policy holds NaN or infinity",
                expected="six positions in metres",
                repair="look at the run's losses, and serve an earlier checkpoint",
            )
        control = self._controller.step(waypoints, speed_m_s)
        return control._replace(throttle=0.0) if speed_m_s > self.fastest_m_s else control
