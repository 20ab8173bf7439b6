"""What the leaderboard gives to a driver, but for the images: the route, and the sensors of every tick."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cache_schema.errors import RequestError
from cache_schema.vocabulary.route import RoadOption
from student.closed_loop.map_reference import MapReference

FARTHEST_M = 15.0
"""Between places that are the same. Farther apart, map, route and GPS do not belong together."""


class RoutePlan(NamedTuple):
    """The route as the leaderboard gives it: N nodes."""

    gps: np.ndarray
    """(N, 3) latitude and longitude in degrees, altitude in metres."""
    world: np.ndarray
    """(N, 3) x, y, z in metres, CARLA's world."""
    options: np.ndarray
    """(N) ``cache_schema.vocabulary.route.RoadOption``."""

    def check(self) -> None:
        """Find what cannot be a route.

        Raises:
            RequestError: It has less than two nodes, or one without a position or an option, or it is not the
                same in degrees as in metres.
        """
        whole = self.gps.shape == self.world.shape == (len(self.options), 3) and len(self.options) >= 2
        if not whole or not np.isfinite([self.gps, self.world]).all() or not {*self.options} <= {*RoadOption}:
            raise RequestError(
                "the route has less than two nodes, or one without a position or an option",
                expected="nodes that have latitude, longitude, altitude, x, y, z and a road option each",
                repair="give the route as the leaderboard plans it",
            )
        with np.errstate(all="ignore"):  # far off the Earth: NaN
            reference = MapReference.of_node(self.gps[0, :2], self.world[0, :2])
            apart = np.linalg.norm(reference.metres(self.gps[:, :2]) - self.world[:, :2], axis=1)
        if not apart.max() <= FARTHEST_M:
            raise RequestError(
                f"by latitude and longitude, node {apart.argmax()} of the route is {apart.max():.0f} m away "
                "from its x and y",
                expected=f"nodes in degrees that are those in metres, to {FARTHEST_M:g} m",
                repair="let the leaderboard convert the route, with a CARLA client of the server's version",
            )


class Sensors(NamedTuple):
    """What the sensors of a tick say, but for the cameras."""

    step: int
    """Number of the tick in the drive, from 0."""
    gps: np.ndarray
    """(3) latitude and longitude in degrees, altitude in metres."""
    imu: np.ndarray
    """(7) acceleration in m/s2, rotation rate in rad/s, x forward, y right, z up each; compass in rad,
    clockwise from north. NaN where the simulator knows none."""
    speed_m_s: float
    """Forward velocity."""

    def check(self) -> None:
        """Find what sensors cannot say, before it gets into a policy's memory.

        Raises:
            RequestError: A value is not finite, but those of an IMU without a compass; or a pole is passed.
        """
        imu = () if np.isnan(self.imu[6]) else self.imu
        if not np.isfinite([*self.gps, self.speed_m_s, *imu]).all() or abs(self.gps[0]) >= 90:
            raise RequestError(
                f"at step {self.step}, GPS, IMU or speed is not finite, or beyond a pole",
                expected="a number from every sensor, or NaN from the compass: then the IMU is ignored",
                repair="drive the route again",
            )
