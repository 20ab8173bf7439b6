"""A car as a kinematic bicycle with the grip of tyres: simple, and named a toy.

Axes are the UE world's: x forward, y right, yaw clockwise seen from above.
"""

from __future__ import annotations

import math

from pipeline.bench2drive.rehearsal.world import TICK_S, Pose

WHEELBASE_M = 2.85
FULL_THROTTLE_M_S2 = 3.0
FULL_BRAKE_M_S2 = 8.0
"""What the tyres hold, sideways, too."""
FULL_STEER_RAD = 0.6


class Bicycle:
    """A kinematic bicycle, its place the middle between the axles."""

    def __init__(self, x: float, y: float, yaw: float) -> None:
        self.pose = Pose(x, y, yaw, 0.0)
        self.acceleration = (0.0, 0.0)
        """Forward and to the right."""
        self.yaw_rate = 0.0
        """Radians a second, clockwise seen from above."""

    def step(self, throttle: float, steer: float, brake: float) -> None:
        """Go on by one tick. Controls are within -1 or 0, and 1; those beyond count as these."""
        x, y, yaw, speed = self.pose
        wanted = FULL_THROTTLE_M_S2 * _within(throttle, 0, 1) - FULL_BRAKE_M_S2 * _within(brake, 0, 1)
        after = max(speed + wanted * TICK_S, 0.0)
        mean = (speed + after) / 2
        slip = math.atan(math.tan(FULL_STEER_RAD * _within(steer, -1, 1)) / 2)
        curvature = math.sin(slip) / (WHEELBASE_M / 2)
        if mean**2 * abs(curvature) > FULL_BRAKE_M_S2:
            curvature = math.copysign(FULL_BRAKE_M_S2 / mean**2, curvature)
            slip = math.asin(curvature * WHEELBASE_M / 2)
        self.yaw_rate = mean * curvature
        course = math.radians(yaw) + slip + self.yaw_rate * TICK_S / 2
        self.acceleration = ((after - speed) / TICK_S, mean * self.yaw_rate)
        self.pose = Pose(
            x + mean * math.cos(course) * TICK_S,
            y + mean * math.sin(course) * TICK_S,
            yaw + math.degrees(self.yaw_rate * TICK_S),
            after,
        )


def _within(value: float, low: float, high: float) -> float:
    return min(max(float(value), low), high)
