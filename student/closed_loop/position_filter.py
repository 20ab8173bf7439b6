"""Where the GNSS antenna is: noisy positions, and the way that speed and heading tell."""

from __future__ import annotations

import math

import numpy as np

from student.closed_loop.map_reference import EARTH_RADIUS_M

GNSS_DEVIATION_M = EARTH_RADIUS_M * math.radians(5e-6)
"""Standard deviation of Bench2Drive's GNSS: 5e-6 degrees of latitude. That of longitudes is a little less."""
STRONGEST_M_S2 = 8.0
"""Full braking. What it changes within a tick bounds the error of the way that speeds tell."""


class PositionFilter:
    """A Kalman filter with one variance, the same along both axes.

    The antenna is over the rear axle, nearly: it moves along the heading, and not sideways in bends.
    """

    def __init__(self) -> None:
        self._position: np.ndarray | None = None
        self._variance_m2 = GNSS_DEVIATION_M**2
        self._speed_m_s = 0.0

    def step(self, measured: np.ndarray, speed_m_s: float, yaw: float, elapsed_s: float) -> np.ndarray:
        """Return the filtered position (2), metres, right-handed world.

        Args:
            measured: (2) by GNSS, metres, right-handed world.
            speed_m_s: Forward velocity.
            yaw: Mean heading since the step before, radians, counter-clockwise from x.
            elapsed_s: Time since the step before.
        """
        if self._position is None:
            self._position = measured
        else:
            way = (self._speed_m_s + speed_m_s) / 2 * elapsed_s
            foreseen = self._position + way * np.array([math.cos(yaw), math.sin(yaw)])
            variance = self._variance_m2 + (STRONGEST_M_S2 * elapsed_s**2 / 2) ** 2
            gain = variance / (variance + GNSS_DEVIATION_M**2)
            self._position = foreseen + gain * (measured - foreseen)
            self._variance_m2 = (1 - gain) * variance
        self._speed_m_s = speed_m_s
        return self._position
